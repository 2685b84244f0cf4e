"""Tables of times: of the rows that `run` and `networks` wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from benchmarks import claims
from benchmarks.cases import BLOCKS, CHOSEN, COMPILED, DTYPES, GRIDS, PROVIDERS, shape_of
from benchmarks.display import Table, verdict_table
from benchmarks.units import format_bytes, format_seconds, format_shape, three_digits

KERNEL_NOTE = """\
Of the first, mish_cuda, the median time of a call; of the others multiples of it. M: 2^20 elements.
GB/s: of the first, for 2 (forward), 3 (backward) or 5 (both) tensors read or written. naive:
x * tanh(softplus(x)), eager. memory-efficient: the same, but it saves x alone and computes the rest
again in backward. compiled: under torch.compile. copy: out.copy_(x); in place of a backward
torch.add(g, x, out=out); in forward+backward both. Its result is allocated beforehand, the others
allocate theirs in the call. In place of a backward, relu is threshold_backward."""
MEMORY_NOTE = """\
Peak memory within forward and backward of one call, results included, in sizes of the input. A
whole network shows what is saved between them: see `networks`."""
COMPILED_NOTE = "Both compiled; over F.mish: its time / that of mish_cuda."
NORMS_NOTE = """\
A norm with Mish behind it: as one op, or as two layers with the Mish that is named.
Forward+backward in training, forward in evaluation. Over: time / that of the one op."""
CLAIMS_NOTE = "Ratios of median times, on one thread where nothing else is said."
NETWORK_NOTE = """\
Times: medians of interleaved rounds. Step: forward, loss, backward, SGD step. Speed up: time with
F.mish / time of the line. Share: of the step, that the activations take, by comparison with the
network without any (none); a negative one means that the spread (p20 to p80) is larger than the
share. Peak memory: of a step, gradients included, above weights, optimizer state and input. naive:
x * tanh(softplus(x)), eager."""
VARIANTS_NOTE = """\
Share: time of the fastest variant over that of the chosen figures, the geometric mean of several
cases."""
NONE = "none"  # nothing in the activation's place: what a network takes without it


def tables(rows: pd.DataFrame) -> list[Table]:
    verdicts = claims.judge(rows)
    judged = [verdict_table("claims", verdicts, CLAIMS_NOTE)] if verdicts else []
    speeds = (*_kernels(rows), *_memory(rows), *_with_neighbours(rows), *_networks(rows))
    return [*speeds, *_variants(rows), *judged]


def shape_text(shape: str) -> str:
    return format_shape(shape_of(shape))


def _providers(rows: pd.DataFrame) -> list[str]:
    """The providers in the rows: ours first, last the ones that this suite does not know."""
    found = list(rows.provider.unique())
    return sorted(found, key=lambda n: PROVIDERS.index(n) if n in PROVIDERS else len(PROVIDERS))


def _pivot(rows: pd.DataFrame, values: str, index: list[str], columns: str) -> pd.DataFrame:
    """Values by dtype, shape and more, in the order of dtypes and sizes."""
    order = rows.dtype.map({dtype: place for place, dtype in enumerate(DTYPES)})
    rows = rows.assign(order=order).sort_values(["order", "numel"], kind="stable")
    return rows.pivot_table(values, index, columns, aggfunc="first", sort=False)


def _kernels(rows: pd.DataFrame) -> Iterator[Table]:
    rows = rows[rows.suite.isin(GRIDS)]
    base, *others = _providers(rows) or [""]
    for (threads, direction), alike in rows.groupby(["threads", "direction"], sort=False):
        times = _pivot(alike, "median_s", ["dtype", "shape"], "provider")
        times = times.reindex(columns=[base, *others])
        rates = alike.groupby(["dtype", "shape"]).bytes.first() / times[base] / 1e9
        columns = {
            base: texts(times[base], format_seconds),
            "GB/s": texts(rates.reindex(times.index), three_digits),
        } | {name: texts(times[name] / times[base], three_digits) for name in others}
        title = f"{direction}, CPU threads: {threads}"
        yield Table(title, _by_input(times, columns), KERNEL_NOTE, 2)


def _memory(rows: pd.DataFrame) -> Iterator[Table]:
    """At the largest shape of each dtype."""
    rows = rows[rows.suite.isin(GRIDS) & rows.peak_bytes.notna()]
    if rows.empty:
        return
    rows = rows[rows.numel == rows.groupby("dtype").numel.transform("max")]
    sizes = rows.peak_bytes / (rows.numel * rows.dtype.map(lambda d: DTYPES[d].itemsize))
    wide = _pivot(rows.assign(sizes=sizes), "sizes", ["dtype", "shape"], "provider")
    columns = {name: texts(wide[name], "{:.1f}".format) for name in _providers(rows)}
    yield Table("peak memory of forward+backward", _by_input(wide, columns), MEMORY_NOTE, 2)


# Suites whose providers are one Mish or another among the same neighbours: how the provider is
# called, what the table is called, the ways to Mish, of which the others are compared with the
# first, and the note.
_NEIGHBOURS = {
    "compiled": (
        r"^compiled (?P<mish>.*?) in (?P<function>.*)$",
        "torch.compile",
        COMPILED[::-1],
        COMPILED_NOTE,
    ),
    "norms": (r"^(?P<norm>\w+) and Mish by (?P<mish>.*)$", "norm and Mish", BLOCKS, NORMS_NOTE),
}


def neighbour_times(rows: pd.DataFrame, suite: str) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Direction, threads, and times by dtype, shape and neighbours: a column for each Mish."""
    pattern, _, ways, _ = _NEIGHBOURS[suite]
    rows = rows[rows.suite == suite]
    parts = rows.provider.str.extract(pattern)
    index = ["dtype", "shape", *parts.columns.drop("mish")]
    alike = pd.concat([rows, parts], axis=1).groupby(["direction", "threads"], sort=False)
    for (direction, threads), group in alike:
        yield direction, threads, _pivot(group, "median_s", index, "mish").reindex(columns=ways)


