"""``convert(..., fuse_norms=True)``: models compute what they did, whatever is done to them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused import X, check, converted, fuse_small_inputs, fused, network, nodes  # noqa: F401
from lookalikes import torch_save
from torch import Tensor, nn

import mish_cuda
from conftest import needs_extension
from mish_cuda._before_mish import BEFORE_MISH


def test_report_and_revert() -> None:
    model = network()
    before = copy.deepcopy(model)
    mish_cuda.convert(model)
    assert fused(model) == 0  # not without being asked
    tensors = {name: id(t) for name, t in model.state_dict(keep_vars=True).items()}
    report = mish_cuda.convert(model, fuse_norms=True)
    assert report.changed == {
        name: (old, BEFORE_MISH[old])
        for name, old in {
            "0.bn": nn.BatchNorm2d,
            "1.0": nn.GroupNorm,
            "2.bn": nn.BatchNorm2d,
        }.items()
    }
    assert (report.left_alone, report.retrain) == ({}, [])
    assert {name: id(t) for name, t in model.state_dict(keep_vars=True).items()} == tensors
    for mode in (True, False):
        check(model.train(mode), before.train(mode))
    assert not mish_cuda.convert(model, fuse_norms=True).changed
    torchs = copy.deepcopy(model)
    mish_cuda.revert(torchs, to=nn.Mish)
    assert len(mish_cuda.revert(model.train()).changed) == 6
    for one in (model, torchs):
        assert [type(m) for m in one.modules()] == [type(m) for m in before.modules()]
    check(model, before.train())
    assert all(m.training for m in model.modules())


@needs_extension
def test_both_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is worth it."""
    model, before = converted(network())
    for mode in (True, False):
        found = nodes(model.train(mode)(X))
        assert found["NormMishBackward"] == 3
        assert not {"MishBackward", "NativeBatchNormBackward0"} & set(found)
    monkeypatch.undo()  # the input is small
    mish_cuda.convert(before)
    assert nodes(model.train()(X)) == nodes(before(X))


@needs_extension
def test_one_tensor_less_is_saved() -> None:
    sizes = []
    for model in converted(network()):
        saved: dict[int, int] = {}

        def keep(t: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[t.data_ptr()] = t.nbytes
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            model(X)
        sizes.append(sum(saved.values()))
    assert sizes[1] - sizes[0] >= 3 * X.nbytes - 4 * 3 * 8 * 22  # statistics of channels


@pytest.mark.parametrize("layer", ["bn", "act"])
@pytest.mark.parametrize("late", [False, True])
def test_hooks(layer: str, late: bool) -> None:
    before = network()[0]
    model = copy.deepcopy(before)
    seen: list[Tensor] = []
    if late:
        mish_cuda.convert(model, fuse_norms=True)
    handle = model.get_submodule(layer).register_forward_hook(lambda m, x, y: seen.append(y + 0))
    if not late:
        report = mish_cuda.convert(model, fuse_norms=True)
        assert "hooks" in report.left_alone["bn"]
    check(model, before)
    expected = before.bn(before.conv(X))
    torch.testing.assert_close(seen[0], expected if layer == "bn" else F.mish(expected))
    assert fused(model) == late
    handle.remove()
    check(model, before)


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


def with_another(name: str, new: Callable[[nn.Module], nn.Module]) -> Callable[[Any], Any]:
    """Replaces a layer."""

    def use(model: nn.Module) -> nn.Module:
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, new(model.get_submodule(name)))
        return model

    return use


def compiled_before(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def use(model: nn.Module) -> Any:
        compiled = torch.compile(model, backend="aot_eager")
        compiled(X)
        change(model)
        return compiled

    return use


def merged(model: Any) -> nn.Module:
    model.eval()
    for block in (model[0], model[2]):
        block.fuse()
    return model  # type: ignore[no-any-return]


def saved_script(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    return torch.jit.load(file)


def hooked(model: nn.Module) -> Callable[[Tensor], Any]:
    """With a hook of all modules."""

    def function(x: Tensor) -> Any:
        handle = nn.modules.module.register_module_forward_hook(lambda m, x, y: y * 1.5)
        try:
            return model(x)
        finally:
            handle.remove()

    return function


def in_threads(model: Any) -> Callable[[Tensor], Tensor]:
    """By replicas that share the layers, as those of nn.DataParallel."""
    replicas = [model._replicate_for_data_parallel() for _ in range(4)]

    def function(x: Tensor) -> Tensor:
        with ThreadPoolExecutor(4) as pool:
            return torch.cat([*pool.map(lambda replica: replica(x), replicas * 5)])

    return function


# What may be done to a model, fused or not.
USES: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "deepcopy": copy.deepcopy,
    "saved": torch_save,
    "saved copy": lambda m: copy.deepcopy(torch_save(m)),
    "state_dict": lambda m: m.load_state_dict(m.state_dict()) and m,
    "copied norm": with_another("1.0", copy.copy),
    "conv and norm merged": merged,
    "SyncBatchNorm": lambda m: nn.SyncBatchNorm.convert_sync_batchnorm(m).eval(),
    "another norm": with_another("0.bn", lambda _: nn.Identity()),
    "another activation": with_another("1.1", lambda _: nn.Tanh()),
    "no activation": with_another("2.act", lambda _: nn.Identity()),
    "wrapped norm": with_another("0.bn", Wrapper),
    "layers moved": lambda m: nn.Sequential(*[x for block in m for x in block.children()]),
    "hook of all modules": hooked,
    "threads": in_threads,
    "fx": torch.fx.symbolic_trace,
    "script": saved_script,
    "script without a norm": lambda m: saved_script(
        with_another("0.bn", lambda _: nn.Identity())(m)
    ),
    "compiled, then a hook": compiled_before(
        lambda m: m[0].bn.register_forward_hook(lambda m, x, y: None)
    ),
    "compiled, then no norm": compiled_before(with_another("2.bn", lambda _: nn.Identity())),
    "compiled, then another mode": compiled_before(lambda m: m.train(not m.training)),
}


@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")
@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("training", [False, True])
def test_uses(name: str, training: bool) -> None:
    model, before = converted(network().train(training))
    used = USES[name](model)
    check(used, USES[name](before))
    if name == "SyncBatchNorm":
        assert fused(model) == 1
    mish_cuda.revert(model)
    check(model, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_onnx_exporter() -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    model, _ = converted(network())
    file = io.BytesIO()
    torch.onnx.export(model.eval(), (X,), file, dynamo=False, opset_version=18)
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
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    def sharded(model: nn.Module) -> nn.Module:
        for module in (model.get_submodule("0"), model):
            fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
        return model

    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        before = network()
        expected = before(X)
        for wrap in (DataParallel, DistributedDataParallel, sharded):
            early, late = network(), network()
            for model in (early, late):
                model.load_state_dict(before.state_dict())
            mish_cuda.convert(early, fuse_norms=fuse_norms)
            early, late = wrap(early), wrap(late)
            mish_cuda.convert(late, fuse_norms=fuse_norms)
            for model in (early, late):
                assert (fused(model) > 0) is fuse_norms
                y = model(X)
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
                y.sum().backward()
                assert all(p.grad is not None for p in model.parameters())
                mish_cuda.revert(model)
                torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()
