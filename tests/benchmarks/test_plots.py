"""Pictures: which rows are drawn, and that each bar and line has its own name and figure."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import Capture, Row, everything, frame, network, pair, printed, refusal, row, write

from benchmarks import speed_plots
from benchmarks.plots import Picture


def draw(rows: list[Row], sizes: tuple[int, ...] = speed_plots.SIZES) -> dict[str, Picture]:
    pictures, _ = speed_plots.pictures(frame(rows), sizes)
    return {picture.name: picture for picture in pictures}


def panels(picture: Picture) -> dict[str, str]:
    """Label, length and text of each bar, of each panel; a bar is at its label's tick."""
    found = {}
    for axes in picture.figure.axes:
        ticks = axes.get_yticks()
        labels = axes.yaxis.get_major_formatter().format_ticks(ticks)
        lines = []
        for bar, tick, label, text in zip(axes.patches, ticks, labels, axes.texts, strict=True):
            assert bar.get_y() < tick < bar.get_y() + bar.get_height()
            lines.append(f"{label}: {bar.get_width():g} {text.get_text()}")
        found[axes.get_title("left")] = "; ".join(lines)
    return found


def test_panels_of_speed_ups_have_their_rows_in_common() -> None:
    """Also where not all of them were measured at each size; only what was timed in turns."""
    small = [*pair(2.0), *pair(0.5, "backward"), *pair(4.0, "backward", dtype="fp64")]
    large = [*pair(5.0, "forward", 2**20), *pair(6.0, "forward", 2**20, dtype="bf16")]
    others = [*pair(7.0, suite="claims"), *pair(8.0, threads=2), row("mish_cuda", 1e-3, "backward")]
    drawn = draw([*large, *small, *others, row("F.mish", 1.0, "forward", 4096, suite="claims")])
    assert panels(drawn["overview"]) == {
        "65,536 elements": "fp32 forward: 2 2.0x; fp32 backward: 0.5 0.5x; "
        "bf16 forward: 0 not measured; fp64 backward: 4 4.0x",
        "1 M elements": "fp32 forward: 5 5.0x; fp32 backward: 0 not measured; "
        "bf16 forward: 6 6.0x; fp64 backward: 0 not measured",
    }
    assert panels(drawn["overview-2-threads"]) == {"65,536 elements": "fp32 forward: 8 8.0x"}
    assert list(panels(draw(small, (7,))["overview"])) == ["65,536 elements"]  # else the largest


def test_rates_are_bytes_over_median_time() -> None:
    times = {"mish_cuda": 2e-6, "copy": 1e-6}
    rows = [row(name, s, "backward", n) for name, s in times.items() for n in (4096, 512)]
    (axes,) = draw(rows)["backward-fp32"].figure.axes
    for line, seconds in zip(axes.lines, times.values(), strict=True):
        # Three tensors of 4 bytes an element.
        assert list(line.get_xdata()) == [512, 4096]
        expected = [3 * 4 * size / seconds / 1e9 for size in (512, 4096)]
        assert list(line.get_ydata()) == pytest.approx(expected)


def test_bars_of_memory_networks_norms_and_compiled_functions() -> None:
    both = "forward+backward"
    rows = [
        row("mish_cuda", 1.0, both, 512, peak=99),  # not the largest
        row("mish_cuda", 1.0, both, 2**20, peak=8 * 2**20),
        row("naive", 1.0, both, 2**20, peak=20 * 2**20),
        row("F.silu", 1.0, both, 2**20),
        network("mish_cuda", "training step", 0.5, 2**10),
        network("ReLU", "training step", 0.25, 2**11),
        network("mish_cuda", "inference", 0.125),
    ]
    drawn = draw(rows)
    expected = "mish_cuda: 8.38861e+06 8.00 MiB; naive: 2.09715e+07 20.0 MiB"
    assert panels(drawn["memory-fp32"]) == {"": expected}
    assert panels(drawn["se_resnet18"]) == {
        "time of inference": "mish_cuda: 0.125 125 ms",
        "time of a training step": "mish_cuda: 0.5 500 ms; ReLU: 0.25 250 ms",
        "peak memory of a training step": "mish_cuda: 1024 1.00 KiB; ReLU: 2048 2.00 KiB",
    }
    drawn = draw(everything())
    (bars,) = panels(drawn["compiled-fp32-1048576"]).values()
    assert bars.startswith("f(x): 3 3.00x; f(2x) + 1: 3 3.00x; relu(f(2x + 1) / 2")
    assert panels(drawn["norms-forward+backward"]) == {
        "torch's norm, then mish_cuda": "BatchNorm 2x8x4: 3 3.0x",
        "torch's norm, then F.mish": "BatchNorm 2x8x4: 9 9.0x",
    }


def test_files_of_pictures(tmp_path: Path, capsys: Capture) -> None:
    """Of several files, even of one name, each has its own; signed with where data are from."""
    files = [write(tmp_path / f"{n}" / "cpu.csv", pair(n), device=f"GPU {n}") for n in (2, 3)]
    folder = tmp_path / "new" / "folder"
    output = printed(capsys, "plot", *files, "--format", "svg", "--output", folder)
    assert "whole networks: no rows of suite networks" in output
    names = {f"{n}-cpu-{name}.svg" for n in (2, 3) for name in ("overview", "forward-fp32")}
    assert {file.name for file in folder.iterdir()} == names
    for n in (2, 3):
        text = (folder / f"{n}-cpu-overview.svg").read_text()
        assert f">{n}.0x</text>" in text
        assert f"GPU {n} · a cpu_capability" in text
    none = write(tmp_path / "a.csv", [row("copy", 1.0, suite="claims")])
    assert "found none that suit" in refusal(capsys, "plot", none, "--output", tmp_path / "b")
