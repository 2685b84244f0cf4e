"""Importing mish_cuda changes nothing else in the process."""

from __future__ import annotations

from pathlib import Path

from project import run_python

STATE = """
import os, signal, sys, threading, warnings
import torch, torch.nn.functional as F
import torch.onnx  # which torch loads at its first use
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

def computes_denormals(tensor):
    return [5e-324 * 1.0 != 0.0, bool((tensor * 1.0).ne(0).all())]

def state():
    denormals = computes_denormals(denormal)
    thread = threading.Thread(target=lambda: denormals.extend(computes_denormals(denormal)))
    thread.start()
    thread.join()
    return {
        "finders": [*sys.meta_path, *sys.path_hooks],
        "path": list(sys.path),
        "warnings": list(warnings.filters),
        "functions": [sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile(),
                      sys.unraisablehook, threading.excepthook, warnings.showwarning,
                      __builtins__.__import__],
        "modes": [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()],
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                      torch.is_anomaly_enabled(), torch.is_autocast_enabled("cpu")],
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "GIL": getattr(sys, "_is_gil_enabled", bool)(),  # free-threaded Pythons can turn it on
        "running": threading.active_count(),
        "generator": torch.get_rng_state().tolist(),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "mish": [F.mish, vars(F)["mish"], torch.nn.Mish, dict(vars(torch.nn.Mish))],
        "torch": [dict(vars(module)) for module in (torch, F, torch.nn, torch.Tensor)],
        "denormals": denormals,
        "environment": dict(os.environ),
    }

denormal = torch.tensor([5e-324] * 1000, dtype=torch.float64)
# Python's own set-up at the first use of some modules happens before.
before = state()
before = state()
import mish_cuda
after = state()
assert all(before["denormals"]), before["denormals"]
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
"""


def test_nothing_else_is_changed(tmp_path: Path) -> None:
    done = run_python("-c", STATE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
