"""Pictures of a comparison, and the paper's pictures of the function itself."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LightSource
from matplotlib.ticker import MaxNLocator
from torch import nn

import mish_cuda
from benchmarks.architectures import ACTIVATIONS as MODULES
from benchmarks.paper import tables
from benchmarks.paper.protocol import ACTIVATIONS, PUBLISHED
from benchmarks.plots import COLOURS, INK, MUTED, OURS, PAPER, THEIRS, Picture, figure

# The colours that the other pictures have; ReLU, which has none there, is grey.
ACTIVATION_COLOURS = {name: COLOURS.get(ours, MUTED) for name, ours in ACTIVATIONS.items()}
POINTS = 400  # of the landscape along each axis
LIMIT = 3.0  # they go from -LIMIT to LIMIT


def pictures(rows: pd.DataFrame) -> list[Picture]:
    return [accuracies(rows), curves(rows)]


def curves(rows: pd.DataFrame) -> Picture:
    """Test accuracy and training loss over the epochs: mean and standard deviation over seeds."""
    title = tables.title(rows)
    fig = figure(10, 4.2, title)
    accuracy, loss = fig.subplots(1, 2)
    # In logarithms, as the axis is: there the spread is as far down as up.
    rows = rows.assign(log_loss=np.log10(rows.train_loss.clip(lower=1e-12)))
    for name, colour in ACTIVATION_COLOURS.items():
        runs = rows[rows.activation == name]
        if runs.empty:
            continue
        for axes, column in ((accuracy, "test_accuracy"), (loss, "log_loss")):
            values = runs.groupby("epoch")[column]
            mean, std = values.mean(), values.std().fillna(0)
            label = f"{name}, {runs.seed.nunique()} runs"
            axes.plot(mean.index, mean, color=colour, label=label)
            axes.fill_between(
                mean.index, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0
            )
    # The first epochs are far below, and so is one now and then.
    later = rows[rows.epoch > rows.epochs // 4].test_accuracy
    accuracy.set_ylim(later.quantile(0.02) - 1, min(100, later.max() + 1))
    accuracy.set_title("Accuracy on the test images, %")
    accuracy.legend(loc="lower right")
    loss.set_title("Loss in training")
    loss.yaxis.set_major_formatter(lambda value, _: f"{10**value:.1g}")
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch; lines: means over the seeds; bands: ± standard deviation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return Picture("curves", title, fig)


def accuracies(rows: pd.DataFrame) -> Picture:
    """Final accuracies, in a panel of their own beside those that the paper's author published."""
    title = "Accuracy on the test images, measured here and published by the paper's author"
    fig = figure(10, 3.5, title)
    ours, *theirs = fig.subplots(1, 4, sharey=True, width_ratios=(1.6, 1, 1, 1))
    for name, values in tables.accuracies(rows).items():
        values = values.dropna()
        # Seeds one above the other, in the same order for each activation.
        heights = list(ACTIVATIONS).index(name) + np.linspace(-0.3, 0.3, len(values))
        ours.plot(values, heights, ".", color=ACTIVATION_COLOURS[name], alpha=0.6)
        _draw_mean(ours, name, values.mean(), values.std())
    ours.set_title(
        f"measured here: {rows.dataset.iloc[0]}, SE-ResNet-18,\n"
        "mean ± standard deviation, seeds as dots"
    )
    ours.set_yticks(range(len(ACTIVATIONS)), list(ACTIVATIONS))
    ours.set_ylim(len(ACTIVATIONS) - 0.5, -0.5)
    for axes, (heading, published) in zip(theirs, PUBLISHED.items(), strict=True):
        for name, (mean, std) in published.items():
            _draw_mean(axes, name, mean, std, filled=False)
        axes.set_title("published: {},\n{}, {}".format(*heading.split(", ")))
        axes.margins(x=0.15)
    for axes in (ours, *theirs):
        axes.set_xlabel("accuracy, %")
    return Picture("accuracy", title, fig)


def _draw_mean(axes: Axes, name: str, mean: float, std: float, filled: bool = True) -> None:
    colour, place = ACTIVATION_COLOURS[name], list(ACTIVATIONS).index(name)
    face = colour if filled else PAPER
    axes.errorbar(mean, place, xerr=std, fmt="D", color=colour, mfc=face, capsize=4, markersize=6)


def function() -> Picture:
    """Mish with its first and second derivative, as mish_cuda's ops compute them in float64."""
    x = torch.linspace(-6, 4, 2001, dtype=torch.float64, requires_grad=True)
    value = mish_cuda.mish(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    title = "Mish and its derivatives"
    fig = figure(7, 4.5, title)
    axes = fig.subplots()
    for y, name, colour in (
        (value, "f(x) = x tanh(softplus(x))", OURS),
        (slope, "f'(x)", THEIRS),
        (curvature, "f''(x)", "#009e73"),
    ):
        axes.plot(x.detach().numpy(), y.detach().numpy(), color=colour, label=name)
    lowest = int(value.argmin())
    place = (x[lowest].item(), value[lowest].item())
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

    The three have the same weights, so that what differs is the function's. As in the paper, and
    in that of Swish, https://arxiv.org/abs/1710.05941, whose networks are not known to the weight;
    the light from the side is added, for it shows creases that colours hide.
    """
    line = torch.linspace(-LIMIT, LIMIT, POINTS)
    points = torch.cartesian_prod(line, line)
    light = LightSource(azdeg=315, altdeg=35)
    title = "Output of a random network of five layers over its two inputs, lit from the top left"
    fig = figure(10, 3.7, title)
    panels = fig.subplots(1, 3, sharey=True)
    for axes, name in zip(panels, ("ReLU", "Swish", "Mish"), strict=True):
        with torch.no_grad():
            output = random_network(name, seed)(points).view(POINTS, POINTS).double()
        height = ((output - output.mean()) / output.std()).T.numpy()
        step = 2 * LIMIT / POINTS
        shaded = light.shade(height, colormaps["viridis"], blend_mode="soft", dx=step, dy=step)
        axes.imshow(shaded, origin="lower", extent=(-LIMIT, LIMIT, -LIMIT, LIMIT))
        # Adding 0 takes the sign of a zero away.
        low, high = (round(edge.item(), 1) + 0.0 for edge in output.aminmax())
        axes.set_title(f"{name}: from {low:.1f} to {high:.1f}")
        axes.grid(visible=False)
    return Picture("landscape", title, fig)


def random_network(activation: str, seed: int) -> nn.Module:
    """Maps (N, 2) to (N, 1) through hidden layers of 64, 64, 32 and 16.

    Weights as in He et al., https://arxiv.org/abs/1502.01852; biases from a normal distribution.
    """
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(seed)
    for before, after in itertools.pairwise((2, 64, 64, 32, 16, 1)):
        layer = nn.Linear(before, after)
        nn.init.kaiming_normal_(layer.weight, generator=generator)
        nn.init.normal_(layer.bias, generator=generator)
        layers += [layer, MODULES[ACTIVATIONS[activation]]()]
    return nn.Sequential(*layers[:-1])
