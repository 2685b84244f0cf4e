"""Pictures of a comparison."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from benchmarks.paper import published, tables
from benchmarks.paper.protocol import ACTIVATIONS
from benchmarks.paper.records import Study
from benchmarks.paper.statistics import samples
from benchmarks.plots import COLOURS, MUTED, PAPER, Picture, put_title, style

# Those of the same functions in the other pictures; ReLU, which has none there, is grey.
OF_ACTIVATION = {name: COLOURS.get(ours, MUTED) for name, ours in ACTIVATIONS.items()}


@style()
def curves(study: Study) -> Picture:
    """Test accuracy and training loss over the epochs: mean and standard deviation over seeds."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    later = []
    for name, colour in OF_ACTIVATION.items():
        runs = [run.curve for run in study.runs if run.activation == name]
        if not runs:
            continue
        label = f"{name}, {len(runs)} runs"
        right = np.array([[epoch.test_accuracy for epoch in run] for run in runs])
        _draw_spread(accuracy, right, colour, label)
        later.append(right[:, right.shape[1] // 4 :])
        # In logarithms, as the axis is: there the spread is as far down as up.
        losses = np.array([[epoch.train_loss for epoch in run] for run in runs])
        _draw_spread(loss, np.log10(np.maximum(losses, 1e-12)), colour, label)
    # The first epochs are far below, and so is one now and then.
    low, high = np.quantile(np.concatenate(later), (0.02, 1))
    accuracy.set_ylim(low - 1, min(100, high + 1))
    accuracy.set_title("Accuracy on the test images, %")
    accuracy.legend(loc="lower right")
    loss.set_title("Loss in training")
    loss.yaxis.set_major_formatter(lambda value, _: f"{10**value:.1g}")
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch; lines: means over the seeds; bands: ± standard deviation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = tables.title(study)
    put_title(figure, title)
    return Picture("curves", title, tables.verdict(study.runs), figure)


@style()
def accuracies(study: Study) -> Picture:
    """Final accuracies, in a panel of their own beside those that the paper's author published."""
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    ours, *theirs = figure.subplots(1, 4, sharey=True, width_ratios=(1.6, 1, 1, 1))
    found = samples(study.runs)
    for sample in found:
        place = list(ACTIVATIONS).index(sample.activation)
        colour = OF_ACTIVATION[sample.activation]
        # Seeds one above the other, in the same order for each activation.
        heights = place + np.linspace(-0.3, 0.3, len(sample.accuracies))
        ours.plot(sample.accuracies, heights, ".", color=colour, alpha=0.6)
        _mark(ours, place, sample.mean, sample.std, colour)
    ours.set_title(
        f"measured here: {study.settings.dataset}, SE-ResNet-18,\n"
        "mean ± standard deviation, seeds as dots"
    )
    ours.set_xlabel("accuracy, %")
    ours.set_yticks(range(len(ACTIVATIONS)), list(ACTIVATIONS))
    ours.set_ylim(len(ACTIVATIONS) - 0.5, -0.5)
    singles = {
        name: {a: (m, math.nan) for a, m in of.items()} for name, of in published.SENET18.items()
    }
    panels = {
        "published: CIFAR-10,\nSENet-18, one run": singles["cifar10"],
        "published: CIFAR-100,\nSENet-18, one run": singles["cifar100"],
        "published: CIFAR-10,\nSqueeze Net, 23 runs": {
            name: (runs.mean, runs.std) for name, runs in published.SQUEEZENET.items()
        },
    }
    for axes, (name, figures) in zip(theirs, panels.items(), strict=True):
        for place, activation in enumerate(ACTIVATIONS):
            _mark(axes, place, *figures[activation], OF_ACTIVATION[activation], filled=False)
        axes.set_title(name)
        axes.set_xlabel("accuracy, %")
        axes.margins(x=0.15)
    title = "Accuracy on the test images, measured here and published by the paper's author"
    put_title(figure, title)
    words = "; ".join(f"{s.activation} {tables.spread(s.mean, s.std)}" for s in found)
    return Picture("accuracy", title, words, figure)


def _draw_spread(axes: Axes, values: NDArray[np.float64], colour: str, label: str) -> None:
    """`values` have a row for each run."""
    epochs = np.arange(1, values.shape[1] + 1)
    mean, std = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
    axes.plot(epochs, mean, color=colour, label=label)
    axes.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)


def _mark(
    axes: Axes, place: int, mean: float, std: float, colour: str, filled: bool = True
) -> None:
    face = colour if filled else PAPER
    axes.errorbar(mean, place, xerr=std, fmt="D", color=colour, mfc=face, capsize=4, markersize=6)
