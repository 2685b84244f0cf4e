"""torch.export, ONNX, AOTInductor and TorchScript, with the real exporters and runtimes."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import mish_cuda
import reference
from conftest import needs_extension
from mish_cuda import Mish, MishCuda, eager
from project import ROOT, run_python

# torch 2.13 deprecates TorchScript with a warning at each call; models are still served by it, and
# torch.onnx.export makes script functions.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")


class Calling(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


def each_function(x: Tensor) -> Tensor:
    written = mish_cuda.mish(x, out=torch.empty_like(x))
    return written + mish_cuda.mish(x) + mish_cuda.mish_(x.clone())


def model() -> nn.Module:
    layers = [nn.Linear(4, 5), Mish(), nn.Linear(5, 3), MishCuda(), Mish(inplace=True)]
    return nn.Sequential(*layers).eval()


def export(module: nn.Module, strict: bool = False) -> ExportedProgram:
    """A program for any number of rows."""
    x = torch.randn(3, 4)
    return torch.export.export(module, (x,), dynamic_shapes=({0: Dim("rows")},), strict=strict)


def assert_alike(module: nn.Module, model: nn.Module) -> None:
    """In values and in gradients."""
    x = torch.randn(6, 4)
    for _ in range(4):  # the first calls are profiled; later ones run an optimised graph
        results = []
        for net in (module, model):
            leaf = x.clone().requires_grad_()
            y = net(leaf)
            results.append([y, *torch.autograd.grad(y.square().sum(), (leaf, *net.parameters()))])
        torch.testing.assert_close(*results)


def mishes(program: ExportedProgram) -> list[str]:
    names = [str(node.target) for node in program.graph.nodes]
    return [name for name in names if ".mish" in name]


@pytest.mark.parametrize("strict", [False, True], ids=["relaxed", "strict"])
@pytest.mark.parametrize(
    ("make", "ops"),
    [
        (model, ["mish.default", "mish.default", "mish_.default"]),
        (lambda: Calling(each_function), ["mish.out", "mish.default", "mish_.default"]),
    ],
)
def test_export(
    public: str, make: Callable[[], nn.Module], ops: list[str], strict: bool, tmp_path: Path
) -> None:
    """Holds torch's ops, so that it runs without this library; it trains, also once loaded."""
    module = make()
    program = export(module, strict)
    assert mishes(program) == [f"aten.{op}" for op in ops]
    torch.export.save(program, tmp_path / "model.pt2")
    for exported in (program, torch.export.load(tmp_path / "model.pt2")):
        for rows in (1, 3, 50):
            x = torch.randn(rows, 4)
            torch.testing.assert_close(exported.module()(x), module(x))
        if make is model:
            assert_alike(exported.module(), module)


def with_our_formula(program: ExportedProgram) -> ExportedProgram:
    return program.run_decompositions({torch.ops.aten.mish.default: eager.value})


def test_our_formula_in_place_of_the_op_of_torch(tmp_path: Path) -> None:
    """Also compiled to a package, and loaded. From C++: see tests/cpp/libtorch/aoti.cpp."""
    program = with_our_formula(export(nn.Sequential(Mish(), Mish(inplace=True))))
    assert mishes(program) == []
    file = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=file)
    run = torch._inductor.aoti_load_package(file)
    special = torch.tensor([[-torch.inf, torch.inf, -90.0, 90.0], [-0.0, 0.0, 1.0, torch.nan]])
    for x in (special, *(10 * torch.randn(rows, 4) for rows in (1, 3, 50))):
        expected = eager.value(eager.value(x))
        torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(run(x), expected, equal_nan=True)


# --- ONNX ---


@pytest.fixture
def onnx() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"no {package}: pip install 'mish_cuda[test]'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # no news of absent torchvision


