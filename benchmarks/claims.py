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

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cases import KEY, Case, Group, case_of
from benchmarks.display import Verdict

# On these GPUs memory is so fast that instructions decide the time of F.mish in 16 bits, so fewer
# instructions gain more: the rows on "issue". On all others memory decides.
ISSUE_BOUND = ("H200", "B100", "B200", "B300")  # also GB200, GB300


def _read() -> pd.DataFrame:
    """A row for each case and rival of each claim; the column `claim` numbers the claims."""
    path = Path(__file__).with_name("claims.csv")
    table = pd.read_csv(path, keep_default_na=False, dtype={"input": str})
    for name in ("dtype", "input", "direction", "rival"):
        table = table.assign(**{name: table[name].str.split("; ")}).explode(name)
    table[["shape", "layout"]] = table.input.str.split(" as ", expand=True)
    table["at_most"] = table.required.str.startswith("<=")
    table["bound"] = table.required.str.split().str[1].astype(float)
    return table.fillna({"layout": "x"}).assign(network="").rename_axis("claim").reset_index()


CLAIMS = _read()


def rival_of(row: Any) -> Case:
    """The same case but for provider and threads."""
    return replace(case_of(row), provider=row.rival, threads=row.rival_threads)


def claim_groups() -> list[Group]:
    """One group for each ratio of the suite "claims", so that its two cases are timed in turn."""
    own = CLAIMS[CLAIMS.suite == "claims"].itertuples()
    return [Group("claims", (rival_of(row), case_of(row)), min_rounds=15) for row in own]


def judge(rows: pd.DataFrame) -> list[Verdict]:
    """The claims of which at least one ratio was measured, each by the ratio that speaks most
    against it."""
    machine = rows.iloc[0]
    kind = "issue" if any(name in machine.device for name in ISSUE_BOUND) else "memory"
    kinds = ["cpu"] if machine.device == machine.cpu_model else ["", kind]
    times = rows.drop_duplicates(KEY, keep="last")[[*KEY, "median_s"]]
    names = {"provider": "rival", "threads": "rival_threads", "median_s": "rival_s"}
    found = CLAIMS[CLAIMS.on.isin(kinds)].merge(times).merge(times.rename(columns=names))
    # Of several rivals the fastest counts.
    found = found.sort_values("rival_s", kind="stable").drop_duplicates(["claim", *KEY])
    upward = (found.median_s - found.uncounted_s) / found.rival_s
    found["worst"] = upward.where(found.at_most, found.rival_s / found.median_s)
    against = found.worst.where(found.at_most, -found.worst).groupby(found.claim)
    counts = against.size()
    verdicts = []
    for row in found.loc[against.idxmax()].itertuples():
        ok = row.worst <= row.bound if row.at_most else row.worst >= row.bound
        several = (CLAIMS.claim == row.claim).sum() > 1
        note = f"{counts[row.claim]}: {replace(case_of(row), provider='')}" if several else ""
        required = f"{row.ratio} {row.required}"
        if row.uncounted_s:
            required += f", {row.uncounted_s * 1e6:g} µs not counted"
        verdicts.append(Verdict(row.title, required, f"{row.worst:.3f}", ok, note))
    return verdicts
