"""``batch_norm_mish`` and ``group_norm_mish`` on a GPU, beside torch and the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from test_norm import Ours, Torchs, call, draw, results, textbook, worst
from torch import Tensor, nn

import mish_cuda
from conftest import Implementation, needs_gpu

pytestmark = [needs_gpu, pytest.mark.usefixtures("kernels")]
BOTH = pytest.mark.parametrize("groups", [0, 4])
# Rows of whole packs and others; sets of a few lanes, of a block, of several.
SHAPES = [(6, 8, 16), (3, 8, 7, 7), (64, 16, 20), (16, 8, 64, 64), (2, 8, 2**15 + 1), (1, 8, 2**18)]
EACH = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture
def device() -> str:
    """Of the fixture `kernels`."""
    return "cuda"


def on_gpu(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def moved(*tensors: Tensor | None) -> Tensor:
        return function(*(t if t is None else t.cuda() for t in tensors)).cpu()

    return moved


def tensors(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.5) -> list[Tensor]:
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [draw(shape, mean, dtype), *(draw(shape[1:2], dtype=wide) for _ in range(2))]


@BOTH
@EACH
@pytest.mark.parametrize("mean", [0.5, 1e4])
def test_errors_are_at_most_those_of_torch(
    shape: tuple[int, ...], mean: float, groups: int
) -> None:
    x, weight, bias = tensors(shape, torch.float32, mean)
    exact = results(
        lambda x, w, b: textbook(x, w, b, groups), x.double(), weight.double(), bias.double()
    )
    ours = results(on_gpu(call(Ours, groups)), x, weight, bias)
    torchs = results(on_gpu(call(Torchs, groups)), x, weight, bias)
    for name, a, b, e in zip(("y", "dx", "dw", "db"), ours, torchs, exact, strict=True):
        bound = worst(b, e) + torch.finfo(x.dtype).eps * float(e.abs().max())
        assert worst(a, e) <= bound, (name, worst(a, e), worst(b, e))


@BOTH
@EACH
def test_values_and_gradients_are_those_of_the_cpu(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype
) -> None:
    inputs = tensors(shape, dtype)
    function = call(Ours, groups)
    assert function(*(t.cuda().requires_grad_() for t in inputs)).grad_fn.name() == (  # type: ignore[union-attr]
        "NormMishBackward"
    )
    eps = torch.finfo(dtype).eps
    for a, b in zip(results(on_gpu(function), *inputs), results(function, *inputs), strict=True):
        assert a.dtype == b.dtype
        # Both round once, in 16 bits perhaps to neighbours; sums have errors as their terms do.
        assert worst(a, b) <= 40 * eps * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_layers_keep_the_statistics_of_the_cpu(
    dtype: torch.dtype, affine: bool, training: bool
) -> None:
    here = mish_cuda.BatchNormMish2d(6, affine=affine).to(dtype)
    there = copy.deepcopy(here).cuda()
    for _ in range(3):
        x = draw((5, 6, 9, 9), dtype=dtype)
        for layer in (here, there):
            layer.train()
        here(x)
        there(x.cuda())
        for a, b in zip(there.buffers(), here.buffers(), strict=True):
            torch.testing.assert_close(a.cpu(), b)
    versions = [b._version for b in there.buffers()]
    for layer in (here, there):
        layer.train(training)
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        there(x.cuda()).cpu(), here(x), rtol=tolerance, atol=tolerance, check_dtype=True
    )
    changed = [b._version > v for b, v in zip(there.buffers(), versions, strict=True)]
    assert changed == [training] * 3


def test_frozen_statistics_have_gradients() -> None:
    x, weight, bias = tensors((4, 6, 33), torch.float32)
    mean, var = torch.randn(6), torch.rand(6) + 0.5

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return mish_cuda.batch_norm_mish(x, mean.to(x.device), var.to(x.device), w, b)

    for a, b in zip(
        results(on_gpu(function), x, weight, bias), results(function, x, weight, bias), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 3.7, -1e4])
def test_constant_channels(value: float, dtype: torch.dtype) -> None:
    x = torch.full((4, 3, 40), value, dtype=dtype, device="cuda")
    y = mish_cuda.batch_norm_mish(x, None, None, training=True)
    assert (y == 0).all()


def test_infinities_and_nan_stay_in_their_channel() -> None:
    x = draw((3, 4, 50)).cuda()
    x[0, 1, 7], x[1, 2, 3] = torch.inf, torch.nan
    y = mish_cuda.batch_norm_mish(x, None, None, training=True)
    assert y[:, 1:3].isnan().all()
    assert y[:, [0, 3]].isfinite().all()


@BOTH
def test_second_derivatives_and_other_layouts(groups: int) -> None:
    x, weight, bias = (t.cuda().requires_grad_() for t in tensors((3, 4, 5, 6), torch.float64))
    function = call(Ours, groups)
    assert torch.autograd.gradcheck(function, (x, weight, bias))
    assert torch.autograd.gradgradcheck(function, (x, weight, bias))
    other = x.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(function(other, weight, bias), function(x, weight, bias))


@BOTH
def test_does_not_synchronise(groups: int) -> None:
    inputs = [t.cuda().requires_grad_() for t in tensors((4, 8, 100), torch.float32)]
    running = [torch.zeros(8, device="cuda"), torch.ones(8, device="cuda")]
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = call(Ours, groups)(*inputs)
        y.backward(torch.ones_like(y))
        mish_cuda.batch_norm_mish(inputs[0], *running, training=True)
        mish_cuda.batch_norm_mish(inputs[0], *running)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layer", [mish_cuda.BatchNormMish1d(8), mish_cuda.GroupNormMish(2, 8)])
def test_training_step_in_a_graph(layer: nn.Module) -> None:
    module = nn.Sequential(copy.deepcopy(layer)).cuda()
    x = draw((4, 8, 60)).cuda().requires_grad_()
    graphed = torch.cuda.make_graphed_callables(module, (x,))
    plain = nn.Sequential(copy.deepcopy(layer)).cuda()
    plain.load_state_dict(module.state_dict())
    for _ in range(2):
        other = draw((4, 8, 60)).cuda().requires_grad_()
        for a, b in zip(
            torch.autograd.grad(graphed(other).sum(), [other, *module.parameters()]),
            torch.autograd.grad(plain(other).sum(), [other, *plain.parameters()]),
            strict=True,
        ):
            assert torch.equal(a, b)
        for a, b in zip(module.buffers(), plain.buffers(), strict=True):
            assert torch.equal(a, b)


@BOTH
@EACH
def test_the_same_bits_each_time(shape: tuple[int, ...], groups: int) -> None:
    inputs = tensors(shape, torch.float32)
    first = results(on_gpu(call(Ours, groups)), *inputs)
    for _ in range(3):
        again = results(on_gpu(call(Ours, groups)), *inputs)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


def test_works_on_the_current_stream(kernels: Implementation) -> None:
    """On a side stream after a long wait, it must see the data written before it."""
    x = draw((16, 8, 1000)).cuda()
    expected = mish_cuda.group_norm_mish(x, 4)
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        result = mish_cuda.group_norm_mish(late, 4)
    side.synchronize()
    assert torch.equal(result, expected)
