"""The ops under torch's dispatcher: schemas, tensors without data, modes, autocast; overrides
by __torch_function__; what PyTorch's own test suite asks of F.mish."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck
from torch.overrides import TorchFunctionMode

import layouts
import mish_cuda
import reference
from conftest import Implementation, Log, needs_extension
from layouts import LAYOUTS, OVERLAPPING

# --- Schemas, and results without data ---

SCHEMAS = [
    "mish(Tensor self) -> Tensor",
    "mish_(Tensor(a!) self) -> Tensor(a!)",
    "mish.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)",
    "mish_backward(Tensor grad_output, Tensor self) -> Tensor",
    "mish_double_backward(Tensor grad_grad_input, Tensor grad_output, Tensor self) -> Tensor",
    "batch_norm_mish(Tensor input, Tensor(a!)? running_mean, Tensor(b!)? running_var, "
    "Tensor? weight=None, Tensor? bias=None, bool training=False, float momentum=0.1, "
    "float eps=1e-05) -> Tensor",
    "group_norm_mish(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, "
    "float eps=1e-05) -> Tensor",
]
# By name, with the number of inputs.
POINTWISE = {"mish": 1, "mish_": 1, "mish.out": 1, "mish_backward": 2, "mish_double_backward": 3}


def op(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.mish_cuda, packet), overload or "default")


@needs_extension
def test_schemas() -> None:
    every = [str(schema) for schema in torch._C._jit_get_all_schemas()]
    ours = [schema for schema in every if schema.startswith("mish_cuda::")]
    assert sorted(ours) == [str(torch._C.parse_schema(f"mish_cuda::{s}")) for s in sorted(SCHEMAS)]
    for schema in SCHEMAS:
        name = schema.partition("(")[0]
        tags = {torch.Tag.pt2_compliant_tag} | {torch.Tag.pointwise for _ in {name} & {*POINTWISE}}
        assert tags <= {*op(name).tags}


@needs_extension
@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("layout", [*LAYOUTS, *OVERLAPPING])
def test_opcheck(name: str, device: str, layout: str) -> None:
    """Shape, strides and dtype of a fake tensor are those of the real result; for some layouts
    everything else that torch checks, too."""
    writes = name in ("mish_", "mish.out")
    if writes and layout in OVERLAPPING:
        pytest.skip("writing to overlapping memory is refused")
    everything = layout in ("contiguous", "channels_last", "step 2")
    checks: Any = {} if everything else {"test_utils": "test_faketensor"}
    for dtype in reference.DTYPES if layout == "transposed" else [torch.float32]:
        x = layouts.make(layout, dtype, device, fill=layouts.normal)
        for requires_grad in {False, everything and not writes}:
            inputs = [layouts.like(x).requires_grad_(requires_grad) for _ in range(POINTWISE[name])]
            out = {"out": layouts.like(x)} if name == "mish.out" else {}
            opcheck(op(name), inputs, out, **checks)


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


@pytest.mark.parametrize("width", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_nothing(
    public: str, width: torch.dtype, device: str, dtype: torch.dtype
) -> None:
    """Not a bit of value, tangent or gradient: like F.mish, it is in no list of autocast's."""
    x, g = (layouts.normal((400,), dtype, device, seed) for seed in range(2))
    results = []
    for enabled in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast(device, width, enabled=enabled):
            y = mish_cuda.mish(leaf)
            (inside,) = torch.autograd.grad(y, leaf, g, retain_graph=True)
            _, tangent = torch.func.jvp(mish_cuda.mish, (x,), (g,))
            written = mish_cuda.mish(x, out=torch.empty_like(x))
            in_place = mish_cuda.mish_(x.clone())
        (outside,) = torch.autograd.grad(y, leaf, g)  # as in every training loop
        results.append((y, inside, outside, tangent, written, in_place))
    for without, under in zip(*results, strict=True):
        assert reference.same_bits(under, without)


# --- Overrides by __torch_function__ ---

