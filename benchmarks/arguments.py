"""Arguments that several commands take, and what they refuse."""

from __future__ import annotations

import argparse
import math
import re

import torch

from benchmarks import memory
from benchmarks.units import format_bytes


def device(text: str) -> str:
    """An argument that names the CPU, or a GPU that is here."""
    name = f"cuda:{text}" if text.isdecimal() else text
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda, cuda:N or N, got {text}")
    if name != "cpu":
        count = torch.cuda.device_count()
        if not count:
            raise argparse.ArgumentTypeError(
                f"expected a GPU for {text}, but torch {torch.__version__} sees none"
            )
        if int(name.partition(":")[2] or 0) >= count:
            raise argparse.ArgumentTypeError(f"expected one of {count} GPUs, got {text}")
    return name


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return int(text)


def seconds(text: str) -> float:
    """An argument that is a time of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text}")
    return value


def require_memory(
    parser: argparse.ArgumentParser, device: str, what: str, needed: int, option: str
) -> None:
    """On the CPU one that takes too much is killed without a word; CUDA says so itself."""
    free = memory.available()
    if device == "cpu" and free is not None and needed > free:
        parser.error(
            f"{what} takes about {format_bytes(needed)}, of which {format_bytes(free)} are free: "
            f"give a smaller {option}"
        )
