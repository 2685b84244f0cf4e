"""Models that are given this library's Mish, and have it taken out again."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import mish as imported_under_another_name
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import mish_cuda
from mish_cuda import conversion, convert, override_torch, revert

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")

MINUS_INFINITY = torch.tensor([-torch.inf])  # where F.mish gives NaN, and ours -0


def is_ours(function: Callable[[Tensor], Tensor]) -> bool:
    return not function(MINUS_INFINITY.clone()).isnan().any()


# --- Mish as other libraries write it: their class names, arguments and ways to compute it ---


def textbook(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


@functools.cache
def scripted_textbook() -> Any:
    return torch.jit.script(textbook)


class Derived(torch.autograd.Function):
    """The formula with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return textbook(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        t = F.softplus(x).tanh()
        return grad * (t + x * torch.sigmoid(x) * (1 - t**2))


class Mish(nn.Module):
    """As in timm: it takes ``inplace``, and forgets it."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return textbook(x)


class MishJit(Mish):
    def forward(self, x: Tensor) -> Tensor:
        return scripted_textbook()(x)  # type: ignore[no-any-return]


class MishMe(Mish):
    def forward(self, x: Tensor) -> Tensor:
        return Derived.apply(x)  # type: ignore[no-any-return]


class MiSh(nn.Module):
    """As in YOLO code: the function is a static method."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * F.softplus(x).tanh()


class MemoryEfficientMish(nn.Module):
    class F(Derived):
        pass

    def forward(self, x: Tensor) -> Tensor:
        return self.F.apply(x)  # type: ignore[no-any-return]


class MishCuda(nn.Module):
    """As in the old mish-cuda, in a copy under another name."""

    def forward(self, inp: Tensor) -> Tensor:
        return Derived.apply(inp)  # type: ignore[no-any-return]


class MadeOfLayersMish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tanh, self.softplus = nn.Tanh(), nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.tanh(self.softplus(x))  # type: ignore[no-any-return]


class ExponentialMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n = x.exp() * (x.exp() + 2)
        return x * n / (n + 2)


class InplaceMish(nn.Module):
    """Overwrites its input without an attribute that says so."""

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x, inplace=True)


class ForgetfulMish(nn.Module):
    """Its attribute says that it overwrites its input, and it does not."""

    inplace = True

    def forward(self, x: Tensor) -> Tensor:
        return textbook(x)


class FunctionalMish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.function = F.mish

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Activation(nn.Mish):
    """Derived from torch's, under a name that does not tell."""


RECOGNISED = pytest.mark.parametrize(
    "make",
    [
        *(nn.Mish, Mish, MishJit, MishMe, MiSh, MemoryEfficientMish, MishCuda, MadeOfLayersMish),
        *(ExponentialMish, InplaceMish, ForgetfulMish, FunctionalMish, Activation),
    ],
)


class HardMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x + 2).clamp(0, 2) / 2


class SMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


class StraightThroughMish(nn.Module):
    """Mish in its values, not in its slopes."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (textbook(x) - x).detach()


class SumMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return textbook(x).sum()


class FlippedMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return textbook(x).flip(0)


class DropoutMish(nn.Module):
    """Mish in evaluation only."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(textbook(x), training=self.training)


class Float32Mish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return textbook(x.float())


class DetachedMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return textbook(x.detach())


class NanMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 19, torch.nan, textbook(x))


class ForImagesMish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        _, _, _, _ = x.shape
        return textbook(x)


class TrainableMish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return textbook(self.beta * x)


LOOK_ALIKES = {
    HardMish: "has the slope",
    SMish: "has the value",
    StraightThroughMish: "has the slope 1 at -2.5, where Mish has -0.1",
    SumMish: "fails when tried out",
    FlippedMish: "has the value",
    DropoutMish: "has the value",
    Float32Mish: "from torch.float64 it makes torch.float32",
    DetachedMish: "fails when tried out",
    NanMish: "has the value nan at 19.5",
    ForImagesMish: "not enough values to unpack",
    TrainableMish: "has parameters or buffers",
}


# --- Models ---


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
        for layer in self.listed:
            y = layer(y)
        y = self.named["act"](self.again(y + 0.5) * 2)
        return self.head(y)  # type: ignore[no-any-return]


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)  # type: ignore[no-any-return]


NAMES = ["act", "again", "stem.1", "listed.1", "named.act"]


def results(model: nn.Module) -> list[Tensor]:
    """Output and gradients of a model, computed in float64."""
    model = copy.deepcopy(model).double()
    x = torch.linspace(-3, 3, 20, dtype=torch.float64).reshape(5, 4).requires_grad_()
    y = model(x)
    inputs = [x, *(p for p in model.parameters() if p.requires_grad)]
    return [y, *torch.autograd.grad(y.square().sum(), inputs)]


