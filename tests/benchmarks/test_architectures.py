"""The networks themselves: their shapes, weights, activations and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
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
    "se_resnet18": (lambda a: se_resnet18(a, width=4), (3, 3, 16, 16), 33),
    "csp_darknet": (lambda a: csp_darknet(a, width=4, depth=0.3), (3, 3, 64, 64), 40),
    "mlp": (lambda a: mlp(a, width=8), (3, 8), 6),
}


class Marked(nn.Module):
    """An activation that no network has by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


def seeded(name: str, activation: Activation) -> tuple[nn.Module, Tensor]:
    build, shape, _ = SMALL[name]
    torch.manual_seed(0)
    return build(activation), torch.randn(shape)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def modules(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


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


def test_se_resnet18_has_the_weights_of_resnet18_and_its_gates() -> None:
    """torchvision's ResNet-18 has 11,689,512, of a 7x7 stem and 1000 classes.

    https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.resnet18.html
    """
    with torch.device("meta"):
        network = se_resnet18(nn.Mish)
    resnet = 11_689_512 - (7 * 7 - 3 * 3) * 3 * 64 - (1000 - 10) * (512 + 1)
    gates = sum(2 * c * (c // 16) + c + c // 16 for c in (64, 128, 256, 512))
    assert parameters(network) == resnet + 2 * gates
    assert modules(network, nn.Conv2d) == 1 + 16 + 3


def test_csp_darknet_has_the_size_of_yolov4s_backbone() -> None:
    """27.6 M weights with the 1000 classes of ImageNet: table 1 of arXiv 2004.10934."""
    with torch.device("meta"):
        network = csp_darknet(nn.Mish, classes=1000)
    assert round(parameters(network) / 1e6, 1) == 27.6
    assert modules(network, nn.Conv2d) == modules(network, nn.Mish) == 72


def test_mlp_has_the_size_of_a_base_transformers_layers() -> None:
    """512 to 2048 and back, in 6 layers: section 3.3 and table 3 of arXiv 1706.03762."""
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in mlp(nn.Mish).parameters() if p.dim() == 2]
    assert shapes == [(2048, 512), (512, 2048)] * 6 + [(10, 512)]


@pytest.mark.parametrize("name", SMALL)
def test_every_activation_runs_once(name: str) -> None:
    ran = []

    class Counted(Marked):
        def forward(self, x: Tensor) -> Tensor:
            ran.append(self)
            return super().forward(x)

    network, x = seeded(name, Counted)
    network(x)
    assert len(ran) == len(set(ran)) == SMALL[name][2]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_only_the_activations_differ(name: str, activation: str) -> None:
    ours, x = seeded(name, ACTIVATIONS[activation])
    marked, same_x = seeded(name, Marked)
    assert torch.equal(x, same_x)
    assert ours.state_dict().keys() == marked.state_dict().keys()
    for key, value in marked.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    kind = type(ACTIVATIONS[activation]())
    kinds = [type(m) for m in ours.modules()]
    assert [Marked if k is kind else k for k in kinds] == [type(m) for m in marked.modules()]


@pytest.mark.parametrize("activation", ["mish_cuda", "F.mish"])
@pytest.mark.parametrize("name", SMALL)
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
    for value, expected in zip(
        logits_and_gradients(copy.deepcopy(network).double(), x.double()), exact, strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)
    for value, expected in zip(logits_and_gradients(network, x), exact, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-4 * scale)
