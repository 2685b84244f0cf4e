"""Wrong arguments are refused by a message that names what was got."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

import mish_cuda
from conftest import Path

WRONG_DTYPES = [
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.complex32,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float4_e2m1fn_x2,
]


def quantized(kind: torch.dtype) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on its way out of torch, not out of old models
        return torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, kind)


def sparse(convert: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "in beta state"
        return convert(x)


LAYOUTS: dict[torch.layout, Callable[[Tensor], Tensor]] = {
    torch.sparse_coo: Tensor.to_sparse,
    torch.sparse_csr: Tensor.to_sparse_csr,
    torch.sparse_csc: Tensor.to_sparse_csc,
    torch.sparse_bsr: lambda x: x.to_sparse_bsr((2, 2)),
    torch.sparse_bsc: lambda x: x.to_sparse_bsc((2, 2)),
}

# Each op with one wrong input.
CALLS: dict[str, Callable[[Path, Tensor], object]] = {
    "mish": lambda path, x: path.mish(x),
    "mish_": lambda path, x: path.mish_(x),
    "mish_out": lambda path, x: path.mish_out(x, torch.empty(0, device=x.device)),
    "mish_backward": lambda path, x: path.mish_backward(x, x),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def dtype_name(dtype: torch.dtype) -> str:
    """As C++ prints it or as Python does: "Long", "torch.int64"."""
    names = {
        torch.int8: "Char",
        torch.uint8: "Byte",
        torch.int32: "Int",
        torch.int64: "Long",
        torch.bool: "Bool",
        torch.complex32: "ComplexHalf",
        torch.complex64: "ComplexFloat",
        torch.complex128: "ComplexDouble",
    }
    name = str(dtype).removeprefix("torch.")
    return f"(?i)({names.get(dtype, name)}|{name})"


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@EVERY_CALL
@pytest.mark.parametrize("wrong", WRONG_DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 3])
def test_dtype(
    path: Path, device: str, call: Callable[[Path, Tensor], object], wrong: torch.dtype, count: int
) -> None:
    x = torch.empty(count, dtype=wrong, device=device)
    with pytest.raises(NotImplementedError, match=dtype_name(wrong)):
        call(path, x)


@EVERY_CALL
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_layout(
    path: Path, device: str, call: Callable[[Path, Tensor], object], layout: torch.layout
) -> None:
    x = sparse(LAYOUTS[layout], torch.eye(4, device=device))
    assert x.layout == layout
    with pytest.raises(NotImplementedError, match=str(layout)):
        call(path, x)


@EVERY_CALL
@pytest.mark.parametrize("kind", [torch.quint8, torch.qint8, torch.qint32], ids=str)
def test_quantized(path: Path, call: Callable[[Path, Tensor], object], kind: torch.dtype) -> None:
    with pytest.raises(NotImplementedError, match=f"(?i){str(kind).removeprefix('torch.')}"):
        call(path, quantized(kind))


@EVERY_CALL
def test_mkldnn(path: Path, call: Callable[[Path, Tensor], object]) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no mkldnn")
    x = torch.randn(4, 4).to_mkldnn()
    with pytest.raises(NotImplementedError, match="mkldnn"):
        call(path, x)


@pytest.mark.parametrize("value", [None, 1.0, [1.0], "x"])
def test_no_tensor(path: Path, value: object) -> None:
    for function in (path.mish, path.mish_):
        with pytest.raises(TypeError):
            function(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 1.0, [1.0]])
def test_no_tensor_in_the_public_functions(path: Path, value: object) -> None:
    module = mish_cuda.Mish()
    for function in (mish_cuda.mish, mish_cuda.mish_, mish_cuda.MishCudaFunction.apply, module):
        with pytest.raises(TypeError):
            function(value)  # type: ignore[operator]
    x = torch.zeros(3)
    with pytest.raises(TypeError):
        mish_cuda.mish_backward(x, value)  # type: ignore[arg-type]
    if value is not None:
        with pytest.raises(TypeError):
            path.mish_out(x, value)  # type: ignore[arg-type]


# --- Operands that do not fit together ---


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda x: x.new_empty(3, 5), r"grad_output.*shape.*\[3, 4\].*\[3, 5\]"),
        (lambda x: x.new_empty(4), r"grad_output.*shape.*\[3, 4\].*\[4\]"),
        (lambda x: x.new_empty(()), r"grad_output.*shape.*\[3, 4\].*\[\]"),
        (lambda x: x.new_empty(1, 3, 4), r"grad_output.*shape.*\[3, 4\].*\[1, 3, 4\]"),
        (lambda x: x.double(), r"grad_output.*dtype.*(Float|float32).*(Double|float64)"),
        (lambda x: x.half(), r"grad_output.*dtype.*(Float|float32).*(Half|float16)"),
        (lambda x: x.int(), r"grad_output.*dtype.*(Float|float32).*(Int|int32)"),
        (lambda x: x.to("meta"), r"grad_output.*device.*meta"),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_gradient_unlike_the_input(
    path: Path, device: str, other: Callable[[Tensor], Tensor], told: str, requires_grad: bool
) -> None:
    x = torch.randn(3, 4, device=device, requires_grad=requires_grad)
    with pytest.raises(RuntimeError, match=told):
        path.mish_backward(other(x.detach()), x)


def test_gradient_of_another_layout(path: Path, device: str) -> None:
    x = torch.randn(4, 4, device=device)
    with pytest.raises((RuntimeError, NotImplementedError), match="sparse"):
        path.mish_backward(x.to_sparse(), x)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda x: x.new_empty(3, 5), r"shape.*\[3, 4\].*\[3, 5\]"),
        (lambda x: x.double(), r"dtype.*Float.*Double"),
        (lambda x: x.to("meta"), r"device.*meta"),
    ],
)
def test_operands_of_double_backward(
    compiled: Path,
    device: str,
    position: int,
    differentiable: bool,
    other: Callable[[Tensor], Tensor],
    told: str,
) -> None:
    x = torch.randn(3, 4, device=device, requires_grad=differentiable)
    operands = [x, x, x]
    operands[position] = other(x)
    name = ("grad_grad_input", "grad_output")[position]
    with pytest.raises(RuntimeError, match=f"{name}.*{told}|device.*meta"):
        compiled.mish_double_backward(*operands)


# --- out= ---


@pytest.mark.parametrize(
    ("out", "told"),
    [
        (lambda x: x.double(), "out.*dtype.*(Float|float32).*(Double|float64)"),
        (lambda x: x.bfloat16(), "out.*dtype.*(Float|float32).*(BFloat16|bfloat16)"),
        (lambda x: x.int(), "out.*dtype.*(Float|float32).*(Int|int32)"),
        (lambda x: x.to("meta"), "out.*device.*meta|device.*meta"),
    ],
)
def test_out_of_another_kind(
    path: Path, device: str, out: Callable[[Tensor], Tensor], told: str
) -> None:
    x = torch.randn(3, 4, device=device)
    with pytest.raises(RuntimeError, match=told):
        path.mish_out(x, out(x))


def test_out_that_overlaps_itself(path: Path, device: str) -> None:
    x = torch.randn(3, 4, device=device)
    with pytest.raises(RuntimeError, match="single memory location"):
        path.mish_out(x, torch.empty(4, device=device).expand(3, 4))


def test_out_that_overlaps_the_input(compiled: Path, device: str) -> None:
    """`eager` has a result of its own before it writes, so that the values are right there."""
    x = torch.randn(10, device=device)
    with pytest.raises(RuntimeError, match="some elements of the input tensor and the written-to"):
        compiled.mish_out(x[:-1], x[1:])


@pytest.mark.parametrize("needs_grad", ["input", "out"])
def test_out_is_not_differentiable(path: Path, device: str, needs_grad: str) -> None:
    x, out = (
        torch.randn(3, device=device, requires_grad=name == needs_grad) for name in ("input", "out")
    )
    with pytest.raises(RuntimeError, match=r"out=.*don't support automatic differentiation"):
        path.mish_out(x, out)


def test_out_has_no_forward_gradient(path: Path, device: str) -> None:
    x, out = torch.randn(3, device=device), torch.empty(3, device=device)
    with (
        fwAD.dual_level(),
        pytest.raises((RuntimeError, NotImplementedError), match=r"forward AD.*out=|out=.*forward"),
    ):
        path.mish_out(fwAD.make_dual(x, torch.ones_like(x)), out)


def test_inplace_and_out(device: str) -> None:
    x = torch.randn(3, device=device)
    with pytest.raises(RuntimeError, match=r"inplace=True or out=.*both"):
        mish_cuda.mish(x, inplace=True, out=x)


# --- In place ---


def test_in_place_on_overlapping_memory(path: Path, device: str) -> None:
    with pytest.raises(RuntimeError, match="single memory location"):
        path.mish_(torch.randn(4, device=device).expand(3, 4))


def test_a_refused_write_writes_nothing(path: Path, device: str) -> None:
    x, out = torch.randn(3, device=device), torch.zeros(3, dtype=torch.float64, device=device)
    leaf = torch.ones(3, device=device, requires_grad=True)
    for function, operands in ((path.mish_out, (x, out)), (path.mish_, (leaf,))):
        with pytest.raises(RuntimeError):
            function(*operands)
    assert not out.any()
    assert leaf.detach().eq(1).all()