def assert_same_function(results_before: list[Tensor], model: nn.Module) -> None:
    torch.testing.assert_close(results(model), results_before, rtol=1e-12, atol=1e-12)


def kinds(model: nn.Module) -> Counter[type[nn.Module]]:
    return Counter(map(type, model.modules()))


def torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


COPIES = pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), torch_save],
    ids=["deepcopy", "pickle", "torch.save"],
)


# --- What is replaced, and what stays ---


@RECOGNISED
def test_values_and_gradients_stay(make: type[nn.Module], public: str) -> None:
    model = Branches(make)
    before = results(model)
    report = convert(model)
    assert sorted(report.changed) == sorted(NAMES)
    assert report.left_alone == {}
    assert report.retrain == []
    assert set(report.changed.values()) == {(make, mish_cuda.Mish)}
    assert kinds(model)[mish_cuda.Mish] == 4
    assert kinds(model)[make] == 0
    assert_same_function(before, model)
    assert convert(model) == mish_cuda.Conversion()
    again = revert(model)
    assert {name: kinds[::-1] for name, kinds in again.changed.items()} == report.changed
    assert kinds(model)[make] == 4
    assert_same_function(before, model)


def test_names_and_state_dict_stay() -> None:
    model, original = Branches(), Branches()
    convert(model)
    assert list(model.state_dict()) == list(original.state_dict())
    names = [name for name, _ in original.named_modules(remove_duplicate=False)]
    assert [name for name, _ in model.named_modules(remove_duplicate=False)] == names
    model.load_state_dict(original.state_dict())
    assert repr(model) == repr(original)


def test_shared_instances_stay_shared() -> None:
    shared = nn.Mish()
    block = nn.Sequential(nn.Linear(4, 4), shared)
    model = nn.Sequential(block, shared, nn.Sequential(block, shared), nn.Mish())
    report = convert(model)
    assert list(report.changed) == ["1", "3", "0.1", "2.1", "2.0.1"]
    layers: Any = model
    assert layers[0] is layers[2][0]
    assert layers[1] is layers[0][1] is layers[2][1]
    assert layers[1] is not layers[3]
    revert(model)
    assert layers[1] is layers[0][1] is layers[2][1] is shared


def test_an_instance_shared_with_another_model_is_replaced_in_one() -> None:
    default = nn.Mish()
    one, other = nn.Sequential(default), nn.Sequential(default)
    convert(one)
    assert type(one[0]) is mish_cuda.Mish
    assert other[0] is default


def test_flags_and_attributes_stay() -> None:
    model: Any = nn.Sequential(nn.Mish(True), nn.Mish(), nn.Linear(2, 2))
    model[1].eval()
    model[1].f = -1  # as YOLO's parsers note where a layer's input comes from
    model[2].requires_grad_(False)
    convert(model)
    assert [layer.inplace for layer in model[:2]] == [True, False]
    assert [layer.training for layer in model] == [True, False, True]
    assert model[1].f == -1
    assert not any(p.requires_grad for p in model.parameters())


def test_inplace_is_what_a_layer_does() -> None:
    model: Any = nn.Sequential(InplaceMish(), ForgetfulMish(), nn.ReLU(True), nn.SiLU())
    convert(model, (nn.Mish, nn.ReLU, nn.SiLU))
    assert [layer.inplace for layer in model] == [True, False, True, False]


def test_again_does_nothing() -> None:
    model = Branches()
    convert(model)
    layers = list(model.modules())
    assert convert(model) == mish_cuda.Conversion()
    assert convert(model, where="stem.*") == mish_cuda.Conversion()
    assert list(model.modules()) == layers
    assert revert(model).changed.keys() == set(NAMES)
    assert revert(model) == mish_cuda.Conversion()
    assert kinds(model)[nn.Mish] == 4


# --- Hooks ---


Register = Callable[[nn.Module, Callable[..., None]], Any]
HOOKS: dict[str, Register] = {
    "forward": lambda m, f: m.register_forward_hook(f),
    "forward, with kwargs": lambda m, f: m.register_forward_hook(f, with_kwargs=True),
    "forward, always": lambda m, f: m.register_forward_hook(f, always_call=True),
    "forward pre": lambda m, f: m.register_forward_pre_hook(f),
    "forward pre, with kwargs": lambda m, f: m.register_forward_pre_hook(f, with_kwargs=True),
    "backward": lambda m, f: m.register_full_backward_hook(f),
    "backward pre": lambda m, f: m.register_full_backward_pre_hook(f),
    "state_dict": lambda m, f: m.register_state_dict_post_hook(f),
    "state_dict pre": lambda m, f: m.register_state_dict_pre_hook(f),
    "load_state_dict": lambda m, f: m.register_load_state_dict_post_hook(f),
    "load_state_dict pre": lambda m, f: m.register_load_state_dict_pre_hook(f),
}


