"""Wrong arguments raise an error that names what was passed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

import layouts
import mish_cuda
from conftest import EAGER, TORCH, Implementation, needs_extension
from mish_cuda import functional

# Torch calls some of the inputs experimental, beta or deprecated.
pytestmark = pytest.mark.filterwarnings("ignore")

# --- One wrong input ---

Call = Callable[[Implementation, Tensor], object]
CALLS: dict[str, Call] = {
    "mish": lambda impl, x: impl.mish(x),
    "mish_": lambda impl, x: impl.mish_(x),
    "out": lambda impl, x: impl.mish(x, out=torch.empty(0, device=x.device)),
    "mish_backward": lambda impl, x: impl.mish_backward(x, x),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)

WRONG_DTYPES = [
    *(torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool),
    *(torch.complex32, torch.complex64, torch.complex128),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float4_e2m1fn_x2),
]


@EVERY_CALL
@pytest.mark.parametrize("wrong", WRONG_DTYPES, ids=str)
def test_dtype(impl: Implementation, device: str, call: Call, wrong: torch.dtype) -> None:
    in_cpp = torch.empty(0, dtype=wrong).type().rpartition(".")[2].removesuffix("Tensor")
    for count, where in ((0, device), (3, device), (3, "meta")):
        x = torch.empty(count, dtype=wrong, device=where)
        with pytest.raises(NotImplementedError, match=rf"(?i){wrong}|{in_cpp}\b"):
            call(impl, x)


# By what the message calls them. Some are of the CPU alone.
TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.sparse_coo": Tensor.to_sparse,
    "torch.sparse_csr": Tensor.to_sparse_csr,
    "torch.sparse_csc": Tensor.to_sparse_csc,
    "torch.sparse_bsr": lambda x: x.to_sparse_bsr((2, 2)),
    "torch.sparse_bsc": lambda x: x.to_sparse_bsc((2, 2)),
    "mkldnn": lambda x: x.cpu().to_mkldnn(),
    "quint8": lambda x: torch.quantize_per_tensor(x.cpu(), 0.1, 0, torch.quint8),
    "qint8": lambda x: torch.quantize_per_tensor(x.cpu(), 0.1, 0, torch.qint8),
    "qint32": lambda x: torch.quantize_per_tensor(x.cpu(), 0.1, 0, torch.qint32),
}


@EVERY_CALL
@pytest.mark.parametrize("kind", TENSORS)
def test_layout(impl: Implementation, device: str, call: Call, kind: str) -> None:
    if kind == "mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("no mkldnn")
    x = TENSORS[kind](torch.eye(4, device=device))
    with pytest.raises(NotImplementedError, match=f"(?i){kind}"):
        call(impl, x)


# --- No tensors ---


@pytest.mark.parametrize("value", [None, 1.0, [1.0], np.zeros(1)], ids=type)
def test_no_tensor(public: str, impl: Implementation, value: Any) -> None:
    kind, x = type(value).__name__, torch.zeros(1)
    functions: list[Callable[..., object]] = [
        *(impl.mish, impl.mish_, partial(impl.mish, out=x), mish_cuda.mish, mish_cuda.mish_),
        *(mish_cuda.Mish(), mish_cuda.Mish(inplace=True), mish_cuda.MishCuda()),
        *(mish_cuda.MishCudaFunction.apply, mish_cuda.mish_forward),
        partial(mish_cuda.mish_backward, grad_out=x),
        partial(mish_cuda.batch_norm_mish, running_mean=None, running_var=None),
        partial(mish_cuda.group_norm_mish, num_groups=1),
    ]
    if functional.C is not None:
        functions.append(functional.C.mish_forward)
    for function in functions:
        refused("input", kind, function, value)
    refused("tensor", kind, mish_cuda.backend, value)
    refused("grad_output", kind, mish_cuda.mish_backward, x, value)
    if value is not None:
        refused("out", kind, impl.mish, x, out=value)


def refused(name: str, kind: str, function: Callable[..., object], *args: Any, **kw: Any) -> None:
    with pytest.raises(TypeError, match=f"expected {name} .*ensor, got {kind}") as error:
        function(*args, **kw)
    assert "\n" not in str(error.value)


@needs_extension
def test_none_for_a_tensor_of_the_ops() -> None:
    """Other values torch refuses itself; None it takes for an undefined tensor."""
    ops, choices = torch.ops.mish_cuda, (None, torch.zeros(1), torch.zeros(1, requires_grad=True))
    for op in (ops.mish, ops.mish_, ops.mish_backward, ops.mish_double_backward):
        count = len(op.default._schema.arguments)
        for operands in product(choices, repeat=count):
            if any(operand is None for operand in operands):
                refused("(input|grad_.*put)", "None", op, *operands)
    for operand, out in ((None, choices[1]), (choices[1], None), (None, None)):
        refused("(input|out)", "None", ops.mish.out, operand, out=out)


# --- Operands that do not fit together ---


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    r"shape.*\[3, 4\].*\[3, 5\]": lambda x: x.new_empty(3, 5),
    r"shape.*\[3, 4\].*\[4\]": lambda x: x.new_empty(4),
    r"shape.*\[3, 4\].*\[\]": lambda x: x.new_empty(()),
    r"shape.*\[3, 4\].*\[1, 3, 4\]": lambda x: x.new_empty(1, 3, 4),
    r"real.*(Float|float32).*(ComplexFloat|complex64)": Tensor.cfloat,
    r"device.*meta": lambda x: x.to("meta"),
}


@pytest.mark.parametrize("told", OTHERS)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("count", "position"), [(2, 0), (3, 0), (3, 1)])
def test_gradient_unlike_the_input(
    impl: Implementation, device: str, told: str, requires_grad: bool, count: int, position: int
) -> None:
    if count == 3 and impl.name == "eager":
        pytest.skip("only the op of a compiled extension can be called by users")
    name = ["grad_grad_input", "grad_output"][-count + 1 :][position]
    for where in (device, "meta") if "meta" not in told else (device,):
        x = torch.randn(3, 4, device=where, requires_grad=requires_grad)
        operands = [x] * count
        operands[position] = OTHERS[told](x.detach())
        with pytest.raises(RuntimeError, match=f"{name}.*{told}|device.*meta"):
            impl.apply(*operands)


# --- Refused writes and tensors that cannot be saved ---


def out_with_a_tangent(m: Implementation, x: Tensor) -> None:
    with fwAD.dual_level():
        m.mish(fwAD.make_dual(x.detach(), x.detach()), out=torch.empty_like(x))


def view_made_without_grad(x: Tensor) -> Tensor:
    y = x * 1
    with torch.no_grad():
        return y[1:]


OUR_ERRORS: dict[str, Call] = {  # by what the message says
    "out.*dtype.*(Double|float64)": lambda m, x: m.mish(x.detach().float(), out=x.detach()),
    "out.*dtype.*(BFloat|bfloat)16": lambda m, x: m.mish(x.detach(), out=x.detach().bfloat16()),
    "out.*dtype.*[iI]nt": lambda m, x: m.mish(x.detach(), out=x.detach().int()),
    "out.*device.*meta": lambda m, x: m.mish(x.detach(), out=x.detach().to("meta")),
    "out=.*automatic": lambda m, x: m.mish(x, out=x.detach().clone()),
    "out=.*automatic differentiation": lambda m, x: m.mish(x.detach(), out=x),
    "forward AD.*out=|out=.*forward": out_with_a_tangent,
    "inplace.*out.*both": lambda m, x: mish_cuda.mish(x, inplace=True, out=x),
}
TORCHS_ERRORS: dict[str, Call] = {
    "leaf": lambda m, x: m.mish_(x),
    "view of a leaf": lambda m, x: m.mish_(x[1:]),
    "one of many views": lambda m, x: m.mish_((x * 1).unbind()[0]),
    "view made without grad": lambda m, x: m.mish_(view_made_without_grad(x)),
    "inference tensor": lambda m, x: m.mish_(torch.inference_mode()(torch.ones)(3)),
    "inference tensor saved": lambda m, x: m.mish(x * torch.inference_mode()(torch.ones)(3)),
    "overlapping": lambda m, x: m.mish_(x.detach()[:, :1].expand(5, 3)),
    "overlapping out": lambda m, x: m.mish(x.detach(), out=x.detach()[:, :1].expand(5, 3)),
}


@pytest.mark.parametrize("name", [*OUR_ERRORS, *TORCHS_ERRORS])
def test_refused(impl: Implementation, device: str, name: str) -> None:
    """In our words or as torch refuses it for its own Mish, and nothing is written."""
    told, calls = set(), {**OUR_ERRORS, **TORCHS_ERRORS}
    for m in (impl, TORCH) if name in TORCHS_ERRORS else (impl,):
        x = layouts.normal((5, 3), torch.float64, device).requires_grad_()
        before = x.detach().clone()
        match = name if name in OUR_ERRORS else None
        with pytest.raises((RuntimeError, NotImplementedError), match=match) as error:
            calls[name](m, x)
        told.add(str(error.value)[:60])
        assert torch.equal(x, before)
    assert len(told) == 1


def test_out_overlaps_the_input(compiled: Implementation, device: str) -> None:
    """`eager` has a result of its own before it writes, so that the values are right there."""
    x = torch.randn(3, 4, device=device)
    with pytest.raises(RuntimeError, match="input"):
        compiled.mish(x[:-1], out=x[1:])
    expected = EAGER.mish(x[:-1])
    assert torch.equal(EAGER.mish(x[:-1], out=x[1:]), expected)
