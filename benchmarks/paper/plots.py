"""Pictures of a comparison, and the paper's pictures of the function itself."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.colors import LightSource
from matplotlib.ticker import MaxNLocator
from torch import nn

import mish_cuda
from benchmarks.architectures import ACTIVATIONS as MODULES
from benchmarks.paper import tables
from benchmarks.paper.protocol import ACTIVATIONS, PUBLISHED
from benchmarks.plots import COLOURS, INK, MUTED, OURS, THEIRS, Picture, figure

# The colours that the other pictures have; ReLU, which has none there, is grey.
ACTIVATION_COLOURS = {name: COLOURS.get(ours, MUTED) for name, ours in ACTIVATIONS.items()}


def pictures(rows: pd.DataFrame) -> list[Picture]:
    return [accuracies(rows), curves(rows)]


def curves(rows: pd.DataFrame) -> Picture:
    """Test accuracy and training loss over the epochs: median and quartiles over the seeds."""
    title = tables.title(rows)
    fig = figure(10, 4.2, title)
    accuracy, loss = fig.subplots(1, 2)
    for axes, column in ((accuracy, "test_accuracy"), (loss, "train_loss")):
        for name, runs in rows.groupby("activation", sort=False):
            of_epoch = runs.groupby("epoch")[column]
            low, median, high = (of_epoch.quantile(share) for share in (0.25, 0.5, 0.75))
            colour = ACTIVATION_COLOURS[name]
            axes.plot(median, color=colour, label=f"{name}, {runs.seed.nunique()} runs")
            axes.fill_between(low.index, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("epoch; lines: medians over the seeds; bands: quartiles")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # The first epochs are far below, and so is one now and then.
    later = rows[rows.epoch > rows.epochs // 4].test_accuracy
    limits = (later.quantile(0.02) - 1, min(100, later.max() + 1))
    accuracy.set(title="Accuracy on the test images, %", ylim=limits)
    accuracy.legend(loc="lower right")
    loss.set(title="Loss in training", yscale="log")
    loss.yaxis.set_major_formatter("{x:g}")
    return Picture("curves", title, fig)


def accuracies(rows: pd.DataFrame) -> Picture:
    """Final accuracies, in a panel of their own beside those that the paper's author published."""
    title = "Accuracy on the test images, measured here and published by the paper's author"
    fig = figure(10, 3.5, title)
    panels = fig.subplots(1, 4, sharey=True, width_ratios=(1.6, 1, 1, 1))
    wide = tables.accuracies(rows)
    heading = (
        f"measured here: {rows.dataset.iloc[0]}, SE-ResNet-18,\n"
        "mean ± standard deviation, seeds as dots"
    )
    theirs = {"published: {},\n{}, {}".format(*of.split(", ")): t for of, t in PUBLISHED.items()}
    shown = {heading: wide.agg(["mean", "std"]).T, **theirs}
    places = {name: place for place, name in enumerate(ACTIVATIONS)}
    for axes, (heading, table) in zip(panels, shown.items(), strict=True):
        for name, mean, std in table[["mean", "std"]].itertuples():
            colour = ACTIVATION_COLOURS[name]
            face = colour if axes is panels[0] else "white"
            axes.errorbar(mean, places[name], xerr=std, fmt="D", color=colour, mfc=face, capsize=4)
        axes.set(title=heading, xlabel="accuracy, %")
        axes.margins(x=0.15)
    for name, values in wide.items():
        # Seeds one above the other, in the same order for each activation.
        heights = places[name] + np.linspace(-0.3, 0.3, len(values))
        panels[0].plot(values, heights, ".", color=ACTIVATION_COLOURS[name], alpha=0.6)
    panels[0].set_yticks(range(len(places)), list(places))
    panels[0].set_ylim(len(places) - 0.5, -0.5)
    return Picture("accuracy", title, fig)


def function() -> Picture:
    """Mish with its first and second derivative, as mish_cuda's ops compute them in float64."""
    x = torch.linspace(-6, 4, 2001, dtype=torch.float64, requires_grad=True)
    value = mish_cuda.mish(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    title = "Mish and its derivatives"
    fig = figure(7, 4.5, title)
    axes = fig.subplots()
    shown = {"f(x) = x tanh(softplus(x))": value, "f'(x)": slope, "f''(x)": curvature}
    for (name, y), colour in zip(shown.items(), (OURS, THEIRS, "#009e73"), strict=True):
        axes.plot(x.detach(), y.detach(), color=colour, label=name)
    place = (x[value.argmin()].item(), value.min().item())
    axes.plot(*place, "o", color=OURS)
    text = "minimum {1:.3f} at {0:.2f}".format(*place)
    axes.annotate(text, place, xytext=(-6, -14), textcoords="offset points", ha="right")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(x=0)
    axes.set(xlabel="x", ylim=(-0.75, 2.5))
    axes.legend(loc="upper left")
    return Picture("function", title, fig)


def landscape(seed: int = 1) -> Picture:
    """The output of a random network of five layers over the plane, with ReLU, Swish and Mish.

    As in the paper, and in that of Swish, https://arxiv.org/abs/1710.05941, whose weights are not
    known; the light is added, for it shows creases. Here all three have the same weights, as in He
    et al., https://arxiv.org/abs/1502.01852.
    """
    line = torch.linspace(-3, 3, 400)
    points = torch.cartesian_prod(line, line)
    light = LightSource(azdeg=315, altdeg=35)
    step = 6 / 400
    title = "Output of a random network of five layers over its two inputs, lit from the top left"
    fig = figure(10, 3.7, title)
    panels = fig.subplots(1, 3, sharey=True)
    for axes, name in zip(panels, ("ReLU", "Swish", "Mish"), strict=True):
        generator = torch.Generator().manual_seed(seed)
        output = points
        for inputs, outputs in itertools.pairwise((2, 64, 64, 32, 16, 1)):
            if inputs > 2:
                output = MODULES[ACTIVATIONS[name]]()(output)
            weight, bias = torch.empty(outputs, inputs), torch.empty(outputs)
            nn.init.kaiming_normal_(weight, generator=generator)
            output = F.linear(output, weight, nn.init.normal_(bias, generator=generator))
        output = output.view(400, 400).double()
        height = ((output - output.mean()) / output.std()).T.numpy()
        shaded = light.shade(height, colormaps["viridis"], blend_mode="soft", dx=step, dy=step)
        axes.imshow(shaded, origin="lower", extent=(-3, 3, -3, 3))
        # Adding 0 takes the sign of a zero away.
        low, high = (round(edge.item(), 1) + 0.0 for edge in output.aminmax())
        axes.set_title(f"{name}: from {low:.1f} to {high:.1f}")
        axes.grid(visible=False)
    return Picture("landscape", title, fig)
