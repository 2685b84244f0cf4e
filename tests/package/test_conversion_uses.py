"""Converted models, with fused norms and without, do what else is done with models."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest
import torch
from lookalikes import is_ours
from networks import (
    IMAGES,
    BatchNormAct,
    Branches,
    InCode,
    close,
    draw,
    fused,
    results,
    timm,
    torch_save,
    with_a_factory,
    with_norms,
    wrapped,
)
from torch import Tensor, fx, nn

import mish_cuda
from mish_cuda import convert, revert

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.usefixtures("fuse_small_inputs"),
]


def scaled(module: Any, args: Any, output: Tensor) -> Tensor:
    """A hook."""
    return output * 1.5


def with_another(name: str, new: Callable[[nn.Module], nn.Module]) -> Callable[[Any], Any]:
    """Replaces a layer."""

    def use(model: nn.Module) -> nn.Module:
        parent, _, key = name.rpartition(".")
        setattr(model.get_submodule(parent), key, new(model.get_submodule(name)))
        return model

    return use


def without(name: str) -> Callable[[Any], Any]:
    return with_another(name, lambda _: nn.Identity())


def compiled_before(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def use(model: nn.Module) -> Any:
        compiled = torch.compile(model, backend="aot_eager")
        compiled(torch.ones(IMAGES, dtype=torch.float64))
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
        with nn.modules.module.register_module_forward_hook(scaled):
            return model(x)

    return function


def in_threads(model: Any) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        with ThreadPoolExecutor(4) as pool:
            return torch.cat([*pool.map(lambda _: model(x * 1), range(20))])

    return function


def synchronised(model: Any) -> nn.Module:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    assert type(model[0].bn) is nn.SyncBatchNorm
    return model  # type: ignore[no-any-return]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "branches": (Branches, (2, 4)),
    "ours already": (lambda: Branches(mish_cuda.MishCuda), (2, 4)),
    "timm": (timm, (2, 3, 8)),
    "factory": (with_a_factory, (2, 4)),
    "norms": (with_norms, IMAGES),
    "norm with activation": (lambda: nn.Sequential(BatchNormAct()), IMAGES),
}
Use = Callable[[Any], Callable[[Tensor], Tensor]]
# What may be done to any model, which computes the same afterwards.
USES: dict[str, Use] = {
    "state_dict": lambda m: m.load_state_dict(m.state_dict()) and m,
    "saved copy": lambda m: copy.deepcopy(torch_save(m)),
    "replica": lambda m: m._replicate_for_data_parallel(),
    "fx": fx.symbolic_trace,
    "script": saved_script,
    "trace": lambda m: lambda x: torch.jit.trace(m, x.detach())(x),
    "export": lambda m: lambda x: torch.export.export(m, (x.detach(),)).module()(x),
    "compile": lambda m: torch.compile(m, backend="aot_eager", fullgraph=True),
}
# What may be done to the model with norms, and changes what it computes.
CHANGES: dict[str, Use] = {
    "threads": in_threads,
    "hook of all modules": hooked,
    "hook of a norm": lambda m: m[0].bn.register_forward_hook(scaled) and m,
    "hook of a Mish": lambda m: m[0].act.register_forward_hook(scaled) and m,
    "copied norm": with_another("1.0", copy.copy),
    "conv and norm merged": merged,
    "SyncBatchNorm": synchronised,
    "another norm": without("0.bn"),
    "another activation": with_another("1.1", lambda _: nn.Tanh()),
    "no activation": without("2.act"),
    "wrapped norm": with_another("0.bn", lambda norm: nn.Sequential(norm, nn.Hardtanh())),
    "layers moved": lambda m: nn.Sequential(*[x for block in m for x in block.children()]),
    "script without a norm": lambda m: saved_script(without("0.bn")(m)),
    "compiled, then a hook": compiled_before(lambda m: m[0].bn.register_forward_hook(scaled)),
    "compiled, then no norm": compiled_before(without("2.bn")),
    "compiled, then another mode": compiled_before(lambda m: m.train(not m.training)),
}


@pytest.mark.parametrize(("name", "use"), [*product(MODELS, USES), *product(["norms"], CHANGES)])
@pytest.mark.parametrize("training", [False, True])
def test_uses(name: str, use: str, training: bool) -> None:
    torch._dynamo.reset()
    make, shape = MODELS[name]
    model, x = make().double().train(training), draw(shape)
    before = copy.deepcopy(model)
    convert(model, fuse_norms=True)
    used = (USES | CHANGES)[use](model)
    expected = CHANGES[use](before) if use in CHANGES else before
    close(results(used, x), results(expected, x))
    revert(model)
    close(results(model, x), results(before, x))


@pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile", "Module.compile"])
@pytest.mark.parametrize("make", [wrapped, lambda: fx.symbolic_trace(InCode())])
def test_what_has_been_compiled_before_is_compiled_anew(
    make: Callable[[], Any], in_place: bool
) -> None:
    torch._dynamo.reset()
    compiled = model = make()
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
    convert(model := with_norms(), fuse_norms=True)
    file = io.BytesIO()
    x = torch.ones(IMAGES)
    torch.onnx.export(model.eval(), (x,), file, dynamo=False, opset_version=18)
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

    before, x = with_norms(), torch.randn(IMAGES)
    expected = before(x)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for wrap in (DataParallel, DistributedDataParallel, sharded):
            early, late = copy.deepcopy(before), wrap(copy.deepcopy(before))
            for model in (early, late):
                convert(model, fuse_norms=fuse_norms)
            for model in (wrap(early), late):
                assert (fused(model) > 0) is fuse_norms
                y = model(x)
                torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
                y.sum().backward()
                assert all(p.grad is not None for p in model.parameters())
                revert(model)
                torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()
