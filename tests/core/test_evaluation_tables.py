"""Tables read back: numbers, marks, names with markup in them, and what must stand below."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from linearsr.errors import ConfigError
from linearsr.evaluation.latex import to_latex
from linearsr.evaluation.legend import legend
from linearsr.evaluation.records import from_json, per_image_csv, per_image_json, rows_from_json, to_csv, to_json
from linearsr.evaluation.results import SEES_REFERENCE, Evaluation, Failure, ImageScores, MethodInfo, SkippedMetric
from linearsr.evaluation.statistics import Row, Summary, summarise
from linearsr.evaluation.tables import markdown_table, number, to_markdown, to_text
from linearsr.metrics import METRICS

SCORES = {
    "Set5": {
        "bicubic": [(28.0, 0.40), (29.0, 0.30), (math.inf, 0.0)],
        "fine | one": [(30.0, 0.20), (31.0, 0.10), (math.inf, 0.0)],
        "compact, 4 steps": [(29.0, 0.10), (30.0, 0.05), (40.0, 0.1)],
    },
    "BSD_100": {
        "bicubic": [(25.001, 0.5), (26.0, 0.4)],
        "fine | one": [(25.0, 0.4), (26.0, 0.4)],
        "compact, 4 steps": [(24.0, 0.3), (25.0, 0.3)],
    },
}
FACTS = {
    "linearsr": "0.1.0",
    "versions": {"numpy": "2.4.6", "opencv-python": "5.0"},
    "command": "linearsr eval --steps 4",
    "threads": 2,
}


def example() -> Evaluation:
    images = tuple(
        ImageScores(
            dataset=dataset,
            image=f"sub/{index}",
            method=method,
            scores={"psnr_y": psnr, "lpips": lpips},
            seconds=None if method == "bicubic" else 0.2,
            megapixels=0.25,
            cached=index == 1,
        )
        for dataset, by_method in SCORES.items()
        for method, of_pictures in by_method.items()
        for index, (psnr, lpips) in enumerate(of_pictures)
    )
    settings = {"model": "compact", "revision": "0123abc", "seed": 7, "tags": None, "steps": 4}
    return Evaluation(
        datasets=tuple(SCORES),
        methods=(
            MethodInfo(name="bicubic", kind="baseline"),
            MethodInfo(name="fine | one", kind="folder"),
            MethodInfo(name="compact, 4 steps", kind="model", steps=4, settings=settings),
        ),
        metrics=("psnr_y", "lpips"),
        baseline="bicubic",
        images=images,
        failures=(Failure(dataset="Set5", image="torn", method=None, message="cannot be read: truncated"),),
        skipped=(SkippedMetric(name="musiq", reason="pyiqa is not installed", hint="pip install pyiqa"),),
        notes=("hr cropped to multiples of 4 (mod-crop)",),
        protocol={"scale": 4.0, "crop_border": 4, "inputs": {"recipe": "bicubic", "seed": 3}},
    )


def rendered(markdown: str) -> list[list[tuple[str, bool]]]:
    """Text of each cell of the first table, as a Markdown parser reads it, and whether it has bold in it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    tokens = tokens[: next(i for i, token in enumerate(tokens) if token.type == "table_close")]
    rows: list[list[tuple[str, bool]]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            children = token.children or []
            bold = any(child.type == "strong_open" for child in children)
            rows[-1].append(("".join(child.content for child in children), bold))
    return rows


def test_json_round_trip_keeps_everything_through_a_file() -> None:
    evaluation = example()
    rows = summarise(evaluation, resamples=100)

    data = json.loads(json.dumps(to_json(evaluation, rows, FACTS), allow_nan=False))

    assert from_json(data) == evaluation
    assert rows_from_json(data) == rows
    assert data["facts"] == FACTS
    assert "inf" in data["numbers"]
    assert data["metrics"]["lpips"]["definition"] == METRICS["lpips"].definition
    assert data["metrics"]["psnr_y"]["range"] == [0.0, "inf"]
    assert data["images"][2]["scores"]["psnr_y"] == "inf"


@settings(max_examples=40)
@given(
    value=st.floats(),
    name=st.text(max_size=6),
    seconds=st.none() | st.floats(0, 1e6),
)
def test_json_round_trip_keeps_any_score_and_name(value: float, name: str, seconds: float | None) -> None:
    image = ImageScores(dataset="s", image=name, method=name, scores={"psnr_y": value}, seconds=seconds)
    evaluation = replace(example(), images=(image,), datasets=("s",))

    back = from_json(json.loads(json.dumps(to_json(evaluation, ()), allow_nan=False)))

    found = back.images[0]
    assert (found.image, found.method, found.seconds) == (name, name, seconds)
    assert found.scores["psnr_y"] == value or (math.isnan(value) and math.isnan(found.scores["psnr_y"]))


def test_json_of_a_picture_called_inf_stays_a_name() -> None:
    image = ImageScores(dataset="nan", image="inf", method="-inf", scores={})

    data = to_json(replace(example(), images=(image,)), ())

    assert from_json(json.loads(json.dumps(data))).images == (image,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "quality"}, "kind 'quality'"),
        ({"schema_version": 2}, "schema_version of the evaluation is 2"),
        ({"images": [{"dataset": "s"}]}, "damaged: 'scores'"),
        ({"datasets": 5}, "evaluation.datasets"),
    ],
)
def test_from_json_refuses_other_files(change: dict[str, object], message: str) -> None:
    data = to_json(example(), ()) | change

    with pytest.raises(ConfigError, match=re.escape(message)):
        from_json(data)


