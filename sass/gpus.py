"""What a GPU can execute while its memory is busy: published figures and arithmetic on them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from sass.body import Counts
from sass.kernels import Kernel

_TABLE = Path(__file__).with_name("gpus.csv")

# Per SM and clock, for every architecture in the table: four schedulers issue one instruction for
# 32 threads each, and 16 special functions are computed (CUDA C++ Programming Guide, "Throughput of
# Native Arithmetic Instructions", compute capability 8.0 to 12.0).
_ISSUED = 4 * 32
_MUFU = 16


@dataclass(frozen=True)
class Gpu:
    """A row of gpus.csv; `fp64_per_clock` counts multiply-adds of an SM."""

    name: str
    arch: str
    sms: int
    clock_mhz: int
    gb_per_s: int
    fp64_per_clock: int
    source: str

    def slots(self, per_clock: int, bytes_per_element: int) -> float:
        """How often each element can have what an SM does `per_clock` times a clock.

        That is for a GPU which moves data at its full bandwidth and does nothing else.
        """
        per_second = self.sms * self.clock_mhz * 1e6 * per_clock
        elements_per_second = self.gb_per_s * 1e9 / bytes_per_element
        return per_second / elements_per_second

    def judge(self, kernel: Kernel, counts: Counts) -> Verdict:
        """The unit that is busiest with `counts` of `kernel` when memory runs at full speed."""
        shares = {
            unit: kernel.per_element(used) / self.slots(per_clock, kernel.bytes_per_element)
            for unit, used, per_clock in (
                ("issue", counts.instructions, _ISSUED),
                ("MUFU", counts.mufu, _MUFU),
                ("FP64", counts.fp64, self.fp64_per_clock),
            )
        }
        unit = max(shares, key=lambda name: shares[name])
        return Verdict(unit, shares[unit])


@dataclass(frozen=True)
class Verdict:
    """The share of its slots that the busiest unit needs."""

    unit: str
    share: float

    @property
    def memory_bound(self) -> bool:
        return self.share <= 1

    def __str__(self) -> str:
        return f"{'memory' if self.memory_bound else self.unit} {self.share:.0%}"


def load() -> list[Gpu]:
    """The GPUs of gpus.csv."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return [
            Gpu(
                name=row["gpu"],
                arch=row["arch"],
                sms=int(row["sms"]),
                clock_mhz=int(row["clock_mhz"]),
                gb_per_s=int(row["gb_per_s"]),
                fp64_per_clock=int(row["fp64_per_clock"]),
                source=row["source"],
            )
            for row in csv.DictReader(file)
        ]
