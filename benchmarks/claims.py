"""What mish_cuda claims about its speed on CPU, as ratios of cells timed in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.cells import COMPILED_DTYPES, DTYPES, Cell, Direction, Group, compiled_provider
from benchmarks.results import Result


@dataclass(frozen=True)
class Ratio:
    """Median time of `over` divided by median time of `under`."""

    name: str
    over: Cell
    under: Cell


@dataclass(frozen=True)
class Claim:
    """Every ratio is at least, or else at most, `bound`; `what` says which ratio that is."""

    title: str
    what: str
    ratios: tuple[Ratio, ...]
    bound: float
    at_most: bool = False

    @property
    def required(self) -> str:
        """The ratio and its bound as text."""
        return f"{self.what} {'<=' if self.at_most else '>='} {self.bound:g}"


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was measured of it; never without a measured ratio."""

    claim: Claim
    measured: tuple[tuple[Ratio, float], ...]

    @property
    def worst(self) -> tuple[Ratio, float]:
        """The ratio that speaks most against the claim, and its value."""
        pick = max if self.claim.at_most else min
        return pick(self.measured, key=lambda pair: pair[1])

    @property
    def ok(self) -> bool:
        """Whether the claim holds for everything measured."""
        value = self.worst[1]
        return value <= self.claim.bound if self.claim.at_most else value >= self.claim.bound


def claim_groups() -> list[Group]:
    """One group for each ratio, so that its two cells are timed in turn."""
    return [
        Group("claims", (ratio.over, ratio.under), min_rounds=15)
        for claim in CPU_CLAIMS
        for ratio in claim.ratios
    ]


def judge(results: Iterable[Result]) -> list[Verdict]:
    """The claims of which at least one ratio was measured."""
    medians = {r.cell: r.timing.median for r in results if r.suite == "claims"}
    verdicts = []
    for claim in CPU_CLAIMS:
        measured = tuple(
            (ratio, medians[ratio.over] / medians[ratio.under])
            for ratio in claim.ratios
            if ratio.over in medians and ratio.under in medians
        )
        if measured:
            verdicts.append(Verdict(claim, measured))
    return verdicts


def _speed_up(name: str, cell: Cell) -> Ratio:
    """Time of F.mish over ours."""
    return Ratio(name, over=replace(cell, provider="F.mish"), under=cell)


def _cost(name: str, cell: Cell, against: str) -> Ratio:
    """Our time over that of the provider `against`."""
    return Ratio(name, over=cell, under=replace(cell, provider=against))


def _ours(
    direction: Direction, dtype: str, shape: tuple[int, ...], layout: str = "x", threads: int = 1
) -> Cell:
    return Cell("mish_cuda", direction, dtype, shape, layout, threads)


def _kernel(dtype: str, direction: Direction, bound: float) -> Claim:
    return Claim(
        f"65,536 {dtype} {direction}",
        "F.mish / ours",
        (_speed_up("", _ours(direction, dtype, (65_536,))),),
        bound,
    )


def _small_call(direction: Direction) -> Claim:
    return Claim(
        f"1 and 16, {direction}",
        "ours / F.mish",
        tuple(
            _cost(f"{dtype} {size}", _ours(direction, dtype, (size,)), "F.mish")
            for dtype in DTYPES
            for size in (1, 16)
        ),
        1.4,
        at_most=True,
    )


def _larger_call(direction: Direction) -> Claim:
    return Claim(
        f"512 to 1 M, {direction}",
        "F.mish / ours",
        tuple(
            _speed_up(f"{dtype} {size:,}", _ours(direction, dtype, (size,)))
            for dtype in DTYPES
            for size in (512, 1024, 4096, 2**20)
        ),
        1,
    )


def _copy_speed(threads: int) -> Claim:
    cell = _ours("forward out=", "fp32", (2**24,), threads=threads)
    return Claim(
        f"16 M fp32 out=, threads: {threads}",
        "ours / copy",
        (_cost("", cell, "copy"),),
        1.2,
        at_most=True,
    )


# Into a preallocated result: else it is the kernel handing out fresh pages that is timed.
_ONE_THREAD = _ours("forward out=", "fp32", (2**20,), threads=1)
_TWO_THREADS = replace(_ONE_THREAD, threads=2)
_SCALING = Claim(
    "1 M fp32 out=, threads: 1, 2",
    "one / two",
    (Ratio("", over=_ONE_THREAD, under=_TWO_THREADS),),
    1.7,
)


def _strided(title: str, bases: dict[str, tuple[int, ...]]) -> Claim:
    """`bases` gives for each layout the shape of its contiguous base."""
    directions: Sequence[Direction] = ("forward", "backward")
    return Claim(
        title,
        "F.mish / ours",
        tuple(
            _speed_up(f"{dtype} {layout} {direction}", _ours(direction, dtype, base, layout))
            for layout, base in bases.items()
            for dtype in ("fp32", "bf16")
            for direction in directions
        ),
        1,
    )


_COMPILED = Claim(
    "1 M under torch.compile, forward+backward",
    "F.mish / ours",
    tuple(
        Ratio(
            dtype,
            *(
                Cell(compiled_provider(name), "forward+backward", dtype, (2**20,))
                for name in ("F.mish", "decomposition")
            ),
        )
        for dtype in COMPILED_DTYPES
    ),
    2,
)


# One thread where nothing else is said.
CPU_CLAIMS: tuple[Claim, ...] = (
    _kernel("fp32", "forward", 10),
    _kernel("fp32", "backward", 10),
    _kernel("bf16", "forward", 9),
    _kernel("bf16", "backward", 9),
    _kernel("fp16", "forward", 9),
    _kernel("fp16", "backward", 9),
    _kernel("fp64", "forward", 8),
    _kernel("fp64", "backward", 8),
    _small_call("forward"),
    _small_call("forward+backward"),
    _larger_call("forward"),
    _larger_call("forward+backward"),
    _copy_speed(threads=1),
    _copy_speed(threads=2),
    _SCALING,
    _COMPILED,
    _strided("sliced", {"x[:, ::2]": (512, 512), "x[:, 1:-1]": (512, 514)}),
    _strided(
        "transposed",
        {
            "x.t()": (512, 256),
            "x.transpose(1, 2)": (16, 128, 64),
            "x.permute(0, 3, 1, 2)": (8, 32, 32, 16),
        },
    ),
)