def test_from_json_refuses_a_missing_part_and_a_list() -> None:
    data = to_json(example(), ())
    del data["failures"]

    with pytest.raises(ConfigError, match="damaged: 'failures'"):
        from_json(data)
    with pytest.raises(ConfigError, match="kind 'list'"):
        from_json([])


def test_csv_holds_the_values_unrounded() -> None:
    evaluation = example()
    rows = summarise(evaluation, resamples=100)

    lines = list(csv.DictReader(io.StringIO(to_csv(evaluation, rows))))

    assert [(line["dataset"], line["method"]) for line in lines] == [(row.dataset, row.method) for row in rows]
    ours = lines[-1]
    assert float(ours["lpips"]) == rows[-1].scores["lpips"].mean
    assert float(ours["lpips_low"]) == rows[-1].scores["lpips"].low
    assert float(ours["lpips_diff"]) == rows[-1].differences["lpips"].mean
    assert float(ours["psnr_y_p"]) == rows[-1].differences["psnr_y"].p_value == 0.5
    assert (lines[0]["psnr_y"], lines[0]["psnr_y_low"], lines[0]["psnr_y_diff"]) == ("inf", "", "")
    assert (lines[0]["steps"], ours["steps"]) == ("", "4")


def test_csv_tells_of_the_differences_what_json_tells() -> None:
    evaluation = example()
    rows = summarise(evaluation, resamples=100)

    text = to_csv(evaluation, rows)

    header = next(csv.reader(io.StringIO(text)))
    assert header[:10] == ["dataset", "method", "steps", "num_images", "seconds_per_megapixel"] + [
        f"psnr_y{end}" for end in ("", "_low", "_high", "_diff", "_p")
    ]
    ends = ("_diff_low", "_diff_high", "_better", "_worse", "_ties")
    assert header[15:] == [f"{name}{end}" for name in ("psnr_y", "lpips") for end in ends] + ["baseline"]
    for line, row in zip(csv.DictReader(io.StringIO(text)), rows, strict=True):
        assert line["baseline"] == "bicubic"
        for name in evaluation.metrics:
            paired = row.differences.get(name)
            found = [line[f"{name}{end}"] for end in ends]
            wanted = () if paired is None else (paired.low, paired.high, paired.better, paired.worse, paired.ties)
            assert found == ["" if value is None else str(value) for value in wanted or [None] * len(ends)]
    fine = list(csv.DictReader(io.StringIO(text)))[4]
    assert [fine[f"psnr_y{end}"] for end in ends[2:]] == ["0", "1", "1"]


def test_per_image_json_tells_how_its_scores_were_made() -> None:
    evaluation = example()

    data = json.loads(json.dumps(per_image_json(evaluation, FACTS), allow_nan=False))

    whole = json.loads(json.dumps(to_json(evaluation, summarise(evaluation), FACTS)))
    assert data["kind"] == "linearsr-evaluation-images"
    assert set(whole) - set(data) == {"rows"}
    assert {name: value for name, value in whole.items() if name not in ("rows", "kind")} == {
        name: value for name, value in data.items() if name != "kind"
    }
    assert data["protocol"]["inputs"] == {"recipe": "bicubic", "seed": 3}
    assert data["methods"][2]["settings"]["revision"] == "0123abc"
    assert (data["baseline"], data["facts"]) == ("bicubic", FACTS)


