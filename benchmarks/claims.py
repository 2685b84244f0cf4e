"""The claims of mish_cuda about its speed, as ratios of cases timed in turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pandas as pd

from benchmarks.cases import DTYPES, GPU_SIZES, KEY, NORM_SHAPES, SURROUNDINGS, Case, Group, key
from benchmarks.cases import compiled_provider as compiled
from benchmarks.cases import norm_provider as norm
from benchmarks.display import Verdict

LARGE = [size for size in GPU_SIZES if size >= 2**24]  # on a GPU memory alone decides
# Kernels that read and write what ours do, and compute next to nothing. In place of a backward
# "copy" is torch.add(g, x, out=out), and "relu" threshold_backward.
STREAMS = ("copy", "relu", "F.silu", "triton")


@dataclass(frozen=True)
class Claim:
    """Of every case, the ratio that `what` names is at least, or at most, `bound`.

    A ratio is the time of the fastest rival over that of the case, or, if it is bounded from above,
    the other way round. A rival is the same case but for these fields. `seconds` of the case's time
    do not count.
    """

    title: str
    what: str
    cases: Sequence[Case]
    rivals: Sequence[Mapping[str, Any]]
    bound: float
    at_most: bool = False
    suite: str = "claims"
    seconds: float = 0

    def rivals_of(self, case: Case) -> list[Case]:
        """What `case` is compared with."""
        return [replace(case, **rival) for rival in self.rivals]


def claim_groups() -> list[Group]:
    """One group for each ratio, so that its two cases are timed in turn; but for claims about
    other suites."""
    return [
        Group("claims", (*claim.rivals_of(case), case), min_rounds=15)
        for claim in CPU_CLAIMS
        if claim.suite == "claims"
        for case in claim.cases
    ]


def judge(rows: pd.DataFrame) -> list[Verdict]:
    """The claims of which at least one ratio was measured, each by the ratio that speaks most
    against it."""
    medians = rows.drop_duplicates(KEY, keep="last").set_index(KEY).median_s.to_dict()
    verdicts = []
    gpu = rows.device.iloc[0] if "device" in rows and len(rows) else ""
    for claim in (*CPU_CLAIMS, *gpu_claims(gpu)):
        ratios = {}
        for case in claim.cases:
            known = (medians.get(key(claim.suite, rival)) for rival in claim.rivals_of(case))
            times = [time for time in known if time]
            if times and (ours := medians.get(key(claim.suite, case))):
                name = str(replace(case, provider=""))
                rival = min(times)
                ratios[name] = (ours - claim.seconds) / rival if claim.at_most else rival / ours
        if ratios:
            name, worst = (max if claim.at_most else min)(ratios.items(), key=lambda pair: pair[1])
            ok = worst <= claim.bound if claim.at_most else worst >= claim.bound
            note = f"{len(ratios)}: {name}" if len(claim.cases) > 1 else ""
            measured = f"{worst:.{3 if claim.suite == 'gpu' else 2}f}"
            required = f"{claim.what} {'<=' if claim.at_most else '>='} {claim.bound:g}"
            if claim.seconds:
                required += f", {claim.seconds * 1e6:g} µs not counted"
            verdicts.append(Verdict(claim.title, required, measured, ok, note))
    return verdicts


BOTH = "forward+backward"
APART = ("forward", "backward")
OUT = "forward out="  # into a preallocated result: else fresh pages are timed


def _ours(way: str, dtypes: Iterable[str], *sizes: int, **more: Any) -> list[Case]:
    return [Case("mish_cuda", way, dtype, (n,), **more) for dtype in dtypes for n in sizes]


def _against(title: str, rival: str, cases: Sequence[Case], bound: float, **more: Any) -> Claim:
    """At least so many times as fast as another provider, or at most so many times its time."""
    what = f"ours / {rival}" if more.get("at_most") else f"{rival} / ours"
    return Claim(title, what, cases, ({"provider": rival},), bound, **more)


def _norm(name: str, block: str, way: str, bound: float) -> Claim:
    """At least so many times as fast, as one op, as the norm and Mish by `block`."""
    cases = [Case(norm(name, "one op"), way, "fp32", shape) for shape in NORM_SHAPES[name]]
    rival = {"provider": norm(name, block)}
    return Claim(f"{name}, Mish, {way}", f"{block} / one op", cases, (rival,), bound, suite="norms")


def _two_threads(title: str, case: Case) -> Claim:
    """So many times as fast on two threads as on one."""
    case = replace(case, threads=2)
    return Claim(f"{title}, threads: 1, 2", "one / two", [case], ({"threads": 1},), 1.7)


def _strided(title: str, bases: dict[str, tuple[int, ...]]) -> Claim:
    """`bases` gives for each layout the shape of its contiguous base."""
    cases = [
        Case("mish_cuda", way, dtype, base, layout)
        for (layout, base), dtype, way in product(bases.items(), ("fp32", "bf16"), APART)
    ]
    return _against(title, "F.mish", cases, 1)


# One thread where nothing else is said.
CPU_CLAIMS = (
    *(
        _against(f"65,536 {dtype} {way}", "F.mish", _ours(way, (dtype,), 65_536), bound)
        for dtype, bound in {"fp32": 10, "bf16": 9, "fp16": 9, "fp64": 8}.items()
        for way in APART
    ),
    *(
        _against(f"1 and 16, {way}", "F.mish", _ours(way, DTYPES, 1, 16), 1.4, at_most=True)
        for way in ("forward", BOTH)
    ),
    *(
        _against(f"512 to 1 M, {way}", "F.mish", _ours(way, DTYPES, 512, 1024, 4096, 2**20), 1)
        for way in ("forward", BOTH)
    ),
    *(
        _against(f"16 M fp32 out=, threads: {n}", "copy", cases, 1.2, at_most=True)
        for n in (1, 2)
        for cases in [_ours(OUT, ("fp32",), 2**24, threads=n)]
    ),
    _two_threads("1 M fp32 out=", Case("mish_cuda", OUT, "fp32", (2**20,))),
    *(
        Claim(
            f"{surrounding} under torch.compile, 1 M {dtype}, {BOTH}",
            "F.mish / ours",
            [Case(compiled("mish_cuda", surrounding), BOTH, dtype, (2**20,))],
            ({"provider": compiled("F.mish", surrounding)},),
            bound,
            suite="compiled",
        )
        for dtype, bound in {"fp32": 4, "bf16": 3}.items()
        for surrounding in SURROUNDINGS
    ),
    _norm("BatchNorm", "mish_cuda", BOTH, 2.2),
    _norm("BatchNorm", "F.mish", BOTH, 6),
    _norm("BatchNorm", "mish_cuda", "forward", 1.5),
    _norm("GroupNorm", "mish_cuda", BOTH, 1.1),
    _norm("GroupNorm", "mish_cuda", "forward", 1.1),
    _norm("GroupNorm", "F.mish", BOTH, 3.3),
    _two_threads(
        f"BatchNorm, Mish, {BOTH}",
        Case(norm("BatchNorm", "one op"), BOTH, "fp32", NORM_SHAPES["BatchNorm"][0]),
    ),
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
# On these GPUs memory is so fast that instructions decide the time of F.mish in 16 bits, so fewer
# instructions gain more. On all others memory decides.
ISSUE_BOUND = ("H200", "B100", "B200", "B300")  # also GB200, GB300
# Ours over F.mish by dtype, forward and backward.
GPU_BOUNDS = {"fp32": (0.98, 0.98), "fp16": (1.25, 1.25), "bf16": (1.25, 1.25), "fp64": (1.5, 1.5)}
ISSUE_BOUNDS = {**GPU_BOUNDS, "fp16": (1.8, 1.9), "bf16": (1.8, 1.9)}


def gpu_claims(gpu: str) -> list[Claim]:
    """The claims for a GPU of this name."""
    issue_bound = any(name in gpu for name in ISSUE_BOUND)
    over_native = ISSUE_BOUNDS if issue_bound else GPU_BOUNDS
    claims = []
    for (place, way), dtype in product(enumerate(APART), DTYPES):
        title, cases = f"{way} {dtype}, 16 M and more", _ours(way, (dtype,), *LARGE)
        for name, providers, bound in (
            ("relu", ("relu",), 0.97),
            ("fastest stream", STREAMS, 0.95),
            ("F.mish", ("F.mish",), over_native[dtype][place]),
        ):
            if dtype != "fp64" or name == "F.mish":
                rivals = [{"provider": provider} for provider in providers]
                claims.append(Claim(title, f"{name} / ours", cases, rivals, bound, suite="gpu"))
    launch: dict[str, Any] = {"at_most": True, "suite": "launch", "seconds": 0.2e-6}
    for way in APART:
        title = f"cost of a call, {way}"
        claims.append(_against(title, "F.mish", _ours(way, ("fp32",), 1), 1.05, **launch))
    return claims