def use(model: nn.Module) -> None:
    """Whatever makes a hook run."""
    model(torch.randn(2, 4, requires_grad=True)).sum().backward()
    model.load_state_dict(model.state_dict())


@pytest.mark.parametrize("register", HOOKS.values(), ids=HOOKS)
def test_hooks_stay(register: Register) -> None:
    """They run as often as before and are given the layer that is there; their handles work."""
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Mish())
    original = model[1]
    calls: list[nn.Module] = []
    handle = register(original, lambda module, *_: calls.append(module))
    convert(model)
    assert calls == []
    use(model)
    assert calls == [model[1]]
    later = register(model[1], lambda module, *_: calls.append(module))
    revert(model)
    use(model)
    assert calls[1:] == [original, original]
    convert(model)
    handle.remove()
    later.remove()
    use(model)
    assert len(calls) == 3


def test_a_hook_that_is_always_called() -> None:
    model: Any = nn.Sequential(nn.Mish())
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1), always_call=True)
    convert(model)
    with pytest.raises(TypeError):
        model("no tensor")
    assert calls == [1]


def test_hooks_keep_their_order_and_may_change_values() -> None:
    model: Any = nn.Sequential(nn.Mish())
    model[0].register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    model[0].register_forward_hook(lambda _, args, y: y * 2)
    model[0].register_forward_hook(lambda _, args, y: y + 1, prepend=True)
    x = torch.randn(5)
    expected = model(x)
    convert(model)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)


# --- Which are replaced ---


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("*", NAMES),
        ("*act", ["act", "named.act"]),
        ("stem.*", ["stem.1"]),
        ("[!s]*.1", ["listed.1"]),
        (lambda name, _: name.startswith("a"), ["act", "again"]),
        (lambda _, activation: activation.inplace, []),
    ],
)
def test_filter(where: Any, expected: list[str]) -> None:
    model = Branches()
    assert list(convert(model, where=where).changed) == expected
    replaced = [
        n for n, m in model.named_modules(remove_duplicate=False) if type(m) is mish_cuda.Mish
    ]
    assert sorted(replaced) == sorted(expected)


def test_part_of_a_shared_instance() -> None:
    model = Branches()
    shared = model.act
    convert(model, where="again")
    assert model.act is shared
    assert type(model.again) is mish_cuda.Mish


@pytest.mark.parametrize("where", ["stem", "Act", "*.2"])
def test_a_pattern_that_matches_nothing(where: str) -> None:
    with pytest.raises(ValueError, match=r"got .*Their names: act, again, stem\.1, listed"):
        convert(Branches(), where=where)


def test_a_pattern_where_there_is_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert convert(model) == mish_cuda.Conversion()
    with pytest.raises(ValueError, match="there is none"):
        convert(model, where="1")


def test_other_classes_only_when_asked_for() -> None:
    model: Any = nn.Sequential(nn.ReLU(True), nn.SiLU(), nn.Mish(), nn.ReLU6())
    assert list(convert(model).changed) == ["2"]
    report = convert(model, nn.SiLU)
    assert report.changed == {"1": (nn.SiLU, mish_cuda.Mish)}
    assert report.retrain == ["1"]
    report = convert(model, (nn.Mish, nn.ReLU))
    assert report.changed == {"0": (nn.ReLU, mish_cuda.Mish)}
    assert model[0].inplace
    assert type(model[3]) is nn.ReLU6
    report = revert(model)
    assert list(map(type, model)) == [nn.ReLU, nn.SiLU, nn.Mish, nn.ReLU6]
    assert report.retrain == ["0", "1"]


def test_without_mish_among_the_classes() -> None:
    model = nn.Sequential(nn.Mish(), Mish(), nn.ReLU())
    assert list(convert(model, nn.ReLU).changed) == ["2"]


class DerivedReLU(nn.ReLU):
    pass


def test_derived_classes_have_to_be_named() -> None:
    model = nn.Sequential(DerivedReLU(), nn.ReLU())
    report = convert(model, nn.ReLU)
    assert list(report.changed) == ["1"]
    assert "name test_conversion.DerivedReLU in from_" in report.left_alone["0"]
    assert list(convert(model, DerivedReLU).changed) == ["0"]