def test_per_image_csv_and_json_hold_every_picture() -> None:
    evaluation = example()

    lines = list(csv.DictReader(io.StringIO(per_image_csv(evaluation))))
    data = json.loads(json.dumps(per_image_json(evaluation), allow_nan=False))

    assert len(lines) == len(data["images"]) == len(evaluation.images)
    for line, found, image in zip(lines, data["images"], evaluation.images, strict=True):
        assert (line["image"], line["method"]) == (found["image"], found["method"]) == (image.image, image.method)
        assert float(line["psnr_y"]) == float(found["scores"]["psnr_y"]) == image.scores["psnr_y"]
        assert line["seconds"] == ("" if image.seconds is None else str(image.seconds))
        assert (line["megapixels"], line["cached"]) == (str(image.megapixels), str(image.cached))
        assert line["steps"] == ("4" if image.method == "compact, 4 steps" else "")


def test_csv_survives_commas_quotes_lines_and_broken_names() -> None:
    name = 'a,"b"\n\udc80'
    image = ImageScores(dataset="s", image=name, method="m", scores={})

    text = per_image_csv(replace(example(), images=(image,)))

    assert next(csv.DictReader(io.StringIO(text)))["image"] == 'a,"b"\\n\\udc80'
    assert text.encode("utf-8").count(b"\n") == 2


def test_markdown_bolds_the_best_of_each_set_by_direction() -> None:
    evaluation = example()

    table = rendered(to_markdown(evaluation, summarise(evaluation)))

    assert [text for text, _ in table[0]] == ["set", "method", "PSNR-Y \u2191", "LPIPS \u2193", "s/MP"]
    assert [[text for text, _ in row] for row in table[1:]] == [
        ["Set5", "bicubic", "inf", "0.2333", "-"],
        ["Set5", "fine | one", "inf", "0.1000", "0.800"],
        ["Set5", "compact, 4 steps", "33.00", "0.0833", "0.800"],
        ["BSD_100", "bicubic", "25.50", "0.4500", "-"],
        ["BSD_100", "fine | one", "25.50", "0.4000", "0.800"],
        ["BSD_100", "compact, 4 steps", "24.50", "0.3000", "0.800"],
    ]
    # 25.5005 and 25.5 print alike, so both are the best.
    assert [row[2][1] for row in table[1:]] == [True, True, False, True, True, False]
    assert [row[3][1] for row in table[1:]] == [False, False, True, False, False, True]


@given(st.text(alphabet="ab_*|\\<>[]()`!#~- /&", min_size=1, max_size=12).map(lambda text: f"x{text}x"))
def test_markdown_shows_any_name_as_it_is(name: str) -> None:
    row = Row(
        dataset=name, method="m", steps=None, num_images=1, seconds_per_megapixel=None, scores={"psnr_y": SUMMARY}
    )
    if name.count("`") > 1 or "&" in name:  # code and entities are left to the reader
        name = name.replace("`", "'").replace("&", "+")
        row = replace(row, dataset=name)

    table = rendered(to_markdown(example(), (row,)))

    assert table[1][0][0] == name


SUMMARY = Summary(mean=30.0, low=None, high=None, num=1)


def test_markdown_shows_intervals_and_differences_if_asked() -> None:
    evaluation = example()
    rows = summarise(evaluation)

    text = to_markdown(evaluation, rows, intervals=True, differences=True)

    scores = rendered(text)
    assert scores[0] == rendered(to_markdown(evaluation, rows))[0]
    assert scores[6][3][0] == "0.3000 [0.300, 0.300]"
    assert scores[1][2][0] == "inf"
    before, after = text.split("Differences from bicubic, picture by picture:\n\n")
    assert before.endswith("by what is printed.\n\n")
    assert [[cell for cell, _ in row] for row in rendered(after)] == [
        ["set", "method", "PSNR-Y \u2191", "better", "p", "LPIPS \u2193", "better", "p"],
        [
            "Set5",
            "fine | one",
            "+1.33 [0.00, 2.00]",
            "2/3 (1 equal)",
            "0.500",
            "-0.1333 [-0.2000, 0.0000]",
            "2/3 (1 equal)",
            "0.500",
        ],
        ["Set5", "compact, 4 steps", "-inf", "2/3", "1.000", "-0.1500 [-0.3000, 0.1000]", "2/3", "1.000"],
        [
            "BSD_100",
            "fine | one",
            "-0.00 [-0.00, 0.00]",
            "0/2 (1 equal)",
            "1.000",
            "-0.0500 [-0.1000, 0.0000]",
            "1/2 (1 equal)",
            "1.000",
        ],
        ["BSD_100", "compact, 4 steps", "-1.00 [-1.00, -1.00]", "0/2", "0.500"]
        + ["-0.1500 [-0.2000, -0.1000]", "2/2", "0.500"],
    ]


