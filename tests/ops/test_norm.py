"""``batch_norm_mish``, ``group_norm_mish``, their layers: values, gradients, statistics, errors."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mish_cuda
from conftest import needs_extension
from reference import DTYPES


def group_of_three(layer: type[nn.GroupNorm]) -> Callable[..., nn.Module]:
    return lambda channels, **keywords: layer(3, channels, **keywords)


LAYERS: list[tuple[Callable[..., nn.Module], Callable[..., nn.Module], tuple[int, ...]]] = [
    (mish_cuda.BatchNormMish1d, nn.BatchNorm1d, (5, 6)),
    (mish_cuda.BatchNormMish1d, nn.BatchNorm1d, (5, 6, 20)),
    (mish_cuda.BatchNormMish2d, nn.BatchNorm2d, (3, 6, 5, 7)),
    (mish_cuda.BatchNormMish3d, nn.BatchNorm3d, (2, 6, 3, 4, 5)),
    (group_of_three(mish_cuda.GroupNormMish), group_of_three(nn.GroupNorm), (4, 6, 5, 5)),
]
EACH = pytest.mark.parametrize(("ours", "torchs", "shape"), LAYERS)
IDS = {"ids": str}


def draw(shape: tuple[int, ...], mean: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) * 2 + mean).to(dtype)


def results(
    function: Callable[..., Tensor], *tensors: Tensor | None, seed: int = 1
) -> list[Tensor]:
    """Its value, and its gradients for a fixed gradient of the value."""
    leaves = [t if t is None else t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [y.detach(), *torch.autograd.grad(y, wanted, g.to(y.dtype))]


def textbook(x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int) -> Tensor:
    """In float64, by the definitions."""
    parts = x.reshape(x.shape[0], groups or x.shape[1], -1, *x.shape[2:])
    dims = [*range(2 if groups else 0, parts.dim())]
    if not groups:
        dims.remove(1)
    mean = parts.mean(dims, keepdim=True)
    variance = (parts - mean).square().mean(dims, keepdim=True)
    z = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    shape = (1, -1, *[1] * (x.dim() - 2))
    if weight is not None:
        z = z * weight.reshape(shape)
    if bias is not None:
        z = z + bias.reshape(shape)
    return z * torch.tanh(F.softplus(z))


def call(module: Any, groups: int) -> Callable[..., Tensor]:
    """The function of a library, of input, weight and bias, in training."""
    if groups:
        return lambda x, w, b: module.group(x, groups, w, b)
    return lambda x, w, b: module.batch(x, None, None, w, b, True)


class Ours:
    group = staticmethod(mish_cuda.group_norm_mish)
    batch = staticmethod(mish_cuda.batch_norm_mish)


class Torchs:
    @staticmethod
    def group(*args: Any) -> Tensor:
        return F.mish(F.group_norm(*args))

    @staticmethod
    def batch(*args: Any) -> Tensor:
        return F.mish(F.batch_norm(*args))


def worst(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).abs().max())


@needs_extension
@pytest.mark.parametrize("groups", [0, 4])
@pytest.mark.parametrize("mean", [0.5, 1e4])
@pytest.mark.parametrize(
    "shape",
    [(6, 8, 16), (4, 8, 7, 7), (2, 8, 33), (16, 8, 64, 64), (1, 8, 2**17), (64, 16, 20)],
    **IDS,
)
def test_errors_are_at_most_those_of_torch(
    shape: tuple[int, ...], mean: float, groups: int
) -> None:
    x, weight, bias = draw(shape, mean), draw(shape[1:2]), draw(shape[1:2])
    exact = results(
        lambda x, w, b: textbook(x, w, b, groups), x.double(), weight.double(), bias.double()
    )
    ours = results(call(Ours, groups), x, weight, bias)
    torchs = results(call(Torchs, groups), x, weight, bias)
    for name, a, b, e in zip(("y", "dx", "dw", "db"), ours, torchs, exact, strict=True):
        # The last bit of a result may fall either way.
        bound = worst(b, e) + torch.finfo(x.dtype).eps * float(e.abs().max())
        assert worst(a, e) <= bound, (name, worst(a, e), worst(b, e))


@pytest.mark.parametrize("n", [2, 3, 17, 1000, 2**15, 2**22])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_statistics_of_rows_of_any_length(n: int, mean: float) -> None:
    x = draw((1, 2, n), mean)
    got = [torch.zeros(2), torch.zeros(2)]
    mish_cuda.batch_norm_mish(x, *got, training=True, momentum=1)
    rows = x.double().transpose(0, 1).flatten(1)
    expected = rows.mean(1), rows.var(1)
    theirs = [torch.zeros(2), torch.zeros(2)]
    F.batch_norm(x, *theirs, training=True, momentum=1)
    # The last bit may fall either way; the mean also within an eighth of it, as of the deviation.
    eps, deviation = torch.finfo(torch.float32).eps, expected[1].sqrt()
    for a, b, e, extra in zip(got, theirs, expected, (deviation / 8, 0), strict=True):
        assert ((a - e).abs() <= (b - e).abs() + eps * (e.abs() + extra)).all()


@needs_extension  # torch's norm leaves a rest of the mean
@pytest.mark.parametrize("value", [0.0, 3.7, -1e4])
def test_constant_channels(value: float, dtype: torch.dtype) -> None:
    x = torch.full((4, 3, 40), value, dtype=dtype)
    mean, variance = torch.zeros(3), torch.zeros(3)
    if dtype == torch.float64:
        mean, variance = mean.double(), variance.double()
    y = mish_cuda.batch_norm_mish(x, mean, variance, training=True, momentum=1)
    assert (y == 0).all()
    assert (variance == 0).all()
    torch.testing.assert_close(mean, x[0, :, 0].to(mean.dtype), rtol=1e-7, atol=0)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Beside torch's norm and F.mish in float64."""
    dtype = data.draw(st.sampled_from(DTYPES))
    groups = data.draw(st.sampled_from([0, 1, 2]))
    channels = data.draw(st.integers(1, 4)) * max(groups, 1)
    shape = (
        data.draw(st.integers(1, 5)),
        channels,
        *data.draw(st.lists(st.integers(1, 40), max_size=2)),
    )
    per_set = torch.Size(shape).numel() // (groups or channels) // (shape[0] if groups else 1)
    if per_set < 3:
        return  # of two values, both are one deviation from the mean whatever they are
    mixed = data.draw(st.booleans()) and dtype.itemsize == 2
    affine, training = data.draw(st.booleans()), data.draw(st.booleans())
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = draw(shape, dtype=dtype)
    narrow = torch.float32 if mixed else dtype
    weight, bias = (draw((channels,)).to(narrow) if affine else None for _ in range(2))
    running = [draw((channels,)).to(narrow), draw((channels,)).abs().add(1).to(narrow)]

    def function(library: Any, wide: bool) -> Callable[..., Tensor]:
        statistics = [t.double() if wide else t.clone() for t in running]
        if groups:
            return lambda x, w, b: library.group(x, groups, w, b)
        return lambda x, w, b: library.batch(x, *statistics, w, b, training)

    got = results(function(Ours, False), x, weight, bias)
    wide = [None if t is None else t.double() for t in (x, weight, bias)]
    expected = results(function(Torchs, True), *wide)
    eps = torch.finfo(torch.bfloat16 if dtype.itemsize == 2 else dtype).eps
    assert got[0].dtype == dtype
    for a, e in zip(got, expected, strict=True):
        # Sums of as many terms; a small variance magnifies what x has lost.
        scale = max(1.0, float(e.abs().max()))
        assert worst(a, e) <= 60 * eps * scale * max(1, per_set) ** 0.5