# Modules without parameters that are no activations, and what is told of them.
NOT_ELEMENTWISE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "pooling": (lambda: nn.MaxPool2d(2), r"makes the shape \(2, 4, 2, 2\) of \(2, 4, 4, 4\)"),
    "pooling that keeps the shape": (lambda: nn.MaxPool2d(3, 1, 1), "from several elements"),
    "pooling of other dimensions": (lambda: nn.MaxPool1d(2), "fails when tried out.*max_pool1d"),
    "GLU": (nn.GLU, r"makes the shape \(2, 4, 4, 2\)"),
    "softmax": (lambda: nn.Softmax(dim=-1), "from several elements"),
    "norm": (lambda: nn.LayerNorm(4, elementwise_affine=False), "from several elements"),
    "permutation": (lambda: nn.ChannelShuffle(2), "from several elements"),
    "reshaping": (nn.Flatten, r"makes the shape \(2, 64\)"),
    "container": (lambda: nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), "makes the shape"),
    "mirror": (FlippedMish, "from several elements"),
    "loss": (nn.MSELoss, "fails when tried out.*target"),
}


@pytest.mark.parametrize(("make", "message"), NOT_ELEMENTWISE.values(), ids=NOT_ELEMENTWISE)
def test_what_is_no_activation_is_refused(make: Callable[[], nn.Module], message: str) -> None:
    """Also when its class is named; the model is then as it was, and so are random numbers."""
    module = make()
    model = nn.Sequential(nn.Linear(2, 2), nn.Mish(), nn.Sequential(module))
    layers = list(model.modules())
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"'2.0' .*{message}.*Leave it out by means of `where`"):
        convert(model, (nn.Mish, type(module)), where=lambda name, _: name in ("1", "2.0"))
    assert list(model.modules()) == layers
    assert torch.equal(torch.get_rng_state(), state)
    assert all(layer.training for layer in layers)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Softplus, nn.ELU, nn.Hardswish, nn.LogSigmoid),
        *(nn.RReLU, nn.Hardshrink, lambda: nn.Threshold(0, 0), nn.Dropout, nn.Identity),
        *(lambda: nn.ReLU(True), lambda: nn.RReLU(inplace=True)),
    ],
)
def test_what_is_elementwise_is_replaced(make: Callable[[], nn.Module], training: bool) -> None:
    model = nn.Sequential(make()).train(training)
    assert convert(model, type(model[0])).retrain == ["0"]
    assert type(model[0]) is mish_cuda.Mish


# --- Classes that look like Mish ---


@pytest.mark.parametrize(("make", "reason"), LOOK_ALIKES.items())
@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_mish_is_left_alone(
    make: type[nn.Module], reason: str, training: bool, public: str
) -> None:
    model = nn.Sequential(nn.Mish(), make()).train(training)
    report = convert(model)
    assert list(report.changed) == ["0"]
    assert list(report.left_alone) == ["1"]
    assert reason in report.left_alone["1"]
    assert type(model[1]) is make
    assert model[1].training is training


def test_what_is_not_mish_can_be_forced() -> None:
    model = nn.Sequential(HardMish())
    report = convert(model, HardMish)
    assert report.changed == {"0": (HardMish, mish_cuda.Mish)}
    assert report.retrain == ["0"]
    assert convert(nn.Sequential(MiSh()), MiSh).retrain == []


def test_blocks_named_after_mish_are_looked_into() -> None:
    class ConvMish(nn.Sequential):
        pass

    class MishGate(Wrapper):
        pass

    model = nn.Sequential(ConvMish(nn.Linear(2, 2), nn.Mish()), MishGate())
    report = convert(model)
    assert list(report.changed) == ["0.1", "1.act"]
    assert report.left_alone == {}
    assert list(convert(MishGate()).changed) == ["act"]


def test_trying_out_leaves_no_trace() -> None:
    """No hook runs, no random number is drawn, and gradients stay as they were."""
    calls = []
    model: Any = nn.Sequential(MiSh(), DropoutMish())
    for layer in model:
        layer.register_forward_hook(lambda *_: calls.append(1))
    state = torch.get_rng_state()
    convert(model)
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(layer.training for layer in model)


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.device("meta"), override_torch],
    ids=["no_grad", "inference_mode", "meta", "override_torch"],
)
def test_trying_out_within(context: Callable[[], Any]) -> None:
    with context():
        model = nn.Sequential(MiSh(), HardMish())
        report = convert(model)
    assert list(report.changed) == ["0"]
    assert "has the slope" in report.left_alone["1"]


