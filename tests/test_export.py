"""torch.export, ONNX and AOTInductor, with the real exporters and runtimes."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import mish_cuda
from conftest import needs_extension
from mish_cuda import Mish, MishCuda, compile_with, eager, functional

needs_onnx = pytest.mark.usefixtures("onnx_packages")
SPECIAL = torch.tensor([-torch.inf, torch.inf, -90.0, 90.0, -0.0, 0.0])


# torch.onnx.export makes script functions, which torch 2.13 deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")


@pytest.fixture(params=["decomposition", pytest.param("kernel", marks=needs_extension)])
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose ops exported programs hold: torch's ("aten") or ours ("mish_cuda")."""
    before = functional._compiles_with
    compile_with(request.param)
    yield "aten" if request.param == "decomposition" else "mish_cuda"
    compile_with(before)


@pytest.fixture
def onnx_packages() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"no {package}: pip install 'mish_cuda[test]'")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # no news of absent torchvision


class Calls(nn.Module):
    """Each of the functions once."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        written = mish_cuda.mish(x, out=torch.empty_like(x))
        return mish_cuda.mish(x), mish_cuda.mish_(x.clone()), written


class Op(nn.Module):
    """The library's op by its name, whatever compile_with says."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mish_cuda.mish_(torch.ops.mish_cuda.mish(x))  # type: ignore[no-any-return]


def model() -> nn.Module:
    layers = [nn.Linear(4, 5), Mish(), nn.Linear(5, 3), MishCuda(), Mish(inplace=True)]
    return nn.Sequential(*layers).eval()


def export(module: nn.Module, strict: bool = False, length: int = 4) -> ExportedProgram:
    """A program for any number of rows."""
    x = torch.randn(3, length)
    return torch.export.export(module, (x,), dynamic_shapes=({0: Dim("rows")},), strict=strict)


def mishes(program: ExportedProgram) -> list[str]:
    names = [str(node.target) for node in program.graph.nodes]
    return [name for name in names if ".mish" in name]


@pytest.mark.parametrize("strict", [False, True], ids=["relaxed", "strict"])
def test_export(library: str, strict: bool) -> None:
    module = model()
    program = export(module, strict)
    assert mishes(program) == [f"{library}.{op}.default" for op in ("mish", "mish", "mish_")]
    for rows in (1, 3, 50):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("strict", [False, True], ids=["relaxed", "strict"])
def test_export_of_each_function(library: str, strict: bool) -> None:
    program = export(Calls(), strict)
    expected = ["mish.out", "mish.default", "mish_.default"]
    assert mishes(program) == [f"{library}.{op}" for op in expected]
    x = torch.randn(9, 4)
    for y in program.module()(x):
        torch.testing.assert_close(y, mish_cuda.mish(x))


def test_an_exported_program_trains(library: str) -> None:
    module = model().train()
    exported = export(module).module()
    x = torch.randn(6, 4)
    parameters = dict(module.named_parameters())
    expected = torch.autograd.grad(module(x).square().sum(), list(parameters.values()))
    own = dict(exported.named_parameters())
    actual = torch.autograd.grad(exported(x).square().sum(), [own[name] for name in parameters])
    torch.testing.assert_close(actual, expected)


def test_a_program_saved_and_loaded(library: str, tmp_path: Path) -> None:
    module = model()
    torch.export.save(export(module), tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2")
    x = torch.randn(2, 4)
    torch.testing.assert_close(program.module()(x), module(x))


def with_our_formula(program: ExportedProgram) -> ExportedProgram:
    return program.run_decompositions({torch.ops.aten.mish.default: eager.value})


def test_our_formula_in_place_of_the_op_of_torch() -> None:
    program = with_our_formula(export(nn.Sequential(Mish(), Mish(inplace=True)), length=6))
    assert mishes(program) == []
    x = torch.cat([SPECIAL[None], torch.randn(20, 6) * 10])
    torch.testing.assert_close(program.module()(x), eager.value(eager.value(x)), rtol=0, atol=0)


# --- AOTInductor ---


def package(program: ExportedProgram, folder: Path) -> Any:
    """The program compiled to a package, and loaded."""
    file = str(folder / "model.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=file)
    return torch._inductor.aoti_load_package(file)


def test_aot_inductor(library: str, tmp_path: Path) -> None:
    """From C++ see examples/cpp/aoti.cpp."""
    program = export(nn.Sequential(nn.Linear(6, 6), Mish(), MishCuda(inplace=True)), length=6)
    if library == "aten":
        program = with_our_formula(program)
    run = package(program, tmp_path)
    with torch.no_grad():
        for rows in (1, 3, 50):
            x = 10 * torch.randn(rows, 6)
            torch.testing.assert_close(run(x), program.module()(x))


# --- ONNX ---


def to_onnx(module: nn.Module, x: Tensor, **options: Any) -> Any:
    from mish_cuda.onnx import translation_table

    if functional.C is not None:
        options["custom_translation_table"] = translation_table()
    return torch.onnx.export(module.eval(), (x,), dynamo=True, verbose=False, **options)


def nodes(program: Any) -> Counter[tuple[str, str]]:
    assert program.model.opset_imports[""] >= 18
    return Counter((node.domain, node.op_type) for node in program.model.graph)


def run_onnx(program: Any, x: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (name,) = (argument.name for argument in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@needs_onnx
@pytest.mark.parametrize("opset", [None, 18, 23])
def test_onnx_has_one_node_per_layer(library: str, opset: int | None) -> None:
    module = model()
    program = to_onnx(
        module, torch.randn(3, 4), opset_version=opset, dynamic_shapes=({0: Dim("rows")},)
    )
    assert nodes(program) == {("", "Gemm"): 2, ("", "Mish"): 3}
    for rows in (1, 50):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(run_onnx(program, x), module(x).detach())


@needs_onnx
@needs_extension
def test_onnx_of_the_op_by_name() -> None:
    x = torch.randn(3, 4)
    program = to_onnx(Op(), x)
    assert nodes(program) == {("", "Mish"): 2}
    torch.testing.assert_close(run_onnx(program, x), Op()(x))


@needs_onnx
@needs_extension
def test_onnx_needs_the_table_for_the_op() -> None:
    """Should this fail, torch has learnt to do without, and the table may go."""
    with pytest.raises(torch.onnx.OnnxExporterError):
        torch.onnx.export(Op().eval(), (torch.randn(3),), dynamo=True, verbose=False)


# onnxruntime 1.32 has no kernel of Mish: it runs softplus, tanh and a product, in float32. Their
# errors add up to 5e-7, measured, above -60; in float16 results are at most neighbours, 2^-10
# apart. It gives NaN at -inf, as F.mish does; in float64 and bfloat16 it runs no Mish at all.
@needs_onnx
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float16, 2**-10)], ids=["float32", "float16"]
)
def test_onnxruntime_agrees(dtype: torch.dtype, rtol: float) -> None:
    x = torch.cat([torch.linspace(-60, 100, 100_001), torch.tensor([torch.inf, torch.nan])])
    x = x.to(dtype)
    program = to_onnx(Mish(), x)
    torch.testing.assert_close(
        run_onnx(program, x), mish_cuda.mish(x), rtol=rtol, atol=0, equal_nan=True
    )


@needs_onnx
@needs_extension
def test_the_table_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from mish_cuda import _extension
    from mish_cuda.onnx import translation_table

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        translation_table()
    monkeypatch.setattr(_extension, "C", None)
    with pytest.raises(RuntimeError, match="need no table"):
        translation_table()