@EACH
def test_layers_are_their_parents_with_mish(
    ours: Callable[..., nn.Module], torchs: Callable[..., nn.Module], shape: tuple[int, ...]
) -> None:
    options: list[dict[str, Any]] = [{}, {"affine": False}, {"eps": 0.1}]
    if "Group" not in str(torchs(6)):
        options += [{"momentum": None}, {"track_running_stats": False}, {"momentum": 0.3}]
    for keywords in options:
        a, b = ours(6, **keywords), torchs(6, **keywords)
        assert repr(a) == repr(b).replace(type(b).__name__, type(a).__name__, 1)
        assert list(a.state_dict()) == list(b.state_dict())
        for training in (True, True, False):
            a.train(training)
            b.train(training)
            x = draw(shape)
            torch.testing.assert_close(a(x), F.mish(b(x)), rtol=1e-5, atol=2e-6)
            for mine, theirs in zip(a.buffers(), b.buffers(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
        b.load_state_dict(a.state_dict())


@EACH
def test_errors_are_those_of_torch(
    ours: Callable[..., nn.Module], torchs: Callable[..., nn.Module], shape: tuple[int, ...]
) -> None:
    wrong = [(1, 6), (1, 6, 1), (2,), (3, 4, 5, 5), (1, 6, 1, 1), (2, 5, 3, 3, 3), (0, 6, 2)]
    for bad in wrong:
        messages = []
        for layer in (ours(6), torchs(6)):
            try:
                messages.append(str(layer(torch.randn(bad)).shape))
            except (RuntimeError, ValueError) as error:
                messages.append(f"{type(error).__name__}: {error}")
        assert messages[0] == messages[1]


def test_other_errors() -> None:
    x = torch.randn(4, 6, 20)
    with pytest.raises(TypeError, match="expected input to be"):
        mish_cuda.batch_norm_mish([1.0], None, None, training=True)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="running_mean"):
        mish_cuda.batch_norm_mish(x, None, None)
    with pytest.raises(RuntimeError, match="running_mean"):
        mish_cuda.batch_norm_mish(x, torch.zeros(5), torch.ones(6))
    with pytest.raises(RuntimeError, match="divisible"):
        mish_cuda.group_norm_mish(x, 4)
    with pytest.raises((RuntimeError, NotImplementedError)):
        mish_cuda.group_norm_mish(x.int(), 3)


def test_infinities_and_nan_stay_in_their_channel() -> None:
    x = draw((3, 4, 50))
    x[0, 1, 7], x[1, 2, 3] = torch.inf, torch.nan
    y = mish_cuda.batch_norm_mish(x, None, None, training=True)
    expected = F.mish(F.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(y[:, [0, 3]], expected[:, [0, 3]])
    assert y[:, 1:3].isnan().all()


@needs_extension
@pytest.mark.parametrize("groups", [0, 4])
def test_one_full_size_tensor_is_saved(groups: int) -> None:
    x = draw((8, 16, 16, 16)).requires_grad_()
    weight, bias = draw((16,)).requires_grad_(), draw((16,)).requires_grad_()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        y = call(Ours, groups)(x, weight, bias)
    assert [t.data_ptr() for t in saved if t.numel() == x.numel()] == [x.data_ptr()]
    assert sum(t.nbytes for t in saved) < x.nbytes + 2048
    y.sum().backward()
    assert y.grad_fn.name() == "NormMishBackward"


@needs_extension
@pytest.mark.parametrize("groups", [0, 2, 4])
@pytest.mark.parametrize("shape", [(16, 8, 32, 32), (1, 8, 300_000), (5, 8, 40)], **IDS)
def test_bits_are_those_of_one_thread(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype
) -> None:
    x, weight, bias = (draw(s, dtype=dtype) for s in (shape, shape[1:2], shape[1:2]))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(call(Ours, groups), x, weight, bias)
        for count in (2, 3, 8):
            torch.set_num_threads(count)
            for a, b in zip(results(call(Ours, groups), x, weight, bias), expected, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


@needs_extension
@pytest.mark.parametrize("groups", [0, 4])
def test_threads_share_the_work(groups: int) -> None:
    """By the processor time of the calling thread, beside that of all."""
    x, weight, bias = draw((16, 8, 64, 64)), draw((8,)), draw((8,))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        results(call(Ours, groups), x, weight, bias)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        start, own = time.process_time(), time.thread_time()
        for _ in range(50):
            y = call(Ours, groups)(*leaves)
            torch.autograd.grad(y, leaves, y.detach())
        whole, own = time.process_time() - start, time.thread_time() - own
    finally:
        torch.set_num_threads(threads)
    assert whole > 1.3 * own


def test_copies_and_checkpoints() -> None:
    for layer in (mish_cuda.BatchNormMish2d(6), mish_cuda.GroupNormMish(3, 6)):
        x = draw((3, 6, 5, 7))
        layer(x)
        layer.eval()
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        for other in (copy.deepcopy(layer), torch.load(file, weights_only=True)):
            assert type(other) is type(layer)
            assert torch.equal(other(x), layer(x))
