"""The layers, and the names of the old mish-cuda package."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import types

import pytest
import torch
from torch import nn

import mish_cuda
import reference
from conftest import needs_extension

LAYERS = pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
Layer = type[mish_cuda.Mish]


@LAYERS
@pytest.mark.parametrize("inplace", [False, True])
def test_layer(layer: Layer, inplace: bool, device: str) -> None:
    """It is torch's for whoever asks for the class; not for who asks for exactly that."""
    ours, torchs = layer(inplace=inplace), nn.Mish(inplace)
    x = torch.randn(3, 4, device=device)
    expected = mish_cuda.mish(x)
    result = ours(x)
    assert reference.same_bits(result, expected)
    assert (result is x) == inplace
    assert isinstance(ours, nn.Mish)
    assert type(ours) is not nn.Mish
    assert repr(ours) == repr(torchs).replace("Mish", layer.__name__)
    assert (ours.inplace, layer().inplace) == (inplace, False)
    assert list(inspect.signature(layer).parameters) == ["inplace"]
    assert ours.state_dict() == {}
    assert list(ours.parameters()) == []
    ours.load_state_dict({})


def test_public_names_are_where_they_say() -> None:
    """In pickles, too, so that the library can be rearranged."""
    old = {"MishCuda", "MishCudaFunction", "mish_forward", "mish_backward"}
    assert {"mish", "mish_", "Mish", "backend"} | old <= {*mish_cuda.__all__}
    for name in {*mish_cuda.__all__} - {"__version__"}:
        item = getattr(mish_cuda, name)
        assert (item.__module__, item.__qualname__) == ("mish_cuda", name)
        assert pickle.loads(pickle.dumps(item)) is item


@LAYERS
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_name_the_public_class(layer: Layer, protocol: int) -> None:
    data = pickle.dumps(layer(True), protocol)
    assert b"mish_cuda" in data
    assert b"mish_cuda." not in data
    loaded = pickle.loads(data)
    assert type(loaded) is layer
    assert loaded.inplace is True


@LAYERS
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")
def test_old_pickles_load(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance written when the layer had no attributes of its own, by another package."""
    old = types.ModuleType("mish_cuda")
    vars(old)[layer.__name__] = type(layer.__name__, (nn.Module,), {"__module__": "mish_cuda"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "mish_cuda", old)
        instance = vars(old)[layer.__name__]()
        del instance.__dict__["_is_full_backward_hook"]  # torch itself was older, too
        data = pickle.dumps(nn.Sequential(instance))
    assert b"inplace" not in data
    (loaded,) = pickle.loads(data)
    assert type(loaded) is layer
    x = torch.randn(7, requires_grad=True)
    result = loaded(x)
    assert reference.same_bits(result, mish_cuda.mish(x))
    result.sum().backward()
    assert repr(loaded) == f"{layer.__name__}()"
    for other in (copy.deepcopy(loaded), torch.jit.script(loaded)):
        assert reference.same_bits(other(x), result)


# --- Functions ---


@pytest.mark.parametrize(
    "module", ["mish_cuda", pytest.param("mish_cuda._C", marks=needs_extension)]
)
def test_old_forward_and_backward(module: str, device: str) -> None:
    """Backward takes the input first; a wrong size of `out` warns as torch does."""
    old = sys.modules[module]
    x, g, out = (torch.randn(9, device=device) for _ in range(3))
    expected = mish_cuda.mish(x)
    for result in (old.mish_forward(x), old.mish_forward(x, None)):
        assert reference.same_bits(result, expected)
    assert old.mish_forward(x, out) is old.mish_forward(input=x, out=out) is out
    assert reference.same_bits(out, expected)
    with pytest.warns(UserWarning, match="was resized"):
        old.mish_forward(x, torch.empty(2, device=device))
    slope = (g * reference.mish(x, 1).to(device)).to(x.dtype)
    torch.testing.assert_close(old.mish_backward(x, g), slope)
    torch.testing.assert_close(old.mish_backward(input=x, grad_out=g), slope)
