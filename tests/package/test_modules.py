"""The layers, and what the old mish-cuda package had: its names and its checkpoints."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from lookalikes import torch_save
from torch import nn

import mish_cuda
import reference
from conftest import needs_extension
from mish_cuda import old_checkpoints
from mish_cuda.old_checkpoints import NAMES

pytestmark = pytest.mark.filterwarnings(
    "ignore:Couldn't retrieve source code", r"ignore:`torch\.jit\.\w+` is deprecated"
)
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
    converted = {"converted_mish", "converted_mish_", "converted_mish_copy"}  # in old pickles
    for name in {*mish_cuda.__all__} - {"__version__"} | converted:
        item = getattr(mish_cuda, name)
        assert (item.__module__, item.__qualname__) == ("mish_cuda", name)
        assert pickle.loads(pickle.dumps(item)) is item


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


# --- Models pickled by renamed copies of the old package ---

TORCHS = [nn.Sequential, nn.Linear]


def checkpoint(
    name: str, monkeypatch: pytest.MonkeyPatch, layer: str = "MishCuda", **options: Any
) -> io.BytesIO:
    """A file of a whole model whose activation is of that module, with no attribute of its own."""
    written = type(layer, (nn.Module,), {"__module__": name})()
    del vars(written)["_is_full_backward_hook"]  # torch itself was older, too
    file = io.BytesIO()
    with monkeypatch.context() as patch:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            patch.setitem(sys.modules, prefix, ModuleType(prefix))
        vars(sys.modules[name])[layer] = type(written)
        torch.save(nn.Sequential(nn.Linear(3, 4), written), file, **options)
    assert layer.encode() in file.getvalue()
    assert b"inplace" not in file.getvalue()
    file.seek(0)
    return file


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
def test_models_of_the_old_package_load(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    file = checkpoint("mish_cuda", monkeypatch, layer.__name__)
    model = torch.load(file, weights_only=False)
    for other in (model, copy.deepcopy(model)):
        check_model(other, layer)


def state() -> tuple[set[str], set[str]]:
    """What the whole process shares: the modules, and the names that count as safe."""
    safe = torch.serialization.get_safe_globals()
    return set(sys.modules), {entry[1] for entry in safe if type(entry) is tuple}


@pytest.mark.parametrize("name", [*NAMES, "utils.vendored.mish"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_model_loads(name: str, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And saved again, it loads without help."""
    file = checkpoint(name, monkeypatch, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModuleNotFoundError, match=name.split(".")[0]):
        torch.load(file, weights_only=False)
    file.seek(0)
    with old_checkpoints(*({name} - {*NAMES})):
        model = torch.load(file, weights_only=False)
    check_model(model)
    check_model(torch_save(model))


def test_nothing_is_left_of_what_was_there() -> None:
    """Nor by an exception; and there are no warnings."""
    before = state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with old_checkpoints():
            assert set(sys.modules) - before[0] == {*NAMES, "mc", "mc.build", "mc.build.lib"}
            for name in NAMES:
                old = importlib.import_module(name)
                for item in ("MishCuda", "MishCudaFunction", "mish_forward", "mish_backward"):
                    assert getattr(old, item) is getattr(mish_cuda, item)
        assert state() == before
        with pytest.raises(EOFError), old_checkpoints():
            pickle.loads(b"")
        assert state() == before


@pytest.mark.parametrize("name", NAMES)
def test_weights_only_and_within_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer is allowed under its old name, torch's own classes are the caller's to allow; and
    the inner block takes nothing from the outer one."""
    before, file = state(), checkpoint(name, monkeypatch)
    with old_checkpoints():
        with old_checkpoints():
            pass
        with pytest.raises(pickle.UnpicklingError, match=r"torch\.nn"):
            torch.load(file, weights_only=True)
        file.seek(0)
        with torch.serialization.safe_globals(TORCHS):
            check_model(torch.load(file, weights_only=True))
    assert state() == before


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = checkpoint(NAMES[1], monkeypatch).getvalue()

    def load(_: int) -> None:
        for _ in range(20):
            with old_checkpoints():
                torch.load(io.BytesIO(data), weights_only=False)

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(load, range(4))] == [None] * 4
    assert not set(NAMES) & set(sys.modules)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder that modules are imported from, and forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("mish_mish", "mc"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "layer", "stays"),
    [
        ("MishCuda = int\n", int, True),
        ("raise ImportError('undefined symbol: _ZN2at6Tensor')\n", mish_cuda.MishCuda, False),
    ],
    ids=["can be imported", "a build that fits no more"],
)
def test_a_module_that_is_there(folder: Path, text: str, layer: type, stays: bool) -> None:
    """It is used if it can be imported, and replaced if not."""
    (folder / "mish_mish.py").write_text(text)
    with old_checkpoints():
        assert importlib.import_module("mish_mish").MishCuda is layer
    assert ("mish_mish" in sys.modules) is stays


def test_parents_that_can_be_imported_are_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mc").mkdir()
    (folder / "mc" / "__init__.py").write_text("there = True\n")
    file = checkpoint("mc.build.lib.mish_mish", monkeypatch)
    with old_checkpoints():
        assert importlib.import_module("mc").there
        check_model(torch.load(file, weights_only=False))
    assert "mc.build" not in sys.modules
