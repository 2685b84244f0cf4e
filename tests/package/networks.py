"""Models to convert, and what they compute before and after."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import re
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lookalikes import ForgetfulMish, Functional, layer, timm_mish
from lookalikes import is_ours as computes_ours
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import mish_cuda
from mish_cuda import convert, revert
from mish_cuda._places import is_ours, places, title

# --- With activations as attributes, in containers, in code ---


class Branches(nn.Module):
    """Activations as attributes, in every container, and shared."""

    def __init__(self, make: Callable[[], nn.Module] = nn.Mish) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(4, 8), make())
        self.act = make()
        self.again = self.act
        self.listed = nn.ModuleList([nn.Linear(8, 8), make()])
        self.named = nn.ModuleDict({"a linear": nn.Identity(), "act": make()})
        self.nothing = None
        self.register_module("no_module", None)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.stem(x) - 1)
        for each in self.listed:
            y = each(y)
        y = self.named["act"](self.again(y + 0.5) * 2)
        return self.head(y)  # type: ignore[no-any-return]


BRANCHES = ["act", "again", "stem.1", "listed.1", "named.act"]


def wrapped(act: Any) -> nn.Module:
    """A model that shows whether its activation works in place."""
    model: Any = layer("Wrapper", lambda self, x: self.act(x) + x)()
    model.act = act
    return model  # type: ignore[no-any-return]


def with_a_factory() -> nn.Module:
    """As Mortal's: a factory of activations is kept beside them, and stays."""
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Mish(True))
    model.actv = functools.partial(nn.Mish, inplace=True)
    return model  # type: ignore[no-any-return]


def timm() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 3, 3), ForgetfulMish(), Functional(timm_mish))


class InCode(nn.Module):
    """A model that calls F.mish, and holds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)


class Calls(nn.Module):
    """Layers, and each way to call Mish."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Mish()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Mish(True))
        self.function = F.mish

    def forward(self, x: Tensor) -> Tensor:
        x = F.mish(self.act(x))
        x = F.mish(x + 1, inplace=True)
        x = torch._C._nn.mish(self.function(x))
        x = torch._C._nn.mish_(x - 1)
        return torch.ops.aten.mish(self.body(x))  # type: ignore[no-any-return]


def traced(model: nn.Module) -> Any:
    """Its graph. Types that are strings, as they are in these files, cannot be pickled."""
    type(model).forward.__annotations__.clear()
    return fx.symbolic_trace(model)


# --- With norms ---

IMAGES = (4, 8, 5, 5)


class Conv(nn.Module):
    """The block of YOLO's code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.Mish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


def with_norms() -> nn.Sequential:
    model = nn.Sequential(Conv(), nn.Sequential(nn.GroupNorm(2, 8), nn.Mish()), Conv())
    for norm in (model[0].bn, model[1][0], model[2].bn):
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias)
    return model


NORMS = ["0.bn", "1.0", "2.bn"]


class BatchNormAct(nn.BatchNorm2d):
    """A norm that holds its activation, in the manner of timm.layers.BatchNormAct2d."""

    def __init__(self, drop: nn.Module | None = None) -> None:
        super().__init__(8)
        self.drop = drop or nn.Identity()
        self.act = nn.Mish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.2
        )
        return self.act(self.drop(x))  # type: ignore[no-any-return]


class GroupNormAct(nn.GroupNorm):
    def __init__(self) -> None:
        super().__init__(2, 8)
        self.act = nn.Mish()

    def forward(self, x: Tensor) -> Any:
        return self.act(super().forward(x))


class UsesItsInput(BatchNormAct):
    """Does more with its input, and hands it on."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.last(x) is x
        more = checkpoint(torch.exp, x, use_reentrant=True) + torch.cat([x, x])[: len(x)]
        return super().forward(x) + more + self.last(x)

    def last(self, x: Tensor) -> Tensor:
        return x


def scaled(module: Any, args: Any, output: Tensor) -> Tensor:
    """A hook."""
    return output * 1.5


# --- What they compute ---


def results(function: Callable[[Tensor], Any], x: Tensor, *modules: nn.Module) -> Any:
    """What it gives, its input afterwards, the gradients that it leaves, the state of modules."""
    torch.default_generator.manual_seed(0)
    x = x.clone().requires_grad_(x.requires_grad)
    given = x * 1
    with torch.set_grad_enabled(x.requires_grad):
        result = function(given)
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                (tensor * torch.linspace(-1, 1, tensor.numel()).view(tensor.shape)).sum().backward()
    if isinstance(result, Tensor):
        result = result.requires_grad, result.detach()
    gradients = [p.grad for module in modules for p in module.parameters()]
    return result, given.detach(), x.grad, gradients, [module.state_dict() for module in modules]


