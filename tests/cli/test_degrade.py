"""`linearsr degrade` from real files to real files: names, tables, streams and exit codes."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def rows(folder: str = "LR") -> list[dict[str, str]]:
    with Path(folder, "degradation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def levels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def test_degrade_makes_pairs_and_prints_their_paths(run, picture) -> None:
    picture("in/b.png", 33, 22)
    picture("in/a.jpg", 16, 24)
    result = run("degrade", "in", "-o", "LR", "--hr-out", "HR", "--recipe", "real")
    assert (result.code, result.out) == (0, f"{Path('LR/a.png')}\n{Path('LR/b.png')}\n")
    assert result.err.splitlines()[-2].startswith("2 done, 0 skipped, 0 failed; 0.0 MP in ")
    assert result.err.splitlines()[-1] == "what was done to each: LR/degradation.csv"
    from linearsr_train.data.degradation import degrade_real_fixed

    for name, source in (("a.png", "in/a.jpg"), ("b.png", "in/b.png")):
        hr, lr = levels(f"HR/{name}"), levels(f"LR/{name}")
        assert hr.shape[:2] == (lr.shape[0] * 4, lr.shape[1] * 4)
        np.testing.assert_array_equal(hr, levels(source)[: hr.shape[0], : hr.shape[1]])
        expected = degrade_real_fixed(hr.astype(np.float32) / 255, 4, Path(source).name)
        np.testing.assert_array_equal(lr, np.rint(expected.lr * 255))
    assert [row["path"] for row in rows()] == ["LR/a.png", "LR/b.png"]
    facts = json.loads(Path("LR/degradation.json").read_text())
    assert facts["command"] == "linearsr degrade in -o LR --hr-out HR --recipe real --scale 4 --seed 0"


def test_bicubic_at_scale_4_is_the_default(run, picture) -> None:
    picture("in/a.png", 16, 12)
    assert run("degrade", "in", "-o", "LR", "-q").err == ""
    from linearsr_train.data.degradation import degrade_bicubic

    expected = degrade_bicubic(levels("in/a.png").astype(np.float32) / 255, (3, 4)).lr
    np.testing.assert_array_equal(levels("LR/a.png"), np.rint(expected * 255))
    assert rows()[0]["tags"] == "clean"


def test_degrade_says_json_lines(run, picture) -> None:
    picture("in/a.png", 18, 12)
    Path("in/b.png").write_bytes(b"no picture")
    result = run("degrade", "in", "-o", "LR", "--hr-out", "HR", "--json", "-q")
    good, bad, summary = sorted(result.lines, key=lambda line: (line["event"], line.get("status") != "done"))
    assert good.pop("seconds") >= 0
    assert good == {
        "event": "file", "input": "in/a.png", "output": "LR/a.png", "hr_output": "HR/a.png", "status": "done",
        "width": 4, "height": 3, "hr_width": 16, "hr_height": 12, "tags": ["clean"], "notes": [],
    }  # fmt: skip
    assert (bad["status"], bad["output"], bad["tags"]) == ("failed", None, None)
    assert "in/b.png" in bad["error"]
    assert (result.code, summary["exit_code"], summary["table"]) == (3, 3, "LR/degradation.csv")
    assert [summary[k] for k in ("done", "skipped", "failed")] == [1, 0, 1]


def test_a_tree_keeps_its_folders_and_leaves_the_output_out(run, picture) -> None:
    for name in ("in/a.png", "in/sub/a.png", "in/sub/deep/c.webp"):
        picture(name, 8, 8)
    assert run("degrade", "in", "-o", "in/LR", "-r").code == 0
    names = {p.relative_to("in/LR").as_posix() for p in Path("in/LR").rglob("*.png")}
    assert names == {"a.png", "sub/a.png", "sub/deep/c.png"} == {row["name"] for row in rows("in/LR")}
    again = run("degrade", "in", "-o", "in/LR", "-r")
    assert (again.code, len(again.out.splitlines())) == (0, 3)
    assert "0 done, 3 skipped, 0 failed" in again.err


def test_one_bad_picture_does_not_end_the_run(run, picture) -> None:
    picture("in/a.png", 16, 16)
    whole = picture("in/b.png", 16, 16).read_bytes()
    Path("in/b.png").write_bytes(whole[: len(whole) // 2])
    picture("in/c.png", 40, 3)
    result = run("degrade", "in", "-o", "LR")
    assert (result.code, result.out) == (3, "LR/a.png\n")
    errors = [line for line in result.err.splitlines() if line.startswith("error:")]
    assert errors[0] == "error: in/c.png: picture is 40x3, expected at least 4 pixels a side at scale 4"
    assert errors[1].startswith("error: in/b.png")
    assert {p.name for p in Path("LR").iterdir()} == {"a.png", "degradation.csv", "degradation.json"}


def test_nothing_done_is_exit_code_4_and_leaves_nothing(run, picture) -> None:
    Path("empty").mkdir()
    assert run("degrade", "empty", "-o", "LR").code == 4
    assert run("degrade", "nowhere.png", "-o", "LR").code == 4
    picture("small.png", 3, 3)
    assert run("degrade", "small.png", "-o", "LR").code == 4
    assert not Path("LR").exists()


def test_rerun_skips_and_mixtures_are_refused(run, picture) -> None:
    picture("in/a.png", 16, 16)
    picture("in/b.png", 16, 16)
    call = ("degrade", "in", "-o", "LR", "--recipe", "real")
    assert run(*call, "--limit", 1).out == "LR/a.png\n"
    first = levels("LR/a.png")
    both = run(*call, "--json", "-q")
    assert [(line["status"], line["tags"] is None) for line in both.lines[:2]] == [("skipped", False), ("done", False)]
    other = run(*call, "--seed", 1)
    assert other.code == 2
    assert other.err.splitlines()[0] == "error: LR holds 2 pictures made with seed 0, expected 1 as here"
    assert run(*call, "--on-exists", "error").code == 2
    partly = run(*call, "--seed", 1, "--on-exists", "overwrite", "--limit", 1)
    assert (partly.code, "holds 1 pictures" in partly.err) == (2, True)
    np.testing.assert_array_equal(levels("LR/a.png"), first)
    assert run(*call, "--seed", 1, "--on-exists", "overwrite").code == 0
    assert not np.array_equal(levels("LR/a.png"), first)
    assert json.loads(Path("LR/degradation.json").read_text())["seed"] == 1


def test_a_foreign_file_of_that_name_stays(run, picture) -> None:
    picture("in/a.png", 16, 16)
    mine = picture("LR/a.png", 4, 4).read_bytes()
    result = run("degrade", "in", "-o", "LR")
    assert result.code == 4
    assert result.err.splitlines()[1] == "error: in/a.png: LR/a.png exists and is not this picture"
    assert Path("LR/a.png").read_bytes() == mine
    assert run("degrade", "in", "-o", "LR", "--on-exists", "error").code == 2
    assert run("degrade", "in", "-o", "LR", "--on-exists", "overwrite").code == 0


def test_pictures_of_one_name_in_two_folders_are_not_taken_for_each_other(run, picture) -> None:
    picture("x/a.png", 16, 16)
    picture("y/a.png", 16, 16)
    assert run("degrade", "x", "-o", "LR").code == 0
    assert run("degrade", "y", "-o", "LR").code == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("in", "-o", "in"), "in/a.png, made of in/a.png, would replace the input in/a.png"),
        (("in", "-o", "LR", "--hr-out", "in"), "would replace the input in/a.png"),
        (("in", "-o", "LR", "--hr-out", "LR"), "hr-out is the output folder too"),
        (("in", "two", "-o", "LR"), "in/a.png and two/a.jpg would both become LR/a.png"),
        (("in", "-o", "in/a.png"), "is a file, expected a folder"),
        (("in",), "no output folder given"),
        (("-o", "LR"), "no input given"),
        (("-", "-o", "LR"), "an input is '-'"),
        (("in", "-o", "LR", "--scale", "0.5"), "scale is 0.5"),
        (("in", "-o", "LR", "--scale", "four"), "'four' is not a number"),
        (("in", "-o", "LR", "--seed", "-1"), "seed is -1"),
        (("in", "-o", "LR", "--limit", "0"), "limit is 0"),
        (("in", "-o", "LR", "--recipe", "rael"), "recipe rael: no such file, expected bicubic, real or the path"),
        (("in", "-o", "LR", "--hr-out", "-x"), "hr-out is '-x'"),
    ],
)
def test_usage_errors_come_before_any_work(run, picture, arguments: tuple[str, ...], said: str) -> None:
    picture("in/a.png", 16, 16)
    picture("two/a.jpg", 16, 16)
    result = run("degrade", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.splitlines()[1].startswith("hint: ")
    assert not Path("LR").exists()


def test_two_pictures_of_one_stem_are_refused(run, picture) -> None:
    picture("in/a.png", 16, 16)
    picture("in/a.webp", 16, 16)
    result = run("degrade", "in", "-o", "LR")
    assert result.code == 2
    assert "in/a.png and in/a.webp would both become LR/a.png" in result.err


def test_a_linked_output_is_seen_through(run, picture) -> None:
    picture("in/a.png", 16, 16)
    os.symlink("in", "other")
    assert run("degrade", "in", "-o", "other").code == 2


def test_dry_run_tells_all_and_writes_nothing(run, picture) -> None:
    picture("in/a.png", 17, 16)
    picture("in/b.png", 2, 2)
    result = run("degrade", "in", "-o", "LR", "--dry-run")
    assert result.code == 3
    assert result.out.splitlines() == [
        "make  in/a.png -> LR/a.png  16x16 -> 4x4",
        "1 to make, 0 skipped, 1 failed; 0.0 MP",
    ]
    assert not Path("LR").exists()
    lines = run("degrade", "in", "-o", "LR", "--dry-run", "--json").lines
    assert [line.get("status") for line in lines] == ["planned", "failed", None]
    assert (lines[-1]["planned"], lines[-1]["table"]) == (1, None)


def test_a_recipe_of_ones_own_and_the_written_one_repeat_a_run(run, picture) -> None:
    picture("in/a.png", 32, 32)
    Path("mine.toml").write_text("[degradation]\njpeg_quality = [10, 15]\nblur_stage_prob = 0\n")
    assert run("degrade", "in", "-o", "A", "--recipe", "mine.toml", "-s", "2", "--seed", "9").code == 0
    assert run("degrade", "in", "-o", "B", "--recipe", "A/degradation.json", "-s", "2", "--seed", "9").code == 0
    assert Path("A/a.png").read_bytes() == Path("B/a.png").read_bytes()
    assert json.loads(Path("B/degradation.json").read_text())["recipe"]["name"] == "mine"
    Path("mine.toml").write_text("jpeg_qualty = [10, 15]\n")
    result = run("degrade", "in", "-o", "A", "--recipe", "mine.toml")
    assert (result.code, result.err.splitlines()) == (
        2,
        ["error: recipe mine.toml: degradation has no setting `jpeg_qualty`", "hint: did you mean `jpeg_quality`?"],
    )


def test_notes_tell_what_was_lost(run, picture) -> None:
    picture("in/a.png", 8, 8, mode="RGBA")
    assert "note: in/a.png: the transparency was dropped\n" in run("degrade", "in", "-o", "LR").err


def test_a_missing_training_package_is_told(run, picture, monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png", 8, 8)
    for name in [*(n for n in sys.modules if n.split(".")[0] == "linearsr_train"), "linearsr_train"]:
        monkeypatch.setitem(sys.modules, name, None)
    result = run("degrade", "in", "-o", "LR")
    assert (result.code, result.err.splitlines()[0]) == (
        2,
        "error: degrading needs linearsr_train, which is not installed",
    )


def test_the_table_gives_upscale_its_tags(run, picture) -> None:
    picture("in/one/a.png", 48, 48)
    picture("in/two/a.png", 48, 48)
    Path("heavy.toml").write_text("noise_sigma = [40, 40]\nnoise_sigma2 = [40, 40]\nnoise_stage_prob = 1\n")
    assert run("degrade", "in", "-r", "-o", "LR", "--recipe", "heavy.toml", "--seed", "1").code == 0
    told = {row["path"]: row["tags"] for row in rows()}
    assert any("noise" in tags for tags in told.values())
    result = run("upscale", "LR", "-r", "-o", "SR", "--tags-from", "LR/degradation.csv", "--json", "--scale", 2)
    assert result.code == 0
    files = [line for line in result.lines if line["event"] == "file"]
    assert {line["input"]: ", ".join(line["tags"]) for line in files} == told
    assert {line["tags_from"] for line in files} == {"csv"}
    assert "warning" not in result.err
