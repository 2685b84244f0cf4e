"""Mish that models hold as functions, or call in their code; and ``override_torch``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import lookalikes as like
import pytest
import torch
import torch.nn.functional as F
from lookalikes import Functional, InCode, MiSh, is_ours, mish, mish_, textbook, timm_mish
from torch import Tensor, nn
from torch.nn.functional import mish as imported_under_another_name

import mish_cuda
from mish_cuda import convert, override_torch, revert

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")


# --- In attributes ---


@pytest.mark.parametrize("function", [timm_mish, mish_, F.mish])
@pytest.mark.parametrize("inplace", [True, False])
def test_inplace_of_functions_is_what_they_do_with_it(function: Any, inplace: bool) -> None:
    model = Functional(function)
    x, y = torch.ones(3), torch.ones(3)
    function(x, inplace=inplace)
    convert(model)
    model.function(y, inplace=inplace)
    torch.testing.assert_close(x, y)


def test_a_scripted_function() -> None:
    model = Functional(torch.jit.script(mish))
    assert list(convert(model).changed) == ["function"]
    assert is_ours(model)


@pytest.mark.parametrize(
    "function",
    [mish_cuda.mish, mish_cuda.mish_, functools.partial(mish_cuda.mish, inplace=True)],
    ids=["mish", "mish_", "partial"],
)
def test_functions_that_were_ours_before(function: Any) -> None:
    model = Functional(function)
    assert convert(model) == revert(model) == mish_cuda.Conversion()
    assert model.function is function
    ((_, torchs),) = revert(model, to=nn.Mish).changed.values()
    assert getattr(torchs, "func", torchs) is F.mish
    assert not is_ours(model)
    assert (model(x := torch.randn(3)) is x) is (function is not mish_cuda.mish)


def test_transformer_encoder_layer_with_a_fused_activation() -> None:
    """In evaluation it computes ReLU, whatever stands in its place by then; and the way around."""
    layer: Any = nn.TransformerEncoderLayer(4, 2, 8, 0.0, nn.ReLU(), batch_first=True).eval()
    with pytest.raises(ValueError, match=r"'activation' \(.*ReLU\) is not used in evaluation"):
        convert(layer, nn.ReLU)
    layer.activation_relu_or_gelu = 0
    convert(layer, nn.ReLU)
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.train()(x))


# --- In code ---


def model_of(forward: Any, held: dict[str, Any] | None = None, **of_class: Any) -> nn.Module:
    """A model of that code; it holds attributes, and so does its class."""
    members = {"__module__": __name__, "forward": forward, **of_class}
    model: nn.Module = type("Model", (nn.Module,), members)()
    vars(model).update(held or {})
    return model


def helper(x: Tensor) -> Tensor:
    return F.mish(x)


def calls(activation: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: activation(activation(x) * 0 + x)


def chosen(self: Any, x: Tensor) -> Tensor:
    """The code of modules of one class, each of which holds another value."""
    value = self.value
    if isinstance(value, str):
        return getattr(F, self.value)(x)  # type: ignore[no-any-return]
    if isinstance(value, type):
        return self.value()(x)  # type: ignore[no-any-return]
    if isinstance(value, SimpleNamespace):
        return self.value.activation(x)  # type: ignore[no-any-return]
    return (self.value[0] if isinstance(value, list) else self.value)(x)  # type: ignore[no-any-return]


# Values without Mish and with it.
CHOICES: dict[str, tuple[Any, Any]] = {
    "function": (calls(F.relu), helper),
    "closure": (calls(F.relu), calls(F.mish)),
    "partial": (functools.partial(calls(F.relu)), functools.partial(helper)),
    "name": ("relu", "mish"),
    "class": (nn.ReLU, nn.Mish),
    "settings": (SimpleNamespace(activation=F.relu), SimpleNamespace(activation=F.mish)),
    "list": ([F.relu], [F.mish]),
}


@pytest.mark.parametrize(("without", "mish"), CHOICES.values(), ids=CHOICES)
def test_what_a_module_chooses_is_told(without: Any, mish: Any) -> None:
    model = model_of(chosen, {"value": without})
    other = type(model)()
    other.value = mish
    assert "found no Mish" in convert(model).hint
    for modules in ([model, other], [other, model]):
        report = convert(nn.Sequential(*modules, nn.Mish()))
        assert list(report.changed) == ["2"]
        assert "mish_cuda.override_torch()" in report.hint
    assert not is_ours(other)
    with override_torch():  # the advice is good
        assert is_ours(other)


class InSuper(InCode):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def imported_inside(self: nn.Module, x: Tensor) -> Tensor:
    from torch.nn.functional import mish as activate

    return activate(x)


def own_mish(self: nn.Module, x: Tensor) -> Tensor:
    return textbook(x)


ACTIVATIONS = {"relu": F.relu, "mish": F.mish}
OWN_LAYER = MiSh()
# Models with Mish in their code, and whether override_torch redirects it.
IN_CODE: dict[str, tuple[nn.Module, bool]] = {
    "call": (InCode(), True),
    "super": (InSuper(), True),
    "class attribute": (model_of(lambda self, x: self.act(x), act=nn.Mish()), True),
    "type(self)": (model_of(lambda self, x: type(self).act(x), act=F.mish), True),
    "self.__class__": (model_of(lambda self, x: self.__class__.act(x), act=F.mish), True),
    "static method": (
        model_of(torch.no_grad()(lambda self, x: self.act(x)), act=staticmethod(calls(F.mish))),
        True,
    ),
    "property": (model_of(lambda self, x: self.act(x), act=property(lambda self: F.mish)), True),
    "dict": (model_of(lambda self, x: self.acts["m"](x), {"acts": {"m": nn.Mish()}}), True),
    "global dict": (model_of(lambda self, x: ACTIVATIONS["mish"](x)), True),
    "imported inside": (model_of(imported_inside), True),
    "lambda": (model_of(lambda self, x: (lambda: torch.nn.functional.mish(x))()), True),
    "made when called": (model_of(lambda self, x: nn.Mish()(x)), True),
    "helper": (model_of(lambda self, x: helper(x)), True),
    "default": (model_of(lambda self, x, activation=F.mish: activation(x)), True),
    "keyword": (model_of(lambda self, x, *, activation=F.mish: activation(x)), True),
    "op": (model_of(lambda self, x: torch.ops.aten.mish.default(x)), False),
    "own function": (model_of(lambda self, x: mish(x)), False),
    "own method": (model_of(lambda self, x: self.mish(x), mish=own_mish), False),
    "autograd function": (model_of(lambda self, x: like.MishFunction.apply(x)), False),
    "global layer": (model_of(lambda self, x: OWN_LAYER(x)), False),
}


@pytest.mark.parametrize(("model", "overridden"), IN_CODE.values(), ids=IN_CODE)
def test_mish_in_code_is_told(model: nn.Module, overridden: bool) -> None:
    """Alone and beside a layer, in one line that ends the report; and the advice is good."""
    assert list((report := convert(nn.Sequential(model, nn.Mish()))).changed) == ["1"]
    assert convert(model).hint == report.hint
    assert str(report).endswith(report.hint)
    place = r"\S+ is used in the code of (test_|lookalikes)\S+, which convert does not change: "
    assert re.match(rf"{place}.*use mish_cuda.[mM]ish there", report.hint)
    assert "\n" not in report.hint or not overridden  # an op and its overload are two uses
    assert ("run the model inside mish_cuda.override_torch()" in report.hint) is overridden
    assert not is_ours(model)
    with override_torch():
        assert is_ours(model) is overridden


class Plain(nn.Module):
    """A method that is named like Mish, and must not be run."""

    calls = 0

    def mish(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.mish(x))


def test_where_there_is_no_mish_nothing_is_advised() -> None:
    report = convert(model := Plain())
    assert report == mish_cuda.Conversion()
    assert "found no Mish" in report.hint
    assert "override_torch" not in report.hint
    assert model.calls == 0
    assert convert(nn.Sequential(like.HardMish())).hint == convert(model, nn.SiLU).hint == ""


def test_revert_to_torch_tells_calls_of_ours() -> None:
    ours = model_of(lambda self, x: mish_cuda.mish(x))
    report = revert(nn.Sequential(mish_cuda.Mish(), ours), to=nn.Mish)
    assert list(report.changed) == ["0"]
    assert re.search(r"mish_cuda\.mish is used .*<lambda>.*functional\.mish", report.hint)
    held = [model_of(chosen, {"value": v}) for v in (mish_cuda.mish, calls(mish_cuda.mish))]
    report = revert(nn.Sequential(*held), to=nn.Mish)
    assert list(report.changed) == ["0.value"]
    assert re.fullmatch(r"mish_cuda\.mish is used in the code of \S+<lambda>, .*", report.hint)
    assert revert(nn.Sequential(ours)).hint == ""


# --- Within override_torch F.mish is mish_cuda.mish, for one thread ---


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert not is_ours(F.mish)


def in_mode_of_a_device(x: Tensor) -> Tensor:
    with torch.device("cpu"):
        return F.mish(x)


# Calls, and whether override_torch redirects them.
REDIRECTED: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "F.mish": (lambda x: F.mish(x), True),
    "in place": (lambda x: F.mish(x, inplace=True), True),
    "by keyword": (lambda x: F.mish(input=x), True),
    "under another name": (lambda x: imported_under_another_name(x), True),
    "nn.Mish": (nn.Mish(), True),
    "nn.Mish in place": (nn.Mish(True), True),
    "torch.func": (lambda x: torch.func.vmap(torch.func.grad(F.mish))(x), True),
    "on a device": (in_mode_of_a_device, True),
    "binding": (torch._C._nn.mish, False),
    "op": (torch.ops.aten.mish, False),
}


@pytest.mark.parametrize(("call", "redirected"), REDIRECTED.values(), ids=REDIRECTED)
def test_override(call: Callable[[Tensor], Tensor], redirected: bool, public: str) -> None:
    assert not is_ours(call)
    with override_torch():
        assert is_ours(call) is redirected
        x = torch.randn(5)
        in_place = call(x) is x
    assert not is_ours(call)
    assert (call(x) is x) is in_place


def test_override_nests_and_concerns_one_thread() -> None:
    """And it ends with an exception."""
    mode = override_torch()
    for _ in range(2):
        with ThreadPoolExecutor(1) as thread, mode:
            with override_torch(), mode:
                assert is_ours(F.mish)
            assert is_ours(F.mish)
            assert not thread.submit(is_ours, F.mish).result()
        assert not is_ours(F.mish)
    with pytest.raises(ZeroDivisionError), mode:
        _ = 1 / 0


def within(x: Tensor) -> Tensor:
    with override_torch():
        return F.mish(x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_override_and_compile(backend: str) -> None:
    """A block around the call of a compiled function, and within one."""
    torch._dynamo.reset()
    compiled = torch.compile(F.mish, fullgraph=True, backend=backend)
    for _ in range(2):
        assert not is_ours(compiled)
        with override_torch():
            assert is_ours(compiled)
            assert is_ours(torch.compile(nn.Mish(), fullgraph=True, backend=backend))
    assert is_ours(torch.compile(within, fullgraph=True, backend=backend))
    assert not is_ours(F.mish)
