"""Rules in Python for the compiled ops: other devices, tracing, vmap."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode  # loaded by torch already

from . import eager
from ._extension import _REBUILD, FACTS

# --- Devices without kernels compute eagerly. Autograd lies above these functions. ---


def _mish(self: Tensor) -> Tensor:
    eager.check(self)
    return eager.value(self)


def _mish_(self: Tensor) -> Tensor:
    result = _mish(self)
    return self.copy_(result)


def _mish_out(self: Tensor, *, out: Tensor) -> Tensor:
    return eager.mish_out(self, out)


def _mish_backward(grad_output: Tensor, self: Tensor) -> Tensor:
    eager.check(self)
    eager.check_like("grad_output", grad_output, self)
    return eager.backward(grad_output, self)


def _mish_double_backward(grad_grad_input: Tensor, grad_output: Tensor, self: Tensor) -> Tensor:
    eager.check(self)
    eager.check_like("grad_grad_input", grad_grad_input, self)
    eager.check_like("grad_output", grad_output, self)
    return eager.double_backward(grad_grad_input, grad_output, self)


@functools.cache
def _tell_of_cuda() -> None:
    """Warns, once, that CUDA tensors get no kernels, if the build fell back to CPU kernels."""
    remedy = FACTS.get("remedy")
    if remedy is None or torch.version.cuda is None:
        return
    warnings.warn(
        "mish_cuda computes CUDA tensors in eager mode, correct but slow: it was built with CPU "
        f"kernels only, since {FACTS['reason']}. {remedy}. Then rebuild it from its source folder "
        f"with: MISH_CUDA_BUILD=cuda {_REBUILD} (MISH_CUDA_BUILD=cpu builds without this warning.)",
        RuntimeWarning,
        stacklevel=4,
    )


def _kernel(function: Any) -> Any:
    """The function as a kernel for devices without one; CUDA tensors arrive here only if the build
    has no CUDA kernels."""

    def kernel(*args: Tensor, **kwargs: Tensor) -> Tensor:
        if isinstance(args[0], Tensor) and args[0].device.type == "cuda":
            _tell_of_cuda()
        return function(*args, **kwargs)  # type: ignore[no-any-return]

    return kernel


_EAGER = {
    "mish": _mish,
    "mish_": _mish_,
    "mish.out": _mish_out,
    "mish_backward": _mish_backward,
    "mish_double_backward": _mish_double_backward,
}

# --- Tracing: a compiler's graph holds the formula, which fuses with the operations around it. The
# tracing mode lies below autograd, so derivatives of any order are those of the ops. An exported
# program holds torch's own Mish instead, so that it runs without this library. ---


def _traced(name: str) -> Any:
    """The rule by which ``make_fx``, and so ``torch.compile``, replaces an op by the formula.
    ``torch.export`` gets torch's own Mish, for which exporters have translations.

    The compiler's caches identify the op by its name, so the rule must not depend on anything that
    a user can switch.
    """
    function = _EAGER[name]
    packet, _, overload = name.partition(".")
    own: Any = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)

    def rule(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with mode:
            chosen: Any = own if own is not None and torch.compiler.is_exporting() else function
            return chosen(*args, **(kwargs or {}))

    return rule


# --- vmap: an elementwise op does not care which dimension is the batch. ---


def _elementwise_vmap(op: Any) -> Any:
    """The batching rule of an elementwise op: bring every batch dimension to the front."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Tensor) -> tuple[Tensor, int]:
        moved = [
            arg if dim is None else arg.movedim(dim, 0)
            for arg, dim in zip(args, in_dims, strict=True)
        ]
        if in_dims[-1] is None and args[-1].dim() == 0:
            # The op is linear in all operands but the last. Multiplying by a 0-dim derivative keeps
            # the dtype of the batch; expanded, the scalar's float64 tangent would promote it.
            *factors, scalar = moved
            derivative = op(*[torch.ones_like(scalar)] * len(factors), scalar)
            return functools.reduce(torch.mul, factors, derivative), 0
        batched = [
            arg.expand(info.batch_size, *arg.shape) if dim is None else arg
            for arg, dim in zip(moved, in_dims, strict=True)
        ]
        return op(*batched), 0

    return rule


def _inplace_vmap(info: Any, in_dims: tuple[int], self: Tensor) -> tuple[Tensor, int]:
    torch.ops.mish_cuda.mish_(self)
    return self, in_dims[0]


def _register() -> torch.library.Library:
    """Registers all rules, for as long as the returned object lives."""
    library = torch.library.Library("mish_cuda", "IMPL")
    for name, function in _EAGER.items():
        library.impl(name, _kernel(function), "CompositeExplicitAutograd")
        torch.library.register_torch_dispatch(
            f"mish_cuda::{name}", ProxyTorchDispatchMode, _traced(name), lib=library
        )
    torch.library.register_vmap("mish_cuda::mish_", _inplace_vmap, lib=library)
    for name in ("mish", "mish_backward", "mish_double_backward"):
        op = getattr(torch.ops.mish_cuda, name).default
        torch.library.register_vmap(op, _elementwise_vmap(op), lib=library)
    return library


# Once per process, even if the package was removed from sys.modules and is imported again.
_namespace = vars(torch.ops.mish_cuda)
if "_registered" not in _namespace:
    _namespace["_registered"] = _register()
