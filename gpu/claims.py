"""What is claimed of the speed, and whether the times bear it out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.cells import Direction
from benchmarks.results import Result
from gpu.providers import DIRECTIONS

LARGE = 2**24  # elements from which memory alone decides

# Kernels that read and write what ours do, and compute next to nothing. In place of a backward
# "copy" is torch.add(g, x, out=out), and "relu" threshold_backward.
STREAMS = ("copy", "relu", "F.silu", "triton")


@dataclass(frozen=True)
class Claim:
    """The time of the fastest of `peers` over ours should be at least `bound`."""

    name: str
    peers: tuple[str, ...]
    direction: Direction
    dtype: str
    bound: float

    def __str__(self) -> str:
        return f"{self.direction} {self.dtype}: {self.name} / mish_cuda"


@dataclass(frozen=True)
class Verdict:
    """A claim and its worst ratio over the large sizes, None if nothing was measured."""

    claim: Claim
    ratio: float | None

    @property
    def broken(self) -> bool:
        return self.ratio is not None and self.ratio < self.claim.bound


CLAIMS = (
    *(
        Claim(name, peers, direction, dtype, bound)
        for direction in DIRECTIONS
        for dtype in ("fp32", "fp16", "bf16")
        for name, peers, bound in (
            ("relu", ("relu",), 1.0),
            ("fastest stream", STREAMS, 0.97),
        )
    ),
    *(
        Claim("F.mish", ("F.mish",), direction, dtype, bound)
        for dtype, bounds in (
            ("fp32", (1.0, 1.0)),
            ("fp16", (1.8, 1.9)),
            ("bf16", (1.8, 1.9)),
            ("fp64", (2.0, 2.0)),
        )
        for direction, bound in zip(DIRECTIONS, bounds, strict=True)
    ),
)


def judge(results: Iterable[Result]) -> list[Verdict]:
    """A verdict on each claim."""
    large = [r for r in results if r.cell.numel >= LARGE]
    return [Verdict(claim, _worst(claim, large)) for claim in CLAIMS]


def _worst(claim: Claim, results: Sequence[Result]) -> float | None:
    ours: dict[int, float] = {}
    fastest: dict[int, float] = {}
    for r in results:
        cell, time = r.cell, r.timing.median
        if (cell.direction, cell.dtype) != (claim.direction, claim.dtype):
            continue
        if cell.provider == "mish_cuda":
            ours[cell.numel] = time
        elif cell.provider in claim.peers:
            fastest[cell.numel] = min(time, fastest.get(cell.numel, time))
    return min((fastest[size] / ours[size] for size in ours.keys() & fastest), default=None)
