"""Converted models, with fused norms and without, do what models do; and their hooks."""

from __future__ import annotations

import copy
import functools
import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from types import SimpleNamespace
from typing import Any

import networks as net
import pytest
import torch
from lookalikes import MiSh, is_ours
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import mish_cuda
from conftest import slow
from mish_cuda import convert, revert

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("fuse_small_inputs"),
]


def compiled_before(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def use(model: nn.Module) -> Any:
        compiled = torch.compile(model, backend="aot_eager")
        compiled(torch.ones(net.IMAGES, dtype=torch.float64))
        change(model)
        return compiled

    return use


def merged(model: Any) -> nn.Module:
    model.eval()
    for block in (model[0], model[2]):
        block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    return model  # type: ignore[no-any-return]


def merged_as_by_yolo(model: Any) -> nn.Module:
    """Which takes the norm away, and gives the instance another forward."""
    model.eval()
    for block in (model[0], model[2]):
        block.conv = fuse_conv_bn_eval(block.conv, block.bn)
        del block.bn
        block.forward = lambda x, block=block: block.act(block.conv(x))
    return model  # type: ignore[no-any-return]


class Wrapper(nn.Module):
    """Hands on the attributes of a module, as wrappers of FSDP do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x) * 2  # type: ignore[no-any-return]


def in_threads(model: Any, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(4) as pool:
        return torch.cat([*pool.map(lambda _: model(x * 1), range(20))])


def synchronised(model: Any) -> nn.Module:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    assert type(model[0].bn) is nn.SyncBatchNorm
    return model  # type: ignore[no-any-return]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "branches": (net.Branches, (2, 4)),
    "ours already": (lambda: net.Branches(mish_cuda.MishCuda), (2, 4)),
    "timm": (net.timm, (2, 3, 8)),
    "factory": (net.with_a_factory, (2, 4)),
    "norms": (net.with_norms, net.IMAGES),
    "norm with activation": (lambda: nn.Sequential(net.BatchNormAct()), net.IMAGES),
}
Use = Callable[[Any], Callable[[Tensor], Tensor]]
# What may be done to any model, which computes the same afterwards.
USES: dict[str, Use] = {
    "state_dict": lambda m: m.load_state_dict(m.state_dict()) and m,
    "saved copy": lambda m: copy.deepcopy(net.torch_save(m)),
    "replica": lambda m: m._replicate_for_data_parallel(),
    "fx": fx.symbolic_trace,
    "script": torch.jit.script,
    "trace": lambda m: lambda x: torch.jit.trace(m, x.detach())(x),
    "export": lambda m: lambda x: torch.export.export(m, (x.detach(),)).module()(x),
    "compile": lambda m: torch.compile(m, backend="aot_eager", fullgraph=True),
}
# What may be done to the model with norms, and changes what it computes.
CHANGES: dict[str, Use] = {
    "threads": lambda m: lambda x: in_threads(m, x),
    "hook of a norm": lambda m: m[0].bn.register_forward_hook(net.scaled) and m,
    "hook of a Mish": lambda m: m[0].act.register_forward_hook(net.scaled) and m,
    "copied norm": lambda m: m.set_submodule("1.0", copy.copy(m[1][0])) or m,
    "conv and norm merged": merged,
    "merged as by YOLO": merged_as_by_yolo,
    "attributes handed on": lambda m: m.set_submodule("0.bn", Wrapper(m[0].bn)) or m,
    "SyncBatchNorm": synchronised,
    "another norm": lambda m: m.set_submodule("0.bn", nn.Identity()) or m,
    "another activation": lambda m: m.set_submodule("1.1", nn.Tanh()) or m,
    "no activation": lambda m: m.set_submodule("2.act", nn.Identity()) or m,
    "wrapped norm": lambda m: m.set_submodule("0.bn", nn.Sequential(m[0].bn, nn.SiLU())) or m,
    "layers moved": lambda m: nn.Sequential(*[x for block in m for x in block.children()]),
    "script without a norm": lambda m: (
        m.set_submodule("0.bn", nn.Identity()) or torch.jit.script(m)
    ),
    "compiled, then a hook": compiled_before(lambda m: m[0].bn.register_forward_hook(net.scaled)),
    "compiled, then no norm": compiled_before(lambda m: m.set_submodule("2.bn", nn.Identity())),
    "compiled, then another mode": compiled_before(lambda m: m.train(not m.training)),
}


@pytest.mark.parametrize(
    ("name", "use"),
    [
        *product(MODELS, USES),
        *(slow("norms", use) if "compiled" in use else ("norms", use) for use in CHANGES),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_uses(name: str, use: str, training: bool) -> None:
    torch._dynamo.reset()
    make, shape = MODELS[name]
    model, x = make().double().train(training), net.draw(shape)
    before = copy.deepcopy(model)
    convert(model, fuse_norms=True)
    used = (USES | CHANGES)[use](model)
    expected = CHANGES[use](before) if use in CHANGES else before
    net.close(net.results(used, x), net.results(expected, x))
    revert(model)
    net.close(net.results(model, x), net.results(before, x))


@pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile", "Module.compile"])
@pytest.mark.parametrize("graph", [False, True])
def test_what_has_been_compiled_before_is_compiled_anew(graph: bool, in_place: bool) -> None:
    torch._dynamo.reset()
    model = fx.symbolic_trace(net.InCode()) if graph else net.wrapped(nn.Mish())
    compiled: Any = model
    if in_place:
        model.compile(backend="eager", fullgraph=True)
    else:
        compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert not is_ours(compiled)
    convert(compiled)
    assert is_ours(compiled)
    revert(model)
    assert not is_ours(compiled)


def test_older_onnx_exporter() -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    convert(model := net.with_norms(), fuse_norms=True)
    file = io.BytesIO()
    x = (torch.ones(net.IMAGES),)
    torch.onnx.export(model.eval(), x, file, dynamo=False, opset_version=18)
    assert b"mish_cuda" not in file.getvalue()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no torch.distributed with gloo",
)
@pytest.mark.parametrize("fuse_norms", [False, True])
def test_wrapped_for_distributed_training(fuse_norms: bool) -> None:
    """Converted before it is wrapped, and after."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def sharded(model: nn.Module) -> nn.Module:
        for module in (model.get_submodule("0"), model):
            fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
        return model

    def converted(model: nn.Module) -> nn.Module:
        assert (len(convert(model, fuse_norms=fuse_norms).changed) > 3) is fuse_norms
        return model

    before, x = net.with_norms(), torch.randn(net.IMAGES)
    expected = before(x)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for wrap in (nn.DataParallel, nn.parallel.DistributedDataParallel, sharded):
            for change, then in ((converted, wrap), (wrap, converted)):
                model = then(change(copy.deepcopy(before)))
                y = model(x)
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
                y.sum().backward()
                assert all(p.grad is not None for p in model.parameters())
                revert(model)
                torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


# --- Hooks ---

# The methods that register hooks, with their arguments.
HOOKS: list[tuple[str, dict[str, bool]]] = [
    *((f"register_{name}", {}) for name in ("forward_hook", "forward_pre_hook")),
    *((f"register_full_{name}", {}) for name in ("backward_hook", "backward_pre_hook")),
    *((f"register_{name}_post_hook", {}) for name in ("state_dict", "load_state_dict")),
    *((f"register_{name}_pre_hook", {}) for name in ("state_dict", "load_state_dict")),
    ("register_forward_pre_hook", {"with_kwargs": True}),
    ("register_forward_hook", {"with_kwargs": True, "always_call": True}),
]


@pytest.mark.parametrize(("method", "options"), HOOKS)
def test_hooks_stay(method: str, options: dict[str, bool]) -> None:
    """They run as often as before and are given the layer that is there; their handles work."""
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Mish())
    original = model[1]
    calls: list[nn.Module] = []

    def register() -> Any:
        return getattr(model[1], method)(lambda module, *_: calls.append(module), **options)

    def use() -> None:  # whatever makes a hook run
        model(torch.randn(2, 4, requires_grad=True)).sum().backward()
        model.load_state_dict(model.state_dict())

    handle = register()
    convert(model)
    use()
    assert calls == [model[1]]
    later = register()
    revert(model)
    use()
    assert calls[1:] == [original, original]
    convert(model)
    handle.remove()
    later.remove()
    use()
    assert len(calls) == 3