# --- Functions as attributes ---


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = F.mish
        self.other = F.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.function(self.linear(x)))


def test_functions() -> None:
    model = Functional()
    before = results(model)
    report = convert(model)
    assert report.changed == {"function": (F.mish, conversion.converted_mish)}
    assert "function: torch.nn.functional.mish -> mish_cuda" in str(report)
    assert is_ours(model.function)
    assert_same_function(before, model)
    assert convert(model) == mish_cuda.Conversion()
    revert(model)
    assert model.function is F.mish
    assert convert(model, nn.ReLU) == mish_cuda.Conversion()


@COPIES
def test_functions_of_copies(copied: Callable[[nn.Module], Any]) -> None:
    model = Functional()
    convert(model)
    other = copied(model)
    assert is_ours(other.function)
    revert(other)
    assert other.function is F.mish


def test_pickles_name_public_paths() -> None:
    """So that the library can be rearranged, and old files still load."""
    model = nn.Sequential(Functional(), nn.Mish())
    convert(model)
    data = pickle.dumps(model, protocol=0)
    assert b"cmish_cuda\nconverted_mish\n" in data
    assert b"cmish_cuda\nMish\n" in data
    assert b"mish_cuda." not in data


def test_functions_that_were_ours_before() -> None:
    model = Functional()
    model.function = mish_cuda.mish
    convert(model)
    revert(model)
    assert model.function is mish_cuda.mish
    revert(model, to=nn.Mish)
    assert model.function is F.mish


@pytest.mark.parametrize("activation", [F.mish, nn.Mish()], ids=["function", "module"])
def test_transformer_encoder_layer(activation: Any) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, activation, batch_first=True)
    model: Any = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(2, 3, 4)
    for training in (True, False):
        model.train(training)
        expected = model(x)
        report = convert(model)
        assert list(report.changed) == ["layers.0.activation", "layers.1.activation"]
        torch.testing.assert_close(model(x), expected)
        assert is_ours(model.layers[0].activation)
        revert(model)


def test_transformer_encoder_layer_with_a_fused_activation() -> None:
    """In evaluation it computes ReLU, whatever stands in its place by then."""
    model: Any = nn.TransformerEncoderLayer(4, 2, 8, activation=nn.ReLU())
    with pytest.raises(ValueError, match=r"'activation' \(.*ReLU\) goes unused in evaluation"):
        convert(model, nn.ReLU)
    assert type(model.activation) is nn.ReLU


# --- What cannot be replaced ---


def parametrised() -> nn.Module:
    layer = nn.PReLU()
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


def with_a_buffer() -> nn.Module:
    layer = nn.Mish()
    layer.register_buffer("calls", torch.zeros(()))
    return layer


def with_a_forward_of_its_own() -> nn.Module:
    layer = nn.Mish()
    layer.forward = lambda input: input  # type: ignore[method-assign]
    return layer


def compiled_in_place() -> nn.Module:
    layer = nn.Mish()
    layer.compile(backend="eager")
    return layer


OBSTACLES: dict[str, tuple[Callable[[], Any], str]] = {
    "parameters": (nn.PReLU, "'1' .*PReLU.* has parameters or buffers, which would be lost"),
    "parametrised": (parametrised, "'1' .*ParametrizedPReLU.* has parameters or buffers"),
    "buffers": (with_a_buffer, "has parameters or buffers"),
    "forward": (with_a_forward_of_its_own, "has a forward of its own"),
    "compiled": (
        lambda: torch.compile(nn.Mish(), backend="eager"),
        "'1._orig_mod' .* is compiled by itself",
    ),
    "compiled in place": (compiled_in_place, "is compiled by itself"),
}


