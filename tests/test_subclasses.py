"""What other parts of torch put around tensors and layers: overrides, modes, hooks, files."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

import layouts
import mish_cuda
import reference
from conftest import Path, needs_extension

# --- __torch_function__ ---


class Instead:
    """No tensor, but it says what to call in place of a function of torch's or this library's."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func, args, kwargs or {}


def test_objects_that_are_no_tensors(public: str) -> None:
    """The call arrives as it was made, and nothing is computed."""
    x, out = Instead(), torch.empty(3)
    mish: Any = mish_cuda.mish
    assert mish(x) == (mish_cuda.mish, (x,), {"inplace": False, "out": None})
    assert mish(x, inplace=True) == (mish_cuda.mish, (x,), {"inplace": True, "out": None})
    assert mish(x, out=out)[2]["out"] is out
    assert mish_cuda.mish_(x) == (mish_cuda.mish_, (x,), {})  # type: ignore[arg-type, comparison-overlap]
    assert mish_cuda.Mish()(x) == mish(x)


class Meters(Tensor):
    """A subclass that keeps an attribute through every function."""

    unit = ""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, Meters):
            result.unit = next(a.unit for a in args if isinstance(a, Meters))
        return result


def test_subclass_keeps_its_attributes_and_gradients(public: str, device: str) -> None:
    x = torch.randn(5, device=device).as_subclass(Meters).requires_grad_()
    x.unit = "m"
    y = mish_cuda.Mish()(x)
    assert isinstance(y, Meters)
    assert y.unit == "m"
    y.sum().backward()
    plain = x.detach().as_subclass(Tensor)
    torch.testing.assert_close(x.grad.as_subclass(Tensor), reference.mish(plain, 1).to(plain))


def test_function_mode_may_replace_it(public: str, device: str) -> None:
    """Whoever has a kernel of their own puts it here, for functions and layers alike."""

    class ByTorch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is mish_cuda.mish:
                return F.mish(args[0])
            return func(*args, **(kwargs or {}))

    x = torch.full((3,), -torch.inf, device=device)  # where the two differ
    with ByTorch():
        assert mish_cuda.mish(x).isnan().all()
        assert mish_cuda.Mish()(x).isnan().all()
    assert mish_cuda.mish(x).eq(0).all()


def test_modes_and_subclasses_switched_off(public: str) -> None:
    x = torch.randn(3).as_subclass(Meters)
    with torch._C.DisableTorchFunctionSubclass():
        assert type(mish_cuda.mish(x)) is Tensor


# --- Tensors without data, and tensors around tensors ---


