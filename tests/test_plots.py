"""Pictures of results: what is drawn, from which rows, and how it looks where that can be told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase

from accuracy import results as accuracy_results
from accuracy.errors import Errors
from accuracy.formats import FP32
from accuracy.results import Row
from benchmarks import cli, plots, sources
from benchmarks.cells import COMPILED, DTYPES, SURROUNDINGS, Cell, Direction, compiled_provider
from benchmarks.environment import Environment
from benchmarks.exits import INTERRUPTED
from benchmarks.plots import Picture
from benchmarks.results import Result, Timing, open_writer
from project import ROOT

RESULTS = ROOT / "benchmarks" / "results"
FACTS = Environment(
    *("a device", "a processor", "AVX2", "cpu", "1.2.3", "abc1234", "2.9", "", "", "3.10"),
    *("2000-01-01", "python -m benchmarks run", "2400 MHz"),
)


def row(
    provider: str,
    seconds: float,
    direction: Direction = "forward",
    size: int = 65_536,
    dtype: str = "fp32",
    suite: str = "kernels",
    peak_bytes: int | None = None,
) -> Result:
    cell = Cell(provider, direction, dtype, (size,))
    return Result(suite, cell, Timing(3, seconds, seconds * 0.9, seconds * 1.1), peak_bytes)


def pair(ratio: float, direction: Direction = "forward", **rest: object) -> list[Result]:
    """F.mish takes `ratio` times as long as ours."""
    return [
        row("mish_cuda", 1e-3, direction, **rest),  # type: ignore[arg-type]
        row("F.mish", ratio * 1e-3, direction, **rest),  # type: ignore[arg-type]
    ]


def network(provider: str, direction: Direction, seconds: float, peak: int | None) -> Result:
    cell = Cell(provider, direction, "fp32", (8, 3, 32, 32), threads=2, network="se_resnet18")
    return Result("models", cell, Timing(3, seconds, seconds, seconds), peak)


def everything() -> list[Result]:
    """Rows for every kind of picture."""
    both: tuple[Direction, ...] = ("forward", "backward")
    return [
        *(r for d in both for size in (512, 65_536, 2**20) for r in pair(9.0, d, size=size)),
        *(row("copy", 1e-4, d, size) for d in both for size in (512, 65_536, 2**20)),
        row("naive", 1e-3, "forward+backward", peak_bytes=10**6),
        *(
            row(compiled_provider(name, function), 1e-3, "forward+backward", suite="compiled")
            for name in COMPILED
            for function in SURROUNDINGS
        ),
        *(network(name, "training step", 1.0, 10**8) for name in ("mish_cuda", "F.mish")),
    ]


def axes_of(picture: Picture) -> Axes:
    (axes,) = picture.figure.axes
    return axes


def main(*arguments: str | Path) -> int:
    return cli.main(["plot", *map(str, arguments)])


def write(path: Path, rows: list[Result], facts: Environment = FACTS) -> Path:
    with open_writer(path, facts) as add:
        add(rows)
    return path


# Speed-up


def test_speed_up_is_the_time_of_f_mish_over_ours() -> None:
    rows = [*pair(12.5), *pair(0.8, "backward", dtype="bf16"), row("naive", 1.0)]
    (picture,) = plots.speed_ups(rows, [65_536])
    assert picture.text == "fp32 forward 12.5x, bf16 backward 0.8x"
    assert [bar.get_width() for bar in axes_of(picture).patches] == pytest.approx([12.5, 0.8])
    assert picture.name == "speed-up-65536"


def test_speed_up_compares_only_what_was_timed_in_turns() -> None:
    rows = [row("mish_cuda", 1.0), row("F.mish", 5.0, suite="claims")]
    assert plots.speed_ups(rows, [65_536]) == []


def test_of_two_suites_the_first_in_the_file_is_drawn() -> None:
    (picture,) = plots.speed_ups([*pair(3.0), *pair(7.0, suite="claims")], [65_536])
    assert picture.text == "fp32 forward 3.0x"


@pytest.mark.parametrize(
    ("asked", "drawn"), [([512, 2**20], [512, 2**20]), ([512, 7], [512]), ([7], [2**20])]
)
def test_sizes_are_those_asked_for_or_else_the_largest(asked: list[int], drawn: list[int]) -> None:
    rows = [*pair(2.0, size=512), *pair(3.0, size=4096), *pair(4.0, size=2**20)]
    names = [picture.name for picture in plots.speed_ups(rows, asked)]
    assert names == [f"speed-up-{size}" for size in drawn]
    (overview,) = plots.overview(rows, asked)
    assert len(overview.figure.axes) == len(drawn)


def test_other_numbers_of_threads_have_pictures_of_their_own() -> None:
    two = [replace(r, cell=replace(r.cell, threads=2)) for r in pair(4.0)]
    names = [picture.name for picture in plots.speed_ups([*two, *pair(3.0)], [65_536])]
    assert names == ["speed-up-65536", "speed-up-65536-2-threads"]
    (overview,) = plots.overview([*two, *pair(3.0)], [65_536])
    assert overview.text == "65,536 elements: fp32 forward 3.0x"
    assert {picture.name for picture in plots.rates([*two, *pair(3.0)])} == {
        "forward-fp32",
        "forward-fp32-2-threads",
    }


def test_the_overview_has_forward_and_backward() -> None:
    rows = [*pair(2.0), *pair(3.0, "backward"), *pair(4.0, "forward+backward")]
    (picture,) = plots.overview(rows, [65_536])
    assert picture.text == "65,536 elements: fp32 forward 2.0x, fp32 backward 3.0x"
    assert plots.overview(pair(4.0, "forward+backward"), [65_536]) == []


def test_panels_of_the_overview_have_their_rows_in_common() -> None:
    """Also where not all of them were measured at each size."""
    small = [*pair(2.0), *pair(3.0, "backward"), *pair(4.0, "backward", dtype="fp64")]
    large = [*pair(5.0, size=2**20), *pair(6.0, size=2**20, dtype="bf16")]
    for rows in ([*small, *large], [*large, *small]):
        (picture,) = plots.overview(rows, plots.SIZES)
        left, right = map(labelled_bars, picture.figure.axes)
        labels = ["forward", "backward", "forward", "backward"]  # fp32, bf16, fp64
        assert left == list(zip(labels, [2, 3, 0, 4], strict=True))
        assert right == list(zip(labels, [5, 0, 6, 0], strict=True))
        assert [text for text, _ in texts_of(picture.figure)].count("not measured") == 3
        assert picture.text == (
            "65,536 elements: fp32 forward 2.0x, fp32 backward 3.0x, fp64 backward 4.0x; "
            "1 M elements: fp32 forward 5.0x, bf16 forward 6.0x"
        )


@pytest.mark.parametrize("name", ["epyc-avx512/cpu.csv", "xeon-avx512/cpu.csv"])
def test_each_bar_is_in_view_beside_its_label(name: str) -> None:
    (source,) = sources.read([RESULTS / name])
    pictures, _ = plots.draw(source.speeds, plots.SIZES)
    found = [
        labelled_bars(axes)
        for picture in [*plots.overview(source.speeds, plots.SIZES), *pictures]
        for axes in picture.figure.axes
    ]
    assert any(found)


def labelled_bars(axes: Axes) -> list[tuple[str, float]]:
    """Label and width of each bar. All are in view, and each has the tick at its height."""
    if not axes.patches:
        return []
    low, high = sorted(axes.get_ylim())
    ticks = axes.get_yticks()
    labels = axes.yaxis.get_major_formatter().format_ticks(ticks)
    found = []
    for bar, tick, label in zip(axes.patches, ticks, labels, strict=True):
        bottom, top = bar.get_y(), bar.get_y() + bar.get_height()
        assert low <= bottom < tick < top <= high
        assert bar.get_width() <= axes.get_xlim()[1]
        found.append((label, bar.get_width()))
    return found


@pytest.mark.parametrize("ratio", [0.02, 0.9, 1.0, 200.0])
def test_what_the_line_at_1_means_is_in_view(ratio: float) -> None:
    """However long the bars are, and the line goes through no text."""
    for picture in (*plots.speed_ups(pair(ratio), [65_536]), *plots.overview(pair(ratio), [7])):
        (axes,) = picture.figure.axes
        boxes = dict(texts_of(picture.figure))
        line = axes.transData.transform((1, 0))[0]
        for text in ("1x: F.mish", f"{ratio:.1f}x"):
            assert line < boxes[text].x0 < boxes[text].x1 <= picture.figure.bbox.x1


def test_under_torch_compile_f_mish_is_compiled_too() -> None:
    seconds = {"F.mish": 6.0, "decomposition": 2.0, "kernel": 3.0}
    rows = [
        row(compiled_provider(name), seconds[name], "forward+backward", suite="compiled")
        for name in COMPILED
    ]
    (picture,) = plots.compiled(rows)
    assert picture.text == "f(x) decomposition 3.00x, f(x) kernel 2.00x"
    assert plots.compiled(rows[1:]) == []  # interrupted before F.mish was measured


# Rates


def test_rates_are_bytes_over_median_time_with_the_copy_as_a_dashed_line() -> None:
    rows = [
        *(row("mish_cuda", 2e-6, size=size) for size in (4096, 512)),
        *(row("copy", 1e-6, size=size) for size in (4096, 512)),
    ]
    (picture,) = plots.rates(rows)
    ours, copy = axes_of(picture).lines
    # Two tensors of 4 bytes an element.
    assert list(ours.get_xdata()) == [512, 4096]
    assert list(ours.get_ydata()) == pytest.approx([512 * 8 / 2e3, 4096 * 8 / 2e3])
    assert list(copy.get_ydata()) == pytest.approx([512 * 8 / 1e3, 4096 * 8 / 1e3])
    assert (ours.get_linestyle(), copy.get_linestyle()) == ("-", "--")
    assert axes_of(picture).get_ylabel() == "GB/s"
    assert axes_of(picture).get_xlabel().startswith("elements")


def test_rates_leave_out_what_is_no_sweep() -> None:
    rows = [
        row("mish_cuda", 1.0, suite="claims"),
        row("compiled kernel in f(x)", 1.0, suite="compiled"),
        network("mish_cuda", "inference", 1.0, None),
        Result("kernels", Cell("relu", "forward", "fp32", (8, 8), "x.t()"), Timing(1, 1, 1, 1)),
    ]
    assert plots.rates(rows) == []


@pytest.mark.parametrize("heights", [[0.5], [0.5] * 12, [0, 0.01, 0.99, 1], [1, 1, 1], []])
def test_labels_of_lines_keep_their_distance_and_their_order(heights: list[float]) -> None:
    moved = plots._spread(heights)
    assert len(moved) == len(heights)
    assert all(b - a >= plots._GAP - 1e-9 for a, b in itertools.pairwise(moved))
    assert not moved or moved[-1] <= 1


# Memory and networks


def test_memory_is_that_of_the_largest_size() -> None:
    rows = [
        row("mish_cuda", 1.0, "forward+backward", 512, peak_bytes=99),
        row("mish_cuda", 1.0, "forward+backward", 2**20, peak_bytes=8 * 2**20),
        row("naive", 1.0, "forward+backward", 2**20, peak_bytes=20 * 2**20),
        row("copy", 1.0, "forward+backward", 2**20, peak_bytes=0),
        row("F.mish", 1.0, "forward+backward", 2**20),  # of an older file
    ]
    (picture,) = plots.memory(rows)
    assert picture.text == "mish_cuda 8.00 MiB, 2.0 inputs, naive 20.0 MiB, 5.0 inputs"


def test_networks_have_a_panel_for_what_was_measured() -> None:
    rows = [
        network("mish_cuda", "training step", 0.5, 3 * 2**20),
        network("ReLU", "training step", 0.25, 2**20),
        network("mish_cuda", "inference", 0.125, None),
    ]
    (picture,) = plots.networks(rows)
    assert picture.title == "se_resnet18, fp32, batch 8x3x32x32, 2 threads"
    assert picture.text == (
        "time of a training step: mish_cuda 500 ms, ReLU 250 ms; "
        "peak memory of a training step: mish_cuda 3.00 MiB, ReLU 1.00 MiB; "
        "time of inference: mish_cuda 125 ms"
    )
    (picture,) = plots.networks(rows[2:])
    assert [axes.get_title("left") for axes in picture.figure.axes] == ["time of inference"]


# What all have in common


def test_what_is_not_drawn_is_said_with_the_reason() -> None:
    pictures, missing = plots.draw([], plots.SIZES)
    assert pictures == []
    assert len(missing) == 5
    assert "GB/s over size: no rows of suite kernels or gpu" in missing
    strided = Result("claims", Cell("relu", "forward", "fp32", (8, 8), "x.t()"), Timing(1, 1, 1, 1))
    pictures, missing = plots.draw([*everything(), strided], plots.SIZES)
    assert missing == [
        "speed-up at 16 M elements: not measured",
        "1 rows of tensors that are not contiguous: no picture shows those",
    ]
    assert len({picture.name for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("name", ["mish_cuda", "a provider with a long name, $x^{", "f_\\1"])
def test_no_text_leaves_the_picture_or_covers_another(name: str, tmp_path: Path) -> None:
    rows = [
        replace(r, cell=replace(r.cell, provider=name)) if r.cell.provider == "naive" else r
        for r in everything()
    ]
    pictures, _ = plots.draw(rows, plots.SIZES)
    for picture in [*pictures, *plots.overview(rows, plots.SIZES)]:
        plots.sign(picture, FACTS.summary())
        plots.save(picture, tmp_path / "a.png")
        boxes = texts_of(picture.figure)
        frame = picture.figure.bbox
        for text, box in boxes:
            assert frame.x0 <= box.x0 < box.x1 <= frame.x1 + 1, (picture.name, text)
            assert frame.y0 <= box.y0 < box.y1 <= frame.y1 + 1, (picture.name, text)
        for (text, box), (other, covered) in itertools.combinations(boxes, 2):
            # Lines of text may be closer than the boxes around them.
            assert not box.padded(-2).overlaps(covered.padded(-2)), (picture.name, text, other)


def texts_of(figure: Figure) -> list[tuple[str, BboxBase]]:
    """What can be read, and where it is."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    hidden = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if not axis.get_visible()
        for label in axis.findobj(Text)
    }
    shown = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {
                label
                for tick in axis.get_major_ticks()
                if not low <= tick.get_loc() <= high or not tick.label1.get_visible()
                for label in (tick.label1, tick.label2)
            }
    for text in texts:
        if text not in hidden:
            shown.append((text.get_text(), text.get_window_extent()))
    return shown


