"""Copies of the project's files, for tests that build them elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

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
