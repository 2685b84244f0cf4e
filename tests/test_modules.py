"""The layers, and the names of the old mish-cuda package."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mish_cuda
import reference
from conftest import needs_extension

LAYERS = pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
INPLACE = pytest.mark.parametrize("inplace", [False, True])
Layer = type[mish_cuda.Mish]


def torch_save(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "deepcopy": copy.deepcopy,
    "torch.save": torch_save,
}


@LAYERS
@INPLACE
def test_layer(layer: Layer, inplace: bool, device: str) -> None:
    x = torch.randn(3, 4, device=device)
    expected = mish_cuda.mish(x)
    result = layer(inplace)(x)
    assert reference.same_bits(result, expected)
    assert (result is x) == inplace


@INPLACE
def test_repr_is_that_of_torchs_layer(inplace: bool) -> None:
    assert repr(mish_cuda.Mish(inplace)) == repr(nn.Mish(inplace))
    assert repr(mish_cuda.MishCuda(inplace)) == repr(nn.Mish(inplace)).replace("Mish", "MishCuda")


@LAYERS
def test_arguments_are_those_of_torchs_layer(layer: Layer) -> None:
    assert layer().inplace is False
    assert layer(inplace=True).inplace is True
    with pytest.raises(TypeError, match="unexpected keyword"):
        layer(beta=1.0)  # type: ignore[call-arg]


@LAYERS
def test_layer_has_no_state(layer: Layer) -> None:
    assert layer().state_dict() == {}
    assert list(layer().parameters()) == []
    layer().load_state_dict({})


@LAYERS
@INPLACE
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies(layer: Layer, inplace: bool, duplicate: Callable[[Any], Any]) -> None:
    model = nn.Sequential(nn.Linear(3, 2), layer(inplace))
    again = duplicate(model)
    assert type(again[1]) is layer
    assert again[1].inplace is inplace
    x = torch.randn(5, 3)
    torch.testing.assert_close(again(x), model(x))


@LAYERS
def test_pickles_name_the_public_class(layer: Layer) -> None:
    assert f"cmish_cuda\n{layer.__name__}\n".encode() in pickle.dumps(layer(), protocol=0)


@pytest.mark.parametrize("name", ["Mish", "MishCuda"])
def test_old_pickles_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance written when the layer had no attributes of its own, by another package."""
    old = types.ModuleType("mish_cuda")
    layer = type(name, (nn.Module,), {"__module__": "mish_cuda"})
    setattr(old, name, layer)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mish_cuda", old)
        instance = layer()
        del instance.__dict__["_is_full_backward_hook"]  # torch itself was older, too
        data = pickle.dumps(nn.Sequential(instance))
    assert b"inplace" not in data
    (loaded,) = pickle.loads(data)
    assert type(loaded) is getattr(mish_cuda, name)
    x = torch.randn(7, requires_grad=True)
    result = loaded(x)
    assert reference.same_bits(result, mish_cuda.mish(x))
    result.sum().backward()
    assert repr(loaded) == f"{name}()"
    assert reference.same_bits(copy.deepcopy(loaded)(x), result)


def train(layer: Callable[[], nn.Module], device: str) -> tuple[list[float], list[Tensor]]:
    """Losses and weights of a few steps of a small network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), layer()),
        *(nn.Conv2d(8, 4, 3), layer(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2), layer()),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, target = torch.randn(6, 3, 10, 10).to(device), torch.randn(6, 2).to(device)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach() for parameter in model.parameters()]


@LAYERS
@INPLACE
def test_training_as_with_torchs_layer(layer: Layer, inplace: bool, device: str) -> None:
    losses, weights = train(lambda: layer(inplace), device)
    expected_losses, expected_weights = train(nn.Mish, device)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-3, atol=1e-4)


# --- Functions ---


def test_public_names() -> None:
    assert {
        *("mish", "mish_", "Mish", "backend"),
        *("MishCuda", "MishCudaFunction", "mish_forward", "mish_backward"),
    } <= set(mish_cuda.__all__)
    for name in mish_cuda.__all__:
        assert hasattr(mish_cuda, name)


def test_mish_in_its_three_forms(device: str) -> None:
    x = torch.randn(9, device=device)
    expected = mish_cuda.mish(x)
    out = torch.empty_like(x)
    assert mish_cuda.mish(x, out=out) is out
    assert reference.same_bits(out, expected)
    for function in (mish_cuda.mish_, lambda t: mish_cuda.mish(t, inplace=True)):
        y = x.clone()
        assert function(y) is y
        assert reference.same_bits(y, expected)


def test_old_function(device: str) -> None:
    x = torch.randn(9, device=device, requires_grad=True)
    y = mish_cuda.MishCudaFunction.apply(x)
    assert reference.same_bits(y, mish_cuda.mish(x))
    y.sum().backward()
    torch.testing.assert_close(x.grad, reference.mish(x, 1).to(device, x.dtype))


MODULES = pytest.mark.parametrize(
    "module", ["mish_cuda", pytest.param("mish_cuda._C", marks=needs_extension)]
)


@MODULES
def test_old_forward(module: str, device: str) -> None:
    mish_forward = sys.modules[module].mish_forward
    x, out = torch.randn(9, device=device), torch.empty(9, device=device)
    expected = mish_cuda.mish(x)
    assert reference.same_bits(mish_forward(x), expected)
    assert reference.same_bits(mish_forward(x, None), expected)
    assert mish_forward(x, out) is out
    assert reference.same_bits(out, expected)
    assert reference.same_bits(mish_forward(input=x, out=out), expected)


@MODULES
def test_old_forward_warns_as_torch_does(module: str, device: str) -> None:
    x = torch.randn(9, device=device)
    with pytest.warns(UserWarning, match="was resized"):
        sys.modules[module].mish_forward(x, torch.empty(2, device=device))


@MODULES
def test_old_backward_takes_the_input_first(module: str, device: str) -> None:
    mish_backward = sys.modules[module].mish_backward
    x, g = torch.randn(9, device=device), torch.randn(9, device=device)
    expected = (g * reference.mish(x, 1).to(device)).to(x.dtype)
    torch.testing.assert_close(mish_backward(x, g), expected)
    torch.testing.assert_close(mish_backward(input=x, grad_out=g), expected)
