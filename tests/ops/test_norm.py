"""``batch_norm_mish``, ``group_norm_mish``, their layers: values, gradients, statistics, errors."""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mish_cuda
from conftest import Implementation, needs_extension
from layouts import threads

Function = Callable[..., Tensor]


def torchs_group_norm(x: Tensor, groups: int, w: Tensor | None, b: Tensor | None) -> Tensor:
    if w is None and b is not None:  # torch cannot differentiate it with a bias alone
        w = torch.ones_like(b)
    return F.mish(F.group_norm(x, groups, w, b))


# Both with Mish behind them.
OURS: Any = mish_cuda
TORCHS: Any = SimpleNamespace(
    batch_norm_mish=lambda *args: F.mish(F.batch_norm(*args)), group_norm_mish=torchs_group_norm
)


def frozen(of: Any, x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
    """By running statistics in the dtype of the weight, or of 32 bits or more."""
    wide = torch.promote_types(x.dtype, torch.float32) if w is None else w.dtype
    mean = torch.arange(x.shape[1], dtype=wide, device=x.device)
    return of.batch_norm_mish(x, mean, mean + 1, w, b, False)


# Each takes a library, input, weight and bias.
NORMS: dict[str, Function] = {
    "batch": lambda of, x, w, b: of.batch_norm_mish(x, None, None, w, b, True),
    "two groups": lambda of, x, w, b: of.group_norm_mish(x, 2, w, b),
    "groups of two": lambda of, x, w, b: of.group_norm_mish(x, x.shape[1] // 2, w, b),
    "frozen": frozen,
}
IN_TRAINING = pytest.mark.parametrize("norm", ["batch", "groups of two"])
# Rows of whole packs and others; on a GPU sets of a few lanes, of a block, of several.
SHAPES = [(6, 8, 16), (3, 8, 7, 7), (64, 16, 20), (16, 8, 64, 64), (2, 8, 2**15 + 1), (1, 8, 2**18)]


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) * 2 + 0.5).to(dtype)


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Input, weight and bias, the latter two of a dtype of 32 bits or more."""
    wide = torch.promote_types(dtype, torch.float32)
    return [draw(shape, dtype), draw(shape[1:2], wide), draw(shape[1:2], wide)]


def results(
    function: Function,
    *tensors: Tensor | None,
    device: str | None = None,
    create_graph: bool = False,
) -> list[Tensor]:
    """Its value, if need be on another device, and its gradients for a fixed one of the value."""
    leaves = [
        t if t is None else t.detach().to(device=device, copy=True).requires_grad_()
        for t in tensors
    ]
    y = function(*leaves)
    # A bfloat16 is exact in the other dtypes, too.
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    wanted = [leaf for leaf in leaves if leaf is not None]
    gradients = torch.autograd.grad(y, wanted, g.to(y), create_graph=create_graph)
    return [t.detach().cpu() for t in (y, *gradients)]


def worst(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@IN_TRAINING
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_errors_are_at_most_those_of_torch(
    kernels: Implementation, device: str, shape: tuple[int, ...], mean: float, norm: str
) -> None:
    tensors = operands(shape)
    tensors[0] += mean
    exact = results(partial(NORMS[norm], TORCHS), *(t.double() for t in tensors))
    ours, torchs = (
        results(partial(NORMS[norm], library), *tensors, device=device)
        for library in (OURS, TORCHS)
    )
    for name, a, b, e in zip(("y", "dx", "dw", "db"), ours, torchs, exact, strict=True):
        # The last bit of a result may fall either way.
        bound = worst(b, e) + torch.finfo(torch.float32).eps * float(e.abs().max())
        assert worst(a, e) <= bound, (name, worst(a, e), worst(b, e))


@pytest.mark.parametrize("value", [0.0, 3.7, -1e4])
def test_constant_channels(
    kernels: Implementation, device: str, value: float, dtype: torch.dtype
) -> None:
    """Where torch's norm leaves a rest of the mean."""
    x = torch.full((4, 3, 40), value, dtype=dtype, device=device)
    wide = torch.promote_types(dtype, torch.float32)
    mean, variance = torch.zeros(2, 3, dtype=wide, device=device)
    y = mish_cuda.batch_norm_mish(x, mean, variance, training=True, momentum=1)
    assert y.eq(0).all()
    assert variance.eq(0).all()
    torch.testing.assert_close(mean, x[0, :, 0].to(wide), rtol=1e-7, atol=0)


