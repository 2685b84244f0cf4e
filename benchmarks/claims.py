"""The claims of mish_cuda about its speed: claims.csv, as ratios of cases timed in turn.

A row claims of every case, which are all combinations of its directions, dtypes and inputs, that
`ratio` is at least or at most `required`: the time of the fastest rival over that of the case, or,
if it is bounded from above, the other way round. `uncounted_s` of the case's time do not count. The
rows of the suite "claims" are timed for themselves, others are about a suite that is run anyway.
`on` says where a row holds: on a CPU, on GPUs of one kind (ISSUE_BOUND), or, empty, on any GPU.

On a GPU, relu, silu, Triton's kernel and copy read and write what ours do, and compute next to
nothing: they are streams. In place of a backward, copy is torch.add(g, x, out=out), and relu
threshold_backward.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cases import KEY, Case, Group, shape_of
from benchmarks.display import Verdict

TABLE = Path(__file__).with_name("claims.csv")
# On these GPUs memory is so fast that instructions decide the time of F.mish in 16 bits, so fewer
# instructions gain more: the rows on "issue". On all others memory decides.
ISSUE_BOUND = ("H200", "B100", "B200", "B300")  # also GB200, GB300


@dataclass(frozen=True)
class Claim:
    """A row of the table. A rival is the same case but for provider and threads."""

    suite: str
    on: str
    title: str
    cases: tuple[Case, ...]
    rivals: tuple[str, ...]
    rival_threads: int
    ratio: str
    at_most: bool
    bound: float
    uncounted: float

    def rivals_of(self, case: Case) -> list[Case]:
        return [replace(case, provider=r, threads=self.rival_threads) for r in self.rivals]


_AT_MOST = {"<=": True, ">=": False}


def _read() -> Iterator[Claim]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            several = {name: text.split("; ") for name, text in row.items()}
            cases = []
            for dtype, given, way in product(
                several["dtype"], several["input"], several["direction"]
            ):
                size, _, layout = given.partition(" as ")
                kind = (way, dtype, shape_of(size), layout or "x", int(row["threads"]))
                cases.append(Case(row["provider"], *kind))
            sign, bound = row["required"].split()
            yield Claim(
                *(row["suite"], row["on"], row["title"], tuple(cases), tuple(several["rival"])),
                *(int(row["rival_threads"]), row["ratio"], _AT_MOST[sign], float(bound)),
                float(row["uncounted_s"]),
            )


CLAIMS = tuple(_read())


def claim_groups() -> list[Group]:
    """One group for each ratio of the suite "claims", so that its two cases are timed in turn."""
    return [
        Group("claims", (*claim.rivals_of(case), case), min_rounds=15)
        for claim in CLAIMS
        if claim.suite == "claims"
        for case in claim.cases
    ]


def judge(rows: pd.DataFrame) -> list[Verdict]:
    """The claims of which at least one ratio was measured, each by the ratio that speaks most
    against it."""
    medians: dict[Any, float] = (
        rows.drop_duplicates(KEY, keep="last").set_index(KEY).median_s.to_dict()
    )

    def time(suite: str, case: Case) -> float | None:
        known = {"suite": suite, **case.row()}
        return medians.get(tuple(known[name] for name in KEY))

    machine = rows.iloc[0].to_dict() if len(rows) else {}
    device = machine.get("device", "")
    kind = "issue" if any(name in device for name in ISSUE_BOUND) else "memory"
    if device == machine.get("cpu_model", ""):
        kind = "cpu"
    verdicts = []
    for claim in CLAIMS:
        ratios = {}
        for case in claim.cases if claim.on in ("", kind) else ():
            known = (time(claim.suite, rival) for rival in claim.rivals_of(case))
            rival = min(filter(None, known), default=None)
            if rival and (ours := time(claim.suite, case)):
                name = str(replace(case, provider=""))
                ratios[name] = (ours - claim.uncounted) / rival if claim.at_most else rival / ours
        if ratios:
            worst_of = max if claim.at_most else min
            name, worst = worst_of(ratios.items(), key=lambda pair: pair[1])
            ok = worst <= claim.bound if claim.at_most else worst >= claim.bound
            note = f"{len(ratios)}: {name}" if len(claim.cases) > 1 else ""
            measured = f"{worst:.{3 if claim.suite == 'gpu' else 2}f}"
            required = f"{claim.ratio} {'<=' if claim.at_most else '>='} {claim.bound:g}"
            if claim.uncounted:
                required += f", {claim.uncounted * 1e6:g} µs not counted"
            verdicts.append(Verdict(claim.title, required, measured, ok, note))
    return verdicts
