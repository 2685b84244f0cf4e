"""The networks themselves: their shapes, weights, activations and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from rows import one_thread  # noqa: F401
from torch import Tensor, nn

from benchmarks.architectures import (
    ACTIVATIONS,
    Activation,
    NaiveMish,
    csp_darknet,
    mlp,
    se_resnet18,
)

# Scaled down; the input of each, and how many activations it has.
SMALL: dict[str, tuple[Callable[[Activation], nn.Module], tuple[int, ...], int]] = {
    "se_resnet18": (partial(se_resnet18, width=4), (3, 3, 16, 16), 33),
    "csp_darknet": (partial(csp_darknet, width=4, depth=0.3), (3, 3, 64, 64), 40),
    "mlp": (partial(mlp, width=8), (3, 8), 6),
}
EACH_NETWORK = pytest.mark.parametrize("name", SMALL)


def seeded(name: str, activation: Activation) -> tuple[nn.Module, Tensor]:
    build, shape, _ = SMALL[name]
    torch.manual_seed(0)
    return build(activation), torch.randn(shape)


@pytest.mark.parametrize(
    ("build", "options", "shape", "classes"),
    [
        (se_resnet18, {"width": 1}, (2, 3, 32, 32), 10),
        (se_resnet18, {"width": 4, "channels": 1, "classes": 7}, (2, 1, 8, 8), 7),
        (se_resnet18, {"width": 4}, (2, 3, 1, 5), 10),
        (csp_darknet, {"width": 1, "depth": 0.01}, (2, 3, 64, 64), 10),
        (csp_darknet, {"width": 3, "depth": 0.5, "channels": 1, "classes": 2}, (2, 1, 33, 65), 2),
        (mlp, {"width": 1, "blocks": 1, "classes": 1}, (5, 1), 1),
        (mlp, {"width": 16, "blocks": 2}, (1, 16), 10),
    ],
)
def test_a_batch_becomes_logits(
    build: Any, options: dict[str, Any], shape: tuple[int, ...], classes: int
) -> None:
    assert build(nn.Mish, **options)(torch.randn(shape)).shape == (shape[0], classes)


# torchvision's ResNet-18 has 11,689,512 weights, of a 7x7 stem and 1000 classes:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
RESNET18 = 11_689_512 - (7 * 7 - 3 * 3) * 3 * 64 - (1000 - 10) * (512 + 1)
GATES = sum(2 * c * (c // 16) + c + c // 16 for c in (64, 128, 256, 512))


@pytest.mark.parametrize(
    ("build", "weights", "tolerance", "convolutions"),
    [
        (se_resnet18, RESNET18 + 2 * GATES, 0, 1 + 16 + 3),
        # With the 1000 classes of ImageNet: table 1 of arXiv 2004.10934.
        (partial(csp_darknet, classes=1000), 27.6e6, 0.05e6, 72),
        # 512 to 2048 and back, in 6 layers: section 3.3 and table 3 of arXiv 1706.03762.
        (mlp, 6 * (2 * 512 * 2048 + 2048 + 512 + 1024) + 1024 + 10 * (512 + 1), 0, 0),
    ],
)
def test_networks_have_the_size_of_the_published_ones(
    build: Callable[[Activation], nn.Module], weights: float, tolerance: float, convolutions: int
) -> None:
    with torch.device("meta"):
        network = build(nn.Mish)
    assert abs(sum(p.numel() for p in network.parameters()) - weights) <= tolerance
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == convolutions


@EACH_NETWORK
def test_every_activation_runs_once(name: str) -> None:
    ran = []
    network, x = seeded(name, nn.Hardtanh)
    for module in network.modules():
        if isinstance(module, nn.Hardtanh):
            module.register_forward_hook(lambda module, *_: ran.append(module))
    network(x)
    assert len(ran) == len(set(ran)) == SMALL[name][2]


@EACH_NETWORK
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_only_the_activations_differ(name: str, activation: str) -> None:
    ours, x = seeded(name, ACTIVATIONS[activation])
    other, same_x = seeded(name, nn.Hardtanh)
    torch.testing.assert_close([x, ours.state_dict()], [same_x, other.state_dict()], rtol=0, atol=0)
    kind = type(ACTIVATIONS[activation]())
    kinds = [type(module) for module in ours.modules()]
    assert [nn.Hardtanh if k is kind else k for k in kinds] == [type(m) for m in other.modules()]


@pytest.mark.parametrize("activation", ["mish_cuda", "F.mish"])
@EACH_NETWORK
def test_mish_networks_agree_with_the_formula_in_float64(name: str, activation: str) -> None:
    """Logits and gradients, in float64 to its precision, in float32 to what its layers add up."""

    def logits_and_gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
        logits = network(x)
        loss = nn.functional.cross_entropy(logits, torch.arange(len(x)))
        return [logits, *torch.autograd.grad(loss, tuple(network.parameters()))]

    network, x = seeded(name, ACTIVATIONS[activation])
    formula, _ = seeded(name, NaiveMish)
    exact = logits_and_gradients(formula.double(), x.double())
    assert all(gradient.any() for gradient in exact)
    double = logits_and_gradients(copy.deepcopy(network).double(), x.double())
    torch.testing.assert_close(double, exact, rtol=1e-9, atol=1e-11)
    for value, expected in zip(logits_and_gradients(network, x), exact, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-4 * scale)