@pytest.mark.parametrize(("make", "message"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_cannot_be_replaced(make: Callable[[], Any], message: str) -> None:
    """An error that leaves the model as it was, and a way around it."""
    model = nn.Sequential(nn.Mish(), make(), nn.Mish())
    layers = list(model.modules())
    with pytest.raises(ValueError, match=f"{message}.*Leave it out by means of `where`"):
        convert(model, (nn.Mish, nn.PReLU))
    assert list(model.modules()) == layers
    convert(model, (nn.Mish, nn.PReLU), where=lambda name, _: not name.startswith("1"))
    assert [type(layer) is mish_cuda.Mish for layer in model] == [True, False, True]


def test_torchscript() -> None:
    x = torch.randn(3)
    for script in (torch.jit.script, lambda model: torch.jit.trace(model, x)):
        scripted = script(nn.Sequential(nn.Mish()))
        with pytest.raises(TypeError, match=r"TorchScript.*before torch\.jit\.script"):
            convert(scripted)
        with pytest.raises(TypeError, match="TorchScript"):
            revert(scripted)
        report = convert(nn.Sequential(nn.Mish(), scripted, script(nn.Mish())))
        assert list(report.changed) == ["0"]
        assert list(report.left_alone) == ["2", "1.0"]
        assert all("is TorchScript" in reason for reason in report.left_alone.values())


@pytest.mark.parametrize("activation", [nn.Mish(), MiSh(), MadeOfLayersMish(), Activation()])
def test_the_model_is_an_activation(activation: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"one activation, .*Use mish_cuda\.Mish\(\)"):
        convert(activation)
    with pytest.raises(ValueError, match="one activation"):
        convert(nn.ReLU(), nn.ReLU)
    with pytest.raises(ValueError, match=r"one activation, .*Use torch\.nn\.Mish\(\)"):
        revert(mish_cuda.Mish())
    assert convert(mish_cuda.Mish()) == convert(HardMish()) == mish_cuda.Conversion()


@pytest.mark.parametrize("model", [None, F.mish, {"act": nn.Mish()}, nn.Mish])
def test_no_model(model: Any) -> None:
    for function in (convert, revert):
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got"):
            function(model)


@pytest.mark.parametrize("from_", [nn.Mish(), "Mish", F.mish, (nn.Mish, "ReLU"), [nn.Mish], int])
def test_no_classes(from_: Any) -> None:
    with pytest.raises(TypeError, match=r"expected `from_` to be a subclass of torch\.nn\.Module"):
        convert(Branches(), from_)


@pytest.mark.parametrize("where", [None, ["stem.*"], 3])
def test_no_filter(where: Any) -> None:
    with pytest.raises(TypeError, match="expected `where` to be a pattern or a function, got"):
        convert(Branches(), where=where)


def test_an_error_on_the_way_changes_nothing() -> None:
    def where(name: str, _: Any) -> bool:
        if name == "named.act":
            raise KeyError(name)
        return True

    model = Branches()
    layers = list(model.modules())
    with pytest.raises(KeyError):
        convert(model, where=where)
    assert list(model.modules()) == layers
    convert(model)
    model.act.forward = F.mish
    layers = list(model.modules())
    with pytest.raises(ValueError, match="'act' has a forward of its own"):
        revert(model)
    assert list(model.modules()) == layers


# --- Reverting ---


@COPIES
@RECOGNISED
def test_revert_copies(make: type[nn.Module], copied: Callable[[nn.Module], Any]) -> None:
    model = Branches(make)
    before = results(model)
    convert(model)
    other = copied(model)
    assert kinds(other) == kinds(model)
    assert_same_function(before, other)
    revert(other)
    assert kinds(other)[make] == 4
    assert other.act is other.again
    assert_same_function(before, other)
    assert kinds(model)[mish_cuda.Mish] == 4


@COPIES
def test_hooks_of_copies(copied: Callable[[nn.Module], Any]) -> None:
    model: Any = nn.Sequential(nn.Mish())
    model[0].register_forward_hook(double)
    model[0].register_load_state_dict_pre_hook(note)
    convert(model)
    for other in (copied(model), copied(copied(model))):
        x = torch.randn(3)
        torch.testing.assert_close(other(x), 2 * F.mish(x))
        other.load_state_dict({})
        assert other[0].noted
        revert(other)
        torch.testing.assert_close(other(x), 2 * F.mish(x))
        other[0].noted = False
        other.load_state_dict({})
        assert other[0].noted


def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def note(module: Any, *_: Any) -> None:
    module.noted = True


def test_revert_keeps_what_happened_since() -> None:
    model: Any = Branches()
    originals = [model.act, model.listed[1]]
    convert(model)
    model.eval()
    model.act.f = 3
    revert(model)
    assert [model.act, model.listed[1]] == originals
    assert model.again is model.act
    assert model.act.f == 3
    assert not any(layer.training for layer in model.modules())


def test_revert_leaves_alone_what_was_never_converted() -> None:
    model = nn.Sequential(mish_cuda.Mish(), nn.Mish())
    convert(model)
    assert list(revert(model).changed) == ["1"]
    assert list(map(type, model)) == [mish_cuda.Mish, nn.Mish]


class Doubled(mish_cuda.Mish):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Renamed(mish_cuda.Mish):
    pass


def test_revert_to_torch() -> None:
    old = mish_cuda.MishCuda()
    del vars(old)["inplace"]  # as layers of the old package are unpickled
    model: Any = nn.Sequential(
        mish_cuda.Mish(True), old, Mish(), nn.ReLU(), Functional(), Renamed(), Doubled()
    ).eval()
    convert(model, (nn.Mish, nn.ReLU))
    report = revert(model, to=nn.Mish)
    assert list(report.changed) == ["0", "1", "2", "3", "5", "4.function"]
    assert [type(layer) for layer in model] == [
        *(nn.Mish, nn.Mish, nn.Mish, nn.Mish, Functional, nn.Mish, Doubled)
    ]
    assert [layer.inplace for layer in model[:4]] == [True, False, False, False]
    assert not any(layer.training for layer in model)
    assert "derives from mish_cuda.Mish, but has the value" in report.left_alone["6"]
    assert report.retrain == []
    assert b"mish_cuda" not in pickle.dumps(model[:6])
    assert revert(model) == mish_cuda.Conversion()


@pytest.mark.parametrize("to", [nn.ReLU, "Mish", nn.Mish(), mish_cuda.Mish])
def test_revert_to_something_else(to: Any) -> None:
    with pytest.raises(ValueError, match=r"expected `to` to be None or torch\.nn\.Mish, got"):
        revert(Branches(), to=to)


# --- Reports ---


def test_report() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Mish()
            self.body = nn.Sequential(nn.ReLU(), HardMish())

    report = convert(Net(), (nn.Mish, nn.ReLU))
    lines = str(report).splitlines()
    assert lines[:3] == [
        "2 replaced",
        "  stem: torch.nn.modules.activation.Mish -> mish_cuda.Mish",
        "  body.0: torch.nn.modules.activation.ReLU -> mish_cuda.Mish",
    ]
    assert lines[3] == "1 left alone"
    assert lines[4].startswith("  body.1: has the slope -1 at -2, where Mish has -0.1084; ")
    assert lines[5:] == ["1 compute another function now: train the model again", "  body.0"]


class InClassAttribute(nn.Module):
    act = nn.Mish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)  # type: ignore[no-any-return]


class InDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.acts = {"mish": nn.Mish()}

    def forward(self, x: Tensor) -> Tensor:
        return self.acts["mish"](x)  # type: ignore[no-any-return]


class InCode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)