def test_infinities_and_nan_stay_in_their_channel(device: str) -> None:
    x = draw((3, 4, 50)).to(device)
    x[0, 1, 7], x[1, 2, 3] = torch.inf, torch.nan
    y, expected = (NORMS["batch"](library, x, None, None) for library in (OURS, TORCHS))
    torch.testing.assert_close(y[:, [0, 3]], expected[:, [0, 3]])
    assert y[:, 1:3].isnan().all()


# Some of them too small for the kernels; three values or more in a set, since of two both are one
# deviation from the mean whatever they are.
SMALL_SHAPES = [(5, 4), (3, 4, 2), (1, 2, 3), (4, 6, 12), (2, 4, 33), (5, 2, 31, 3), (1, 4, 5, 40)]


AFFINE: dict[str, Callable[[Tensor, Tensor, Tensor], list[Tensor | None]]] = {
    "none": lambda x, w, b: [x, None, None],
    "of the input's dtype": lambda x, w, b: [x, w.to(x.dtype), b.to(x.dtype)],
    "of 32 bits or more": lambda x, w, b: [x, w, b],
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("affine", AFFINE)
def test_values_and_gradients(norm: str, affine: str, dtype: torch.dtype, device: str) -> None:
    """Beside torch's norm and F.mish in float64."""
    # Torch's norms, which compute without kernels, lose digits in long sums.
    has_kernels = mish_cuda.backend(torch.empty(0, device=device)) != "eager"
    long = SHAPES if has_kernels and affine == "of 32 bits or more" else []
    for shape in SMALL_SHAPES + long:
        if "group" in norm and torch.Size(shape[2:]).numel() * 2 < 3:
            continue
        tensors = AFFINE[affine](*operands(shape, dtype))
        got = results(partial(NORMS[norm], OURS), *tensors, device=device)
        wide = [t if t is None else t.double() for t in tensors]
        expected = results(partial(NORMS[norm], TORCHS), *wide)
        assert got[0].dtype == dtype
        # The errors of torch's sums in float64.
        of_sums = torch.finfo(torch.float64).eps * (math.prod(shape) / shape[1]) ** 0.5
        tolerance = 10 * torch.finfo(dtype).eps + of_sums
        for a, e in zip(got, expected, strict=True):
            assert worst(a, e) <= tolerance * max(1.0, float(e.abs().max()))
        if device == "cuda":  # ours have no such errors
            of_cpu = results(partial(NORMS[norm], OURS), *tensors)
            for a, e in zip(got, of_cpu, strict=True):
                bound = 40 * torch.finfo(dtype).eps * max(1.0, float(e.abs().max()))
                assert worst(a, e.double()) <= bound


# Not float64, in which the reference has errors, too.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    n=st.integers(1, 40),
    groups=st.integers(1, 6),
    channels=st.integers(1, 6),
    rest=st.lists(st.integers(1, 40), max_size=3).filter(lambda sizes: math.prod(sizes) < 2000),
    norm=st.sampled_from(["batch", "group", "frozen"]),
    affine=st.sampled_from(list(AFFINE)),
)
def test_random_shapes(
    dtype: torch.dtype, n: int, groups: int, channels: int, rest: list[int], norm: str, affine: str
) -> None:
    in_channel = n * math.prod(rest)
    # The gradients of fewer may be a small rest of large numbers.
    assume(norm == "frozen" or (channels * math.prod(rest) if norm == "group" else in_channel) > 24)
    function: Function = NORMS.get(norm, lambda of, x, w, b: of.group_norm_mish(x, groups, w, b))
    tensors = AFFINE[affine](*operands((n, groups * channels, *rest), dtype))
    got = results(partial(function, OURS), *tensors)
    exact = results(partial(function, TORCHS), *(t if t is None else t.double() for t in tensors))
    # Of as many roundings as terms, of either sign; terms are some units.
    of_sums = 4 * torch.finfo(torch.float32).eps * in_channel**0.5
    for a, e in zip(got, exact, strict=True):
        tolerance = 10 * torch.finfo(dtype).eps + (of_sums if e.dim() == 1 else 0)
        assert worst(a, e) <= tolerance * max(1.0, float(e.abs().max()))


# A layer of this library, torch's, both made of the number of channels and options; an input.
Layer = Callable[..., nn.Module]
LAYERS: list[tuple[Layer, Layer, tuple[int, ...]]] = [
    (mish_cuda.BatchNormMish1d, nn.BatchNorm1d, (5, 6)),
    (mish_cuda.BatchNormMish1d, nn.BatchNorm1d, (5, 6, 20)),
    (mish_cuda.BatchNormMish2d, nn.BatchNorm2d, (3, 6, 5, 7)),
    (mish_cuda.BatchNormMish3d, nn.BatchNorm3d, (2, 6, 3, 4, 5)),
    (partial(mish_cuda.GroupNormMish, 3), partial(nn.GroupNorm, 3), (4, 6, 5, 5)),
]