def test_default_device_meta(public: str) -> None:
    """A model planned on the meta device computes shapes, forward and backward."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), mish_cuda.Mish(), mish_cuda.Mish(inplace=True))
        y = model(torch.empty(2, 3, 10, 10))
    assert (y.device.type, y.shape) == ("meta", (2, 8, 8, 8))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.parameters())


@pytest.mark.parametrize("inplace", [False, True])
def test_a_training_step_of_fake_tensors(public: str, inplace: bool, device: str) -> None:
    with FakeTensorMode(), torch.device(device):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), mish_cuda.Mish(inplace), nn.Flatten(), nn.Linear(512, 2)
        )
        x = torch.empty(4, 3, 10, 10).to(memory_format=torch.channels_last)
        y = model(x)
        y.sum().backward()
    assert isinstance(y, FakeTensor)
    assert y.device.type == device
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def view_in_place(x: Tensor) -> Tensor:
    y = x * 1
    mish_cuda.mish_(y[1:])
    return y


def to_out(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    mish_cuda.mish(x, out=out)
    return out


WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": lambda x: mish_cuda.mish(x),
    "mish_": lambda x: mish_cuda.mish_(x * 1),
    "mish_ of a view": view_in_place,
    "out": to_out,
}
EVERY_WRITE = pytest.mark.parametrize("function", WRITES.values(), ids=WRITES)


@EVERY_WRITE
def test_functionalize(public: str, function: Callable[[Tensor], Tensor], device: str) -> None:
    """Writes are made into values: the same result, and none of the ops writes."""
    x = layouts.normal((4, 3), torch.float32, device)
    functional = torch.func.functionalize(function)
    assert reference.same_bits(functional(x), function(x))
    graph = make_fx(functional)(x).graph
    ops = [node.target for node in graph.nodes if node.op == "call_function"]
    assert ops
    assert not any(op._schema.is_mutable for op in ops)


def test_functionalize_writes_back_to_an_input(public: str, device: str) -> None:
    x = layouts.normal((4, 3), torch.float32, device)
    expected = mish_cuda.mish(x)
    torch.func.functionalize(mish_cuda.mish_)(x)
    assert reference.same_bits(x, expected)


class Wrapper(Tensor):
    """A tensor around another, as quantised, distributed or nested tensors are."""

    elem: Tensor

    @staticmethod
    def __new__(cls, elem: Tensor) -> Wrapper:
        result = Tensor._make_wrapper_subclass(
            cls, elem.shape, dtype=elem.dtype, device=elem.device, strides=elem.stride()
        )
        result.elem = elem
        return result  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def unwrap(a: Any) -> Any:
            return a.elem if isinstance(a, cls) else a

        result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {}))
        if func._schema.is_mutable:
            return args[0]
        return tree_map(lambda a: cls(a) if isinstance(a, Tensor) else a, result)


def test_tensor_around_a_tensor(path: Path, device: str) -> None:
    """Value, gradient and second derivative, with the wrapper on the outside all the way."""
    elem = layouts.normal((7,), torch.float64, device)
    x = Wrapper(elem).requires_grad_()
    y = path.mish(x)
    assert isinstance(y, Wrapper)
    assert reference.same_bits(y.elem, path.mish(elem))
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert isinstance(first, Wrapper)
    torch.testing.assert_close(first.elem.detach(), reference.mish(elem, 1).to(device))
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second.elem, reference.mish(elem, 2).to(device))


def test_in_place_of_a_tensor_around_a_tensor(path: Path, device: str) -> None:
    elem = layouts.normal((7,), torch.float64, device)
    expected = path.mish(elem)
    x = Wrapper(elem)
    assert path.mish_(x) is x
    assert reference.same_bits(elem, expected)


# --- Modes that count and log ---


class Log(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


@needs_extension
def test_log_of_a_training_step(device: str) -> None:
    """One op forward and one backward, each of them this library's."""
    x = torch.randn(4, device=device, requires_grad=True)
    with Log() as log:
        mish_cuda.Mish()(x).backward(torch.ones(4, device=device))
    ours = [call for call in log.calls if "mish" in call]
    assert ours == ["mish_cuda.mish.default", "mish_cuda.mish_backward.default"]


def test_flop_counter(public: str, device: str) -> None:
    """Which counts matrix products only: as many with the layer as with torch's."""
    counts = []
    for layer in (mish_cuda.Mish(), nn.Mish()):
        model = nn.Sequential(nn.Linear(8, 16), layer, nn.Linear(16, 4)).to(device)
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(3, 8, device=device)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


# --- Saved tensors ---


def test_saved_tensors_hooks_see_the_input_alone(public: str, device: str) -> None:
    x = torch.randn(6, device=device, requires_grad=True)
    packed, unpacked = [], []

    def pack(t: Tensor) -> Tensor:
        packed.append(t)
        return t.half()

    def unpack(t: Tensor) -> Tensor:
        unpacked.append(t)
        return t.float()

    with saved_tensors_hooks(pack, unpack):
        y = mish_cuda.mish(x)
    assert len(packed) == 1
    assert reference.same_bits(packed[0], x)
    y.sum().backward()
    assert len(unpacked) == 1
    # What the hooks gave back is what the slope is taken at.
    torch.testing.assert_close(x.grad, reference.mish(x.half(), 1).to(x))


def test_saved_on_the_cpu(public: str, device: str) -> None:
    model = nn.Sequential(nn.Linear(3, 8), mish_cuda.Mish(), mish_cuda.Mish(True)).to(device)
    x = torch.randn(5, 3, device=device)
    gradients = []
    for offload in (False, True):
        model.zero_grad()
        with save_on_cpu(pin_memory=device == "cuda") if offload else torch.enable_grad():
            loss = model(x).sum()
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for kept, offloaded in zip(*gradients, strict=True):
        assert kept is not None
        assert offloaded is not None
        assert reference.same_bits(offloaded, kept)


