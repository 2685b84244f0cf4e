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

# torch 2.13 deprecates TorchScript with a warning at each call; it is still used to serve models.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")

LAYERS = pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
PLACES = pytest.mark.parametrize("inplace", [False, True], ids=["new", "inplace"])


def build(layer: type[nn.Module] = mish_cuda.Mish, inplace: bool = False) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), layer(inplace), nn.Linear(5, 3), layer(inplace))


def convert(model: nn.Module, how: str) -> torch.jit.ScriptModule:
    return torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.randn(2, 4))


def kinds(module: torch.jit.ScriptModule) -> list[str]:
    """The ops called Mish in a module, with layers inlined and what a flag rules out gone."""
    frozen = torch.jit.freeze(module.eval())
    return [node.kind() for node in frozen.graph.nodes() if "mish" in node.kind()]


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


def run(program: str, **env: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["trace", "script"])
@LAYERS
@PLACES
@needs_extension
def test_models(how: str, layer: type[nn.Module], inplace: bool) -> None:
    model = build(layer, inplace)
    module = convert(model, how)
    assert_alike(module, model)
    assert kinds(module) == ["mish_cuda::mish_" if inplace else "mish_cuda::mish"] * 2


@needs_extension
def test_functions_script() -> None:
    def function(x: Tensor, out: Tensor) -> Tensor:
        return mish_cuda.mish_(mish_cuda.mish(x, out=out))

    x, out = torch.randn(5), torch.empty(5)
    assert torch.jit.script(function)(x, out).data_ptr() == out.data_ptr()
    assert torch.equal(out, mish_cuda.mish(mish_cuda.mish(x)))


@PLACES
def test_traced_by_either_implementation(public: str, inplace: bool, tmp_path: Path) -> None:
    model = build(inplace=inplace)
    torch.jit.save(convert(model, "trace"), tmp_path / "model.pt")
    assert_alike(torch.jit.load(tmp_path / "model.pt"), model)


@needs_extension
def test_saved_models_need_the_library(tmp_path: Path) -> None:
    model, x = build(), torch.randn(2, 4)
    torch.save((x, model(x)), tmp_path / "expected.pt")
    for how in ("trace", "script"):
        torch.jit.save(convert(model, how), tmp_path / f"{how}.pt")
    run(f"""
import torch
files = [{str(tmp_path)!r} + "/" + how + ".pt" for how in ("trace", "script")]
for file in files:
    try:
        torch.jit.load(file)
    except RuntimeError as error:
        assert "Unknown builtin op: mish_cuda::mish" in str(error), error
    else:
        raise AssertionError(file)
import mish_cuda
x, expected = torch.load({str(tmp_path / "expected.pt")!r})
for file in files:
    assert torch.equal(torch.jit.load(file)(x), expected)
""")


def test_scripted_without_the_extension_a_model_holds_the_op_of_torch(tmp_path: Path) -> None:
    """In a new process, since TorchScript caches compiled functions."""
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