def test_differences_of_one_method_alone_are_no_table() -> None:
    evaluation = replace(example(), baseline=None)

    text = to_markdown(evaluation, summarise(evaluation), differences=True)

    assert "Differences from" not in text
    assert "There are no differences: nothing was scored that they could be taken from." in text


@pytest.mark.parametrize("make", [to_markdown, to_latex, to_text])
def test_below_every_table_stands_what_the_numbers_mean(make: object) -> None:
    evaluation = example()
    assert callable(make)

    text = make(evaluation, summarise(evaluation), FACTS, intervals=True, differences=True)

    flat = re.sub(r"[\s\\{}]+", " ", text).replace(" ^ ", "^")
    for part in (
        "PSNR-Y (dB, higher is better): 10 log10(255",
        "LPIPS (lower is better): LPIPS v0.1 with AlexNet",
        "arXiv:1801.03924",
        "10000 resamples, seed 0",
        "With 2 pictures it is never below 0.500.",
        "exact sign test",
        "scale: 4",
        "crop border: 4",
        "inputs: recipe bicubic, seed 3",
        "Set5 3, BSD",
        "compact, 4 steps: model compact, revision 0123abc, seed 7, tags none",
        "linearsr: 0.1.0",
        "versions: numpy 2.4.6, opencv-python 5.0",
        "MUSIQ: pyiqa is not installed (pip install pyiqa)",
        "hr cropped to multiples of 4 (mod-crop)",
        "1 picture could not be scored",
        "Set5/torn: cannot be read: truncated",
    ):
        assert part in flat, part


def test_below_the_table_methods_of_equal_settings_share_a_line() -> None:
    steps = tuple(
        MethodInfo(name=f"m, {n} steps", kind="model", steps=n, settings={"seed": 0, "steps": n}) for n in (1, 4)
    )
    other = MethodInfo(name="other", kind="model", settings={"seed": 1})

    text = to_text(replace(example(), methods=(*steps, other), images=()), ())

    assert "  m, 1 steps; m, 4 steps: seed 0\n  other: seed 1\n" in text


def test_text_stars_the_best_and_aligns_columns() -> None:
    evaluation = example()

    lines = to_text(evaluation, summarise(evaluation), width=100).splitlines()

    assert lines[0].split() == ["set", "method", "PSNR-Y", "\u2191", "LPIPS", "\u2193", "s/MP"]
    assert [re.findall(r"(\S+\*)", line) for line in lines[2:8]] == [
        ["inf*"],
        ["inf*"],
        ["0.0833*"],
        ["25.50*"],
        ["25.50*"],
        ["0.3000*"],
    ]
    assert len({line.index("0.") for line in lines[2:8]}) == 1


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_fits_the_width_and_repeats_set_and_method(width: int) -> None:
    evaluation = example()

    text = to_text(evaluation, summarise(evaluation), FACTS, width=width, intervals=True, differences=True)

    assert max(map(len, text.splitlines())) <= width
    headings = [line for line in text.splitlines() if re.match(r"set +method ", line)]
    assert len(headings) == {60: 6, 80: 3, 120: 2}[width]
    assert sum(line.startswith("BSD_100  compact, 4 steps") for line in text.splitlines()) == len(headings)


def test_text_in_ascii_encodes_and_keeps_the_numbers() -> None:
    evaluation = replace(example(), notes=("caf\u00e9",))
    rows = summarise(evaluation)

    text = to_text(evaluation, rows, ascii=True)

    assert text.isascii()
    assert "PSNR-Y ^" in text and "LPIPS v" in text and "caf\\xe9" in text
    numbers = re.compile(r"\d+\.\d+")
    assert numbers.findall(text) == numbers.findall(to_text(evaluation, rows))


