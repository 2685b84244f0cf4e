"""Whole networks that take their activation as an argument.

Each maps a batch to `classes` logits. The activation has no parameters and is the only difference
between two networks of one kind: with the same seed they start from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import mish_cuda
from benchmarks.providers import naive

Activation = Callable[[], nn.Module]


class NaiveMish(nn.Module):
    """The layer of :func:`benchmarks.providers.naive`."""

    def forward(self, x: Tensor) -> Tensor:
        return naive(x)


# No activation works in place. In training only nn.ReLU could, and would need less memory for it.
ACTIVATIONS: dict[str, Activation] = {
    "mish_cuda": mish_cuda.Mish,
    "F.mish": nn.Mish,
    "naive": NaiveMish,
    "SiLU": nn.SiLU,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
}


def se_resnet18(
    activation: Activation, classes: int = 10, channels: int = 3, width: int = 64
) -> nn.Module:
    """Squeeze-excite ResNet-18 for small images, the network of the Mish paper's comparison.

    `activation` makes all 33 activations: of the 3x3 stem, and in each block after both
    convolutions, inside the squeeze-excite and after the sum. The sigmoid of the gate stays.
    So does the author's notebook [1]; it follows weiaicunzai's CIFAR-100 zoo [2]. Two differences:
    the last stage has 512 channels as in the zoo (the notebook writes 516), and a convolution
    before a batch norm, which cancels a bias, has none.

    [1] https://github.com/digantamisra98/Mish/blob/3fa1cab144b223fb1ec76a4a1aa70c3ae2ede93d/Examples%20and%20Benchmarks/cifar-10-senet18-mish.ipynb
    [2] https://github.com/weiaicunzai/pytorch-cifar100/blob/master/models/senet.py

    Shape: (N, channels, H, W) to (N, classes), for H and W of 1 or more.
    """
    layers = [_convolution(channels, width, 3, activation)]
    before = width
    for stage in range(4):
        after = width << stage
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(_se_block(before, after, stride, activation))
            before = after
    return _classifier(layers, before, classes)


def csp_darknet(activation: Activation, classes: int = 10, width: int = 32) -> nn.Module:
    """CSPDarknet53, the backbone of YOLOv4, where Mish is best known.

    As in https://github.com/AlexeyAB/darknet/blob/master/cfg/yolov4.cfg and
    https://arxiv.org/abs/2004.10934, with the classifier with which the backbone is pre-trained.
    `activation` follows each of the 72 convolutions and its batch norm.

    Shape: (N, 3, H, W) to (N, classes); the last feature map has H/32 by W/32, rounded up.
    """

    def layer(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
        return _convolution(before, after, kernel, activation, stride=stride)

    layers = [layer(3, width, 3)]
    for stage, blocks in enumerate((1, 2, 8, 8, 4)):
        before, after = width << stage, 2 * width << stage
        # The first stage splits nothing off: both of its paths have all channels.
        path = before if stage else after
        bottlenecks = [
            _residual(layer(path, before, 1), layer(before, path, 3)) for _ in range(blocks)
        ]
        through = nn.Sequential(layer(after, path, 1), *bottlenecks, layer(path, path, 1))
        past = layer(after, path, 1)
        joined = _Branches(lambda *paths: torch.cat(paths, dim=1), through, past)
        layers += [layer(before, after, 3, stride=2), joined, layer(2 * path, after, 1)]
    return _classifier(layers, after, classes)


def mlp(activation: Activation, classes: int = 10, width: int = 512) -> nn.Module:
    """The feed-forward half of a transformer, without attention.

    The width and the six blocks of the base model of https://arxiv.org/abs/1706.03762, section 3.3,
    with the norm before the layers as in GPT-2. One activation per block.

    Shape: (N, width) to (N, classes), where N counts tokens.
    """
    layers: list[nn.Module] = []
    for _ in range(6):
        wide = [nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width)]
        layers.append(_residual(nn.LayerNorm(width), *wide))
    return nn.Sequential(*layers, nn.LayerNorm(width), nn.Linear(width, classes))


class _Branches(nn.Module):
    """`combine` of the results of branches, which have the same input."""

    def __init__(self, combine: Callable[..., Tensor], *branches: nn.Module) -> None:
        super().__init__()
        self.combine = combine
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(*(branch(x) for branch in self.branches))


def _residual(*layers: nn.Module) -> nn.Module:
    return _Branches(torch.add, nn.Sequential(*layers), nn.Identity())


def _se_block(before: int, after: int, stride: int, activation: Activation) -> nn.Module:
    """Two convolutions, of which a gate computed from the means of all channels scales each
    channel, and a shortcut."""
    squeezed = max(1, after // 16)
    body = nn.Sequential(
        _convolution(before, after, 3, activation, stride=stride),
        _convolution(after, after, 3, activation),
    )
    squeeze = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(after, squeezed), activation())
    excite = (nn.Linear(squeezed, after), nn.Sigmoid(), nn.Unflatten(1, (after, 1, 1)))
    body.append(_Branches(torch.mul, nn.Identity(), nn.Sequential(*squeeze, *excite)))
    same = stride == 1 and before == after
    shortcut = nn.Identity() if same else _convolution(before, after, 1, stride=stride)
    return nn.Sequential(_Branches(torch.add, body, shortcut), activation())


def _convolution(
    before: int, after: int, kernel: int, *activation: Activation, stride: int = 1
) -> nn.Module:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), *(make() for make in activation))


def _classifier(layers: list[nn.Module], channels: int, classes: int) -> nn.Module:
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(*layers, *pooled)