def note(module: Any, *_: Any) -> None:
    module.noted = True


@pytest.mark.parametrize("copied", net.COPIES)
def test_hooks_of_copies(copied: Callable[[Any], Any]) -> None:
    """Those of load_state_dict are given the layer that is there."""
    model = nn.Sequential(nn.Mish())
    model[0].register_load_state_dict_pre_hook(note)
    convert(model)
    other = copied(copied(model))
    for change in (convert, revert):
        change(other)
        other.load_state_dict({})
        assert vars(other[0]).pop("noted")


# --- Accelerate ---


Hook = list[nn.Module]  # of those that were called


def add_hook_to_module(module: Any, hook: Hook) -> None:
    """As in accelerate, which puts a forward into the instance; ``hook`` is given the module."""
    old_forward = module._old_forward = module.forward
    module._hf_hook = hook

    def new_forward(module: Any, *args: Any, **kwargs: Any) -> Any:
        module._hf_hook.append(module)
        return module._old_forward(*args, **kwargs)

    module.forward = functools.update_wrapper(functools.partial(new_forward, module), old_forward)


def remove_hook_from_module(module: Any) -> None:
    del module._hf_hook, module._old_forward, module.forward


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Hook:
    functions = {f.__name__: f for f in (add_hook_to_module, remove_hook_from_module)}
    monkeypatch.setitem(sys.modules, "accelerate.hooks", SimpleNamespace(**functions))
    return []