def check_onnx(
    program: Any, expected: Callable[[Tensor], Tensor], *inputs: Tensor, **tolerance: float
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        program.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (name,) = (argument.name for argument in session.get_inputs())
    for x in inputs or (3 * torch.randn(1, 4), 3 * torch.randn(50, 4)):
        result = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
        torch.testing.assert_close(result, expected(x.clone()).detach(), **tolerance)


def nodes(program: Any) -> Counter[str]:
    return Counter(node.op_type for node in program.graph.node)


def to_onnx(module: nn.Module, x: Tensor, opset: int | None = None, dynamo: bool = True) -> Any:
    """The model, for any number of rows, checked."""
    import onnx

    rows: Any = {"dynamic_shapes": ({0: Dim("rows")},), "verbose": False}
    if not dynamo:
        rows = {"input_names": ["x"], "dynamic_axes": {"x": {0: "rows"}}}
    file = io.BytesIO()
    torch.onnx.export(module.eval(), (x,), file, opset_version=opset, dynamo=dynamo, **rows)
    program = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(program, full_check=True)
    return program


def by_name() -> nn.Module:
    ops: Any = torch.ops.mish_cuda
    return Calling(lambda x: ops.mish_(ops.mish(x)))


@pytest.mark.parametrize("opset", [None, 18, 23])
@pytest.mark.parametrize("make", [model, pytest.param(by_name, marks=needs_extension)])
def test_onnx_has_one_node_per_call(
    public: str, onnx: None, make: Callable[[], nn.Module], opset: int | None
) -> None:
    module = make()
    program = to_onnx(module, torch.randn(3, 4), opset)
    assert nodes(program) == ({"Mish": 2} if make is by_name else {"Gemm": 2, "Mish": 3})
    check_onnx(program, module)


# --- The older exporter ---


def reading(write: Callable[[Tensor], Any]) -> nn.Module:
    """Reads a tensor after it was overwritten."""

    def function(x: Tensor) -> Tensor:
        y = x + 1
        write(y)
        return 2 * y

    return Calling(function)


OLDER: dict[str, Callable[[], nn.Module]] = {
    "layers": model,
    "overwritten": lambda: reading(mish_cuda.mish_),
    "out": lambda: reading(lambda y: mish_cuda.mish(y, out=y)),
    "script": lambda: torch.jit.script(model()),
    "trace": lambda: torch.jit.trace(model(), torch.randn(3, 4)),
}


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 20])
@pytest.mark.parametrize("name", OLDER)
def test_older_exporter(public: str, onnx: None, name: str, opset: int) -> None:
    if public == "eager" and name in ("out", "script"):
        pytest.skip("it exports no out=; scripts without the extension: below")
    module = OLDER[name]()
    program = to_onnx(module, torch.randn(3, 4), opset, dynamo=False)
    if public == "compiled":
        assert {*nodes(program)} & {"Mish", "Softplus"} == {"Mish" if opset >= 18 else "Softplus"}
    check_onnx(program, module)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 20])
def test_older_exporter_in_other_types(onnx: None, dtype: torch.dtype, opset: int) -> None:
    if dtype == torch.bfloat16 and opset < 13:
        pytest.skip("ONNX has no bfloat16 there")
    x = torch.linspace(-8, 8, 64).reshape(8, 8).to(dtype)
    program = to_onnx(nn.Sequential(Mish(), Mish(inplace=True)), x, opset, dynamo=False)
    if dtype == torch.float16:
        digits = {"rtol": 2**-8, "atol": 2**-12}
        check_onnx(program, lambda x: reference.mish(reference.mish(x)).half(), x, **digits)
    elif dtype == torch.float64:  # no node that runtimes lack
        assert {*nodes(program)} == {"Softplus", "Tanh", "Mul"}
    else:
        assert [program.graph.node[i].op_type for i in (0, -1)] == ["Cast", "Cast"]


# --- TorchScript: models traced and scripted hold one op per layer, differentiate, can be saved ---


def convert(model: nn.Module, how: str) -> torch.jit.ScriptModule:
    return torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.randn(2, 4))


def kinds(module: torch.jit.ScriptModule) -> list[str]:
    """The ops called Mish in a module, with layers inlined and what a flag rules out gone."""
    frozen = torch.jit.freeze(module.eval())
    return [node.kind() for node in frozen.graph.nodes() if "mish" in node.kind()]


@pytest.mark.parametrize("how", ["trace", "script"])
@pytest.mark.parametrize("layer", [Mish, MishCuda])
@pytest.mark.parametrize("inplace", [False, True], ids=["new", "inplace"])
def test_torchscript(
    public: str, how: str, layer: type[nn.Module], inplace: bool, tmp_path: Path
) -> None:
    """As it is made, and loaded from a file."""
    if (public, how) == ("eager", "script"):
        pytest.skip("TorchScript caches compiled functions: see below")
    model = nn.Sequential(nn.Linear(4, 5), layer(inplace), nn.Linear(5, 3), layer(inplace))
    module = convert(model, how)
    torch.jit.save(module, tmp_path / "model.pt")
    for net in (module, torch.jit.load(tmp_path / "model.pt")):
        assert_alike(net, model)
    if public == "compiled":
        assert kinds(module) == ["mish_cuda::mish_" if inplace else "mish_cuda::mish"] * 2


@needs_extension
def test_functions_script() -> None:
    def function(x: Tensor, out: Tensor) -> Tensor:
        return mish_cuda.mish_(mish_cuda.mish(x, out=out))

    x, out = torch.randn(5), torch.empty(5)
    assert torch.jit.script(function)(x, out).data_ptr() == out.data_ptr()
    assert torch.equal(out, mish_cuda.mish(mish_cuda.mish(x)))


def test_scripted_without_the_extension_a_model_holds_the_op_of_torch(tmp_path: Path) -> None:
    """In a new process, since TorchScript caches compiled functions."""
    file = tmp_path / "model.pt"
    program = f"""
import torch, mish_cuda
model = torch.nn.Sequential(mish_cuda.Mish(), mish_cuda.MishCuda(True))
torch.jit.save(torch.jit.script(model), {str(file)!r})
"""
    done = run_python("-c", program, cwd=ROOT, env={"MISH_CUDA_EAGER": "1"})
    assert done.returncode == 0, done.stderr
    module = torch.jit.load(file)
    assert kinds(module) == ["aten::mish", "aten::mish_"]
    x = torch.randn(7)
    torch.testing.assert_close(module(x), mish_cuda.mish(mish_cuda.mish(x)))