def draw(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).mul_(2).requires_grad_()


close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def check(model: nn.Module, expected: nn.Module, x: Tensor) -> None:
    """That two models compute the same, in training and in evaluation."""
    for mode in (True, False):
        copies = [copy.deepcopy(one).train(mode) for one in (model, expected)]
        close(*(results(one, x, one) for one in copies))


def torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


COPIES: list[Callable[[Any], Any]] = [
    *(copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), torch_save),
]


# --- Conversion, there and back ---


class Case(NamedTuple):
    """A model, what is replaced in it, and why other activations are not, as patterns.

    ``retrain`` are the replaced ones that were no Mish. A model without ``shape`` is not run.
    """

    make: Callable[[], nn.Module]
    changed: list[str]
    left_alone: dict[str, str] = {}  # noqa: RUF012
    retrain: list[str] = []  # noqa: RUF012
    arguments: dict[str, Any] = {}  # noqa: RUF012
    shape: tuple[int, ...] | None = None


def held(model: nn.Module) -> dict[str, Any]:
    """What is at each place for an activation."""
    return {place.name: place.value for place in places(model)}


def tensors(model: nn.Module) -> dict[str, int]:
    return {name: id(t) for name, t in chain(model.named_parameters(), model.named_buffers())}


def described(model: nn.Module) -> list[Any]:
    """What a copy has in common with a model: classes, functions, names of attributes."""
    kinds = {name: title(value) for name, value in held(model).items()}
    return [kinds, [vars(m).keys() for m in model.modules()]]


def check_conversion(case: Case, picklable: bool = True) -> None:
    """Nothing but the activations changes, and they change back."""
    model = case.make()
    original = copy.deepcopy(model.double()) if case.shape else None
    activations, modules = held(model), [(m, m.training) for m in model.modules()]
    named, random = tensors(model), torch.get_rng_state()
    report = convert(model, **case.arguments)
    assert torch.equal(torch.get_rng_state(), random)
    assert (sorted(report.changed), report.retrain) == (sorted(case.changed), case.retrain)
    assert report.left_alone.keys() == case.left_alone.keys()
    for name, reason in case.left_alone.items():
        assert re.search(reason, report.left_alone[name])
    for name in case.changed:
        value = held(model)[name]
        # By what it computes; norms by their class.
        is_mish = isinstance(value, nn.Mish) or not isinstance(value, nn.Module)
        assert computes_ours(value) if is_mish else is_ours(value)
    assert tensors(model) == named
    assert convert(model, **case.arguments).changed == {}
    if case.retrain:
        torchs = copy.deepcopy(model)
        assert revert(torchs, to=nn.Mish).retrain == []
        assert all(type(torchs.get_submodule(name)) is nn.Mish for name in case.retrain)
    if case.shape and original:
        assert report.hint == ""
        check_copies(model, original, draw(case.shape), picklable)
    back = revert(model)
    assert back.changed == {name: pair[::-1] for name, pair in report.changed.items()}
    assert back.retrain == report.retrain
    assert [(m, m.training) for m in model.modules()] == modules
    assert held(model) == activations


def check_copies(model: nn.Module, original: nn.Module, x: Tensor, picklable: bool) -> None:
    """A converted model, its copies and files compute the same; so do those that are put back."""
    check(model, original, x)
    model.eval()
    if picklable:  # pickles name public paths, so that files can be rearranged
        private = re.findall(rb"cmish_cuda\.\w+", pickle.dumps(model, protocol=0))
        assert {*private} <= {b"cmish_cuda._norm_act"}
    back: list[tuple[Any, Any]] = [(copied, None) for copied in COPIES[: 3 if picklable else 1]]
    for copied, to in [*back, (copy.deepcopy, nn.Mish)]:
        one = copied(model)
        assert isinstance(one, fx.GraphModule) or described(one) == described(model)
        check(one, original, x)
        assert revert(one, to=to).hint == ""
        check(one, original, x)
        assert revert(one, to=to) == mish_cuda.Conversion()
        if to:
            assert not any(m.training for m in one.modules())
            assert b"mish_cuda" not in pickle.dumps(one)
        elif not isinstance(one, fx.GraphModule):  # pickles of graphs forget ops
            assert described(one) == described(original)
    model.train()
