"""`linearsr eval` from folders to a table that can be quoted, files and exit codes, with the bundled model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linearsr.metrics import mod_crop, psnr, quantise, ssim
from linearsr.resize import resize

FAST = ("--metrics", "psnr,ssim", "--bootstrap", "0", "--no-cache")


def tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)).permute(2, 0, 1) / 255.0


@pytest.fixture
def clean(photos: Path, tmp_path: Path) -> Path:
    """Three painted photographs, one of them not divisible by four."""
    folder = tmp_path / "clean"
    folder.mkdir()
    for name in ("bridge", "river", "street"):
        shutil.copy(photos / f"{name}.png", folder)
    return folder


@pytest.fixture
def results(clean: Path, tmp_path: Path) -> Path:
    """The same pictures with a little noise."""
    folder = tmp_path / "results"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for path in clean.iterdir():
        pixels = np.asarray(Image.open(path), dtype=float) + rng.normal(0, 5, (1, 1, 3))
        Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(folder / path.name)
    return folder


def table(result) -> dict:
    assert result.code == 0, result.err
    return json.loads(result.out)


def means(found: dict) -> dict[str, dict[str, float]]:
    return {row["method"]: {name: score["mean"] for name, score in row["scores"].items()} for row in found["rows"]}


def test_pictures_are_scored_as_the_metrics_say(run, clean: Path, results: Path) -> None:
    found = table(run("eval", "--sr", results, "--hr", clean, "--crop-border", 2, *FAST))
    pairs = [(tensor(results / path.name), tensor(path)) for path in sorted(clean.iterdir())]
    wanted = {
        "psnr_y": np.mean([psnr(a, b, border=2) for a, b in pairs]),
        "ssim_y": np.mean([ssim(a, b, border=2) for a, b in pairs]),
    }
    assert means(found) == {"results": {name: pytest.approx(value, abs=1e-9) for name, value in wanted.items()}}
    assert found["rows"][0]["num_images"] == 3


def test_a_model_and_bicubic_are_run_and_scored(run, clean: Path, tmp_path: Path) -> None:
    command = ("eval", "--model", "compact", "--steps", "1,2", "--hr", clean, "--degrade", "bicubic", *FAST)
    found = table(run(*command, "--tags", "none", "--save", tmp_path / "kept"))
    assert list(means(found)) == ["bicubic", "compact, 1 step", "compact, 2 steps"]
    errors = []
    for path in sorted(clean.iterdir()):
        hr = mod_crop(tensor(path), 4)
        lr = quantise(resize(hr, (hr.shape[1] // 4, hr.shape[2] // 4)))
        errors.append(psnr(quantise(resize(lr, tuple(hr.shape[1:]))), hr, border=4))
    assert means(found)["bicubic"]["psnr_y"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert found["protocol"]["scale"] == 4.0
    assert found["protocol"]["inputs"]["recipe"]["kind"] == "bicubic"
    kept = sorted(path.relative_to(tmp_path / "kept").parts for path in (tmp_path / "kept").rglob("*.png"))
    assert len(kept) == 9
    assert {parts[0] for parts in kept} == {"clean"}


def test_eval_of_a_model_equals_upscale_and_eval_of_its_pictures(run, clean: Path, tmp_path: Path) -> None:
    assert run("degrade", clean, "-o", tmp_path / "lr", "--hr-out", tmp_path / "hr", "--recipe", "real").code == 0
    assert run("upscale", tmp_path / "lr", "-o", tmp_path / "sr", "--steps", 2, "--seed", 3, "-q").code == 0
    common = ("--hr", tmp_path / "hr", "--lr", tmp_path / "lr", "--metrics", "psnr,ssim,lr_psnr", "--no-cache")
    common = (*common, "--baseline", "none", "--bootstrap", "0")
    made = means(table(run("eval", "--model", "compact", "--steps", 2, "--seed", 3, *common)))
    scored = means(table(run("eval", "--sr", tmp_path / "sr", *common)))
    assert list(made.values()) == list(scored.values())


def test_second_run_is_kept_and_equal(run, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("eval", "--model", "compact", "--steps", "1", "--hr", clean, "--degrade", "real", "--metrics", "psnr")
    first = table(run(*command))
    import linearsr.pipeline

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a picture was made again")

    monkeypatch.setattr(linearsr.pipeline.Upscaler, "upscale_tensor", refuse)
    second = table(run(*command))
    assert second["rows"] == first["rows"]
    assert all(image["cached"] for image in second["images"])


def test_a_changed_picture_alone_is_scored_again(run, clean: Path, results: Path) -> None:
    command = ("eval", "--sr", results, "--hr", clean, "--metrics", "psnr")
    table(run(*command))
    Image.new("RGB", Image.open(results / "river.png").size, (90, 90, 90)).save(results / "river.png")
    images = {image["image"]: image["cached"] for image in table(run(*command))["images"]}
    assert images == {"bridge": True, "river": False, "street": True}


@pytest.mark.parametrize(
    ("kind", "start"),
    [("md", "| set"), ("csv", "dataset,method"), ("latex", "\\begin{"), ("json", "{"), ("table", "PSNR-Y")],
)
def test_formats_on_stdout(run, clean: Path, results: Path, kind: str, start: str) -> None:
    result = run("eval", "--sr", results, "--hr", clean, "-f", kind, *FAST)
    assert result.code == 0
    assert start in result.out
    assert "results" in result.out


def test_files_beside_the_table(run, clean: Path, results: Path, tmp_path: Path) -> None:
    wanted = [tmp_path / f"scores{ending}" for ending in (".json", ".csv", ".md", ".tex", ".txt")]
    outputs = [word for path in wanted for word in ("-o", path)]
    per_image = tmp_path / "images.csv"
    found = table(run("eval", "--sr", results, "--hr", clean, *FAST, *outputs, "--per-image", per_image))
    assert all(path.stat().st_size > 50 for path in wanted)
    assert json.loads(wanted[0].read_text())["rows"] == found["rows"]
    rows = list(csv.DictReader(per_image.open()))
    assert [row["image"] for row in rows] == ["bridge", "river", "street"]
    assert np.mean([float(row["psnr_y"]) for row in rows]) == pytest.approx(means(found)["results"]["psnr_y"])


def test_thresholds_decide_the_exit_code(run, clean: Path, results: Path) -> None:
    command = ("eval", "--sr", results, "--hr", clean, *FAST)
    value = means(table(run(*command)))["results"]["psnr_y"]
    assert run(*command, "--fail-under", f"psnr_y={value - 0.01},ssim>0.5").code == 0
    missed = run(*command, "--fail-under", f"psnr_y={value + 0.01}")
    assert missed.code == 3
    assert "PSNR-Y" in missed.err
    unknown = run(*command, "--fail-under", "lpips<0.2")
    assert unknown.code == 2
    assert run(*command, "--fail-under", "psnr~3").code == 2


def test_names_that_do_not_pair_are_all_listed(run, clean: Path, results: Path) -> None:
    (results / "river.png").rename(results / "lake.png")
    (results / "bridge.png").unlink()
    result = run("eval", "--sr", results, "--hr", clean, *FAST)
    assert (result.code, result.out) == (2, "")
    for name in ("river", "lake", "bridge"):
        assert name in result.err


def test_sizes_that_do_not_fit_are_all_listed(run, clean: Path, results: Path) -> None:
    for name in ("river", "bridge"):
        Image.new("RGB", (31, 33)).save(results / f"{name}.png")
    result = run("eval", "--sr", results, "--hr", clean, *FAST)
    assert (result.code, result.out) == (2, "")
    assert "river" in result.err
    assert "bridge" in result.err
    assert "31x33" in result.err


def test_a_corrupt_picture_is_listed_and_the_rest_scored(run, clean: Path, results: Path, tmp_path: Path) -> None:
    data = (results / "river.png").read_bytes()
    (results / "river.png").write_bytes(data[: len(data) // 2])
    result = run("eval", "--sr", results, "--hr", clean, *FAST, "-o", tmp_path / "scores.json")
    assert result.code == 3
    assert "river" in result.err
    found = json.loads(result.out)
    assert found["rows"][0]["num_images"] == 2
    assert [failure["image"] for failure in found["failures"]] == ["river"]


def test_gray_and_16_bit_are_said_once(run, clean: Path, results: Path) -> None:
    Image.open(clean / "river.png").convert("L").save(clean / "river.png")
    import cv2

    pixels = cv2.imread(str(results / "bridge.png"))
    cv2.imwrite(str(results / "bridge.png"), pixels.astype(np.uint16) * 257)
    result = run("eval", "--sr", results, "--hr", clean, *FAST)
    found = table(result)
    assert sum("gray" in note for note in found["notes"]) == 1
    assert sum("16" in note for note in found["notes"]) == 1
    assert result.err.count("gray") == 1


def test_cropping_to_the_scale_is_said_once(run, clean: Path) -> None:
    result = run("eval", "--model", "compact", "--steps", 1, "--hr", clean, "--degrade", "bicubic", *FAST)
    assert sum("crop" in note for note in table(result)["notes"]) == 1


def test_missing_weights_skip_a_metric_unless_it_is_asked_for(run, clean: Path, results: Path) -> None:
    command = ("eval", "--sr", results, "--hr", clean, "--no-cache")
    result = run(*command)
    skipped = {item["name"] for item in table(result)["skipped"]}
    assert {"dists", "niqe", "musiq", "maniqa", "clipiqa"} <= skipped
    assert "pyiqa" in result.err
    asked = run(*command, "--metrics", "psnr,dists")
    assert (asked.code, asked.out) == (5, "")
    assert "pip install pyiqa" in asked.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "neither --model nor --sr"),
        (("--model", "compact"), "--model needs inputs"),
        (("--sr", "missing"), "does not exist"),
        (("--model", "compact", "--degrade", "bicubic", "--lr", "clean"), "expected one of them"),
        (("--model", "compact", "--degrade", "bicubic", "--steps", "1,x"), "expected different whole numbers"),
        (("--model", "compact", "--degrade", "bicubic", "--baseline", "cubic"), "baseline is 'cubic'"),
        (("--model", "compact", "--degrade", "bicubic", "--baseline", "autoencoder"), "autoencoder"),
        (("--model", "compact", "--degrade", "blur"), "blur"),
        (("--sr", "clean", "--metrics", "pnsr"), "psnr"),
        (("--sr", "clean", "--protocol", "classic-x4"), "classical-x4"),
        (("--sr", "clean", "-o", "scores.doc"), "scores.doc"),
        (("--sr", "clean", "--save", "kept"), "--save needs --model"),
        (("--sr", "clean", "--bootstrap", "5"), "bootstrap is 5"),
        (("--sr", "clean", "--steps", "3"), "--steps given without --model"),
        (("--sr", "clean", "--tags", "clean", "--tile", "64"), "--tags and --tile given without --model"),
        (("--sr", "clean", "--degrade-seed", "3"), "--degrade-seed needs --degrade"),
        (("--sr", "clean", "--device", "abacus"), "abacus"),
        (("--sr", "clean", "--metrics", "psnr", "--fail-under", "lr_psnr=10"), "lr_psnr"),
        (("--sr", "clean", "--metrics", "lr_psnr", "--fail-under", "lr_psnr=10"), "no input"),
        (("--model", "compact", "--degrade", "bicubic", "--model", "compact"), "two rows are called"),
    ],
)
def test_bad_options_say_what_is_expected(run, clean: Path, words: tuple[str, ...], said: str) -> None:
    result = run("eval", "--hr", clean, *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_protocol_sets_what_is_not_given_and_tells_what_differs(run, clean: Path) -> None:
    command = ("eval", "--model", "compact", "--steps", 1, "--hr", clean, "--protocol", "classical-x4", "--no-cache")
    found = table(run(*command))
    assert found["protocol"]["name"] == "classical-x4"
    assert found["protocol"]["crop_border"] == 4
    assert {"psnr_y", "ssim_y"} <= set(found["metrics"])
    changed = run(*command, "--crop-border", 0)
    assert "crop-border is 0, not 4" in changed.err
    assert run("eval", "--model", "compact", "--hr", clean, "--protocol", "real-x4").code == 2


def test_several_sets_are_rows_of_one_table(run, clean: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(clean, tmp_path / "other"))
    (other / "river.png").unlink()
    found = table(run("eval", "--sr", clean, "--sr", other, "--hr", clean, "--hr", other, *FAST))
    assert [(row["dataset"], row["num_images"]) for row in found["rows"]] == [("clean", 3), ("other", 2)]


def test_differences_are_taken_picture_by_picture(run, clean: Path) -> None:
    command = ("eval", "--hr", clean, "--degrade", "bicubic", "--baseline", "bicubic,nearest", "--model", "compact")
    found = table(run(*command, "--steps", 1, "--metrics", "psnr", "--no-cache"))
    rows = {row["method"]: row for row in found["rows"]}
    gain = rows["nearest"]["differences"]["psnr_y"]
    assert gain["mean"] == pytest.approx(
        rows["nearest"]["scores"]["psnr_y"]["mean"] - rows["bicubic"]["scores"]["psnr_y"]["mean"]
    )
    assert gain["better"] + gain["worse"] + gain["ties"] == 3
    assert not rows["bicubic"]["differences"]


def test_the_environment_of_all_commands_is_no_error(
    run, clean: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINEARSR_STEPS", "1")
    monkeypatch.setenv("LINEARSR_FORMAT", "png")
    monkeypatch.setenv("LINEARSR_CACHE", str(clean.parent / "cache"))
    assert run("eval", "--sr", results, "--hr", clean, "--metrics", "psnr").code == 0
    assert list((clean.parent / "cache" / "eval").rglob("*.json"))
    monkeypatch.setenv("LINEARSR_DATA", "somewhere")
    facts = table(run("eval", "--sr", results, "--hr", clean, "--metrics", "psnr"))["facts"]
    assert "environment" not in facts  # none of them stands for an option of `eval`


def test_the_table_names_each_option_that_a_variable_has_set(
    run, clean: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("eval", "--sr", results, "--hr", clean, "--metrics", "psnr")
    for name, value in {"SEED": "3", "EVAL_SEED": "4", "CROP_BORDER": "2", "COLOR": "rgb"}.items():
        monkeypatch.setenv(f"LINEARSR_{name}", value)
    facts = table(run(*command, "--color", "y"))["facts"]
    assert facts["environment"] == ["LINEARSR_CROP_BORDER=2", "LINEARSR_EVAL_SEED=4"]


def test_folders_are_compared_with_the_first_or_the_one_named(run, clean: Path, results: Path, tmp_path: Path) -> None:
    shutil.copytree(clean, tmp_path / "equal")
    command = ("eval", "--sr", "a=results", "--sr", "b=equal", "--hr", clean, *FAST)
    assert table(run(*command))["baseline"] == "a"
    named = table(run(*command, "--baseline", "b"))
    assert named["baseline"] == "b"
    rows = {row["method"]: row for row in named["rows"]}
    assert rows["a"]["differences"]["ssim_y"]["worse"] == 3
    assert run(*command, "--baseline", "c").code == 2


def test_models_in_folders_of_one_name_are_told_apart_by_names(run, clean: Path, tiny_checkpoint: Path) -> None:
    command = ("eval", "--hr", clean, "--degrade", "bicubic", "--steps", 1, "--tags", "none", *FAST)
    found = table(run(*command, "--model", f"mine={tiny_checkpoint}", "--model", "theirs=compact"))
    assert list(means(found)) == ["bicubic", "mine, 1 step", "theirs, 1 step"]


def test_a_scale_that_is_not_known_is_said(run, clean: Path, results: Path) -> None:
    unknown = run("eval", "--sr", results, "--hr", clean, *FAST)
    assert "scale of these results is not known" in unknown.err
    assert table(unknown)["protocol"]["scale"] is None
    assert table(unknown)["protocol"]["crop_border"] == 1
    said = run("eval", "--sr", results, "--hr", clean, "--scale", 4, *FAST)
    assert "not known" not in said.err
    assert table(said)["protocol"]["crop_border"] == 4


def test_what_differs_from_a_protocol_stands_beside_the_numbers(run, clean: Path, results: Path) -> None:
    command = ("eval", "--sr", results, "--hr", clean, "--protocol", "classical-x4", "--no-cache")
    plain = table(run(*command, "--metrics", "ssim,psnr"))["protocol"]["remarks"]
    changed = table(run(*command, "--crop-border", 0, "--y-range", "full", "--degrade", "real"))["protocol"]["remarks"]
    told = [remark for remark in changed if remark not in plain]
    assert len(told) == 3
    for said in ("crop-border is 0", "y-range is full", "inputs are real, not bicubic"):
        assert said in " ".join(told)


def test_pictures_too_small_for_a_score_count_in_none_of_its_means(run, clean: Path, results: Path) -> None:
    for folder in (clean, results):
        Image.open(folder / "bridge.png").crop((0, 0, 9, 9)).save(folder / "bridge.png")
    found = table(run("eval", "--sr", results, "--hr", clean))
    (row,) = found["rows"]
    assert (row["num_images"], row["scores"]["psnr_y"]["num"], row["scores"]["ssim_y"]["num"]) == (3, 3, 2)
    assert any("SSIM-Y: too small for it, so in none of its means: 1 picture" in note for note in found["notes"])
    kept = table(run("eval", "--sr", results, "--hr", clean))
    assert (kept["rows"], kept["notes"]) == (found["rows"], found["notes"])
    assert all(image["cached"] for image in kept["images"])
    asked = run("eval", "--sr", results, "--hr", clean, "--metrics", "ssim")  # what is kept must not hide the failure
    assert asked.code == 3
    assert "SSIM-Y" in asked.err


def test_nothing_scored_is_exit_code_4(run, clean: Path, results: Path) -> None:
    for path in results.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    result = run("eval", "--sr", results, "--hr", clean, "-f", "table", *FAST)
    assert (result.code, result.out) == (4, "")
    assert "3 of 3 pictures failed" in result.err
    found = json.loads(run("eval", "--sr", results, "--hr", clean, "-f", "json", *FAST).out)
    assert [failure["image"] for failure in found["failures"]] == ["bridge", "river", "street"]


def test_saving_where_nothing_can_be_written_is_found_first(run, clean: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    command = ("eval", "--model", "compact", "--steps", 1, "--hr", clean, "--degrade", "bicubic", *FAST)
    result = run(*command, "--save", tmp_path / "file")
    assert result.code != 0
    assert "expected a folder" in result.err
    assert "wrote" not in result.err


def test_an_option_given_twice_counts_twice(run, clean: Path, results: Path) -> None:
    command = ("eval", "--sr", results, "--hr", clean, "--metrics", "psnr", "--metrics", "ssim", "--no-cache")
    assert list(table(run(*command))["metrics"]) == ["psnr_y", "ssim_y"]
    assert run(*command, "--fail-under", "psnr=99", "--fail-under", "ssim=0.1").code == 3


def test_one_equal_picture_opens_no_gate(run, clean: Path, results: Path) -> None:
    shutil.copy(clean / "river.png", results / "river.png")
    for name in ("bridge", "street"):
        Image.new("RGB", Image.open(clean / f"{name}.png").size).save(results / f"{name}.png")
    result = run("eval", "--sr", results, "--hr", clean, *FAST, "--fail-under", "psnr=27")
    assert result.code == 3
    notes = json.loads(result.out)["notes"]
    assert any("infinite for 1 picture," in note for note in notes)


def test_files_are_written_and_judged_though_nobody_reads_the_table(clean: Path, results: Path, tmp_path: Path) -> None:
    words = ["eval", "--sr", str(results), "--hr", str(clean), *FAST, "-o", "scores.json", "--fail-under", "psnr=99"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "linearsr_cli.app", *words], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 3, done.stderr
    assert json.loads((tmp_path / "scores.json").read_text())["rows"]


def test_saved_pictures_are_not_replaced_by_others(run, clean: Path, tmp_path: Path) -> None:
    command = ("eval", "--hr", clean, "--degrade", "bicubic", "--model", "compact", "--steps", 1, *FAST, "--limit", 1)
    assert run(*command, "--save", tmp_path / "kept").code == 0
    assert run(*command, "--save", tmp_path / "kept").code == 0
    place = tmp_path / "kept" / "clean" / "compact-1-step" / "bridge.png"
    Image.new("RGB", (64, 80)).save(place)
    before = place.read_bytes()
    refused = run(*command, "--save", tmp_path / "kept")
    assert refused.code == 3
    assert "is another picture" in refused.err
    assert "1 result could not be saved; all scores count" in refused.err
    found = json.loads(refused.out)
    assert found["rows"][-1]["num_images"] == 1
    assert [failure["image"] for failure in found["unsaved"]] == ["bridge"]
    assert place.read_bytes() == before
    inside = run(*command, "--save", tmp_path)
    assert inside.code == 2
    assert "folder of pictures to read" in inside.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_among_the_pictures_is_not_waited_for(run, clean: Path, results: Path, tmp_path: Path) -> None:
    for folder in (clean, results):
        os.mkfifo(folder / "pipe.png")
    found = table(run("eval", "--sr", results, "--hr", clean, *FAST))
    assert found["rows"][0]["num_images"] == 3
    made = run("degrade", clean, "-o", tmp_path / "lr")
    assert (made.code, len(made.out.splitlines())) == (0, 3)


def test_a_file_that_cannot_be_written_loses_nothing_else(
    run, clean: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import linearsr.atomic
    from linearsr.errors import ImageError

    whole = linearsr.atomic.write_bytes

    def full_disk(path: Path, data: bytes, **settings: bool) -> None:
        if path.suffix == ".md":
            raise ImageError(f"{path} cannot be written: no space left", hint="make room")
        whole(path, data, **settings)

    monkeypatch.setattr(linearsr.atomic, "write_bytes", full_disk)
    result = run("eval", "--sr", results, "--hr", clean, *FAST, "-o", "scores.md", "-o", "scores.csv")
    assert result.code == 3
    assert "no space left" in result.err
    assert json.loads(result.out)["rows"]
    assert (tmp_path / "scores.csv").read_text().startswith("dataset,method")


def test_plain_progress_is_a_line_a_result(run, clean: Path, results: Path) -> None:
    command = ("eval", "--sr", results, "--hr", clean, *FAST, "--progress")
    lines = [line for line in run(*command, "plain").err.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == ["[1/3", "[2/3", "[3/3"]
    assert lines[1] == "[2/3] clean/river, results"
    assert not any(line.startswith("[") for line in run(*command, "none").err.splitlines())


def test_inputs_that_degrade_made_are_recognised(run, clean: Path, tmp_path: Path) -> None:
    lr = tmp_path / "lr"
    assert run("degrade", clean, "-o", lr, "--recipe", "real", "--seed", 3).code == 0
    command = ("eval", "--model", "compact", "--steps", 1, "--hr", clean, "--metrics", "psnr", "--no-cache")
    for tags in ("true", "none"):
        given = table(run(*command, "--tags", tags, "--lr", lr))
        made = table(run(*command, "--tags", tags, "--degrade", "real", "--degrade-seed", 3))
        assert means(given) == means(made)
    assert given["protocol"]["inputs"] == made["protocol"]["inputs"] | {"kind": "given", "by": "linearsr degrade"}


def test_true_tags_are_of_the_pixels_that_are_written_down(run, clean: Path, tmp_path: Path) -> None:
    lr = tmp_path / "lr"
    assert run("degrade", clean, "-o", lr, "--recipe", "real").code == 0
    first = sorted(lr.glob("*.png"))[0]
    Image.eval(Image.open(first), lambda level: 255 - level).save(first)
    command = ("eval", "--model", "compact", "--steps", 1, "--hr", clean, "--lr", lr, "--metrics", "psnr", "--no-cache")
    result = run(*command, "--tags", "true")
    assert result.code == 3
    found = json.loads(result.out)
    assert [failure["image"] for failure in found["failures"]] == [first.stem]
    assert "not known" in found["failures"][0]["message"]
    told = table(run(*command, "--tags", "none"))
    notes = told["notes"]
    assert [note for note in notes if note.startswith("1 input is not as the table") and f"/{first.stem}" in note]
    assert told["other_inputs"] == [["clean", first.stem]]
    assert told["protocol"]["inputs"]["pictures"] == "2 of 3"
    for path in lr.glob("*.png"):
        Image.new("RGB", Image.open(path).size).save(path)
    assert table(run(*command, "--tags", "none"))["protocol"]["inputs"] == {"kind": "given"}


def test_true_tags_of_inputs_that_nobody_wrote_down_are_refused(run, clean: Path, tmp_path: Path) -> None:
    lr = tmp_path / "lr"
    assert run("degrade", clean, "-o", lr, "--recipe", "real").code == 0
    rows = (lr / "degradation.csv").read_text().splitlines()
    (lr / "degradation.csv").write_text("\n".join(rows[:-1]) + "\n")
    command = ("eval", "--model", "compact", "--steps", 1, "--hr", clean, "--lr", lr, "--metrics", "psnr", "--no-cache")
    result = run(*command, "--tags", "true")
    assert result.code == 2
    assert rows[-1].split(",")[0].strip('"') in result.err
    inputs = table(run(*command, "--tags", "none"))["protocol"]["inputs"]
    assert (inputs["kind"], inputs["pictures"]) == ("given", "2 of 3")
    (lr / "degradation.json").write_text("{}")
    result = run(*command, "--tags", "none")
    assert table(result)["protocol"]["inputs"] == {"kind": "given"}
    assert "nothing is known of how the inputs were made" in result.err


def test_sets_made_in_different_ways_are_told_of_one_by_one(run, clean: Path, tmp_path: Path) -> None:
    shutil.copytree(clean, tmp_path / "again")
    for name, recipe in (("lr", "bicubic"), ("lr2", "real")):
        assert run("degrade", clean, "-o", tmp_path / name, "--recipe", recipe).code == 0
    command = ("eval", "--baseline", "bicubic", "--model", "compact", "--steps", 1, "--tags", "none", "--no-cache")
    command = (*command, "--hr", clean, "--lr", tmp_path / "lr", "--hr", tmp_path / "again", "--lr", tmp_path / "lr2")
    inputs = table(run(*command, "--metrics", "psnr"))["protocol"]["inputs"]
    of_sets = inputs["by linearsr degrade"]
    assert [(name, facts["recipe"]["name"]) for name, facts in of_sets.items()] == [
        ("clean", "bicubic"),
        ("again", "real"),
    ]


def test_a_model_is_a_baseline_by_its_name_and_steps(run, clean: Path) -> None:
    command = ("eval", "--hr", clean, "--degrade", "bicubic", "--tags", "none", "--metrics", "psnr")
    models = ("--model", "a=compact", "--model", "b=compact", "--steps", "1,2")
    found = table(run(*command, *models, "--baseline", "b@1"))
    assert found["baseline"] == "b, 1 step"
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["a, 1 step", "a, 2 steps", "b, 1 step", "b, 2 steps"]
    assert rows["a, 1 step"]["differences"]["psnr_y"]["ties"] == 3
    assert rows["b, 2 steps"]["differences"]["psnr_y"]["worse"] == 3
    named = table(run(*command, "--model", "compact", "--steps", 1, "--baseline", "compact,bicubic"))
    assert named["baseline"] == "compact, 1 step"
    assert list(means(named)) == ["bicubic", "compact, 1 step"]
    refused = run(*command, *models, "--baseline", "b")
    assert refused.code == 2
    assert "expected b@1, b@2" in refused.err


def test_inputs_are_recognised_in_a_folder_below_the_tables(run, clean: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    shutil.copytree(clean, tmp_path / "all" / "day one")
    lr = tmp_path / "lr"
    assert run("degrade", tmp_path / "all", "-r", "-o", lr, "--recipe", "real", "--seed", 2).code == 0
    command = ("eval", "--model", "compact", "--steps", 1, "--tags", "true", "--metrics", "psnr", "--no-cache")
    found = table(run(*command, "--hr", clean, "--lr", lr / "day one"))
    assert found["protocol"]["inputs"]["seed"] == 2
    whole = table(run(*command, "-r", "--hr", tmp_path / "all", "--lr", lr))
    assert means(found) == means(whole)
    (tmp_path / "link").symlink_to(lr / "day one")
    assert means(table(run(*command, "--hr", clean, "--lr", tmp_path / "link"))) == means(found)


def test_interpolations_need_no_model(run, clean: Path, tmp_path: Path) -> None:
    command = ("eval", "--hr", clean, "--degrade", "bicubic", "--baseline", "bicubic,lanczos", "--metrics", "psnr")
    found = table(run(*command, "--save", tmp_path / "kept"))
    assert list(means(found)) == ["bicubic", "lanczos"]
    assert found["baseline"] == "bicubic"
    again = table(
        run("eval", "--sr", tmp_path / "kept/clean/lanczos", "--hr", clean, "--scale", 4, "--metrics", "psnr")
    )
    assert means(again)["lanczos"] == means(found)["lanczos"]
    protocol = table(run("eval", "--hr", clean, "--protocol", "classical-x4", "--baseline", "bicubic"))
    assert means(protocol)["bicubic"]["psnr_y"] == means(found)["bicubic"]["psnr_y"]
    judged = run(*command, "--fail-under", "psnr_y=1")
    assert (judged.code, "nothing to judge" in judged.err) == (2, True)
    assert run("eval", "--hr", clean, "--degrade", "bicubic").code == 2
    assert run("eval", "--hr", clean, "--baseline", "bicubic").code == 2


def test_files_of_scores_are_as_many_as_are_named(run, clean: Path, results: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.csv", "b.json", "c.csv")]
    options = [word for path in files for word in ("--per-image", path)]
    assert run("eval", "--sr", results, "--hr", clean, *FAST, *options).code == 0
    assert files[0].read_bytes() == files[2].read_bytes()
    assert len(json.loads(files[1].read_text())["images"]) == 3
    assert run("eval", "--sr", results, "--hr", clean, *FAST, *options, "--per-image", files[0]).code == 2


def test_quiet_is_quiet_where_nothing_can_be_kept(
    run,
    clean: Path,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LINEARSR_CACHE", str(tmp_path / "file"))
    command = ("eval", "--sr", results, "--hr", clean, "--scale", 4, "--metrics", "psnr")
    quiet = run(*command, "-q")
    assert (quiet.code, quiet.err, caplog.messages) == (0, "", [])
    assert table(quiet)["rows"] == table(run(*command))["rows"]
    assert [message for message in caplog.messages if message.startswith("scores are not kept in")]