# --- Layers ---


def test_parametrized_by_the_layer(public: str, device: str) -> None:
    """A weight that is Mish of what the optimizer sees."""
    linear = nn.Linear(3, 4).to(device)
    original = linear.weight.detach().clone()
    parametrize.register_parametrization(linear, "weight", mish_cuda.Mish())
    assert reference.same_bits(linear.weight, mish_cuda.mish(original))
    linear(torch.ones(1, 3, device=device)).sum().backward()
    gradient = linear.parametrizations.weight.original.grad
    torch.testing.assert_close(gradient, reference.mish(original, 1).to(original))
    parametrize.remove_parametrizations(linear, "weight")
    assert reference.same_bits(linear.weight, mish_cuda.mish(original))


class Block(nn.Module):
    """A layer of a user's own, which holds the activation and its function."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.act = mish_cuda.Mish(inplace=True)
        self.old = mish_cuda.MishCuda()
        self.function = mish_cuda.mish

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.old(self.act(self.linear(x))))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"]
)
def test_copies_of_a_layer_around_it(duplicate: Callable[[Any], Any]) -> None:
    block = Block()
    block.act.register_forward_hook(print)  # hooks are copied, too
    again = duplicate(block)
    assert again.function is mish_cuda.mish
    assert again.act is not block.act
    assert again.act.inplace is True
    assert len(again.act._forward_hooks) == 1
    again.act._forward_hooks.clear()
    block.act._forward_hooks.clear()
    x = torch.randn(2, 3)
    assert reference.same_bits(again(x), block(x))


def test_hooks_of_the_layer(public: str, device: str) -> None:
    seen: list[str] = []
    layer = mish_cuda.Mish()
    layer.register_forward_pre_hook(lambda *a: seen.append("before"))
    layer.register_forward_hook(lambda *a: seen.append("after"))
    layer.register_full_backward_hook(lambda *a: seen.append("backward"))
    layer(torch.randn(3, device=device, requires_grad=True)).sum().backward()
    assert seen == ["before", "after", "backward"]


# --- Files ---


def load(saved: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, **options)


def test_state_dict_is_that_of_torchs_layer() -> None:
    """Either layer's file loads into the other's model, with weights_only as by default."""
    ours = nn.Sequential(nn.Linear(3, 4), mish_cuda.Mish(), nn.Linear(4, 2))
    theirs = nn.Sequential(nn.Linear(3, 4), nn.Mish(), nn.Linear(4, 2))
    theirs.load_state_dict(load(ours.state_dict()))
    x = torch.randn(5, 3)
    torch.testing.assert_close(theirs(x), ours(x))
    ours.load_state_dict(load(theirs.state_dict()), strict=True)


@pytest.mark.parametrize("layer", [mish_cuda.Mish, mish_cuda.MishCuda])
@pytest.mark.parametrize("inplace", [False, True])
def test_layers_are_safe_to_load(layer: type[mish_cuda.Mish], inplace: bool) -> None:
    """With weights_only=True, without a word to torch."""
    loaded = load(layer(inplace), weights_only=True)
    assert type(loaded) is layer
    assert loaded.inplace is inplace


def test_whole_model_with_weights_only() -> None:
    """Only torch's own layers are left for the user to allow."""
    model = nn.Sequential(nn.Linear(3, 4), mish_cuda.Mish(), mish_cuda.MishCuda(inplace=True))
    with pytest.raises(pickle.UnpicklingError, match=r"torch\.nn"):
        load(model, weights_only=True)
    with torch.serialization.safe_globals([nn.Sequential, nn.Linear]):
        loaded = load(model, weights_only=True)
    x = torch.randn(5, 3)
    assert reference.same_bits(loaded(x), model(x))


def test_what_torch_asks_to_allow() -> None:
    """As get_unsafe_globals_in_checkpoint says it, of a file on its way."""
    file = io.BytesIO()
    torch.save(nn.Sequential(nn.Linear(3, 4), mish_cuda.Mish(), mish_cuda.MishCuda()), file)
    file.seek(0)
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    assert not [name for name in unsafe if name.startswith("mish_cuda")]
