"""The project's files and documents, and Python started on them in another process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

Env = dict[str, str]
ROOT = Path(__file__).parents[1]
BUILT = (
    *(".*", "build", "dist", "*.egg-info", "__pycache__", "_C*.so", "_without_kernels.py"),
    "mish_*.csv",  # and what else the benchmarks write by default
    *("mish_*.html", "mish_*.md", "mish_*.png", "mish_pictures"),
)


def copy_sources(target: Path) -> Path:
    """Copies the project without anything that was built or measured in it."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*BUILT))
    return target


def run_python(
    *args: str | Path, cwd: Path, env: Env | None = None, status: int | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Python with arguments in a folder, of whose packages it imports the first of each name.

    Variables of this library do not count; `env` adds some, the others are those of this process.
    If `status` is given, Python must end with it.
    """
    own = {k: v for k, v in os.environ.items() if not k.startswith("MISH_CUDA")}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    options["env"] = {**own, "PYTHONPATH": str(cwd), **(env or {})}
    done = subprocess.run([sys.executable, *args], cwd=cwd, check=False, **options)
    assert status in (None, done.returncode), (done.returncode, done.stdout, done.stderr)
    return done


def is_quoted(message: str) -> bool:
    """Whether docs/troubleshooting.md quotes it, in broken lines and with ... for what varies."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quotes = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    known = (".*".join(map(re.escape, " ".join(quote.split()).split("..."))) for quote in quotes)
    return any(re.fullmatch(pattern, " ".join(message.split())) for pattern in known)
