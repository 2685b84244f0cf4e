"""The summary in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.cells import DTYPES
from benchmarks.environment import Environment
from benchmarks.graphs import MOST_CALLS
from benchmarks.results import Result, Timing
from benchmarks.units import markdown
from gpu.claims import LARGE, Verdict
from gpu.grid import Found
from gpu.providers import DIRECTIONS, NAMES
from gpu.steps import Outcome

if TYPE_CHECKING:  # it needs numpy, which a machine without the accuracy step need not have
    from accuracy.verdicts import Verdict as ErrorVerdict

SPEED_NOTES = f"""\
Medians of graph replays; the providers take turns. GB/s counts 2 tensors forward and 3 backward,
also for peers that move more. In place of a backward, relu is `threshold_backward`, copy is
`torch.add(g, x, out=out)` and naive the formula in eager calls. A graph goes through at most
{MOST_CALLS} sets of buffers, so that below some 100,000 elements they stay in the L2 cache: these
figures are of the cache, not of memory."""


def summary(facts: Environment, steps: Sequence[tuple[str, Outcome, float]]) -> str:
    """The whole page: what each step came to in how many seconds, and their sections."""
    lines = [
        (name, step.word, " ".join(step.detail.replace("|", "/").split()), f"{seconds:.0f}")
        for name, step, seconds in steps
    ]
    parts = [
        f"# {facts.device}",
        f"{facts.summary()}. Made by `python -m gpu`.",
        markdown(("step", "outcome", "", "s"), lines, left=3),
        *(step.section for _, step, _ in steps if step.section),
    ]
    return "\n\n".join(parts) + "\n"


def speed(found: Found, verdicts: Iterable[Verdict]) -> str:
    """Claims, figures of the large sizes, what failed and what was not reached."""
    parts = ["## Speed", _claims(verdicts), SPEED_NOTES, *_figures(found.results)]
    if found.failures:
        cells = [
            (f.cell.provider, f.cell.direction, f.cell.dtype, f"{f.cell.numel:,}", f.reason)
            for f in found.failures
        ]
        header = ("provider", "direction", "dtype", "elements", "error")
        parts += [
            "Not measured, and but for want of memory not tried again:",
            markdown(header, cells, left=5),
        ]
    if found.unreached:
        parts.append(f"Not reached before time was up: {'; '.join(found.unreached)}.")
    return "\n\n".join(parts)


def _claims(verdicts: Iterable[Verdict]) -> str:
    lines = []
    for v in verdicts:
        worst = "not measured" if v.ratio is None else f"{v.ratio:.3f}"
        ok = "" if v.ratio is None else "NO" if v.broken else "yes"
        lines.append((str(v.claim), f"{v.claim.bound:g}", worst, ok))
    return markdown(
        (f"time / time, {LARGE:,} elements and more", "required", "worst", "ok"), lines, left=1
    )


def _figures(results: Sequence[Result]) -> list[str]:
    """One table for each direction and dtype."""
    parts = []
    for direction in DIRECTIONS:
        for dtype in DTYPES:
            times = {
                (r.cell.numel, r.cell.provider): r
                for r in results
                if (r.cell.direction, r.cell.dtype) == (direction, dtype) and r.cell.numel >= LARGE
            }
            lines = [
                (f"{size:,}", name, *_ratios(times, size, name))
                for size in sorted({size for size, _ in times})
                for name in NAMES
                if (size, name) in times
            ]
            if lines:
                header = ("elements", "provider", "ms", "GB/s", "of copy", "over F.mish")
                parts += [f"### {direction.capitalize()}, {dtype}", markdown(header, lines, left=2)]
    return parts


def _ratios(times: Mapping[tuple[int, str], Result], size: int, name: str) -> tuple[str, ...]:
    seconds = times[size, name].timing.median
    copy, native = (times.get((size, other)) for other in ("copy", "F.mish"))
    return (
        f"{1e3 * seconds:.4g}",
        f"{times[size, name].gigabytes_per_second:.0f}",
        f"{copy.timing.median / seconds:.1%}" if copy else "",
        f"{native.timing.median / seconds:.2f}x" if native else "",
    )


def launch(times: Mapping[tuple[str, str], Timing]) -> str:
    """What a call costs."""
    lines = [
        (direction, provider, *(f"{1e6 * value:.2f}" for value in (t.median, t.p20, t.p80)))
        for (direction, provider), t in times.items()
    ]
    header = ("direction", "provider", "µs, median", "p20", "p80")
    return f"## Launch cost\n\nOf a call on one element.\n\n{markdown(header, lines, left=2)}"


def errors(verdicts: Iterable[ErrorVerdict]) -> str:
    """The largest error in each region, of ours and of torch's."""
    lines = []
    for v in verdicts:
        bound, found = v.region.bound, v.errors
        if bound.correct is not None:
            error, at = "", math.nan
        elif bound.ulp is not None:
            error, at = f"{found.ulp:.3g} ULP", found.ulp_at
        else:
            error, at = f"{found.absolute:.3g}", found.absolute_at
        lines.append(
            (
                *(v.function, v.dtype, f"{v.region.low:g} to {v.region.high:g}", v.path),
                str(bound) if v.required else "",
                *(error, "" if math.isnan(at) else f"{at:.6g}"),
                # Never 100 % where one is missing.
                f"{math.floor(1e4 * found.correct / found.tried) / 1e4:.2%}",
                ("yes" if v.ok else "NO") if v.required else "",
            )
        )
    header = ("function", "dtype", "x", "provider", "required", "error", "at", "right", "ok")
    note = "Bounds and columns as in docs/numerics.md; judged by float64 on the device."
    return f"## Accuracy\n\n{note}\n\n{markdown(header, lines, left=5)}"