def test_pictures_are_opaque_and_white(tmp_path: Path) -> None:
    for picture in plots.draw(everything(), plots.SIZES)[0]:
        plots.save(picture, tmp_path / "a.png")
        pixels = image.imread(tmp_path / "a.png")
        assert (pixels[..., 3] == 1).all()
        assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 1).all()


def test_the_same_picture_gives_the_same_file_with_its_text(tmp_path: Path) -> None:
    files = []
    for name in ("a.svg", "b.svg"):
        (picture,) = plots.speed_ups(pair(12.5), [65_536])
        plots.save(picture, tmp_path / name)
        files.append((tmp_path / name).read_text())
    assert files[0] == files[1]
    assert ">12.5x</text>" in files[0]


def test_colours_are_those_of_pages_or_fit_both() -> None:
    """On a dark page a colour has to be told from it: WCAG asks for a contrast of 3."""
    changed = dict(plots.ON_PAGES.values())
    for colour in {*plots.COLOURS.values(), *plots.DIRECTION_COLOURS.values(), plots.MUTED}:
        assert contrast(colour, plots.PAPER) >= 2
        assert contrast(changed.get(colour, colour), changed[plots.PAPER]) >= 3
    for colour in (plots.INK, plots.MUTED):  # text
        assert contrast(colour, plots.PAPER) >= 4.5
        assert contrast(changed[colour], changed[plots.PAPER]) >= 4.5


