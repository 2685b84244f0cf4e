"""The summary of a comparison, for the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from benchmarks import units
from benchmarks.paper import published
from benchmarks.paper.protocol import ACTIVATIONS, SUBJECT
from benchmarks.paper.records import Run, Study
from benchmarks.paper.statistics import LEVEL, comparisons, samples

Rows = Sequence[Sequence[str]]  # the first is the header

_SINGLE = "The published figures are of single runs: they have no spread to compare ours with."

NOTES = f"""\
- accuracy: percent of the test images right after the last epoch, mean and
  standard deviation over the seeds. These stand for initial weights and order
  of the images; the images are always the same.
- {SUBJECT} minus: difference of the means in percentage points, with the 95 %
  confidence interval: what so many seeds cannot exclude.
- p: two-sided paired t-test over the seeds. Within a seed all activations start
  from the same weights and see the same batches. p (Holm): corrected for the
  number of comparisons, as p alone is not."""

SHOWS = {
    "digits": """\
What digits can show: that the networks train, and differences well above the
spread over seeds. What they cannot: which function is better for other images,
networks, learning rates or longer training. There are 896 images of 8 x 8
pixels to train with and 901 to test, so one image is 0.11 points.""",
    "cifar10": _SINGLE,
    "cifar100": _SINGLE,
}


def title(study: Study) -> str:
    """What was trained, in a line."""
    names = ", ".join(sample.activation for sample in samples(study.runs))
    return f"SE-ResNet-18 on {study.settings.dataset}: {names}"


def training(study: Study) -> str:
    """How it was trained, in a line."""
    s = study.settings
    return (
        f"{s.epochs} epochs, width {s.width}, batches of {s.batch_size}, Adam at "
        f"{s.learning_rate:g}, CPU threads: {s.threads}"
    )


def results(runs: Iterable[Run]) -> Rows:
    """A row for each activation."""
    runs = list(runs)
    against = {comparison.other: comparison for comparison in comparisons(runs)}
    rows = [["activation", "runs", "accuracy", f"{SUBJECT}\nminus", "95 %", "p", "p\n(Holm)"]]
    for sample in samples(runs):
        row = [sample.activation, str(len(sample.seeds)), spread(sample.mean, sample.std)]
        if c := against.get(sample.activation):
            interval = "" if math.isnan(c.low) else f"{c.low:+.2f} to {c.high:+.2f}"
            row += [f"{c.difference:+.2f}", interval, _p(c.p), _p(c.p_holm)]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    return rows


def verdict(runs: Iterable[Run]) -> str:
    """What the tests say, in words."""
    found = comparisons(runs)
    tested = [c for c in found if not math.isnan(c.p_holm)]
    clauses = {
        "better than": [c.other for c in tested if c.significant and c.difference > 0],
        "worse than": [c.other for c in tested if c.significant and c.difference < 0],
        "not told apart from": [c.other for c in tested if not c.significant],
    }
    said = ", ".join(f"{clause} {_and(names)}" for clause, names in clauses.items() if names)
    untested = [c.other for c in found if c not in tested]
    sentences = (
        said and f"By p (Holm) at {LEVEL:.0%}, {SUBJECT} is {said}.",
        untested and f"There is no test against {_and(untested)}: it takes several seeds of both.",
    )
    return " ".join(sentence for sentence in sentences if sentence)


def paper() -> Rows:
    """What the author published: a row for each activation, never mixed with ours."""
    header = (
        "published",
        "CIFAR-10,\nSENet-18,\none run",
        "CIFAR-100,\nSENet-18,\none run",
        "CIFAR-10,\nSqueeze Net,\n23 runs",
        "p against Mish,\nnot paired",
    )
    rows: list[tuple[str, ...]] = [header]
    for name in ACTIVATIONS:
        singles = [f"{published.SENET18[data][name]:.3f}" for data in ("cifar10", "cifar100")]
        runs = published.SQUEEZENET[name]
        rows.append((name, *singles, spread(runs.mean, runs.std, 3), runs.p))
    return rows


def markdown(study: Study) -> str:
    """All of it as a page."""
    ours, theirs = results(study.runs), paper()
    sources = (
        "Published by the author of [the paper](https://arxiv.org/abs/1908.08681): "
        f"[SENet-18]({published.SENET18_URL}), [23 runs]({published.SQUEEZENET_URL})."
    )
    parts = (
        f"# {title(study)}",
        f"{training(study)}.",
        units.markdown(ours[0], ours[1:]),
        verdict(study.runs),
        NOTES,
        SHOWS[study.settings.dataset],
        "![Accuracies](accuracy.png)",
        "![Curves](curves.png)",
        units.markdown(theirs[0], theirs[1:]),
        sources,
        study.environment.summary(),
        f"`{study.environment.command}`",
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def rich_table(rows: Rows, caption: str = "") -> Table:
    """The same rows for the terminal."""
    table = Table(box=box.SIMPLE, title=caption or None, title_justify="left")
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def spread(mean: float, std: float, digits: int = 2) -> str:
    """Mean and standard deviation; the mean alone if there is none."""
    if math.isnan(std):
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {std:.{digits}f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
