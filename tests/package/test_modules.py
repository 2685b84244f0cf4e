"""The layers, and what the old mish-cuda package had: its names and its checkpoints."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import torch_save
from torch import nn

import mish_cuda
import reference
from conftest import needs_extension
from mish_cuda import old_checkpoints
from mish_cuda.old_checkpoints import NAMES

pytestmark = pytest.mark.filterwarnings(r"ignore:(Couldn't retrieve source|`torch\.jit\.\w+` is)")
LAYERS = pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
Layer = type[mish_cuda.Mish]


@LAYERS
@pytest.mark.parametrize("inplace", [False, True])
def test_layer(layer: Layer, inplace: bool, device: str, public: str) -> None:
    """It is torch's for whoever asks for the class."""
    ours = layer(inplace=inplace)
    x = torch.randn(3, 4, device=device)
    expected, result = mish_cuda.mish(x), ours(x)
    assert reference.same_bits(result, expected)
    assert (result is x) == inplace
    assert isinstance(ours, nn.Mish)
    assert repr(ours) == repr(nn.Mish(inplace)).replace("Mish", layer.__name__)
    assert (ours.inplace, layer().inplace) == (inplace, False)
    assert list(inspect.signature(layer).parameters) == ["inplace"]
    assert ours.state_dict() == {}


OLD = ("MishCuda", "MishCudaFunction", "mish_forward", "mish_backward")


def test_public_names_are_where_they_say() -> None:
    """In pickles, too, so that the library can be rearranged."""
    assert {"mish", "mish_", "Mish", "backend", *OLD} <= {*mish_cuda.__all__}
    converted = {"converted_mish", "converted_mish_", "converted_mish_copy"}  # in old pickles
    for name in {*mish_cuda.__all__} - {"__version__"} | converted:
        item = getattr(mish_cuda, name)
        assert (item.__module__, item.__qualname__) == ("mish_cuda", name)
        assert pickle.loads(pickle.dumps(item)) is item


@pytest.mark.parametrize(
    "module", ["mish_cuda", pytest.param("mish_cuda._C", marks=needs_extension)]
)
def test_old_forward_and_backward(module: str, device: str, public: str) -> None:
    """Backward takes the input first; a wrong size of `out` warns as torch does."""
    old = sys.modules[module]
    x, g, out = (torch.randn(9, device=device) for _ in range(3))
    for result in (old.mish_forward(x, None), old.mish_forward(input=x, out=out)):
        torch.testing.assert_close(result, reference.mish(x).float())
    assert result is out
    with pytest.warns(UserWarning, match="was resized"):
        old.mish_forward(x, torch.empty(2, device=device))
    slope = (g * reference.mish(x, 1)).float()
    torch.testing.assert_close(old.mish_backward(x, g), slope)
    torch.testing.assert_close(old.mish_backward(input=x, grad_out=g), slope)


# --- Models pickled by renamed copies of the old package ---


def checkpoint(name: str, layer: Layer = mish_cuda.MishCuda, **options: Any) -> bytes:
    """A file of a whole model whose activation is of that module, with no attribute of its own."""
    written, file = layer(), io.BytesIO()
    for attribute in ("inplace", "__module__", "_is_full_backward_hook"):  # torch was older, too
        del vars(written)[attribute]
    with old_checkpoints(name), pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "__module__", name)
        torch.save(nn.Sequential(nn.Linear(3, 4), written), file, **options)
    assert f"{name}\n{layer.__name__}\n".encode() in file.getvalue()
    assert b"inplace" not in file.getvalue()
    return file.getvalue()


def load(data: bytes, weights_only: bool = False) -> Any:
    return torch.load(io.BytesIO(data), weights_only=weights_only)


def check_model(model: Any, layer: Layer = mish_cuda.MishCuda) -> None:
    """A model as `checkpoint` wrote it, with the library's own layer in it, that works."""
    linear, activation = model
    assert type(activation) is layer
    assert repr(activation) == f"{layer.__name__}()"
    x = torch.randn(5, 3, requires_grad=True)
    result = model(x)
    assert reference.same_bits(result, mish_cuda.mish(linear(x)))
    result.sum().backward()
    assert reference.same_bits(torch.jit.script(model)(x), result)


@LAYERS
def test_models_of_the_old_package_load(layer: Layer) -> None:
    check_model(copy.deepcopy(load(checkpoint("mish_cuda", layer))), layer)


def state() -> tuple[set[str], set[str]]:
    """What the whole process shares: the modules, and the names that count as safe."""
    safe = torch.serialization.get_safe_globals()
    return set(sys.modules), {entry[1] for entry in safe if type(entry) is tuple}


@pytest.mark.parametrize("name", [*NAMES, "utils.vendored.mish"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_model_loads(name: str, zipped: bool) -> None:
    """And saved again, it loads without help. The layer counts as safe under its old name; torch's
    own classes are the caller's to allow. An inner block takes nothing from an outer one, and
    nothing is left after it, nor after an exception."""
    data = checkpoint(name, _use_new_zipfile_serialization=zipped)
    before = state()
    with pytest.raises(ModuleNotFoundError, match=name.split(".")[0]):
        load(data)
    with suppress(EOFError), old_checkpoints(*({name} - {*NAMES})):
        with old_checkpoints():
            pass
        model = load(data)
        old = importlib.import_module(name)
        assert all(getattr(old, item) is getattr(mish_cuda, item) for item in OLD)
        if zipped:
            with pytest.raises(pickle.UnpicklingError, match=r"torch\.nn"):
                load(data, weights_only=True)
            with torch.serialization.safe_globals([nn.Sequential, nn.Linear]):
                check_model(load(data, weights_only=True))
        pickle.loads(b"")
    assert state() == before
    check_model(model)
    check_model(torch_save(model))


def test_threads() -> None:
    data = checkpoint(NAMES[1])

    def load_it(_: int) -> None:
        with old_checkpoints():
            load(data)

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(load_it, range(80))] == [None] * 80
    assert not set(NAMES) & set(sys.modules)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("file", "text", "layer"),
    [
        ("mish_mish.py", "MishCuda = int", int),
        ("mish_mish.py", "raise ImportError('a build that fits no more')", mish_cuda.MishCuda),
        ("mc/__init__.py", "MishCuda = int", int),  # a parent
    ],
)
def test_a_module_that_is_there(
    file: str, text: str, layer: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used if it can be imported, and replaced if not."""
    name = Path(file).parts[0].removesuffix(".py")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with old_checkpoints():
        assert importlib.import_module(name).MishCuda is layer
        assert importlib.import_module(NAMES[1]).MishCuda is mish_cuda.MishCuda
    assert "mc.build" not in sys.modules
    assert (sys.modules.pop(name, None) is not None) is (layer is int)
