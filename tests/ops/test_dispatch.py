"""The ops under torch's dispatcher: schemas, tensors without data, modes, autocast; overrides
by __torch_function__."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import layouts
import mish_cuda
import reference
from conftest import Implementation, Log, needs_extension

SCHEMAS = {
    "mish": "mish(Tensor self) -> Tensor",
    "mish_": "mish_(Tensor(a!) self) -> Tensor(a!)",
    "mish.out": "mish.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)",
    "mish_backward": "mish_backward(Tensor grad_output, Tensor self) -> Tensor",
    "mish_double_backward": (
        "mish_double_backward(Tensor grad_grad_input, Tensor grad_output, Tensor self) -> Tensor"
    ),
}
NORMS = {
    "batch_norm_mish": (
        "batch_norm_mish(Tensor input, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
        "Tensor? weight=None, Tensor? bias=None, bool training=False, float momentum=0.1, "
        "float eps=1e-05) -> Tensor"
    ),
    "group_norm_mish": (
        "group_norm_mish(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, "
        "float eps=1e-05) -> Tensor"
    ),
}
EVERY_OP = pytest.mark.parametrize("name", SCHEMAS)


def op(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.mish_cuda, packet), overload or "default")


def arguments(name: str, x: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """x for each argument of an op, and new memory for `out`."""
    out = {"out": x.new_empty(x.shape)} if name == "mish.out" else {}
    return (x,) * (len(op(name)._schema.arguments) - len(out)), out


# --- Schemas ---


@needs_extension
def test_schemas() -> None:
    names = torch._C._dispatch_get_all_op_names()
    ours = {n.removeprefix("mish_cuda::") for n in names if n.startswith("mish_cuda::")}
    assert ours == {*SCHEMAS, *NORMS}
    for name, schema in {**SCHEMAS, **NORMS}.items():
        assert op(name)._schema == torch._C.parse_schema(f"mish_cuda::{schema}")
        tags = {torch.Tag.pt2_compliant_tag} | ({torch.Tag.pointwise} if name in SCHEMAS else set())
        assert tags <= set(op(name).tags)


@needs_extension
@EVERY_OP
@pytest.mark.parametrize(
    ("dtype", "layout", "requires_grad"),
    [
        *product([torch.float32], ["contiguous", "channels_last", "step 2"], [False, True]),
        *product(reference.DTYPES, ["transposed"], [False]),
    ],
    ids=str,
)
def test_opcheck(
    name: str, device: str, dtype: torch.dtype, layout: str, requires_grad: bool
) -> None:
    if requires_grad and name in ("mish.out", "mish_"):
        pytest.skip("torch refuses out= and leaves written in place where gradients are recorded")
    x = layouts.make(layout, dtype, device, fill=layouts.normal)
    args, kwargs = arguments(name, x)
    opcheck(op(name), tuple(t.clone().requires_grad_(requires_grad) for t in args), kwargs)


# --- Tensors without data ---


@needs_extension
@EVERY_OP
@pytest.mark.parametrize("layout", [*layouts.LAYOUTS, *layouts.OVERLAPPING])
@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_shapes_without_data(name: str, device: str, layout: str, kind: str) -> None:
    """Shape, strides and dtype are those of the real result."""
    if name == "mish_" and layout in layouts.OVERLAPPING:
        pytest.skip("writing to overlapping memory is refused")
    x = layouts.make(layout, torch.float16, device)
    mode = FakeTensorMode()
    empty = mode.from_tensor(x) if kind == "fake" else x.to("meta").as_strided(x.shape, x.stride())
    results = []
    for t in (x, empty):
        with mode if t is empty and kind == "fake" else nullcontext():
            args, kwargs = arguments(name, t)
            results.append(op(name)(*args, **kwargs))
    expected, result = ((y.shape, y.stride(), y.dtype) for y in results)
    assert result == expected
    assert results[1].device.type == ("meta" if kind == "meta" else device)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", ["meta", "fake"])
def test_a_training_step_without_data(public: str, inplace: bool, kind: str, device: str) -> None:
    device = "meta" if kind == "meta" else device
    with FakeTensorMode() if kind == "fake" else nullcontext(), torch.device(device):
        layers = nn.Sequential(nn.Linear(8, 4), mish_cuda.Mish(inplace))
        y = layers(torch.empty(3, 8))
        y.sum().backward()
        for t, shape in ((y, (3, 4)), (layers[0].weight.grad, (4, 8))):
            assert (t.device.type, t.shape) == (device, shape)


# --- Modes and profilers ---


def test_modes_and_profilers_see_every_call(compiled: Implementation, device: str) -> None:
    """One op forward and one backward."""
    x = torch.randn(5, device=device, requires_grad=True)
    with torch.profiler.profile() as profile, Log() as log:
        mish_cuda.Mish()(x).backward(torch.ones_like(x))
        with torch.no_grad():
            compiled.mish_(x)
            compiled.mish(x, out=torch.empty_like(x))
            mish_cuda.mish_backward(x, x)
    calls = ["mish.default", "mish_backward.default", "mish_.default", "mish.out"]
    assert log.calls == [*calls, "mish_backward.default"]
    names = {event.name for event in profile.events()}
    assert {"mish_cuda::mish", "mish_cuda::mish_", "mish_cuda::mish_backward"} <= names


@needs_extension
@pytest.mark.parametrize(
    "policy", ["MUST_SAVE", "PREFER_SAVE", "list of ops", "MUST_RECOMPUTE", "PREFER_RECOMPUTE"]
)
def test_selective_checkpointing(policy: str) -> None:
    """The policy decides what is computed twice. Plain checkpointing: test_programs.py."""
    op = torch.ops.mish_cuda.mish.default

    def decide(context: Any, function: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy[policy if function is op else "PREFER_RECOMPUTE"]

    def squared(x: Tensor) -> Tensor:
        return mish_cuda.mish(x) * mish_cuda.mish(x)

    chosen = [op] if policy == "list of ops" else decide
    contexts = partial(create_selective_checkpoint_contexts, chosen)
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    with Log() as log:  # the product saves results of mish
        y = checkpoint(squared, x, use_reentrant=False, context_fn=contexts)
        (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, 2 * reference.mish(x) * reference.mish(x, 1))
    assert log.calls.count("mish.default") == (4 if "RECOMPUTE" in policy else 2)


def test_fx_keeps_the_function(public: str) -> None:
    graph = torch.fx.symbolic_trace(lambda x: mish_cuda.mish(x) + 1)
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph(x), mish_cuda.mish(x) + 1)
    assert any(node.target is mish_cuda.mish for node in graph.graph.nodes)


# --- Mixed precision ---

WIDTHS = pytest.mark.parametrize("width", [torch.bfloat16, torch.float16], ids=str)


@WIDTHS
def test_autocast_changes_nothing(
    public: str, width: torch.dtype, device: str, dtype: torch.dtype
) -> None:
    """Not a bit of value, tangent or gradient: like F.mish, it is in no list of autocast's."""
    x, g = (layouts.normal((400,), dtype, device, seed) for seed in range(2))
    results = []
    for enabled in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast(device, width, enabled=enabled):
            assert F.mish(x).dtype == dtype
            y = mish_cuda.mish(leaf)
            (inside,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
            _, tangent = torch.func.jvp(mish_cuda.mish, (x,), (g,))
            written = mish_cuda.mish(x, out=torch.empty_like(x))
            in_place = mish_cuda.mish_(x.clone())
        (outside,) = torch.autograd.grad(y, leaf, g)  # as in every training loop
        results.append((y, inside, outside, tangent, written, in_place))
    for without, under in zip(*results, strict=True):
        assert reference.same_bits(under, without)


def train(layer: nn.Module, width: torch.dtype, device: str) -> list[Tensor]:
    """Losses of a network's training steps, its scale, and its weights. The scaler skips the third
    step, in which a gradient is infinite."""
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), layer, nn.Linear(16, 4), layer, nn.Linear(4, 2)
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    x, target = torch.randn(6, 8).to(device), torch.randn(6, 2).to(device)
    losses = []
    for step in range(6):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        with torch.autocast(device, width):
            assert model[:3](x).dtype == width  # as after the layer that autocast narrows
            loss = F.mse_loss(model(x).float(), target) * (torch.inf if step == 2 else 1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert all(map(torch.equal, before, model.parameters())) == (step == 2)
        losses.append(loss.detach())
    assert scaler.get_scale() == 2.0**9
    assert losses[-1] < losses[0]
    return losses


@WIDTHS
@pytest.mark.parametrize("inplace", [False, True])
def test_training_with_a_grad_scaler(
    public: str, width: torch.dtype, inplace: bool, device: str
) -> None:
    ours, torchs = (train(layer(inplace), width, device) for layer in (mish_cuda.Mish, nn.Mish))
    # Results that round the other way differ by one part in 2^8 or 2^11 of an activation.
    torch.testing.assert_close(ours, torchs, rtol=4 * torch.finfo(width).eps, atol=0)


# --- Overrides: modes, subclasses of Tensor, objects that are no tensors ---

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": lambda x: mish_cuda.mish(x),
    "mish inplace": lambda x: mish_cuda.mish(x, inplace=True),
    "mish out": lambda x: mish_cuda.mish(x, out=x),
    "out alone": lambda x: mish_cuda.mish(x.as_subclass(Tensor), out=torch.empty_like(x)),
    "mish_": lambda x: mish_cuda.mish_(x),
    "Mish": lambda x: mish_cuda.Mish()(x),
    "MishCudaFunction": lambda x: mish_cuda.MishCudaFunction.apply(x),
    "mish_forward": lambda x: mish_cuda.mish_forward(x),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


class ByTorch(TorchFunctionMode):
    """Puts torch's own Mish in place of this library's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (mish_cuda.mish, mish_cuda.mish_):
            return F.mish(args[0])
        return func(*args, **(kwargs or {}))


@EVERY_CALL
def test_function_mode(public: str, call: Callable[[Tensor], Tensor], device: str) -> None:
    """Sees every call, and may replace it."""
    x = torch.full((3,), -torch.inf, device=device)  # where the two differ
    with ByTorch():
        assert call(x.clone()).isnan().all()
    assert call(x).eq(0).all()


class Meters(Tensor):
    """A subclass that keeps an attribute through every function."""

    unit = ""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, Meters) and func in (mish_cuda.mish, mish_cuda.mish_):
            result.unit = "m"
        return result


@EVERY_CALL
def test_subclass(public: str, call: Callable[[Tensor], Tensor], device: str) -> None:
    x = torch.randn(5, device=device)
    expected = mish_cuda.mish(x)
    result = call(x.clone().as_subclass(Meters))
    assert isinstance(result, Meters)
    assert result.unit == "m"
    assert reference.same_bits(result.as_subclass(Tensor), expected)
    with torch._C.DisableTorchFunctionSubclass():
        assert type(mish_cuda.mish(x.as_subclass(Meters))) is Tensor


def test_gradient_of_a_subclass(public: str, device: str) -> None:
    x = torch.randn(5, device=device).as_subclass(Meters).requires_grad_()
    mish_cuda.Mish()(x).sum().backward()
    plain = x.detach().as_subclass(Tensor)
    torch.testing.assert_close(x.grad.as_subclass(Tensor), reference.mish(plain, 1).float())


class Instead:
    """No tensor, but it says what to call in place of a function of torch's or this library's."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func, args, kwargs or {}


def test_objects_that_are_no_tensors(public: str) -> None:
    """The call arrives as it was made, and nothing is computed."""
    x, out = Instead(), torch.empty(3)
    mish: Any = mish_cuda.mish
    mish_: Any = mish_cuda.mish_
    assert mish(x) == (mish, (x,), {"inplace": False, "out": None})
    assert mish(x, inplace=True) == (mish, (x,), {"inplace": True, "out": None})
    assert mish(x, out=out)[2]["out"] is out
    assert mish(out, out=x) == (mish, (out,), {"out": x})
    assert mish_(x) == (mish_, (x,), {})
    assert mish_cuda.Mish()(x) == mish(x)  # type: ignore[arg-type]


def test_parameters_and_buffers(public: str, device: str) -> None:
    """Subclasses of Tensor in name only."""
    x = torch.randn(3, device=device)
    for kind in (nn.Parameter, nn.Buffer):
        result = mish_cuda.mish(kind(x))
        assert type(result) is Tensor
        assert torch.equal(result, mish_cuda.mish(x))


# --- What PyTorch's own test suite asks of F.mish ---

EVERY_SAMPLE = pytest.mark.parametrize("layout", ["0-d", "transposed", "step 2", "several threads"])


@EVERY_SAMPLE
def test_lazy_copies_stay_lazy(impl: Implementation, device: str, layout: str) -> None:
    """Forward and backward only read, so they do not trigger the copy of a lazy clone."""
    x = layouts.make(layout, torch.float32, device, fill=layouts.normal)
    lazy, g = torch._lazy_clone(x), torch._lazy_clone(torch.ones_like(x))
    impl.mish(lazy.requires_grad_()).backward(g)
    assert torch._C._is_cow_tensor(lazy)
    assert torch._C._is_cow_tensor(g)
    copied = torch._lazy_clone(x)
    impl.mish_(copied)
    assert not torch._C._is_cow_tensor(copied)
    assert not reference.same_bits(copied, x)


@EVERY_SAMPLE
def test_composite_compliance(impl: Implementation, device: str, layout: str) -> None:
    """Operands wrapped in a subclass, in every combination: forward, backward, forward AD."""
    pytest.importorskip("expecttest", reason="no expecttest: pip install 'mish_cuda[test]'")
    from torch.testing._internal import composite_compliance as compliance

    equal = partial(torch.testing.assert_close, rtol=0, atol=0)
    x = layouts.make(layout, torch.float64, device, fill=layouts.normal).requires_grad_()
    arguments = (impl.mish, (x,), {})
    compliance.check_with_mode(*arguments, equal)
    compliance.check_all_permutations(*arguments, equal)
    compliance.check_backward_formula(*arguments, assert_equal_fn=equal)
    compliance.check_forward_ad_formula(*arguments, assert_equal_fn=equal)
