"""The ops under torch's dispatcher: schemas, tensors without data, functionalization, modes."""

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
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

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


# --- Functionalization: writes become values ---


def view_in_place(x: Tensor) -> Tensor:
    y = x * 1
    mish_cuda.mish_(y[1:])
    return y


WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": lambda x: mish_cuda.mish(x),
    "mish_": lambda x: mish_cuda.mish_(x * 1),
    "mish_ of a view": view_in_place,
    "out": lambda x: mish_cuda.mish(x, out=torch.empty_like(x)),
}


@pytest.mark.parametrize("function", WRITES.values(), ids=WRITES)
def test_functionalize(public: str, function: Callable[[Tensor], Tensor], device: str) -> None:
    """The same result, by ops that write to none of their arguments."""
    x = layouts.normal((4, 3), torch.float32, device)
    functional = torch.func.functionalize(function)
    assert reference.same_bits(functional(x), function(x))
    graph = make_fx(functional)(x).graph
    ops = [node.target for node in graph.nodes if node.op == "call_function"]
    assert ops
    assert not any(op._schema.is_mutable for op in ops)


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

    chosen = [op] if policy == "list of ops" else decide
    contexts = partial(create_selective_checkpoint_contexts, chosen)
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    with Log() as log:  # the product saves results of mish
        y = checkpoint(mish_times_mish, x, use_reentrant=False, context_fn=contexts)
        (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, 2 * reference.mish(x) * reference.mish(x, 1))
    assert log.calls.count("mish.default") == (4 if "RECOMPUTE" in policy else 2)


def mish_times_mish(x: Tensor) -> Tensor:
    return mish_cuda.mish(x) * mish_cuda.mish(x)


@needs_extension
def test_flops_are_those_of_the_products() -> None:
    """As with F.mish, which counts none either."""
    counts = []
    for mish in (mish_cuda.mish, F.mish):
        x, weight = torch.randn(3, 4), torch.randn(4, 5, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            mish(x @ weight).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_fx_keeps_the_function(public: str) -> None:
    graph = torch.fx.symbolic_trace(lambda x: mish_cuda.mish(x) + 1)
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph(x), mish_cuda.mish(x) + 1)
    assert any(node.target is mish_cuda.mish for node in graph.graph.nodes)


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
