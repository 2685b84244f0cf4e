"""``convert(..., fuse_norms=True)``: the norms it finds, and that models compute what they did."""

from __future__ import annotations

import copy
import gc
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused import X, check, fuse_small_inputs, fused, nodes  # noqa: F401  a fixture
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import mish_cuda
from conftest import needs_extension
from mish_cuda._before_mish import BEFORE_MISH


class Conv(nn.Module):
    """The block of YOLO's code."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(after)
        self.act = nn.Mish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))  # type: ignore[no-any-return]

    def fuse(self) -> None:
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        del self.bn
        self.forward = self.forward_fuse  # type: ignore[method-assign]


def network() -> nn.Sequential:
    model = nn.Sequential(
        Conv(3, 8), nn.Sequential(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.Mish()), Conv(8, 6)
    )
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.normal_(layer.weight, 1, 0.2)
            nn.init.normal_(layer.bias)
    return model


def converted() -> tuple[nn.Sequential, nn.Sequential]:
    """A network with fused pairs, and one as it was."""
    model = network()
    before = copy.deepcopy(model)
    mish_cuda.convert(model, fuse_norms=True)
    assert fused(model) == 3
    return model, before


def test_report_and_revert() -> None:
    model = network()
    before = copy.deepcopy(model)
    ids = {name: id(t) for name, t in model.state_dict(keep_vars=True).items()}
    layers = [type(m) for m in model.modules()]
    report = mish_cuda.convert(model, fuse_norms=True)
    assert report.changed["0.bn"] == (nn.BatchNorm2d, BEFORE_MISH[nn.BatchNorm2d])
    assert report.changed["1.1"] == (nn.GroupNorm, BEFORE_MISH[nn.GroupNorm])
    assert not report.left_alone
    assert not report.retrain
    assert {name: id(t) for name, t in model.state_dict(keep_vars=True).items()} == ids
    for mode in (True, False):
        check(model.train(mode), before.train(mode))
    assert not mish_cuda.convert(model, fuse_norms=True).changed
    assert len(mish_cuda.revert(model.train()).changed) == 6
    assert [type(m) for m in model.modules()] == layers
    check(model, before.train())
    assert all(m.training for m in model.modules())


def test_not_without_being_asked() -> None:
    model = network()
    mish_cuda.convert(model)
    assert fused(model) == 0
    # Later is as good, and revert goes back to the first.
    assert len(mish_cuda.convert(model, fuse_norms=True).changed) == 3
    assert fused(model) == 3
    mish_cuda.revert(model, to=nn.Mish)
    assert {type(m) for m in model.modules()} >= {nn.Mish, nn.BatchNorm2d, nn.GroupNorm}


@needs_extension
def test_small_inputs_are_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    model, before = converted()
    assert nodes(model(X)) == nodes(mish_cuda.convert(before) and before(X))


@needs_extension
def test_both_are_computed_at_once() -> None:
    model, _ = converted()
    assert nodes(model(X))["NormMishBackward"] == 3
    assert not {"MishBackward", "NativeBatchNormBackward0"} & set(nodes(model(X)))
    model.eval()
    assert nodes(model(X))["NormMishBackward"] == 3


@needs_extension
def test_one_tensor_less_is_saved() -> None:
    sizes = []
    for model in converted():
        saved: list[Tensor] = []

        def keep(t: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(t)
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            model(X)
        sizes.append(sum({t.data_ptr(): t.nbytes for t in saved}.values()))
    of_norms = (2 * 8 * 81 + 2 * 8 * 49 + 2 * 6 * 49) * 4
    assert sizes[1] - sizes[0] >= of_norms - 4 * 3 * 8 * 22


@pytest.mark.parametrize("layer", ["bn", "act"])
@pytest.mark.parametrize("late", [False, True])
def test_hooks(layer: str, late: bool) -> None:
    model = Conv(3, 8)
    before = copy.deepcopy(model)
    seen: list[Tensor] = []
    if late:
        mish_cuda.convert(model, fuse_norms=True)
    handle = model.get_submodule(layer).register_forward_hook(
        lambda m, x, y: seen.append(y.clone())
    )
    if not late:
        report = mish_cuda.convert(model, fuse_norms=True)
        assert "hooks" in report.left_alone["bn"]
    check(model, before)
    expected = before.bn(before.conv(X))
    torch.testing.assert_close(seen[0], expected if layer == "bn" else F.mish(expected))
    assert fused(model) == late
    handle.remove()
    check(model, before)


def test_conv_and_norm_merged() -> None:
    model, before = converted()
    model.eval()
    before.eval()
    for block in (model[0], model[2]):
        block.fuse()
    check(model, before)
    mish_cuda.revert(model)
    check(model, before)


def test_sync_batch_norm() -> None:
    model, before = converted()
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    check(model.eval(), before.eval())
    assert fused(model) == 1


def test_layers_replaced_or_moved() -> None:
    model, before = converted()
    model[0].bn, before[0].bn = nn.Identity(), nn.Identity()
    check(model, before)
    model[1][2], before[1][2] = nn.Tanh(), nn.Tanh()
    check(model, before)
    model[2].act, before[2].act = nn.Identity(), nn.Identity()
    check(model, before)
    model, before = converted()
    check(nn.Sequential(*[layer for block in model for layer in block.children()]), before)


def test_copies_and_files() -> None:
    model, before = converted()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(model), loaded, copy.deepcopy(loaded)):
        assert fused(other) == 3
        check(other, before)
    norm = copy.copy(model[1][1])
    x = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(norm(x) + 0, before[1][1](x))
    before.load_state_dict(model.state_dict())
    model.load_state_dict(before.state_dict())
    check(model, before)


def test_traced_by_fx() -> None:
    model, before = converted()
    traced = torch.fx.symbolic_trace(model)
    check(traced, before)
    del model
    gc.collect()
    check(traced, before)


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


def test_wrapped_norm() -> None:
    model, before = converted()
    for changed in (model, before):
        changed[0].bn = Wrapper(changed[0].bn)
    check(model, before)


def test_hooks_of_all_modules() -> None:
    model, before = converted()
    handle = nn.modules.module.register_module_forward_hook(lambda module, i, o: o * 1.5)
    try:
        check(model, before)
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_onnx_exporter() -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    model, _ = converted()
    file = io.BytesIO()
    torch.onnx.export(model.eval(), (X,), file, dynamo=False, opset_version=18)
    assert b"mish_cuda" not in file.getvalue()


def test_threads_share_the_layers() -> None:
    """As replicas of nn.DataParallel do."""
    model, before = converted()
    replicas = [model._replicate_for_data_parallel() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for replica in pool.map(lambda replica: [replica(X) for _ in range(20)], replicas):
            for output in replica:
                torch.testing.assert_close(output, before(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_script(training: bool) -> None:
    """Scripted, it is torch's norm and Mish."""
    model, before = converted()
    model.train(training)
    before.train(training)
    check(torch.jit.script(model), before)
    for broken in (model, before):
        broken[0].bn = nn.Identity()
        broken[2].act = nn.Identity()
    check(torch.jit.script(model), before)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    check(torch.jit.load(file), before)


@pytest.mark.parametrize("late", [False, True])
def test_compile(late: bool) -> None:
    model, before = converted()
    compiled = torch.compile(model, backend="aot_eager")
    if late:
        check(compiled, before)
    model[0].bn.register_forward_hook(lambda m, x, y: None)
    check(compiled, before)
    model[2].bn, before[2].bn = nn.Identity(), nn.Identity()
    check(compiled, before)
    model.eval()
    before.eval()
    check(compiled, before)


def test_gradients_and_steps() -> None:
    models = converted()
    results = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(X).square().mean().backward()
            optimizer.step()
        results.append(model.state_dict())
    for a, b in zip(*(r.values() for r in results), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_distributed_data_parallel(tmp_path: Any) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, before = converted()
        check(nn.parallel.DistributedDataParallel(model), before)
        nn.parallel.DistributedDataParallel(model)(X).sum().backward()
    finally:
        dist.destroy_process_group()
