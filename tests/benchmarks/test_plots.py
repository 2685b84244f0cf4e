"""Pictures: what is drawn, from which rows, and how it looks where that can be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import image
from rows import Row, everything, frame, main, network, pair, refusal, row, write

from benchmarks import plots, speed_plots
from benchmarks.plots import Picture


def draw(rows: list[Row], sizes: tuple[int, ...] = speed_plots.SIZES) -> dict[str, Picture]:
    return {picture.name: picture for picture in speed_plots.pictures(frame(rows), sizes)}


def panels(picture: Picture) -> dict[str, str]:
    """Label, length and text of each bar, of each panel; a bar is in view, at its label's tick."""
    found = {}
    for axes in picture.figure.axes:
        low, high = sorted(axes.get_ylim())
        ticks = axes.get_yticks()
        labels = axes.yaxis.get_major_formatter().format_ticks(ticks)
        lines = []
        for bar, tick, label, text in zip(axes.patches, ticks, labels, axes.texts, strict=True):
            assert low <= bar.get_y() < tick < bar.get_y() + bar.get_height() <= high
            assert bar.get_width() <= axes.get_xlim()[1]
            lines.append(f"{label}: {bar.get_width():g} {text.get_text()}")
        found[axes.get_title("left")] = "; ".join(lines)
    return found


SMALL = [*pair(2.0), *pair(0.5, "backward"), *pair(4.0, "backward", dtype="fp64")]
LARGE = [*pair(5.0, "forward", 2**20), *pair(6.0, "forward", 2**20, dtype="bf16")]


@pytest.mark.parametrize("rows", [[*SMALL, *LARGE], [*LARGE, *SMALL]])
def test_panels_of_speed_ups_have_their_rows_in_common(rows: list[Row]) -> None:
    """Also where not all of them were measured at each size."""
    assert panels(draw([*rows, row("naive", 1.0)])["overview"]) == {
        "65,536 elements": "fp32 forward: 2 2.0x; fp32 backward: 0.5 0.5x; "
        "bf16 forward: 0 not measured; fp64 backward: 4 4.0x",
        "1 M elements": "fp32 forward: 5 5.0x; fp32 backward: 0 not measured; "
        "bf16 forward: 6 6.0x; fp64 backward: 0 not measured",
    }


def test_speed_up_compares_only_what_was_timed_in_turns() -> None:
    assert "overview" not in draw([row("mish_cuda", 1.0), row("F.mish", 5.0, suite="claims")])
    picture = draw([*pair(3.0), *pair(7.0, suite="claims")])["overview"]
    # The first in the file.
    assert panels(picture) == {"65,536 elements": "fp32 forward: 3 3.0x"}


def test_speed_ups_under_torch_compile_are_in_one_panel() -> None:
    (bars,) = panels(draw(everything())["compiled-fp32-1048576"]).values()
    assert bars.startswith("f(x): 3 3.00x; f(2x) + 1: 3 3.00x; relu(f(2x + 1) / 2")


def test_speed_ups_of_norms_have_a_panel_for_each_rival() -> None:
    assert panels(draw(everything())["norms-forward+backward"]) == {
        "torch's norm, then mish_cuda": "BatchNorm 2x8x4: 3 3.0x",
        "torch's norm, then F.mish": "BatchNorm 2x8x4: 9 9.0x",
    }


def test_sizes_are_those_asked_for_or_else_the_largest() -> None:
    rows = [r for size in (512, 4096, 2**20) for r in pair(2.0, "forward", size)]
    for asked, drawn in (
        ((512, 2**20), ["512 elements", "1 M elements"]),
        ((512, 7), ["512 elements"]),
        ((7,), ["1 M elements"]),
    ):
        assert list(panels(draw(rows, asked)["overview"])) == drawn


def test_other_numbers_of_threads_have_pictures_of_their_own() -> None:
    names = draw([*pair(4.0, threads=2), *pair(3.0)]).keys()
    assert names == {"overview", "overview-2-threads", "forward-fp32", "forward-fp32-2-threads"}


