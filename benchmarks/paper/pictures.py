"""The paper's pictures of the function itself, from the ops of this library."""

from __future__ import annotations

import itertools

import torch
from matplotlib import colormaps
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from torch import Tensor, nn

import mish_cuda
from benchmarks.networks import ACTIVATIONS as MODULES
from benchmarks.paper.protocol import ACTIVATIONS
from benchmarks.plots import INK, OURS, THEIRS, Picture, put_title, style

SIDE = 400  # points of the landscape along each axis
REACH = 3.0  # they go from -REACH to REACH


@style()
def function() -> Picture:
    """Mish with its first and second derivative, as mish_cuda's ops compute them in float64."""
    x = torch.linspace(-6, 4, 2001, dtype=torch.float64, requires_grad=True)
    value = mish_cuda.mish(x)
    slope = _derivative(value, x)
    curvature = _derivative(slope, x)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for y, name, colour in (
        (value, "f(x) = x tanh(softplus(x))", OURS),
        (slope, "f'(x)", THEIRS),
        (curvature, "f''(x)", "#009e73"),
    ):
        axes.plot(x.detach().numpy(), y.detach().numpy(), color=colour, label=name)
    lowest = int(value.argmin())
    place, least = x[lowest].item(), value[lowest].item()
    axes.plot(place, least, "o", color=OURS)
    axes.annotate(
        f"minimum {least:.3f} at {place:.2f}",
        (place, least),
        xytext=(-6, -14),
        textcoords="offset points",
        ha="right",
    )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(x=0)
    axes.set(xlabel="x", ylim=(-0.75, 2.5), title="Mish and its derivatives")
    axes.legend(loc="upper left")
    words = f"f, f' and f'' from -6 to 4; the minimum is {least:.3f} at {place:.2f}"
    return Picture("function", "Mish and its derivatives", words, figure)


@style()
def landscape(seed: int = 1) -> Picture:
    """What a random network of five layers makes of the plane, with ReLU, Swish and Mish.

    The three have the same weights, so that what differs is the function's. As in the paper, and
    in that of Swish, https://arxiv.org/abs/1710.05941, whose networks are not known to the weight;
    the light from the side is added, for it shows creases that colours hide.
    """
    line = torch.linspace(-REACH, REACH, SIDE)
    points = torch.cartesian_prod(line, line)
    light = LightSource(azdeg=315, altdeg=35)
    figure = Figure(figsize=(10, 3.7), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, name in zip(panels, ("ReLU", "Swish", "Mish"), strict=True):
        with torch.no_grad():
            output = random_network(name, seed)(points).view(SIDE, SIDE).double()
        height = ((output - output.mean()) / output.std()).T.numpy()
        step = 2 * REACH / SIDE
        shaded = light.shade(height, colormaps["viridis"], blend_mode="soft", dx=step, dy=step)
        axes.imshow(shaded, origin="lower", extent=(-REACH, REACH, -REACH, REACH))
        low, high = (_one_digit(end.item()) for end in (output.min(), output.max()))
        axes.set_title(f"{name}: from {low} to {high}")
        axes.grid(visible=False)
    title = "Output of a random network of five layers over its two inputs, lit from the top left"
    put_title(figure, title)
    return Picture("landscape", title, "ReLU creases the plane, Swish and Mish bend it", figure)


def random_network(activation: str, seed: int) -> nn.Module:
    """Maps (N, 2) to (N, 1) through hidden layers of 64, 64, 32 and 16.

    Weights as in He et al., https://arxiv.org/abs/1502.01852; biases from a normal distribution.
    """
    sizes = (2, 64, 64, 32, 16, 1)
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(seed)
    for before, after in itertools.pairwise(sizes):
        layer = nn.Linear(before, after)
        nn.init.kaiming_normal_(layer.weight, generator=generator)
        nn.init.normal_(layer.bias, generator=generator)
        layers += [layer, MODULES[ACTIVATIONS[activation]]()]
    return nn.Sequential(*layers[:-1])


def _one_digit(value: float) -> str:
    """With one digit after the point; a negative number that rounds to zero without its sign."""
    return f"{round(value, 1) + 0.0:.1f}"


def _derivative(y: Tensor, x: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return result
