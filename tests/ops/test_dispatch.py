"""The ops under torch's dispatcher: schemas, tensors without data, modes, autocast; overrides
by __torch_function__; what PyTorch's own test suite asks of F.mish."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_norm import NORMS
from torch import Tensor, nn
from torch._library.utils import lookup_op
from torch.library import opcheck
from torch.overrides import TorchFunctionMode

import layouts
import mish_cuda
import reference
from conftest import Implementation, Log, needs_extension
from layouts import LAYOUTS, OVERLAPPING

# --- Schemas, and results without data ---

# By name, with the number of inputs.
POINTWISE = {"mish": 1, "mish_": 1, "mish.out": 1, "mish_backward": 2, "mish_double_backward": 3}


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


@needs_extension
def test_schemas_and_tags() -> None:
    """Saved programs and callers by keyword hang on the names and defaults."""
    every = [str(schema) for schema in torch._C._jit_get_all_schemas()]
    ours = [schema for schema in every if schema.startswith("mish_cuda::")]
    assert sorted(ours) == [str(torch._C.parse_schema(f"mish_cuda::{s}")) for s in sorted(SCHEMAS)]
    for name in (schema.partition("(")[0] for schema in SCHEMAS):
        tags = lookup_op(f"mish_cuda::{name}").tags
        assert torch.Tag.pt2_compliant_tag in tags
        assert (torch.Tag.pointwise in tags) is (name in POINTWISE)


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
            opcheck(lookup_op(f"mish_cuda::{name}"), inputs, out, **checks)


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


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("width", [torch.float32, torch.bfloat16], ids=str)
def test_norms_keep_the_dtype_under_autocast(public: str, name: str, width: torch.dtype) -> None:
    x = torch.randn(3, 4, 5, 20).to(width)
    for view in (x, x.transpose(2, 3)):
        leaves = [t.requires_grad_() for t in (view, torch.ones(4), torch.zeros(4))]
        with torch.autocast("cpu", torch.bfloat16):
            y = NORMS[name](mish_cuda, *leaves)
        assert y.dtype == width
        assert all(slope.isfinite().all() for slope in torch.autograd.grad(y.sum(), leaves))


# --- Overrides by __torch_function__ ---

ROWS, OUT = torch.linspace(-1, 1, 20).reshape(5, 4), torch.empty(4)
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mish": mish_cuda.mish,
    "inplace": lambda x: mish_cuda.mish(x, True),
    "out": lambda x: mish_cuda.mish(x, out=OUT),
    "out alone": lambda x: mish_cuda.mish(ROWS[0], out=x),
    "mish_": mish_cuda.mish_,
    "Mish": mish_cuda.Mish(),
    "MishCudaFunction": mish_cuda.MishCudaFunction.apply,
    "mish_forward": lambda x: mish_cuda.mish_forward(x, OUT),
    "batch_norm_mish": lambda x: mish_cuda.batch_norm_mish(ROWS, None, None, x, x, True, eps=0.1),
    "group_norm_mish": lambda x: mish_cuda.group_norm_mish(ROWS, 2, bias=x, eps=0.1),
}
FUNCTIONS = (mish_cuda.mish, mish_cuda.mish_, mish_cuda.batch_norm_mish, mish_cuda.group_norm_mish)


class Meters(Tensor):
    pass


def intercept(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """Returns a function in place of its result."""
    return func


class Mode(TorchFunctionMode):
    __torch_function__ = intercept


class Intercepting(Tensor):
    __torch_function__ = classmethod(intercept)


@pytest.mark.parametrize("name", CALLS)
def test_overrides(public: str, name: str) -> None:
    """By a subclass of any operand, which the result keeps, and by a mode."""
    results = []
    for kind in (Meters, Tensor):
        x = torch.linspace(-2, 2, 4).as_subclass(kind)
        y = CALLS[name](x)
        assert type(y) is kind
        results.append((y.as_subclass(Tensor), y.data_ptr() in (x.data_ptr(), OUT.data_ptr())))
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert CALLS[name](x.as_subclass(Intercepting)) in FUNCTIONS
    with Mode():
        assert CALLS[name](x) in FUNCTIONS


def test_nothing_overrides(public: str) -> None:
    """Parameters, buffers and, where overrides are off, subclasses."""
    x = torch.linspace(-2, 2, 4)
    assert type(mish_cuda.mish(nn.Parameter(x))) is type(mish_cuda.mish(nn.Buffer(x))) is Tensor
    with torch._C.DisableTorchFunctionSubclass():
        assert type(mish_cuda.mish(x.as_subclass(Meters))) is Tensor


def test_gradient_of_a_subclass(public: str) -> None:
    x = torch.linspace(-2, 2, 4).as_subclass(Meters).requires_grad_()
    mish_cuda.mish(x).sum().backward()
    plain, slope = x.detach().as_subclass(Tensor), x.grad.as_subclass(Tensor)
    torch.testing.assert_close(slope, reference.mish(plain, 1).float())


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
