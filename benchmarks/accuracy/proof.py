"""The rows of a proof: errors of the implementations, interval by interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.accuracy import implementations, reference
from benchmarks.accuracy.errors import (
    DEFINITION,
    LARGEST_GRADIENT,
    NATIVE,
    Row,
    covers,
    distance,
    errors,
    required,
    row,
    together,
)
from benchmarks.accuracy.implementations import Implementations, Run
from benchmarks.accuracy.numbers import FP32, FP64, Format, Interval, intervals
from benchmarks.smoke import same_bits
from mish_cuda._textbook import FUNCTIONS

CHUNK = 2**14  # numbers computed at once: larger temporaries would be fetched from the system anew
PIECE = 2**20  # numbers in one job
ALL = 2**32
LIMIT_FP64 = 2**17
LIMIT_NATIVE = 2**20  # for F.mish in fp32: its second derivative is slow
SAME_NUMBERS = 500  # of each interval, for bits that have to be the same
DEFINITION_NUMBERS = 2000  # beside the worst, for the reference
OPS = ("f", "g f'", "h g f''")

# Where the kernels change over: the operands at e^x = 0.7, the range reduction of e^x between two
# multiples of ln 2, the clamps; where e^x leaves the normal range; the zeros of f, f' and f''.
_HARD_POINTS = (
    math.log(0.7),
    *((k + 0.5) * math.log(2) for k in range(-8, 8)),
    *(22.0, -709.0895657128241, -708.3964185322641),
    *(0.0, -1.1924312145154952, -2.2563763963607931, 1.4905711794854285),
)

Measured = dict[tuple[str, str], Row]  # errors by function and implementation
Map = Callable[..., Iterable[Measured]]  # map, or that of an executor


def cut(backend: str, number_format: Format) -> list[Interval]:
    """The intervals of a format: those of the bounds, and for a plot finer ones."""
    bounds = (b for f in FUNCTIONS for b in required(backend, number_format.name, f))
    edges = {end for bound in bounds for end in (bound.low, bound.high) if math.isfinite(end)}
    if number_format is FP32:
        edges |= {*np.arange(-105.0, 26.0), *np.arange(-4.0, 4.0, 0.25)}
    if number_format is FP64:
        edges |= {*np.arange(-750.0, -15.0, 15.0), *np.arange(-15.0, 26.0)}
        for point in _HARD_POINTS:
            near = 1024 * float(np.spacing(abs(point)))
            edges |= {point - near, point + near}
    return intervals(number_format, edges)


# "invalid" is raised by signalling NaN among the arguments, "over" and "under" by e^x.
@np.errstate(all="ignore")
def prove(
    device: str, number_format: Format, progress: Progress, limit: int | None = None, run: Map = map
) -> list[Row]:
    """The rows of one format: at most `limit` numbers of each interval, or as many as usual."""
    on_cuda = device.startswith("cuda")
    backend, name = ("cuda", "cuda") if on_cuda else ("cpu", "mish_cuda")
    installed = partial(implementations.registered, device)
    judged: Implementations = {name: installed} if on_cuda else implementations.kernels()
    native: Implementations = {NATIVE: partial(implementations.native, device)}
    usual = LIMIT_FP64 if number_format is FP64 else ALL
    sweeps = [({**judged, **native}, usual)]
    if number_format is FP32:
        sweeps = [(judged, usual), (native, LIMIT_NATIVE)]
    spans = cut(backend, number_format)
    rows: list[Row] = []
    for alike, most in sweeps:
        rows += sweep(backend, number_format, alike, spans, limit or most, progress, run)
    rows += against_definition(backend, number_format, spans, rows)
    is_short = number_format.dtype.itemsize == 2
    count = ALL if is_short else SAME_NUMBERS
    x = sample(number_format, spans, min(count, limit or count))
    same = partial(agreement, number_format, x)
    for name, one in judged.items():
        if not is_short:  # of 16 bits, which are computed in float, the sweep tries products
            own = partial(implementations.products, one)
            rows += same(name, one, "its own derivatives", own, OPS[1:])
    if not on_cuda:
        rows += same("mish_cuda", installed, name, one)  # the widest, which is installed
    return rows


def sweep(
    backend: str,
    number_format: Format,
    alike: Implementations,
    spans: Sequence[Interval],
    limit: int,
    progress: Progress,
    run: Map = map,
) -> list[Row]:
    """The errors of each implementation, on at most `limit` numbers of each interval."""
    jobs = []
    for span in spans:
        ordinals = span.ordinals(limit)
        jobs += [(span, ordinals[at : at + PIECE]) for at in range(0, len(ordinals), PIECE)]
    measured = run(partial(measure, backend, number_format, alike), *zip(*jobs, strict=True))
    name = f"{number_format.name}: {', '.join(alike)}"
    tracked = progress.track(measured, total=len(jobs), description=name)
    found = defaultdict[tuple[Interval, tuple[str, str]], list[Row]](list)
    for (span, _), piece in zip(jobs, tracked, strict=True):
        for key, each in piece.items():
            found[span, key].append(each)
    names = (number_format.name, number_format.reference)
    return [
        row(*key, *names, errors=together(each), low=span.low, high=span.high)
        | {"numbers": span.stop - span.first}
        for (span, key), each in found.items()
    ]


@np.errstate(all="ignore")  # in another process; as `prove`
def measure(
    backend: str, number_format: Format, alike: Implementations, span: Interval, ordinals: range
) -> Measured:
    """The errors of each function and implementation on these numbers of one interval.

    Of 16-bit formats the functions are f, f', f'' and the ops, "g f'" and "h g f''": computed in
    float, they are to be rounded once in all.
    """
    functions = FUNCTIONS + (OPS[1:] if number_format.dtype.itemsize == 2 else ())
    bounds = {f: required(backend, number_format.name, f) for f in functions}
    found = defaultdict[tuple[str, str], list[Row]](list)
    for numbers in number_format.numbers(ordinals).split(CHUNK):
        x = number_format.widen(numbers)
        derivatives = reference.evaluate(x)
        for function in functions:
            order = function.count("'")
            factors, true = [torch.ones_like(numbers)] * order, derivatives[order]
            if function in OPS:
                factors = gradients(number_format, numbers, order)
                true = math.prod(map(number_format.widen, factors), start=true)
            ulps = number_format.ulps(true)
            # The absolute error from which on ULP count.
            inside = (b for b in bounds[function] if b.ulp and covers(b, span.low, span.high))
            allowed = max((bound.absolute for bound in inside), default=0)
            for name, run in alike.items():
                result = number_format.widen(run(*factors, numbers))
                off = distance(x, result, true, keeps_sign=order == 0)
                found[function, name].append(errors(x, off, ulps, allowed))
    return {key: together(each) for key, each in found.items()}


def sample(number_format: Format, spans: Iterable[Interval], count: int) -> Tensor:
    """About `count` numbers of each interval, evenly spread."""
    return torch.cat([number_format.numbers(span.ordinals(count)) for span in spans])


def gradients(number_format: Format, x: Tensor, count: int) -> list[Tensor]:
    """Random numbers of either sign, from 0.5 to almost 4, so that no product leaves the range."""
    random = np.random.default_rng(0)
    top = LARGEST_GRADIENT - 0.1
    return [
        number_format.round(random.uniform(0.5, top, len(x)) * random.choice([-1, 1], len(x)))
        for _ in range(count)
    ]


def agreement(
    number_format: Format,
    x: Tensor,
    name: str,
    run: Run,
    other: str,
    expected: Run,
    ops: Sequence[str] = OPS,
) -> Iterator[Row]:
    """Whether an implementation gives the bits of another; a difference is an infinite error."""
    wide = number_format.widen(x)
    for op in ops:
        operands = [*gradients(number_format, x, OPS.index(op)), x]
        same = same_bits(run(*operands), expected(*operands)).numpy()
        found = errors(wide, np.where(same, 0.0, np.inf), 1)
        yield row(op, name, number_format.name, other, errors=found)


def against_definition(
    backend: str, number_format: Format, spans: Sequence[Interval], rows: Sequence[Row]
) -> Iterator[Row]:
    """The errors of the reference, in ULP of the format: at the worst x of `rows`, and others."""
    spread = sample(number_format, spans, DEFINITION_NUMBERS // len(spans))
    for order, function in enumerate(FUNCTIONS):
        of_function = (r for r in rows if r["function"] == function)
        worst = [r[at] for r in of_function for at in ("ulp_at", "absolute_at")]
        tried = torch.cat([number_format.round(np.array(worst)), spread])
        x = np.unique(number_format.widen(tried))
        x = x[np.abs(x) < 1000]  # so that mpmath's e^x stays small
        values = reference.evaluate(x)[order]
        off = np.array([reference.error(*each, order) for each in zip(x, values, strict=True)])
        names = (function, number_format.reference, number_format.name, DEFINITION)
        for bound in required(backend, number_format.name, function):
            inside = (x > bound.low) & (x <= bound.high)
            if inside.any() and not bound.correct:
                found = errors(x[inside], off[inside], number_format.ulps(values[inside]))
                yield row(*names, errors=found, low=bound.low, high=bound.high)
