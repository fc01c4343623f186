"""LaTeX read back: environments, cells, escapes and marks, and whether each table fits the page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from linearsr.evaluation.latex import to_latex
from linearsr.evaluation.results import Evaluation, ImageScores, MethodInfo
from linearsr.evaluation.statistics import Row, summarise

METRICS = ("psnr_y", "ssim_y", "lpips", "lr_psnr")
TYPICAL = {"psnr_y": 24.25, "ssim_y": 0.7125, "lpips": 0.3375, "lr_psnr": 41.75}
METHODS = ("bicubic", "lanczos", "compact, 1 step", "compact, 4 steps")
ARTICLE_POINTS = 345.0


def example(
    sets: tuple[str, ...] = ("Set5", "Kodak24"),
    methods: tuple[str, ...] = METHODS,
    metrics: tuple[str, ...] = METRICS,
) -> Evaluation:
    """Three pictures a set; each method has a little more of everything than the one before it."""
    images = tuple(
        ImageScores(
            dataset=dataset,
            image=f"{index}",
            method=method,
            scores={name: TYPICAL[name] * (1 + place / 64 + index / 32) for name in metrics},
            seconds=0.5,
            megapixels=0.25,
        )
        for dataset in sets
        for index in range(3)
        for place, method in enumerate(methods)
    )
    infos = tuple(MethodInfo(name=name, kind="folder") for name in methods)
    return Evaluation(datasets=sets, methods=infos, metrics=metrics, baseline=methods[0], images=images)


def environments(text: str) -> list[str]:
    """Names of all environments in the order of their ends; each ends where it began."""
    bare = re.sub(r"\\[{}]", "", text)
    depth = 0
    for sign in re.findall(r"[{}]", bare):
        depth += 1 if sign == "{" else -1
        assert depth >= 0
    assert depth == 0
    opened, closed = [], []
    for word, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if word == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
            closed.append(name)
    assert not opened
    assert text.count("\\begingroup") == text.count("\\endgroup") == 1
    return closed


def tabulars(text: str) -> list[list[list[str]]]:
    """Cells of the rows of each table, the heading first; every row has as many as there are columns."""
    tables = []
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}\n(.*?)\\end\{tabular\}", text, flags=re.DOTALL
    ):
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert all(line.endswith(" \\\\") for line in lines)
        rows = [re.split(r"(?<!\\)&", line.removesuffix(" \\\\")) for line in lines]
        assert {len(row) for row in rows} == {len(columns)}
        tables.append([[cell.strip() for cell in row] for row in rows])
    return tables


def words(text: str) -> str:
    """Undo the escapes of names."""
    named = {"backslash": "\\", "asciitilde": "~", "asciicircum": "^", "less": "<", "greater": ">", "bar": "|"}
    named["asciigrave"] = "`"
    text = re.sub(r"\\text(\w+)\{\}", lambda match: "\0" + named[match[1]], text)
    text = re.sub(r"\{([\[*-])\}", r"\1", text)
    return re.sub(r"\\([&%$#_{}])", r"\1", text).replace("\0", "")


@given(st.text(alphabet="ab\\&%$#_{}~^<>|`[]*- ", min_size=1, max_size=10))
def test_latex_escapes_any_name(name: str) -> None:
    row = Row(dataset=name, method="m", steps=None, num_images=1, seconds_per_megapixel=None, scores={})

    text = to_latex(example(metrics=METRICS[:2]), (row,))

    line = text.split("\\midrule\n")[1].split("\n")[0]
    cell = line.removesuffix(" & m & - & - \\\\")
    assert words(cell) == name
    assert not re.search(r"(?<!\\)[&%$#_~^<>|`]|--", re.sub(r"\\text\w+\{\}", "x", cell))
    assert not cell.startswith(("[", "*"))


@settings(max_examples=40)
@given(
    baseline=st.text(alphabet="ab\\&%$#_{}~^[]- ", min_size=1, max_size=10),
    num_sets=st.integers(1, 4),
    num_metrics=st.integers(1, 4),
    intervals=st.booleans(),
)
def test_latex_is_whole_for_any_table(baseline: str, num_sets: int, num_metrics: int, intervals: bool) -> None:
    sets = tuple(f"Set_{index}" for index in range(num_sets))
    found = example(sets, (baseline, "ours, 1 step"), METRICS[:num_metrics])

    text = to_latex(found, summarise(found, resamples=20), {"note": baseline}, intervals=intervals, differences=True)

    closed = environments(text)
    assert closed.count("tabular") == len(tabulars(text)) >= 2
    assert closed.count("table") == text.count("\\caption{") >= 2
    captions = [words(line) for line in re.findall(r"\\caption\{(.*)\}", text)]
    assert f"Differences from {baseline}, picture by picture." in captions


def test_latex_marks_best_and_second_and_writes_minus() -> None:
    found = example(sets=("Set5",), metrics=("psnr_y", "lpips"))
    worse = [replace(image, scores={name: -value for name, value in image.scores.items()}) for image in found.images]
    found = replace(found, images=tuple(worse))

    scores, differences = tabulars(to_latex(found, summarise(found, resamples=20), intervals=False, differences=True))

    assert scores[0] == ["set", "method", "PSNR-Y $\\uparrow$", "LPIPS $\\downarrow$", "s/MP"]
    assert [row[2] for row in scores[1:]] == [
        "\\textbf{$-$25.01}",
        "\\underline{$-$25.39}",
        "$-$25.77",
        "$-$26.14",
    ]
    assert [row[3] for row in scores[1:3]] == ["$-$0.3480", "$-$0.3533"]
    assert scores[4][3] == "\\textbf{$-$0.3639}"
    assert differences[0] == [
        "set",
        "method",
        "PSNR-Y $\\uparrow$",
        "better",
        "p",
        "LPIPS $\\downarrow$",
        "better",
        "p",
    ]
    assert differences[1] == ["Set5", "lanczos", "$-$0.38", "0/3", "0.250", "$-$0.0053", "3/3", "0.250"]


def test_latex_parts_sets_by_rules_and_repeats_names_in_every_part() -> None:
    found = example()

    text = to_latex(found, summarise(found, resamples=20), intervals=True, differences=True)

    names = [[row[:2] for row in table[1:]] for table in tabulars(text)]
    everyone = [[dataset, method] for dataset in ("Set5", "Kodak24") for method in METHODS]
    assert names[:2] == [everyone] * 2
    assert names[2:] == [[pair for pair in everyone if pair[1] != "bicubic"]] * 4
    headings = [heading for table in tabulars(text)[:2] for heading in table[0][2:]]
    assert [heading.split()[0] for heading in headings] == ["PSNR-Y", "SSIM-Y", "LPIPS", "LR-PSNR", "s/MP"]
    for body in text.split("\\begin{tabular}")[1:]:
        assert body.split("\\end{tabular}")[0].count("\\midrule") == 2  # below the heading, and between the sets


@pytest.mark.parametrize("num_sets", [1, 2, 4, 9])
def test_latex_puts_no_more_tables_on_a_page_than_it_holds(num_sets: int) -> None:
    found = example(sets=tuple(f"S{index}" for index in range(num_sets)))

    text = to_latex(found, summarise(found, resamples=20), intervals=True, differences=True)

    floats = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, flags=re.DOTALL)
    lines = [len([line for line in one.splitlines() if line.endswith("\\\\")]) for one in floats]
    assert max(lines) <= 40
    assert {1: 2, 2: 2, 4: 3, 9: 6}[num_sets] == len(floats)
    continued = [one for one in floats if ", continued." in one]
    assert len(continued) == len(floats) - 2


def points(cell: str, folder: Path) -> float:
    r"""Width of a cell in \small: Computer Modern at 10 pt, as its smaller fonts are 2.8 % wider for their size."""
    font = ImageFont.truetype(folder / ("cmb10.ttf" if "\\textbf" in cell else "cmr10.ttf"), 100)
    text = re.sub(r"\$-\$|\$\\\w+\$", "+", cell)  # minus and arrows are no wider than a plus
    text = re.sub(r"\\(textbf|underline)", "", text).replace("{", "").replace("}", "")
    length = sum(33.3 if sign == " " else font.getlength(sign) for sign in text)
    return length / 100 * 9 * 1.028


@pytest.mark.parametrize("intervals", [True, False])
def test_latex_fits_the_lines_of_an_article(intervals: bool) -> None:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = example()

    text = to_latex(found, summarise(found, resamples=20), intervals=intervals, differences=True)

    assert "\\setlength{\\tabcolsep}{3pt}" in text
    widths = [
        sum(max(points(row[place], folder) for row in table) + 6.0 for place in range(len(table[0]))) - 6.0
        for table in tabulars(text)
    ]
    assert max(widths) <= ARTICLE_POINTS
    assert len(widths) == (6 if intervals else 3)
    assert max(widths) > 0.85 * ARTICLE_POINTS  # and none is broken too early
