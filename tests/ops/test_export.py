"""torch.export, ONNX, AOTInductor and TorchScript, with the real exporters and runtimes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import mish_cuda
import reference
from conftest import needs_extension, slow
from mish_cuda import BatchNormMish1d, GroupNormMish, Mish, MishCuda, eager
from project import ROOT, run_python

# torch 2.13 deprecates TorchScript with a warning at each call; models are still served by it, and
# torch.onnx.export makes script functions.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")

Function = Callable[[Tensor], Tensor]

# --- What is exported: models of any number of rows of four numbers ---


class Calling(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.forward = function


class EachFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        mish_cuda.mish(x, out=out)
        return out + mish_cuda.mish(x) + mish_cuda.mish_(x.clone())


def overwritten(write: Callable[[Tensor], Any]) -> nn.Module:
    """Reads a tensor after it was overwritten."""

    def function(x: Tensor) -> Tensor:
        y = x + 1
        write(y)
        return 2 * y

    return Calling(function)


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), Mish(), nn.Linear(5, 3), MishCuda(), Mish(inplace=True))


def norms() -> nn.Module:
    layers = [nn.Unflatten(1, (2, 20)), BatchNormMish1d(2), GroupNormMish(1, 2), nn.Flatten()]
    return nn.Sequential(nn.Linear(4, 40), *layers)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: layers().eval(),
    "norms": norms,
    "norms in evaluation": lambda: norms().eval(),
    "scripted": lambda: torch.jit.script(layers().eval()),
    "traced": lambda: trace(layers().eval()),
    "functions": EachFunction,
    "by name": lambda: Calling(lambda x: torch.ops.mish_cuda.mish_(torch.ops.mish_cuda.mish(x))),
    "overwritten": lambda: overwritten(mish_cuda.mish_),
    "out": lambda: overwritten(lambda y: mish_cuda.mish(y, out=y)),
}

# --- Exporters: each gives the model, saved and loaded, and the ops in it ---

Exported = tuple[Function, list[str]]


def program_of(module: nn.Module, strict: bool = False) -> ExportedProgram:
    rows: Any = ({0: Dim("rows")},)
    return torch.export.export(module, (torch.randn(3, 4),), dynamic_shapes=rows, strict=strict)


def export(module: nn.Module, file: str, strict: bool = False) -> Exported:
    """It holds torch's ops, so that it runs without this library."""
    torch.export.save(program_of(module, strict), file)
    program = torch.export.load(file)
    assert "mish_cuda" not in str(program.graph)
    return program.module(), [str(node.target) for node in program.graph.nodes]


def torchscript(module: nn.Module, file: str, convert: Callable[[nn.Module], Any]) -> Exported:
    """The ops are those of evaluation, with layers inlined and what a flag rules out gone."""
    torch.jit.save(convert(module), file)
    frozen = torch.jit.freeze(torch.jit.load(file).eval())
    return torch.jit.load(file), [node.kind() for node in frozen.graph.nodes()]