PLAIN = torch.zeros(3)
MISH, MISH_ = mish_cuda.mish, mish_cuda.mish_
NORMS = mish_cuda.batch_norm_mish, mish_cuda.group_norm_mish
# A call, and how it arrives where it is overridden: function, arguments, keywords.
CALLS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "mish": (lambda x: MISH(x), lambda x: (MISH, (x,), {"inplace": False, "out": None})),
    "inplace": (lambda x: MISH(x, True), lambda x: (MISH, (x,), {"inplace": True, "out": None})),
    "out": (lambda x: MISH(x, out=PLAIN), lambda x: (MISH, (x,), {"inplace": False, "out": PLAIN})),
    "out alone": (lambda x: MISH(PLAIN, out=x), lambda x: (MISH, (PLAIN,), {"out": x})),
    "mish_": (lambda x: MISH_(x), lambda x: (MISH_, (x,), {})),
    "Mish": (lambda x: mish_cuda.Mish()(x), lambda x: MISH(x)),
    "MishCudaFunction": (lambda x: mish_cuda.MishCudaFunction.apply(x), lambda x: MISH(x)),
    "mish_forward": (lambda x: mish_cuda.mish_forward(x, PLAIN), lambda x: MISH(x, out=PLAIN)),
    "batch_norm_mish": (
        lambda x: NORMS[0](PLAIN, None, None, x, training=True, eps=1e-3),
        lambda x: (NORMS[0], (PLAIN, None, None, x, None, True, 0.1, 1e-3), {}),
    ),
    "group_norm_mish": (
        lambda x: NORMS[1](x, 3, bias=PLAIN),
        lambda x: (NORMS[1], (x, 3, None, PLAIN, 1e-5), {}),
    ),
}


def arrived(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return func, args, kwargs or {}


class Mode(TorchFunctionMode):
    __torch_function__ = arrived


class Instead:
    """No tensor, but it says what to call in place of a function of torch's or this library's."""

    __torch_function__ = classmethod(arrived)


@pytest.mark.parametrize("name", CALLS)
def test_overrides_get_the_call(public: str, name: str) -> None:
    """As it was made, and nothing is computed; a mode also gets calls with tensors alone."""
    call, expected = CALLS[name]
    x = Instead()
    assert call(x) == expected(x)
    if name != "out alone":
        with Mode():
            assert call(PLAIN) == expected(PLAIN)


def test_subclasses(public: str, device: str) -> None:
    """Kept by results and gradients; parameters and buffers are subclasses in name only."""

    class Meters(Tensor):
        pass

    values = torch.randn(5, device=device)
    for x, kind in (
        (values.as_subclass(Meters), Meters),
        (nn.Parameter(values), Tensor),
        (nn.Buffer(values), Tensor),
    ):
        y = mish_cuda.mish(x.requires_grad_())
        assert type(y) is kind
        assert reference.same_bits(y.as_subclass(Tensor), mish_cuda.mish(values))
        y.sum().backward()
        expected = reference.mish(values, 1).float()
        torch.testing.assert_close(x.grad.as_subclass(Tensor), expected)
    with torch._C.DisableTorchFunctionSubclass():
        assert type(mish_cuda.mish(values.as_subclass(Meters))) is Tensor


# --- What PyTorch's own test suite asks of F.mish ---


@pytest.mark.parametrize("layout", ["0-d", "transposed", "step 2", "several threads"])
def test_compliance(impl: Implementation, device: str, layout: str) -> None:
    """Operands wrapped in a subclass, in every combination: forward, backward, forward AD. And
    forward and backward only read, so they do not trigger the copy of a lazy clone."""
    x = layouts.make(layout, torch.float64, device, fill=layouts.normal)
    lazy, g = torch._lazy_clone(x), torch._lazy_clone(torch.ones_like(x))
    impl.mish(lazy.requires_grad_()).backward(g)
    assert torch._C._is_cow_tensor(lazy)
    assert torch._C._is_cow_tensor(g)
    copied = torch._lazy_clone(x)
    impl.mish_(copied)
    assert not reference.same_bits(copied, x)

    pytest.importorskip("expecttest", reason="no expecttest: pip install 'mish_cuda[test]'")
    from torch.testing._internal import composite_compliance as compliance

    equal = partial(torch.testing.assert_close, rtol=0, atol=0)
    arguments = (impl.mish, (x.requires_grad_(),), {})
    compliance.check_with_mode(*arguments, equal)
    compliance.check_all_permutations(*arguments, equal)
    compliance.check_backward_formula(*arguments, assert_equal_fn=equal)
    compliance.check_forward_ad_formula(*arguments, assert_equal_fn=equal)