@pytest.mark.parametrize(
    "make", [InClassAttribute, InDict, InCode, lambda: torch.fx.symbolic_trace(InCode())]
)
def test_where_nothing_is_found_there_is_a_hint(make: Callable[[], nn.Module]) -> None:
    model = make()
    first, second = str(convert(model)).splitlines()
    assert first == "0 replaced"
    assert "mish_cuda.override_torch()" in second
    assert not is_ours(model)
    with override_torch():  # the advice is good
        assert is_ours(model)


def test_elsewhere_there_is_no_hint() -> None:
    model = nn.Sequential(nn.Mish())
    for report in (convert(model), convert(model), convert(model, nn.ReLU), revert(nn.ReLU())):
        assert "override_torch" not in str(report)
    assert str(convert(nn.Sequential(HardMish()))).startswith("0 replaced\n1 left alone")


# --- In other parts of torch ---


def test_scripted_traced_and_exported_after_conversion() -> None:
    model = Branches().eval()
    x = torch.randn(2, 4)
    convert(model)
    expected = model(x)
    torch.testing.assert_close(torch.jit.script(model)(x), expected)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), expected)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


@pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile", "Module.compile"])
def test_compiled_models(in_place: bool) -> None:
    """What has been compiled before is compiled anew."""
    torch._dynamo.reset()
    model: Any = Wrapper()
    compiled = model
    if in_place:
        model.compile(backend="eager", fullgraph=True)
    else:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert not is_ours(compiled)
    report = convert(compiled)
    assert list(report.changed) == ["act" if in_place else "_orig_mod.act"]
    assert is_ours(compiled)
    revert(model)
    assert not is_ours(compiled)


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no torch.distributed with gloo",
)
def test_wrapped_for_distributed_training() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    def sharded(model: nn.Module) -> nn.Module:
        fully_shard(model.stem, mesh=mesh)  # type: ignore[arg-type]
        fully_shard(model, mesh=mesh)
        return model

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        x = torch.randn(2, 4)
        for wrap in (DataParallel, DistributedDataParallel, sharded):
            model = wrap(Branches())
            expected = model(x)
            assert len(convert(model).changed) == len(NAMES)
            y = model(x)
            torch.testing.assert_close(y, expected)
            y.sum().backward()
            assert all(p.grad is not None for p in model.parameters())
            assert len(revert(model).changed) == len(NAMES)
            torch.testing.assert_close(model(x), expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    torch.backends.quantized.engine == "none", reason="this torch has no quantised kernels"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised() -> None:
    model = torch.ao.quantization.quantize_dynamic(Branches().eval(), {nn.Linear})
    x = torch.randn(2, 4)
    expected = model(x)
    assert len(convert(model).changed) == len(NAMES)
    torch.testing.assert_close(model(x), expected)


# --- override_torch ---


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    yield
    assert torch._C._len_torch_function_stack() == 0
    assert not is_ours(F.mish)


CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.mish": lambda x: F.mish(x),
    "in place": lambda x: F.mish(x, inplace=True),
    "by keyword": lambda x: F.mish(input=x),
    "under another name": lambda x: imported_under_another_name(x),
    "nn.Mish": nn.Mish(),
    "nn.Mish in place": nn.Mish(True),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_override(call: Callable[[Tensor], Tensor], public: str) -> None:
    assert not is_ours(call)
    with override_torch():
        assert is_ours(call)
        x = torch.randn(5)
        in_place = call(x) is x
    assert not is_ours(call)
    assert (call(x) is x) is in_place


def test_override_a_model() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Mish(), nn.Linear(8, 4), Functional())
    before = results(model)
    with override_torch():
        assert_same_function(before, model)


