"""Without compiled kernels: the same values, limits and gradients, and the reason is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

import mish_cuda
import reference
from conftest import EAGER_PATH, ORDERS, needs_extension

PACKAGE = Path(mish_cuda.__file__).parent

# Tells what happens in a fresh interpreter. Numbers travel as text that keeps every bit.
SCRIPT = """
import json, sys, warnings
import torch
before = set(sys.modules)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import mish_cuda
    from mish_cuda._extension import REASON
imported = sorted(set(sys.modules) - before)

x = torch.tensor(%(points)s, dtype=torch.float64).requires_grad_()
y = mish_cuda.mish(x)
(slope,) = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)
(curvature,) = torch.autograd.grad(slope, x, torch.ones_like(y))
layer = torch.nn.Sequential(mish_cuda.Mish(), mish_cuda.MishCuda(inplace=True))
detached = x.detach()
print(json.dumps({
    "backend": mish_cuda.backend(x),
    "file": mish_cuda.__file__,
    "warnings": [[w.category.__name__, str(w.message)] for w in caught],
    "reason": REASON,
    "imported": imported,
    "results": [list(map(repr, t.tolist())) for t in (y, slope, curvature)],
    "twice": torch.equal(layer(detached.clone()), mish_cuda.mish(mish_cuda.mish(detached))),
    "out": torch.equal(mish_cuda.mish(detached, out=torch.empty(0).double()), y),
    "inplace": torch.equal(mish_cuda.mish_(detached.clone()), y),
    "names": torch.equal(mish_cuda.mish_backward(detached, torch.ones_like(y)), slope),
}))
"""
POINTS = [-1e300, -800.0, -100.0, -20.0, -1.0, -0.0, 0.0, 0.5, 3.0, 25.0, 710.0, 1e300]


def tell(packages: Path, **env: str) -> dict[str, Any]:
    """What the script tells when mish_cuda is imported from that folder."""
    points = [*POINTS, "-inf", "inf"]
    script = SCRIPT % {"points": "[" + ", ".join(f"float('{p}')" for p in points) + "]"}
    clean = {k: v for k, v in os.environ.items() if k != "MISH_CUDA_EAGER"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=packages,
        env={**clean, "PYTHONPATH": str(packages), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert Path(result["file"]).parent == packages / "mish_cuda"
    return result


def python_only(folder: Path) -> Path:
    """A copy of the package without what was compiled."""
    copy = folder / "mish_cuda"
    copy.mkdir(parents=True)
    for file in PACKAGE.glob("*.py"):
        if file.name != "_build.py":
            shutil.copy(file, copy)
    return folder


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tell(python_only(tmp_path_factory.mktemp("hidden")))


@pytest.fixture(scope="module")
def switched_off() -> dict[str, Any]:
    return tell(PACKAGE.parent, MISH_CUDA_EAGER="1")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = python_only(tmp_path_factory.mktemp("broken"))
    (folder / "mish_cuda" / "_C.so").write_text("built for another torch")
    (folder / "mish_cuda" / "_build.py").write_text('TORCH = "2.9.9"\n')
    return tell(folder)


@pytest.fixture(scope="module")
def present() -> dict[str, Any]:
    return tell(PACKAGE.parent, MISH_CUDA_EAGER="0")


EVERY_FALLBACK = pytest.mark.parametrize("fallback", ["hidden", "switched_off", "broken"])


@EVERY_FALLBACK
def test_everything_works_eagerly(request: pytest.FixtureRequest, fallback: str) -> None:
    told = request.getfixturevalue(fallback)
    assert told["backend"] == "eager"
    assert told["twice"]
    assert told["out"]
    assert told["inplace"]
    assert told["names"]


@EVERY_FALLBACK
@ORDERS
def test_values_limits_and_gradients(
    request: pytest.FixtureRequest, fallback: str, order: int
) -> None:
    results = request.getfixturevalue(fallback)["results"][order]
    got = torch.tensor([float(text) for text in results], dtype=torch.float64)
    x = torch.tensor([*POINTS, -torch.inf, torch.inf], dtype=torch.float64)
    expected, _ = reference.exact(x, order)
    torch.testing.assert_close(got, expected, rtol=2e-15, atol=1e-15)
    if order == 0:
        assert torch.equal(got.signbit(), x.signbit())


def test_a_missing_extension_is_no_reason_to_warn(hidden: dict[str, Any]) -> None:
    assert hidden["warnings"] == []
    assert "no compiled extension" in hidden["reason"]


def test_the_switch_is_no_reason_to_warn(switched_off: dict[str, Any]) -> None:
    assert switched_off["warnings"] == []
    assert "MISH_CUDA_EAGER" in switched_off["reason"]


def test_a_broken_extension_is_told_once_with_both_versions_and_the_cure(
    broken: dict[str, Any],
) -> None:
    ((category, message),) = broken["warnings"]
    assert category == "RuntimeWarning"
    for told in ("torch 2.9.9", f"torch {torch.__version__}", "pip install --no-build-isolation"):
        assert told in message
    assert "torch 2.9.9" in broken["reason"]


@needs_extension
def test_the_extension_is_used_silently(present: dict[str, Any]) -> None:
    assert present["backend"] == "cpu"
    assert present["warnings"] == []


@pytest.mark.parametrize("scenario", ["hidden", "present"])
def test_import_is_cheap(request: pytest.FixtureRequest, scenario: str) -> None:
    """DTensor and the compiler take a second to import."""
    heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.onnx", "numpy")
    imported = request.getfixturevalue(scenario)["imported"]
    assert [name for name in imported if name.startswith(heavy)] == []


# --- Devices that no kernel was written for, with the extension in place ---

ELSEWHERE = DispatchKeySet(DispatchKey.PrivateUse1)


@needs_extension
@pytest.mark.parametrize("name", ["mish", "mish_", "mish_backward", "mish_double_backward"])
def test_other_devices_compute_eagerly(name: str, dtype: torch.dtype) -> None:
    """The kernel that a device without one of its own gets, called on memory at hand."""
    operands = [reference.samples(dtype, 50).clone() for _ in range(3)]
    arguments = {"mish_backward": operands[:2], "mish_double_backward": operands}
    args: list[Tensor] = arguments.get(name, operands[:1])
    eager = {
        "mish": EAGER_PATH.mish,
        "mish_": EAGER_PATH.mish,
        "mish_backward": EAGER_PATH.mish_backward,
        "mish_double_backward": EAGER_PATH.mish_double_backward,
    }
    expected = eager[name](*args)
    result = getattr(torch.ops.mish_cuda, name).default.redispatch(ELSEWHERE, *args)
    assert reference.same_bits(result, expected)
    assert (result is args[0]) == (name == "mish_")


@needs_extension
def test_other_devices_write_to_out() -> None:
    x, out = torch.randn(9), torch.empty(9)
    assert torch.ops.mish_cuda.mish.out.redispatch(ELSEWHERE, x, out=out) is out
    assert reference.same_bits(out, EAGER_PATH.mish(x))


@needs_extension
def test_other_devices_have_a_kernel_of_every_op() -> None:
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("mish_cuda::")]
    assert len(names) == 5
    for name in names:
        for device in ("MPS", "XPU", "PrivateUse1", "CUDA"):
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, device)


def test_backend_of_other_devices() -> None:
    assert mish_cuda.backend(torch.empty(1, device="meta")) == "eager"