def onnx(
    module: nn.Module, file: str, opset: int | None = None, dynamo: bool = True, x: Any = None
) -> Exported:
    """For any number of rows, checked."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"no {package}: pip install 'mish_cuda[test]'")
    import onnx
    from onnxruntime import InferenceSession

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # no news of absent torchvision
    rows: Any = {"dynamic_shapes": ({0: Dim("rows")},), "verbose": False}
    if not dynamo:
        rows = {"input_names": ["x"], "dynamic_axes": {"x": {0: "rows"}}}
    x = torch.randn(3, 4) if x is None else x
    torch.onnx.export(module.eval(), (x,), file, opset_version=opset, dynamo=dynamo, **rows)
    program = onnx.load(file)
    onnx.checker.check_model(program, full_check=True)

    def run(x: Tensor) -> Tensor:
        session = InferenceSession(file, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: x.numpy()}
        return torch.from_numpy(session.run(None, inputs)[0])

    return run, [node.op_type for node in program.graph.node]


def trace(module: nn.Module) -> Any:
    return torch.jit.trace(module, torch.randn(3, 4))


OLDER_OPSETS = [9, 11, 13, 17, 18, 20]
IN_PROGRAMS = ["aten.mish.default", "aten.mish.default", "aten.mish_.default"]
IN_TORCHSCRIPT = ["mish_cuda::mish", "mish_cuda::mish", "mish_cuda::mish_"]
OTHERS = ["functions", "norms", "norms in evaluation"]
# With the ops for the Mish layers of "layers", and the other models that it exports.
EXPORTERS: dict[str, tuple[Callable[[nn.Module, str], Exported], list[str], list[str]]] = {
    "export": (export, IN_PROGRAMS, OTHERS),
    "strict export": (partial(export, strict=True), IN_PROGRAMS, OTHERS),
    "trace": (partial(torchscript, convert=trace), IN_TORCHSCRIPT, OTHERS),
    "script": (partial(torchscript, convert=torch.jit.script), IN_TORCHSCRIPT, OTHERS),
    **{
        f"ONNX {opset}": (partial(onnx, opset=opset), ["Mish"] * 3, ["by name"])
        for opset in (None, 18, 23)
    },
    **{
        f"older ONNX {opset}": (
            partial(onnx, opset=opset, dynamo=False),
            ["Mish" if opset >= 18 else "Softplus"] * 3,
            ["scripted", "traced", "overwritten", "out"],
        )
        for opset in OLDER_OPSETS
    },
}


@pytest.mark.parametrize(
    ("exporter", "model"),
    [
        slow(name, model) if "ONNX" in name else (name, model)
        for name, (*_, others) in EXPORTERS.items()
        for model in ["layers", *others]
    ],
)
def test_exported(public: str, exporter: str, model: str, tmp_path: Path) -> None:
    """Values for other numbers of rows, gradients where the exported model has them, and ops."""
    if public == "eager" and (exporter == "script" or model in ("scripted", "out", "by name")):
        pytest.skip("not exported without the extension; scripts: see below")
    module, (to, expected, _) = MODELS[model](), EXPORTERS[exporter]
    function, ops = to(module, str(tmp_path / "model.pt2"))
    trains = model == "layers" and isinstance(function, nn.Module)
    for rows in (1, 3, 50, 50, 50, 50):  # TorchScript optimises the graph after the first calls
        x = torch.randn(rows, 4, requires_grad=trains)
        results = []
        for net in (function, module):
            y: Any = net(x)
            results.append([y])
            if trains:
                results[-1] += torch.autograd.grad(y.square().sum(), [x, *net.parameters()])
        torch.testing.assert_close(*results)
    found = [op for op in ops if op in expected]
    if public == "eager" and ("older" in exporter or exporter == "trace"):
        assert not found
    elif model == "layers":
        assert found == expected
        assert not exporter.startswith("ONNX") or sorted(ops) == ["Gemm"] * 2 + ["Mish"] * 3
    elif "norms" not in model:
        assert found


@pytest.mark.slow
def test_our_formula_in_place_of_the_op_of_torch(tmp_path: Path) -> None:
    """Also compiled to a package, and loaded. From C++: see tests/cpp/libtorch/aoti.cpp."""
    program = program_of(nn.Sequential(Mish(), Mish(inplace=True)))
    program = program.run_decompositions({torch.ops.aten.mish.default: eager.value})
    assert "mish" not in str(program.graph)
    file = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=file)
    run = torch._inductor.aoti_load_package(file)
    special = torch.tensor([[-torch.inf, torch.inf, -90.0, 90.0], [-0.0, 0.0, 1.0, torch.nan]])
    for x in (special, *(10 * torch.randn(rows, 4) for rows in (1, 3, 50))):
        expected = eager.value(eager.value(x))
        torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(run(x), expected, equal_nan=True)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("opset", OLDER_OPSETS)
def test_older_exporter_in_other_types(dtype: torch.dtype, opset: int, tmp_path: Path) -> None:
    if dtype == torch.bfloat16 and opset < 13:
        pytest.skip("ONNX has no bfloat16 there")
    x = torch.linspace(-8, 8, 64).reshape(8, 8).to(dtype)
    module = nn.Sequential(Mish(), Mish(inplace=True))
    function, ops = onnx(module, str(tmp_path / "model.onnx"), opset, dynamo=False, x=x)
    if dtype == torch.float16:
        expected = reference.mish(reference.mish(x)).half()
        torch.testing.assert_close(function(x), expected, rtol=2**-8, atol=2**-12)
    elif dtype == torch.float64:  # no node that runtimes lack
        assert {*ops} == {"Softplus", "Tanh", "Mul"}
    else:
        assert [ops[0], ops[-1]] == ["Cast", "Cast"]


@pytest.mark.slow
def test_scripted_without_the_extension_a_model_holds_the_op_of_torch(tmp_path: Path) -> None:
    """In a new process, since TorchScript caches compiled functions."""
    file = str(tmp_path / "model.pt")
    program = f"""
import torch, mish_cuda
model = torch.nn.Sequential(mish_cuda.Mish(), mish_cuda.MishCuda(True))
torch.jit.save(torch.jit.script(model), {file!r})
"""
    run_python("-c", program, cwd=ROOT, env={"MISH_CUDA_EAGER": "1"}, status=0)
    module = torch.jit.load(file)
    x = torch.randn(7)
    torch.testing.assert_close(module(x), mish_cuda.mish(mish_cuda.mish(x)))
    kinds = [node.kind() for node in torch.jit.freeze(module.eval()).graph.nodes()]
    assert [kind for kind in kinds if "mish" in kind] == ["aten::mish", "aten::mish_"]