@pytest.mark.parametrize("make", [nn.Mish, MiSh])
def test_dispatched_by_accelerate(make: type[nn.Module], hook: Hook) -> None:
    """Its hooks run for the layers that are there, and for each call once."""
    model: Any = net.Branches(make).double()
    x = net.draw((5, 4))
    original = copy.deepcopy(model)
    for module in [*model.modules()]:
        add_hook_to_module(module, hook)
    assert len(convert(model).changed) == 5
    assert hook == []
    net.check(model, original, x)
    model(x)
    assert hook.count(model.act) == 2
    assert {*hook} <= {*model.modules()}
    for to in (None, nn.Mish):
        other = copy.deepcopy(model)
        revert(other, to=to)
        net.check(other, original, x)
        assert "_hf_hook" in vars(other.act)
    remove_hook_from_module(model.act)
    revert(model)  # what was taken away since stays away
    assert not {"_hf_hook", "_old_forward", "forward"} & vars(model.act).keys()
    net.check(model, original, x)
    for to in (None, nn.Mish):  # and what came since stays
        hook.clear()
        late = nn.Sequential(make())
        convert(late)
        add_hook_to_module(late[0], hook)
        revert(late, to=to)
        late(torch.ones(3))
        assert hook == [late[0]]


def test_graphs_dispatched_by_accelerate_are_left_alone(hook: Hook) -> None:
    """It puts its forward into the class, which a change of the graph would undo."""
    graph = fx.symbolic_trace(net.InCode())
    add_hook_to_module(graph, hook)
    report = convert(graph)
    assert "accelerate.hooks.remove_hook_from_module" in report.left_alone["graph.mish"]
    remove_hook_from_module(graph)
    convert(graph)
    assert is_ours(graph)