def contrast(first: str, second: str) -> float:
    """As https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio has it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(luminance(colour) + 0.05 for colour in (first, second))
    return high / low


# The command


def test_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.csv", pair(2.0))
    assert main(path, "--output", tmp_path / "new" / "folder") == 0
    output = capsys.readouterr().out
    names = {file.name for file in (tmp_path / "new" / "folder").iterdir()}
    assert names == {"overview.png", "speed-up-65536.png", "forward-fp32.png"}
    assert all(str(tmp_path / "new" / "folder" / name) in output for name in names)
    assert "whole networks: no rows of suite models" in output
    assert "error over x, which files of `python -m accuracy run` hold" in output


def test_of_several_files_each_has_its_own_names(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "one" / "cpu.csv", pair(2.0)),
        write(tmp_path / "two" / "cpu.csv", pair(3.0)),
        write(tmp_path / "two" / "b.csv", pair(4.0)),
    ]
    folder = tmp_path / "pictures"
    sizes = ("--sizes", "65536", "--format", "svg", "--output", folder)
    assert main(files[0], files[2], files[0], *sizes) == 0
    names = {file.name for file in folder.iterdir()}
    assert {"cpu-overview.svg", "b-overview.svg"} < names
    assert main(*files[:2], *sizes) == 0
    names = {file.name for file in folder.iterdir()}
    assert {"one-cpu-overview.svg", "two-cpu-overview.svg"} < names


def test_small_print_says_where_the_data_are_from(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", pair(2.0))
    assert main(path, "--format", "svg", "--output", tmp_path) == 0
    for file in tmp_path.glob("*.svg"):
        assert "a device · AVX2 · 2400 MHz · mish_cuda 1.2.3" in file.read_text()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("xeon-avx512/accuracy.csv", {"error.svg"}),
        ("epyc-avx512/cpu.csv", {"overview.svg", "compiled-fp32-1048576.svg", "memory-fp32.svg"}),
    ],
)
def test_committed_results_can_be_drawn(file: str, expected: set[str], tmp_path: Path) -> None:
    assert main(RESULTS / file, "--format", "svg", "--output", tmp_path) == 0
    assert expected <= {file.name for file in tmp_path.iterdir()}


def test_an_accuracy_file_without_floats_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_half = Row("f", "AVX2", "fp16", FP32.judged_in, -1.0, 1.0, 3, Errors(tried=3))
    accuracy_results.write(tmp_path / "a.csv", FACTS, [only_half])
    assert main(tmp_path / "a.csv", "--output", tmp_path) == 2
    captured = capsys.readouterr()
    assert "error over x: no rows of mish_cuda in fp32" in captured.out
    assert "found none that suit" in captured.err


def test_files_that_are_none_of_ours_are_refused_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "good.csv", pair(2.0))
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(256)))
    empty = tmp_path / "empty.csv"
    empty.touch()
    header = write(tmp_path / "header.csv", [])
    cut = tmp_path / "cut.csv"
    cut.write_text(good.read_text()[:-150])
    zero = write(tmp_path / "zero.csv", [row("copy", 0.0)])
    accuracy = tmp_path / "accuracy.csv"
    accuracy.write_text((RESULTS / "xeon-avx512/accuracy.csv").read_text()[:3000])
    wrong = [tmp_path / "absent.csv", tmp_path, table, binary, empty, header, cut, zero, accuracy]
    folder = tmp_path / "pictures"
    assert main(good, *wrong, "--output", folder) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(wrong)
    for line, path in zip(lines, wrong, strict=True):
        assert line.startswith(f"python -m benchmarks plot: {path} ")
    assert "holds no rows" in lines[wrong.index(header)]
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv", pair(2.0))
    assert main(path, "--output", path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"python -m benchmarks plot: {path}")
    assert "cannot be written" in line


def test_ctrl_c_while_drawing_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "save", interrupted)
    file = str(RESULTS / "epyc-avx512" / "cpu.csv")
    assert cli.main(["plot", file, "--output", str(tmp_path)]) == INTERRUPTED
    assert capsys.readouterr().err == "Interrupted.\n"


def test_every_dtype_has_a_place() -> None:
    rows = [r for dtype in reversed(DTYPES) for r in pair(2.0, dtype=dtype)]
    (picture,) = plots.speed_ups(rows, [65_536])
    assert picture.text == ", ".join(f"{dtype} forward 2.0x" for dtype in DTYPES)