@pytest.mark.parametrize("function", [torch._C._nn.mish, torch.ops.aten.mish], ids=str)
def test_not_overridden(function: Callable[[Tensor], Tensor]) -> None:
    with override_torch():
        assert not is_ours(function)


def test_override_nests() -> None:
    mode = override_torch()
    with mode:
        with override_torch(), mode:
            assert is_ours(F.mish)
        assert is_ours(F.mish)
    with mode:
        assert is_ours(F.mish)


def test_override_ends_with_an_exception() -> None:
    with pytest.raises(TypeError), override_torch():
        F.mish("no tensor")  # type: ignore[arg-type]
    assert not is_ours(F.mish)


def test_override_concerns_one_thread() -> None:
    found: list[bool] = []
    with override_torch():
        thread = threading.Thread(target=lambda: found.append(is_ours(F.mish)))
        thread.start()
        thread.join()
        assert is_ours(F.mish)
    assert found == [False]


class Record(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


def test_override_with_other_modes() -> None:
    """An outer mode sees what is called instead; an inner one sees what was called."""
    x = torch.randn(3)
    with Record() as outer, override_torch():
        F.mish(x)
    assert outer.calls == [mish_cuda.mish]
    with override_torch(), Record() as inner:
        assert is_ours(F.mish)
    assert F.mish in inner.calls
    with override_torch(), torch.device("cpu"):
        assert is_ours(F.mish)


class Subclass(Tensor):
    seen: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_override_with_subclasses() -> None:
    x = torch.randn(3).as_subclass(Subclass)
    Subclass.seen.clear()
    with override_torch():
        y = F.mish(x)
    assert type(y) is Subclass
    assert Subclass.seen == [mish_cuda.mish]


def test_override_under_torch_func() -> None:
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)

    def derivatives() -> list[Tensor]:
        one = torch.ones_like(x)
        return [
            torch.func.vmap(torch.func.grad(F.mish))(x),
            torch.func.vmap(torch.func.grad(torch.func.grad(F.mish)))(x),
            *torch.func.jvp(F.mish, (x,), (one,)),
            torch.func.jacrev(F.mish)(x),
        ]

    expected = derivatives()
    with override_torch():
        torch.testing.assert_close(derivatives(), expected, rtol=1e-12, atol=1e-12)
        slope = torch.func.vmap(torch.func.grad(F.mish))(MINUS_INFINITY)
    assert torch.equal(slope, torch.zeros(1))


def within(x: Tensor) -> Tensor:
    with override_torch():
        return F.mish(x)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_override_and_compile(backend: str) -> None:
    """Around the call of a compiled function, and inside of one."""
    torch._dynamo.reset()
    compiled = torch.compile(F.mish, fullgraph=True, backend=backend)
    for _ in range(2):
        assert not is_ours(compiled)
        with override_torch():
            assert is_ours(compiled)
            assert is_ours(torch.compile(nn.Mish(), fullgraph=True, backend=backend))
    assert is_ours(torch.compile(within, fullgraph=True, backend=backend))
    assert not is_ours(F.mish)


@pytest.mark.parametrize("reentrant", [False, True])
def test_override_and_checkpointing(reentrant: bool) -> None:
    """The backward may compute the values again by ``F.mish`` itself: the slopes are the same."""
    x = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.mish(x).sum(), x)
    with override_torch():
        checkpoint(F.mish, x, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)
