"""Mixed precision: autocast, and training with a GradScaler."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import layouts
import mish_cuda
import reference

WIDTHS = pytest.mark.parametrize("width", [torch.bfloat16, torch.float16], ids=str)


@WIDTHS
def test_autocast_changes_nothing(
    public: str, width: torch.dtype, device: str, dtype: torch.dtype
) -> None:
    """Not a bit of value, tangent or gradient: like F.mish, it is in no list of autocast's."""
    x, g = (layouts.normal((400,), dtype, device, seed) for seed in range(2))
    results = []
    for enabled in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast(device, width, enabled=enabled):
            assert F.mish(x).dtype == dtype
            y = mish_cuda.mish(leaf)
            (inside,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
            _, tangent = torch.func.jvp(mish_cuda.mish, (x,), (g,))
            written = mish_cuda.mish(x, out=torch.empty_like(x))
            in_place = mish_cuda.mish_(x.clone())
        (outside,) = torch.autograd.grad(y, leaf, g)  # as in every training loop
        results.append((y, inside, outside, tangent, written, in_place))
    for without, under in zip(*results, strict=True):
        assert reference.same_bits(under, without)


def train(layer: nn.Module, width: torch.dtype, device: str) -> list[Tensor]:
    """Losses of a network's training steps, its scale, and its weights. The scaler skips the third
    step, in which a gradient is infinite."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), layer, nn.Conv2d(8, 4, 3), layer),
        *(nn.Flatten(), nn.Linear(4 * 6 * 6, 2)),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    x, target = torch.randn(6, 3, 10, 10).to(device), torch.randn(6, 2).to(device)
    losses = []
    for step in range(6):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        with torch.autocast(device, width):
            assert model[:3](x).dtype == width  # as after the layer that autocast narrows
            loss = F.mse_loss(model(x).float(), target) * (torch.inf if step == 2 else 1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        unchanged = all(map(torch.equal, before, model.parameters()))
        assert unchanged == (step == 2)
        losses.append(loss.detach())
    assert scaler.get_scale() == 2.0**9
    assert losses[-1] < losses[0]
    return losses


@WIDTHS
@pytest.mark.parametrize("inplace", [False, True])
def test_training_with_a_grad_scaler(
    public: str, width: torch.dtype, inplace: bool, device: str
) -> None:
    ours, torchs = (train(layer(inplace), width, device) for layer in (mish_cuda.Mish, nn.Mish))
    # Results that round the other way differ by one part in 2^8 or 2^11 of an activation.
    torch.testing.assert_close(ours, torchs, rtol=4 * torch.finfo(width).eps, atol=0)