def _with_neighbours(rows: pd.DataFrame) -> Iterator[Table]:
    """A table for each suite of _NEIGHBOURS, direction and number of threads."""
    for suite, (_, title, (ours, *others), note) in _NEIGHBOURS.items():
        for direction, threads, times in neighbour_times(rows, suite):
            ratios = times[others].div(times[ours], axis=0).add_prefix("over ")
            columns = {name: texts(times[name], format_seconds) for name in times}
            columns |= {name: texts(ratios[name], "{:.2f}x".format) for name in ratios}
            found = _by_input(times, columns)
            yield Table(f"{title}, {direction}, CPU threads: {threads}", found, note, 3)


def _networks(rows: pd.DataFrame) -> Iterator[Table]:
    kinds = ["network", "shape", "dtype", "threads"]
    alike = rows[rows.suite == "networks"].groupby(kinds, sort=False)
    for (network, shape, dtype, threads), group in alike:
        names = list(group.provider.unique())
        step, inference = (
            group[group.direction == direction]
            .drop_duplicates("provider")
            .set_index("provider")
            .reindex([*names, *{"F.mish", NONE}.difference(names)])
            for direction in ("training step", "inference")
        )
        low, high = (texts(step[edge], format_seconds) for edge in ("p20_s", "p80_s"))
        columns = {
            "activation": pd.Series(step.index, step.index),
            "step": texts(step.median_s, format_seconds),
            "p20 to p80": (low + " to " + high).where(low != "", ""),
            "speed up": texts(step.median_s["F.mish"] / step.median_s, "{:.2f}x".format),
            "share": texts(1 - step.median_s[NONE] / step.median_s, "{:.0%}".format),
            "peak memory": texts(step.peak_bytes, format_bytes),
            "inference": texts(inference.median_s, format_seconds),
            "speed-up": texts(inference.median_s["F.mish"] / inference.median_s, "{:.2f}x".format),
        }
        title = f"{network}, input {shape_text(shape)}, {dtype}, CPU threads: {threads}"
        yield Table(title, pd.DataFrame(columns).loc[names], NETWORK_NOTE)


def _variants(rows: pd.DataFrame) -> Iterator[Table]:
    """The fastest variant in each case, and over the cases of small and of large tensors."""
    rows = rows[rows.suite == "variants"]
    if rows.empty:
        return
    rows = rows.assign(elements=rows.numel.ge(2**20).map({True: "2^20 and more", False: "fewer"}))
    index = ["direction", "elements", "dtype", "shape"]
    times = _pivot(rows, "median_s", index, "provider")
    times = times.dropna(subset=[CHOSEN]).dropna(axis="columns")  # without those that failed
    shares = np.log(times.div(times[CHOSEN], axis="index"))
    for names in (index, index[:2]):
        means = np.exp(shares.groupby(names, sort=False).mean())
        found = {"fastest": means.idxmin(axis=1), "share": means.min(axis=1).map("{:.3f}".format)}
        title = f"variants, by {', '.join(names)}"
        yield Table(title, pd.DataFrame(found).reset_index(), VARIANTS_NOTE, len(names) + 1)


def _by_input(wide: pd.DataFrame, columns: dict[str, pd.Series]) -> pd.DataFrame:
    """The columns, after those that name dtype, input and what else the index of `wide` has."""
    names = wide.index.to_frame(index=False).rename(columns={"shape": "input"})
    names["input"] = names.input.map(shape_text)
    return pd.concat([names, pd.DataFrame(columns).reset_index(drop=True)], axis=1)


def texts(values: pd.Series, form: Callable[[float], str]) -> pd.Series:
    """Empty where nothing was measured."""
    return values.map(lambda value: "" if pd.isna(value) else form(value)).astype(str)
