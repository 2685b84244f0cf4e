"""Trials of activations: whether they compute Mish, whether they are elementwise."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .functional import mish
from .modules import Mish, MishCuda


def compare(activation: Any) -> tuple[str | None, bool]:
    """How its values or slopes differ from Mish (None: not), and whether it works in place.

    It is called on 81 points from -20 to 20 in float64; layers in training and in evaluation.
    """
    inplace = bool(getattr(activation, "inplace", False))
    if activation is F.mish or type(activation) in (nn.Mish, Mish, MishCuda):
        return None, inplace
    training = getattr(activation, "training", None)
    # In float64, so that the tolerance only has to allow for other formulas of Mish.
    points = torch.linspace(-20, 20, 81, dtype=torch.float64, device="cpu")
    try:
        with torch.random.fork_rng(devices=()), torch.inference_mode(False), torch.enable_grad():
            expected, _ = _try_out(mish, points)
            for mode in (None,) if training is None else (True, False):
                if mode is not None:
                    activation.training = mode
                # Observed, not read from `inplace`, which some layers ignore.
                got, inplace = _try_out(function_of(activation), points)
                gap = (got - expected[: len(got)]).abs().nan_to_num(nan=torch.inf)
                if (gap > 1e-5 * (1 + expected[: len(got)].abs())).any():
                    row, column = divmod(int(gap.argmax()), len(points))
                    return (
                        f"has the {('value', 'slope')[row]} {got[row, column]:.4g} at "
                        f"{points[column]:g}, where Mish has {expected[row, column]:.4g}"
                    ), inplace
    except Exception as error:
        return f"fails when tried out ({_told(error)})", inplace
    finally:
        if training is not None:
            activation.training = training
    return None, inplace


def function_of(activation: Any) -> Callable[..., Tensor]:
    """Its forward, without hooks, those of accelerate included."""
    if not isinstance(activation, nn.Module):
        return activation  # type: ignore[no-any-return]
    return vars(activation).get("_old_forward", activation.forward)  # type: ignore[no-any-return]


def _try_out(function: Callable[..., Tensor], points: Tensor) -> tuple[Tensor, bool]:
    """Its values in a row and its slopes in another, and whether it overwrote its input.

    The row of slopes is missing if the function cannot be differentiated. For example,
    x.mul_(softplus(x).tanh()) overwrites what its own backward needs; only its values are of use.
    """
    leaf = points.clone().requires_grad_()
    x = leaf.clone()
    try:
        y = _checked(function(x), points)
        if not y.requires_grad:
            raise TypeError("its result has no gradient")
        rows = [y.detach().clone(), *torch.autograd.grad(y.sum(), leaf)]
    except RuntimeError:
        with torch.no_grad():
            x = points.clone()
            rows = [_checked(function(x), points)]
    return torch.stack(rows), not torch.equal(x, points)


def _checked(y: Any, points: Tensor) -> Tensor:
    if not isinstance(y, Tensor) or y.dtype != points.dtype:
        raise TypeError(f"from {points.dtype} it makes {getattr(y, 'dtype', type(y).__name__)}")
    if y.shape != points.shape:
        raise TypeError(f"from the shape {tuple(points.shape)} it makes {tuple(y.shape)}")
    return y


def argument_names(activation: Any) -> list[str]:
    """The names of its parameters, without ``*args`` and ``**kwargs``."""
    try:
        signature = inspect.signature(function_of(activation))
    except Exception:  # an op has none
        return []
    named = signature.parameters.values()
    return [p.name for p in named if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def forgets_inplace(function: Callable[..., Tensor]) -> bool:
    """Whether it takes ``inplace``, but ignores it."""
    if "inplace" not in argument_names(function):
        return False
    x = torch.ones(2, dtype=torch.float64, device="cpu")
    with suppress(Exception), torch.inference_mode(False), torch.no_grad():
        function(x, inplace=True)
    return bool(x[0] == 1)


def not_elementwise(module: nn.Module) -> str | None:
    """Why it is not elementwise, as the rest of a sentence; None if it passes a trial.

    One of 128 numbers is changed, and no other result may change. The random numbers are the same
    both times. So is the sign of the number, since RReLU draws random numbers by sign.
    """
    x = torch.linspace(-3, 3, 128, dtype=torch.float32, device="cpu").reshape(2, 4, 4, 4)
    one = (1, 1, 1, 2)  # a place that mirroring and shuffling move
    other = x.clone()
    other[one] = 9
    try:
        with torch.inference_mode(False), torch.no_grad():
            before, after = _values(module, x), _values(module, other)
        if before.shape != x.shape:
            return f"makes the shape {tuple(before.shape)} of {tuple(x.shape)}"
        after = after.clone()  # an expanded result cannot be written to
        after[one] = before[one]
        if not torch.equal(before.nan_to_num(), after.nan_to_num()):
            return "computes a result from several elements, so it is not elementwise"
    except Exception as error:
        return f"fails when tried out on {tuple(x.shape)} ({_told(error)})"
    return None


def _values(module: nn.Module, x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=()):
        return function_of(module)(x.clone())


def _told(error: Exception) -> str:
    """The error in one line; TorchScript adds a traceback in others."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.strip()}"
