"""The ops as torch sees them: schemas, compilers, tracers, modes, profilers, odd tensors."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import layouts
import mish_cuda
import reference
from conftest import Path, needs_extension

OPS: Any = torch.ops.mish_cuda
SCHEMAS = {
    "mish.default": "mish(Tensor self) -> Tensor",
    "mish_.default": "mish_(Tensor(a!) self) -> Tensor(a!)",
    "mish.out": "mish.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)",
    "mish_backward.default": "mish_backward(Tensor grad_output, Tensor self) -> Tensor",
    "mish_double_backward.default": (
        "mish_double_backward(Tensor grad_grad_input, Tensor grad_output, Tensor self) -> Tensor"
    ),
}
EVERY_OP = pytest.mark.parametrize("name", SCHEMAS)


def op(name: str) -> Any:
    packet, overload = name.split(".")
    return getattr(getattr(OPS, packet), overload)


def arguments(name: str, x: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """x for each argument of an op, and new memory for `out`."""
    out = {"out": x.new_empty(x.shape)} if name == "mish.out" else {}
    return (x,) * (len(op(name)._schema.arguments) - len(out)), out


# --- Schemas ---


@needs_extension
@EVERY_OP
def test_schema(name: str) -> None:
    assert str(op(name)._schema) == f"mish_cuda::{SCHEMAS[name]}"


@needs_extension
def test_there_are_no_other_ops() -> None:
    names = {
        n.removeprefix("mish_cuda::")
        for n in torch._C._dispatch_get_all_op_names()
        if n.startswith("mish_cuda::")
    }
    assert names == {name.removesuffix(".default") for name in SCHEMAS}


@needs_extension
@EVERY_OP
def test_tags(name: str) -> None:
    assert {torch.Tag.pointwise, torch.Tag.pt2_compliant_tag} <= set(op(name).tags)


@needs_extension
@EVERY_OP
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "step 2"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name: str, device: str, layout: str, requires_grad: bool) -> None:
    if requires_grad and name in ("mish.out", "mish_.default"):
        pytest.skip("torch refuses out= and leaves written in place where gradients are recorded")
    x = layouts.make(layout, torch.float32, device, fill=layouts.normal)
    args, kwargs = arguments(name, x)
    opcheck(op(name), tuple(t.clone().requires_grad_(requires_grad) for t in args), kwargs)


@needs_extension
@EVERY_OP
def test_opcheck_in_other_dtypes(name: str, device: str, dtype: torch.dtype) -> None:
    x = layouts.make("transposed", dtype, device, fill=layouts.normal)
    args, kwargs = arguments(name, x)
    opcheck(op(name), args, kwargs, test_utils=("test_schema", "test_faketensor"))


# --- Tensors without data ---


@EVERY_OP
@needs_extension
@pytest.mark.parametrize("layout", [*layouts.LAYOUTS, *layouts.OVERLAPPING])
@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_shapes_without_data(name: str, device: str, layout: str, kind: str) -> None:
    """Shape, strides and dtype are those of the real result."""
    if name == "mish_.default" and layout in layouts.OVERLAPPING:
        pytest.skip("writing to overlapping memory is refused")
    x = layouts.make(layout, torch.float16, device)
    mode = FakeTensorMode()
    empty = mode.from_tensor(x) if kind == "fake" else x.to("meta").as_strided(x.shape, x.stride())
    results = []
    for t in (x, empty):
        with mode if t is empty and kind == "fake" else nullcontext():
            args, kwargs = arguments(name, t)
            results.append(op(name)(*args, **kwargs))
    expected, result = results
    assert result.shape == expected.shape
    assert result.stride() == expected.stride()
    assert result.dtype == expected.dtype
    assert result.device.type == ("meta" if kind == "meta" else device)


@needs_extension
@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")])
def test_operands_that_do_not_fit_are_refused_without_data(mode: Callable[[], Any]) -> None:
    with mode():
        x, wrong = torch.empty(3, 4), torch.empty(3, 5)
        with pytest.raises(RuntimeError, match="shape"):
            OPS.mish_backward(wrong, x)
        with pytest.raises(RuntimeError, match="dtype"):
            OPS.mish_backward(x.double(), x)


@needs_extension
def test_wrong_dtypes_are_refused_without_data() -> None:
    with pytest.raises(NotImplementedError, match="Int"):
        OPS.mish(torch.empty(3, dtype=torch.int32, device="meta"))


# --- Compilers and tracers ---


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    torch._dynamo.reset()


def compiled_like_eager(function: Callable[..., Any], *inputs: Tensor, **options: Any) -> None:
    """Under torch.compile, without a graph break, values and gradients are the same."""
    function_compiled = torch.compile(function, fullgraph=True, backend="aot_eager", **options)
    results = []
    for f in (function, function_compiled):
        leaves = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
        y = f(*leaves)
        if y.requires_grad:
            y.backward(torch.ones_like(y))
        results.append((y.detach(), [leaf.detach() for leaf in leaves], [t.grad for t in leaves]))
    torch.testing.assert_close(results[1], results[0])


COMPILED: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": lambda x: mish_cuda.mish(x * 2) + 1,
    "in place": lambda x: mish_cuda.mish_(x * 2),
    "inplace=True": lambda x: mish_cuda.mish(x * 2, inplace=True),
    "in place of a view": lambda x: view_in_place(x * 2),
    "twice": lambda x: mish_cuda.mish(mish_cuda.mish(x)),
    "function": lambda x: mish_cuda.MishCudaFunction.apply(x),
    "module": lambda x: MODULE(x),
    "in 16 bits": lambda x: mish_cuda.mish(x.bfloat16()).float(),
}
MODULE = nn.Sequential(mish_cuda.Mish(), mish_cuda.MishCuda(inplace=True))


def view_in_place(x: Tensor) -> Tensor:
    mish_cuda.mish_(x[1:])
    return x


@pytest.mark.parametrize("function", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_compile(
    public: str, function: Callable[[Tensor], Tensor], device: str, requires_grad: bool
) -> None:
    x = layouts.normal((4, 6), torch.float32, device).requires_grad_(requires_grad)
    compiled_like_eager(function, x)


def test_compile_of_a_write_to_an_input(public: str, device: str) -> None:
    compiled_like_eager(mish_cuda.mish_, layouts.normal((4, 6), torch.float32, device))


def test_compile_of_a_write_to_out(public: str, device: str) -> None:
    x, out = (layouts.normal((4, 6), torch.float32, device, seed) for seed in range(2))
    compiled_like_eager(lambda x, out: mish_cuda.mish(x, out=out), x, out)


def test_compile_of_the_backward_op(public: str, device: str) -> None:
    g, x = (layouts.normal((9,), torch.float32, device, s).requires_grad_() for s in range(2))
    compiled_like_eager(lambda g, x: mish_cuda.mish_backward(x, g), g, x)


def test_compile_for_any_shape(public: str, device: str) -> None:
    """Compiled once for all sizes."""
    graphs = 0

    def count(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return module

    function = torch.compile(
        lambda x: mish_cuda.mish(x) * 2, fullgraph=True, dynamic=True, backend=count
    )
    for sizes in ((3, 4), (5, 7), (9, 2)):
        x = layouts.normal(sizes, torch.float32, device)
        torch.testing.assert_close(function(x), mish_cuda.mish(x) * 2)
    assert graphs == 1


def test_compile_with_the_default_backend(public: str, device: str) -> None:
    if device == "cpu" and shutil.which("g++") is None:
        pytest.skip("inductor calls g++, which is not here")
    x = layouts.normal((100,), torch.float32, device).requires_grad_()
    function = torch.compile(lambda x: mish_cuda.mish(x + 1), fullgraph=True)
    (result,) = torch.autograd.grad(function(x).sum(), x)
    torch.testing.assert_close(result, reference.mish(x + 1, 1).to(device, x.dtype))


def test_no_graph_break(public: str, device: str) -> None:
    def function(x: Tensor) -> Tensor:
        y = mish_cuda.mish(x)
        mish_cuda.mish_(y)
        return MODULE(mish_cuda.mish_forward(y))

    explanation = torch._dynamo.explain(function)(torch.randn(5, device=device))
    assert explanation.graph_break_count == 0


@needs_extension
def test_compiled_autograd(device: str) -> None:
    """The backward pass itself is traced, nodes and saved tensors too."""
    if not hasattr(torch._dynamo.config, "compiled_autograd"):
        pytest.skip("this torch has no compiled autograd")
    x = layouts.normal((20,), torch.float32, device).requires_grad_()

    def step(x: Tensor) -> Tensor:
        y = mish_cuda.mish(x)
        y = mish_cuda.mish_(y * 2)
        y = OPS.mish_backward(y, x)
        y.sum().backward()
        assert x.grad is not None
        return x.grad

    expected = step(x).clone()
    x.grad = None
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(step, backend="aot_eager")(x)
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_jit_trace(public: str, device: str) -> None:
    x = layouts.normal((5,), torch.float32, device)
    traced = torch.jit.trace(mish_cuda.mish, x)
    if public == "compiled":
        assert "mish_cuda::mish" in str(traced.graph)
    y = layouts.normal((3, 3), torch.float32, device, seed=1)
    torch.testing.assert_close(traced(y), mish_cuda.mish(y))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), mish_cuda.Mish(), nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return mish_cuda.mish(self.layers(x))


@pytest.mark.parametrize("strict", [False, True])
def test_export(public: str, strict: bool, device: str) -> None:
    network = Network().to(device)
    x = layouts.normal((6, 4), torch.float32, device)
    program = torch.export.export(network, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), network(x))


def test_fx_symbolic_trace(public: str) -> None:
    x = torch.randn(3, 4)
    network = Network()
    traced = torch.fx.symbolic_trace(network)
    torch.testing.assert_close(traced(x), network(x))
    assert any(node.target is mish_cuda.mish for node in traced.graph.nodes)


# --- Modes, subclasses, profilers ---


@needs_extension
def test_profiler_names_the_op(compiled: Path, device: str) -> None:
    x = torch.randn(5, device=device, requires_grad=True)
    with torch.profiler.profile() as profile:
        compiled.mish(x).sum().backward()
        with torch.no_grad():
            compiled.mish_(x)
    names = {event.name for event in profile.events()}
    assert {"mish_cuda::mish", "mish_cuda::mish_", "mish_cuda::mish_backward"} <= names


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


@needs_extension
def test_dispatch_mode_sees_every_call(compiled: Path, device: str) -> None:
    x = torch.randn(5, device=device)
    with Recorder() as recorder:
        compiled.mish(x)
        compiled.mish_(x)
        compiled.mish_out(x, torch.empty_like(x))
        mish_cuda.mish_backward(x, x)
    ours = [str(func) for func in recorder.calls if func.namespace == "mish_cuda"]
    assert ours == [
        *("mish_cuda.mish.default", "mish_cuda.mish_.default"),
        *("mish_cuda.mish.out", "mish_cuda.mish_backward.default"),
    ]


PUBLIC_CALLS: dict[str, Callable[[Tensor], Any]] = {
    "mish": lambda x: mish_cuda.mish(x),
    "mish inplace": lambda x: mish_cuda.mish(x, inplace=True),
    "mish out": lambda x: mish_cuda.mish(x, out=x),
    "mish_": lambda x: mish_cuda.mish_(x),
    "Mish": lambda x: mish_cuda.Mish()(x),
    "MishCudaFunction": lambda x: mish_cuda.MishCudaFunction.apply(x),
    "mish_forward": lambda x: mish_cuda.mish_forward(x),
}
EVERY_CALL = pytest.mark.parametrize("call", PUBLIC_CALLS.values(), ids=PUBLIC_CALLS)


@EVERY_CALL
def test_function_mode_sees_every_call(
    public: str, call: Callable[[Tensor], Any], device: str
) -> None:
    class Seen(TorchFunctionMode):
        functions: list[Any] = []  # noqa: RUF012

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.functions.append(func)
            return func(*args, **(kwargs or {}))

    x = torch.randn(4, device=device)
    expected = mish_cuda.mish(x)
    with Seen() as seen:
        result = call(x)
    assert reference.same_bits(result, expected)
    assert any(func in (mish_cuda.mish, mish_cuda.mish_) for func in seen.functions)


class Logged(Tensor):
    """A subclass that notes what is done to it."""

    calls: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    Logged.calls.clear()
    yield Logged.calls
    Logged.calls.clear()


@EVERY_CALL
def test_subclass_sees_every_call(
    public: str, call: Callable[[Tensor], Any], logged: list[Any], device: str
) -> None:
    x = torch.randn(4, device=device)
    expected = mish_cuda.mish(x)
    result = call(x.as_subclass(Logged))
    assert type(result) is Logged
    assert any(func in (mish_cuda.mish, mish_cuda.mish_) for func in logged)
    assert reference.same_bits(result.as_subclass(Tensor), expected)


def test_subclass_of_out_sees_the_call(public: str, logged: list[Any], device: str) -> None:
    x, out = torch.randn(4, device=device), torch.empty(4, device=device).as_subclass(Logged)
    mish_cuda.mish(x, out=out)
    assert mish_cuda.mish in logged
    assert reference.same_bits(out.as_subclass(Tensor), mish_cuda.mish(x))


def test_parameters_and_buffers(public: str, device: str) -> None:
    """Subclasses of Tensor in name only."""
    parameter = nn.Parameter(torch.randn(3, device=device))
    assert type(mish_cuda.mish(parameter)) is Tensor
    buffer = nn.Buffer(torch.randn(3, device=device))
    torch.testing.assert_close(mish_cuda.mish(buffer), F.mish(buffer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_dtype(
    public: str, width: torch.dtype, device: str, dtype: torch.dtype
) -> None:
    x = torch.randn(5, device=device, dtype=dtype, requires_grad=True)
    with torch.autocast(device, width):
        y = mish_cuda.mish(x)
        assert y.dtype == F.mish(x).dtype == dtype
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("width", [torch.bfloat16, torch.float16], ids=str)
def test_layer_after_an_autocast_layer(public: str, width: torch.dtype, device: str) -> None:
    layers = nn.Sequential(nn.Linear(3, 4), mish_cuda.Mish()).to(device)
    with torch.autocast(device, width):
        assert layers(torch.randn(2, 3, device=device)).dtype == width


def test_no_warnings(path: Path, device: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.randn(4, device=device, requires_grad=True)
        path.mish(x).sum().backward()
