"""Mixed precision: autocast, and training with a GradScaler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layouts
import mish_cuda
import reference

WIDTHS = pytest.mark.parametrize("width", [torch.bfloat16, torch.float16], ids=str)


def within(result: Tensor, exact: Tensor, ulp: float) -> bool:
    """Whether `result` is `exact`, a float64 tensor, to so many ULP of its own dtype."""
    error, _ = reference.error(result, (exact, torch.zeros_like(exact)))
    return bool((error <= ulp).all())


@WIDTHS
def test_autocast_changes_nothing(
    public: str, width: torch.dtype, device: str, dtype: torch.dtype
) -> None:
    """Not a bit of value, tangent or gradient: as F.mish, it is in no list of autocast's."""
    x = layouts.normal((400,), dtype, device)
    g = layouts.normal((400,), dtype, device, seed=1)
    results = []
    for enabled in (False, True):
        with torch.autocast(device, width, enabled=enabled):
            assert F.mish(x).dtype == dtype
            leaf = x.clone().requires_grad_()
            y = mish_cuda.mish(leaf)
            (gradient,) = torch.autograd.grad(y, leaf, g)
            _, tangent = torch.func.jvp(mish_cuda.mish, (x,), (g,))
            written = mish_cuda.mish(x, out=torch.empty_like(x))
            in_place = mish_cuda.mish_(x.clone())
        results.append((y, gradient, tangent, written, in_place))
    for without, under in zip(*results, strict=True):
        assert reference.same_bits(under, without)


@WIDTHS
def test_after_a_layer_that_autocast_narrows(public: str, width: torch.dtype, device: str) -> None:
    """Value and gradient in 16 bits are those of float32 maths, rounded once."""
    linear = nn.Linear(16, 200).to(device)
    x = layouts.normal((4, 16), torch.float32, device)
    with torch.autocast(device, width):
        hidden = linear(x)
        y = mish_cuda.mish(hidden)
        assert hidden.dtype == y.dtype == F.mish(hidden).dtype == width
        g = layouts.normal((4, 200), width, device, seed=1)
        (gradient,) = torch.autograd.grad(y, hidden, g)
    # Half an ULP is the one rounding, and the rest float32's error.
    assert within(y, reference.mish(hidden), 0.51)
    assert within(gradient, g.cpu().double() * reference.mish(hidden, 1), 0.51)


@WIDTHS
def test_the_backward_may_run_outside(public: str, width: torch.dtype, device: str) -> None:
    """As in every training loop: autocast round the forward pass only."""
    linear = nn.Linear(3, 5).to(device)
    x = layouts.normal((4, 3), torch.float32, device)
    gradients = []
    for inside in (True, False):
        linear.zero_grad()
        with torch.autocast(device, width):
            loss = mish_cuda.mish(linear(x)).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        assert linear.weight.grad is not None
        gradients.append(linear.weight.grad)
    assert gradients[0].dtype == torch.float32
    assert reference.same_bits(*gradients)


def test_float32_where_autocast_is_off_again(public: str, device: str) -> None:
    linear = nn.Linear(3, 5).to(device)
    with torch.autocast(device, torch.bfloat16):
        hidden = linear(torch.randn(2, 3, device=device))
        with torch.autocast(device, enabled=False):
            y = mish_cuda.mish(hidden.float())
    assert y.dtype == torch.float32
    assert within(y, reference.mish(hidden), 4.5)


# --- Training ---


def train(
    layer: Callable[[], nn.Module], width: torch.dtype, device: str, steps: int = 5
) -> tuple[list[float], list[float]]:
    """Losses and scales of a few steps of a small network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), layer(), nn.Conv2d(8, 4, 3), layer()),
        *(nn.Flatten(), nn.Linear(4 * 6 * 6, 2)),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    x, target = torch.randn(6, 3, 10, 10).to(device), torch.randn(6, 2).to(device)
    losses, scales = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(device, width):
            loss = F.mse_loss(model(x).float(), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        scales.append(scaler.get_scale())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    return losses, scales


@WIDTHS
@pytest.mark.parametrize("inplace", [False, True])
def test_training_with_a_grad_scaler(
    public: str, width: torch.dtype, inplace: bool, device: str
) -> None:
    losses, scales = train(lambda: mish_cuda.Mish(inplace), width, device)
    expected, _ = train(lambda: nn.Mish(inplace), width, device)
    assert losses[-1] < losses[0]
    assert set(scales) == {2.0**10}  # no step was skipped
    # Results that round the other way differ by one part in 2^8 or 2^11 of an activation.
    torch.testing.assert_close(losses, expected, rtol=4 * torch.finfo(width).eps, atol=0)


def test_a_scale_too_large_is_noticed(public: str, device: str) -> None:
    """A gradient that overflows float16 comes out infinite, and the scaler skips the step."""
    weight = nn.Parameter(torch.ones(4, device=device))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**20)
    loss = mish_cuda.mish(weight.half()).float().sum()
    scaler.scale(loss).backward()
    assert weight.grad is not None
    assert weight.grad.isposinf().all()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**19
    assert weight.eq(1).all()


def test_gradients_too_small_for_float16_survive_scaled(public: str, device: str) -> None:
    x = torch.tensor([-8.0, 0.5, 3.0], device=device, dtype=torch.float16)
    g, scale = 2.0**-26, 2.0**16  # float16's smallest number is 2^-24
    ones = torch.ones_like(x)
    scaled = mish_cuda.mish_backward(x, ones * (g * scale))
    assert mish_cuda.mish_backward(x, ones * g).eq(0).all()
    assert scaled.ne(0).all()
    assert within(scaled, reference.mish(x, 1) * (g * scale), 0.51)