def test_text_escapes_control_characters_of_names() -> None:
    row = Row(dataset="\x1b[31mred", method="m\n", steps=None, num_images=1, seconds_per_megapixel=None, scores={})

    text = to_text(example(), (row,))

    assert "\x1b" not in text and "\\x1b[31mred" in text and "m\\n" in text


def test_skipped_metrics_of_one_reason_share_a_line() -> None:
    skipped = [
        SkippedMetric(name=name, reason=f"{METRICS[name].title} needs pyiqa", hint="pip install pyiqa")
        for name in ("niqe", "dists")
    ]
    lacking = SkippedMetric(name="lpips", reason="LPIPS has no weights")

    text = to_text(replace(example(), skipped=(*skipped, lacking)), ())

    assert "\nNot computed\n  NIQE, DISTS: needs pyiqa (pip install pyiqa)\n  LPIPS: has no weights\n" in text


def test_lpips_of_a_file_is_not_said_to_be_of_the_package() -> None:
    rows = summarise(example())

    of_package = to_text(example(), rows, FACTS)
    of_file = to_text(example(), rows, {**FACTS, "lpips_weights": "alex.safetensors, sha256 0123"})

    assert "Package: lpips (BSD-2-Clause)" in of_package
    assert "Package: lpips" not in of_file
    assert (
        "Computed from a file of its weights" in of_file and "  lpips weights: alex.safetensors, sha256 0123" in of_file
    )


def test_what_sees_the_clean_picture_is_never_the_best() -> None:
    evaluation = example()
    ceiling = replace(evaluation.methods[1], kind="baseline", settings={"model": "compact", **SEES_REFERENCE})
    evaluation = replace(evaluation, methods=(evaluation.methods[0], ceiling, evaluation.methods[2]))

    text = to_markdown(evaluation, summarise(evaluation))
    table = rendered(text)

    assert [row[2][1] for row in table[1:]] == [True, False, False, True, False, False]
    assert "fine \\| one: model compact, sees the clean picture" in text
    assert "underline{" not in to_latex(evaluation, summarise(evaluation)).split("bottomrule")[0]
    assert from_json(to_json(evaluation, ())).methods[1].competes is False


def test_one_method_alone_is_not_the_best() -> None:
    evaluation = example()
    rows = tuple(row for row in summarise(evaluation) if row.method == "bicubic")

    assert "**" not in to_markdown(evaluation, rows).split("Bold")[0]


def test_markdown_table_pads_to_equal_width() -> None:
    assert markdown_table(("a", "long"), [("1", "2"), ("333", "4")]) == (
        "| a   | long |\n|-----|------|\n| 1   | 2    |\n| 333 | 4    |"
    )


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 2, "-"), (1.005, 1, "1.0"), (math.inf, 2, "inf"), (-math.inf, 2, "-inf"), (math.nan, 4, "nan")],
)
def test_number_formats_what_is_not_finite(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


REAL = {"name": "mine", "kind": "real", "digest": "ab12", "degradation": {"jpeg_quality": [30, 60]}}
BICUBIC = {"name": "bicubic", "kind": "bicubic", "digest": "cd34"}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"kind": "none"}, "none"),
        ({"kind": "given"}, "given"),
        (
            {"kind": "made", "recipe": BICUBIC, "seed": 3},
            "made from the clean pictures by the recipe bicubic, digest cd34",
        ),
        (
            {"kind": "given", "by": "linearsr degrade", "recipe": REAL, "seed": 3, "pictures": "2 of 5"},
            "given, made by linearsr degrade by the recipe mine, which is real, seed 3, 2 of 5 pictures, digest ab12 "
            "(jpeg quality (30, 60))",
        ),
        (
            {"kind": "given", "by linearsr degrade": {"A": {"recipe": BICUBIC, "seed": 0}}},
            "given, made by linearsr degrade: those of A by the recipe bicubic, digest cd34",
        ),
    ],
)
def test_where_inputs_come_from_is_told_in_words(inputs: dict, words: str) -> None:
    found = dict(legend(replace(example(), protocol={"scale": 4.0, "inputs": inputs}), ()))
    assert found["Protocol"][:2] == ("scale: 4", f"inputs: {words}")