@pytest.mark.parametrize(("ours", "torchs", "shape"), LAYERS)
def test_layers_are_their_parents_with_mish(
    ours: Layer, torchs: Layer, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    options: list[dict[str, Any]] = [{}, {"affine": False}, {"eps": 0.1}]
    if "Group" not in str(torchs(6)):
        options += [{"momentum": None}, {"track_running_stats": False}, {"momentum": 0.3}]
    tolerance = 8 * torch.finfo(dtype).eps
    equal = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    for keywords in options:
        a, b = (layer(6, **keywords).to(device, dtype) for layer in (ours, torchs))
        assert repr(a) == repr(b).replace(type(b).__name__, type(a).__name__, 1)
        for training in (True, True, False):
            x = draw(shape, dtype).to(device)
            equal(a.train(training)(x), F.mish(b.train(training)(x)))
            equal(a.state_dict(), b.state_dict())
        b.load_state_dict(a.state_dict())
    file = io.BytesIO()
    torch.save(a, file)
    file.seek(0)
    for copied in (copy.deepcopy(a), torch.load(file, weights_only=True)):
        assert type(copied) is type(a)
        assert torch.equal(copied(x), a(x))
    assert torch.equal(torch.fx.symbolic_trace(nn.Sequential(a))(x), a(x))


@needs_extension
def test_batches_are_counted_as_by_add_() -> None:
    for number in (torch.tensor(3), torch.tensor([3.5, 1.0])):
        expected, version = number + 1, number._version
        mish_cuda.norms.C.count(number)
        assert (number.tolist(), number._version) == (expected.tolist(), version + 1)
    traced = torch.jit.trace(mish_cuda.BatchNormMish1d(3), torch.randn(4, 3, 9))
    assert "add_" in str(traced.graph)


def told(call: Callable[..., Tensor], *args: Any) -> str:
    """The error of a call, if it raises one."""
    try:
        return str(call(*args).shape)
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def test_errors_are_those_of_torch() -> None:
    one_value = [(1, 6), (1, 6, 1), (1, 6, 1, 1)]
    for shape in (*one_value, (2,), (3, 4, 5, 5), (2, 5, 3, 3, 3), (0, 6, 2)):
        x = torch.randn(shape)
        for ours, torchs, _ in LAYERS:
            assert told(ours(6), x) == told(torchs(6), x)
    x = torch.randn(4, 6, 20)
    calls: list[Callable[[Any], Tensor]] = [
        lambda of: of.batch_norm_mish(x, None, None, None, None, False),
        lambda of: of.batch_norm_mish(x, torch.zeros(5), torch.ones(6), None, None, False),
        lambda of: of.group_norm_mish(x, 4, None, None),
        lambda of: of.group_norm_mish(x.int(), 3, None, None),
    ]
    for call in calls:
        assert "Error" in told(call, OURS)
        assert told(call, OURS) == told(call, TORCHS)


@pytest.mark.parametrize("norm", NORMS)
def test_one_full_size_tensor_is_saved(
    kernels: Implementation, device: str, norm: str, dtype: torch.dtype
) -> None:
    x, *affine = (t.to(device).requires_grad_() for t in operands((8, 16, 16, 16), dtype))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = NORMS[norm](OURS, x, *affine)
    assert [t.data_ptr() for t in saved if t.numel() == x.numel()] == [x.data_ptr()]
    assert sum(t.nbytes for t in saved) < x.nbytes + 2048
    assert y.grad_fn.name() == "NormMishBackward"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", ["batch", "groups of two", "two groups"])
def test_bits_are_those_of_one_thread(
    kernels: Implementation, device: str, shape: tuple[int, ...], norm: str, dtype: torch.dtype
) -> None:
    """And on a GPU the same each time."""
    tensors, runs = operands(shape, dtype), []
    for count in (1, 2, 3, 8):
        with threads(count):
            runs.append(results(partial(NORMS[norm], OURS), *tensors, device=device))
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


@needs_extension
@IN_TRAINING
def test_threads_share_the_work(norm: str) -> None:
    """By the processor time of the calling thread, beside that of all."""
    tensors = operands((16, 8, 64, 64))
    leaves = [t.requires_grad_() for t in tensors]
    with threads(2):
        results(partial(NORMS[norm], OURS), *tensors)
        start, own = time.process_time(), time.thread_time()
        for _ in range(50):
            y = NORMS[norm](OURS, *leaves)
            torch.autograd.grad(y, leaves, y.detach())
        whole, own = time.process_time() - start, time.thread_time() - own
    assert whole > 1.3 * own