def test_rates_are_bytes_over_median_time_with_the_copy_as_a_dashed_line() -> None:
    rows = [
        row(name, seconds, "forward", size)
        for name, seconds in (("mish_cuda", 2e-6), ("copy", 1e-6))
        for size in (4096, 512)
    ]
    (axes,) = draw(rows)["forward-fp32"].figure.axes
    ours, copy = axes.lines
    # Two tensors of 4 bytes an element.
    assert list(ours.get_xdata()) == [512, 4096]
    assert list(ours.get_ydata()) == pytest.approx([512 * 8 / 2e3, 4096 * 8 / 2e3])
    assert list(copy.get_ydata()) == pytest.approx([512 * 8 / 1e3, 4096 * 8 / 1e3])
    assert (ours.get_linestyle(), copy.get_linestyle()) == ("-", "--")


def test_memory_is_that_of_the_largest_size() -> None:
    both = "forward+backward"
    rows = [
        row("mish_cuda", 1.0, both, 512, peak=99),
        row("mish_cuda", 1.0, both, 2**20, peak=8 * 2**20),
        row("naive", 1.0, both, 2**20, peak=20 * 2**20),
        row("copy", 1.0, both, 2**20, peak=0),
        row("F.silu", 1.0, both, 2**20),
    ]
    expected = "mish_cuda: 8.38861e+06 8.00 MiB; naive: 2.09715e+07 20.0 MiB"
    assert panels(draw(rows)["memory-fp32"]) == {"": expected}


def test_networks_have_a_panel_for_what_was_measured() -> None:
    """Rows of claims, of compiled functions and of strided tensors are in no sweep."""
    rows = [
        network("mish_cuda", "training step", 0.5, 2**10),
        network("ReLU", "training step", 0.25, 2**11),
        network("mish_cuda", "inference", 0.125),
        row("mish_cuda", 1.0, suite="claims"),
        row("compiled mish_cuda in f(x)", 1.0, suite="compiled"),
        row("relu", 1.0, "forward", 8, 8, layout="x.t()"),
    ]
    (picture,) = draw(rows).values()
    assert picture.title == "se_resnet18, fp32, batch 8x3x32x32, 2 threads"
    inference = {"time of inference": "mish_cuda: 0.125 125 ms"}
    assert panels(picture) == inference | {
        "time of a training step": "mish_cuda: 0.5 500 ms; ReLU: 0.25 250 ms",
        "peak memory of a training step": "mish_cuda: 1024 1.00 KiB; ReLU: 2048 2.00 KiB",
    }
    (picture,) = draw(rows[2:3]).values()
    assert panels(picture) == inference


@pytest.mark.parametrize("name", ["mish_cuda", "a provider with a long name, $x^{", "f_\\1"])
def test_pictures_are_opaque_and_nothing_leaves_them(name: str, tmp_path: Path) -> None:
    rows = [
        r | {"provider": name} if r["provider"] == "naive" else r for r in everything(512, 65_536)
    ]
    for picture in draw(rows).values():
        origin = "a device, with the versions of everything that measured it, " * 3
        plots.save(picture, tmp_path / "a.png", origin)
        pixels = image.imread(tmp_path / "a.png")
        assert (pixels[..., 3] == 1).all()
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert (edge == 1).all(), picture.name
        labels = [label for axes in picture.figure.axes for label in axes.get_yticklabels()]
        assert max(len(label.get_text()) for label in labels) <= 26  # bars have room beside them


def test_files_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.csv", pair(2.0))
    two = write(tmp_path / "two.csv", pair(3.0))
    folder = tmp_path / "new" / "folder"
    names = {"overview.svg", "forward-fp32.svg"}
    assert main("plot", one, "--format", "svg", "--output", folder) == 0
    assert {file.name for file in folder.iterdir()} == names
    output = capsys.readouterr().out
    assert str(folder / "overview.svg") in output
    for file in folder.iterdir():  # where the data are from
        assert "a device · a cpu_capability · a clock · mish_cuda a mish_cuda (" in file.read_text()
    assert ">2.0x</text>" in (folder / "overview.svg").read_text()
    # Of several files each has its own names; the same picture gives the same file.
    assert main("plot", one, two, "--format", "svg", "--output", folder) == 0
    more = {f"{stem}-{name}" for stem in ("one", "two") for name in names}
    assert {file.name for file in folder.iterdir()} == names | more
    assert (folder / "overview.svg").read_text() == (folder / "one-overview.svg").read_text()


def test_where_nothing_can_be_drawn_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv", [row("copy", 1.0, suite="claims")])
    assert "found none that suit" in refusal(capsys, "plot", path, "--output", tmp_path / "b")
    other = write(tmp_path / "b.csv", pair(1.0))
    assert f"{path}" in refusal(capsys, "plot", other, "--output", path)
