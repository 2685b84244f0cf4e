"""TorchScript: models traced and scripted hold one op per layer, differentiate and can be saved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mish_cuda
from conftest import needs_extension

# torch 2.13 deprecates TorchScript, call by call; people go on serving models with it.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")

MAKERS = pytest.mark.parametrize("make", ["trace", "script"])
LAYERS = pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
PLACES = pytest.mark.parametrize("inplace", [False, True], ids=["new", "inplace"])


def build(layer: type[nn.Module] = mish_cuda.Mish, inplace: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), layer(inplace), nn.Linear(5, 3), layer(inplace))


def make_from(model: nn.Module, make: str) -> torch.jit.ScriptModule:
    if make == "script":
        return torch.jit.script(model)
    return torch.jit.trace(model, torch.randn(2, 4))


def kinds(module: torch.jit.ScriptModule) -> list[str]:
    """The ops called Mish in a module, with layers inlined and what a flag rules out gone."""
    frozen = torch.jit.freeze(module.eval())
    return [node.kind() for node in frozen.graph.nodes() if "mish" in node.kind()]


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).square().sum(), (x, *model.parameters()))


def run(program: str, **env: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@MAKERS
@LAYERS
@PLACES
@needs_extension
def test_models(make: str, layer: type[nn.Module], inplace: bool) -> None:
    model = build(layer, inplace)
    module = make_from(model, make)
    x = torch.randn(6, 4)
    for _ in range(4):  # the first calls are only watched; later ones run an optimised graph
        assert torch.equal(module(x), model(x))
        torch.testing.assert_close(gradients(module, x), gradients(model, x))
    assert kinds(module) == ["mish_cuda::mish_" if inplace else "mish_cuda::mish"] * 2


@needs_extension
def test_functions_script() -> None:
    def with_out(x: Tensor, out: Tensor) -> Tensor:
        return mish_cuda.mish(x, out=out)

    def in_place(x: Tensor) -> Tensor:
        return mish_cuda.mish_(x)

    x, out = torch.randn(5), torch.empty(5)
    torch.jit.script(with_out)(x, out)
    assert torch.equal(out, mish_cuda.mish(x))
    copy = x.clone()
    assert torch.jit.script(in_place)(copy).data_ptr() == copy.data_ptr()
    assert torch.equal(copy, out)


@PLACES
def test_traced_by_either_implementation(public: str, inplace: bool, tmp_path: Path) -> None:
    model = build(inplace=inplace)
    torch.jit.save(torch.jit.trace(model, torch.randn(2, 4)), tmp_path / "model.pt")
    module = torch.jit.load(tmp_path / "model.pt")
    x = torch.randn(6, 4)
    torch.testing.assert_close(module(x), model(x))
    torch.testing.assert_close(gradients(module, x), gradients(model, x))


@needs_extension
def test_saved_models_need_the_library(tmp_path: Path) -> None:
    model, x = build(), torch.randn(2, 4)
    torch.save((x, model(x)), tmp_path / "expected.pt")
    for make in ("trace", "script"):
        torch.jit.save(make_from(model, make), tmp_path / f"{make}.pt")
    run(f"""
import torch
folder = {str(tmp_path)!r}
for make in ("trace", "script"):
    try:
        torch.jit.load(f"{{folder}}/{{make}}.pt")
    except RuntimeError as error:
        assert "Unknown builtin op: mish_cuda::mish" in str(error), error
    else:
        raise AssertionError(make)
import mish_cuda
x, expected = torch.load(f"{{folder}}/expected.pt")
for make in ("trace", "script"):
    assert torch.equal(torch.jit.load(f"{{folder}}/{{make}}.pt")(x), expected)
""")


def test_scripted_without_the_extension_a_model_holds_the_op_of_torch(tmp_path: Path) -> None:
    """In a process of its own: TorchScript keeps what it compiled of a function before."""
    file = tmp_path / "model.pt"
    run(
        f"""
import torch, mish_cuda
model = torch.nn.Sequential(mish_cuda.Mish(), mish_cuda.MishCuda(True))
torch.jit.save(torch.jit.script(model), {str(file)!r})
""",
        MISH_CUDA_EAGER="1",
    )
    module = torch.jit.load(file)
    assert kinds(module) == ["aten::mish", "aten::mish_"]
    x = torch.randn(7)
    torch.testing.assert_close(module(x), mish_cuda.mish(mish_cuda.mish(x)))
