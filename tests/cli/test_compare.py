"""`linearsr compare` through `main`: what it writes, says and returns."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from linearsr.errors import ConfigError
from linearsr.metrics import psnr
from linearsr.resize import resize
from linearsr_cli.compare_job import Run
from linearsr_cli.compare_plan import make_compare_plan
from linearsr_cli.compare_settings import CompareOptions, label_inputs, parse_bytes, parse_inputs, parse_zoom
from linearsr_cli.output import Output


@pytest.fixture
def put():
    """Write a made-up picture; those of one seed show the same, with a square of 24 pixels changed by `levels`."""

    def store(name: str, size: tuple[int, int] = (96, 64), *, levels: int = 0, seed: int = 0) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(60, 180, (8, 12, 3), dtype=np.uint8)
        array = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)).copy()
        array[20:44, 48:72] += np.uint8(levels)
        Image.fromarray(array).save(path)
        return path

    return store


def open_size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def as_tensor(path: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


def images(options: CompareOptions) -> list:
    """The scenes of a run, as the sheet gets them."""
    from linearsr_cli.compare_scores import make_scoring
    from linearsr_cli.progress import open_progress

    out, plan = Output(quiet=True), make_compare_plan(options)
    scorers, _ = make_scoring(options, out, plan.border)
    run = Run(plan=plan, options=options, out=out, scorers=scorers)
    return list(run.images(open_progress("none", out, files=1, pixels=1)))


# -- what is made -----------------------------------------------------------------------------------------------------


def test_two_files_make_a_sheet_and_its_path_is_all_of_stdout(run, put):
    put("a.png"), put("b.png", levels=30)
    result = run("compare", "a.png", "b.png", "-o", "sheet.png", "--crop", 24, "--zoom", 8)
    assert (result.code, result.out) == (0, "sheet.png\n")
    assert "[1/1] a 96x64" in result.err
    sheet = np.asarray(Image.open("sheet.png"))
    changed = np.asarray(Image.open("b.png"))[20:44, 48:72].repeat(8, 0).repeat(8, 1)
    assert (sheet[-12 - 192 : -12, -12 - 192 : -12] == changed).all()


def test_the_same_input_makes_the_same_bytes(run, put):
    put("a/x.png"), put("b/x.png", levels=30)
    for name in ("1.png", "2.png"):
        assert run("compare", "a", "b", "-o", name).code == 0
    assert Path("1.png").read_bytes() == Path("2.png").read_bytes()


def test_folders_are_scored_against_clean_pictures_and_inputs(put):
    put("hr/x.png"), put("a/x.png", levels=10), put("b/x_x4.png", levels=20), put("lr/x.png", (24, 16))
    options = CompareOptions(inputs=(Path("a"), Path("b")), output="s.png", hr=Path("hr"), lr=Path("lr"), crop=24)
    (image,) = images(options)
    assert list(image.pictures) == ["reference", "bicubic", "a", "b"]
    assert image.places == ((48, 20, 24, 24),)
    expected = psnr(as_tensor("a/x.png"), as_tensor("hr/x.png"), border=4)  # the scale of the inputs
    assert image.scores["a"]["psnr_y"] == pytest.approx(expected, abs=1e-4)
    assert image.scores["a"]["psnr_y"] > image.scores["b"]["psnr_y"]
    assert "lr_psnr" in image.scores["bicubic"]
    assert "reference" not in image.scores
    enlarged = resize(as_tensor("lr/x.png"), (64, 96)).clamp(0, 1).mul(255).round().byte()
    assert (image.pictures["bicubic"] == enlarged.permute(1, 2, 0).numpy()).all()


def test_smaller_pictures_are_enlarged_and_their_label_says_so(put):
    put("small/x.png", (24, 16)), put("large/x.png"), put("small/y.png", (30, 20)), put("large/y.png", (60, 40))
    put("small/z.png"), put("large/z.png")
    found = images(CompareOptions(inputs=(Path("small"), Path("large")), output="s.png"))
    assert [list(image.pictures) for image in found] == [["small", "large"]] * 3
    assert [image.column_head("small") for image in found] == ["small (x4 bicubic)", "small (x2 bicubic)", "small"]
    assert [image.column_head("large") for image in found] == ["large"] * 3
    enlarged = resize(as_tensor("small/y.png"), (40, 60)).clamp(0, 1).mul(255).round().byte()
    assert (found[1].pictures["small"] == enlarged.permute(1, 2, 0).numpy()).all()


def test_a_page_says_beside_each_picture_what_was_done_to_it(run, put):
    put("a/x.png", (24, 16)), put("b/x.png"), put("a/y.png"), put("b/y.png"), put("a/z.png"), put("b/z.png", (99, 66))
    assert run("compare", "a", "b", "-o", "r.html").code == 0
    data = data_of("r.html")
    assert data["labels"] == ["a", "b"]
    assert {image["name"]: image["notes"] for image in data["images"]} == {
        "x": ["a: enlarged x4 by bicubic"],
        "y": [],
        "z": ["b: cut from 99 x 66"],
    }


def test_an_input_of_full_size_in_some_scene_is_not_labelled_bicubic(put):
    put("hr/x.png"), put("a/x.png", levels=9), put("lr/x.png", (24, 16))
    options = CompareOptions(inputs=(Path("a"),), output="s.png", hr=Path("hr"), lr=Path("lr"))
    (alone,) = images(options)
    assert [alone.column_head(label) for label in alone.pictures] == ["reference", "bicubic", "a"]
    assert alone.changes == ()
    put("hr/y.png"), put("a/y.png", levels=9), put("lr/y.png")
    for image, head in zip(images(options), ("input (x4 bicubic)", "input"), strict=True):
        assert [image.column_head(label) for label in image.pictures] == ["reference", head, "a"]
    put("bicubic/x.png", levels=5), put("bicubic/y.png", levels=5)
    options = CompareOptions(inputs=(Path("bicubic"),), output="s.png", lr=Path("lr"), limit=1)
    assert [image.column_head("input") for image in images(options)] == ["input (x4 bicubic)"]


def test_a_clean_picture_that_the_scale_does_not_divide_is_cut(put):
    put("hr.png", (98, 67)), put("sr.png", (96, 64))
    (image,) = images(CompareOptions(inputs=(Path("sr.png"),), output="s.png", hr=Path("hr.png")))
    assert image.pictures["reference"].shape == (64, 96, 3)
    assert image.size_text == "98 x 67, cut to 96 x 64"
    assert image.changes == ("reference: cut from 98 x 67",)
    assert "psnr_y" in image.scores["sr.png"]


def test_cutting_is_said_of_what_was_cut_only(put):
    put("hr/x.png", (98, 67)), put("a/x.png"), put("b/x.png", (97, 66)), put("lr/x.png", (24, 16))
    put("hr/y.png"), put("a/y.png"), put("b/y.png"), put("lr/y.png", (24, 16))
    inputs = (Path("a"), Path("b"))
    first, second = images(CompareOptions(inputs=inputs, output="s.png", hr=Path("hr"), lr=Path("lr")))
    assert first.size_text == "98 x 67 and 97 x 66, cut to 96 x 64"
    assert second.size_text == "96 x 64"


def test_lr_psnr_is_that_of_the_whole_result_beside_a_smaller_reference(put):
    put("sr.png", (288, 288)), put("cut.png", (288, 288))
    cut = Image.open("cut.png").crop((0, 0, 287, 286))
    cut.save("hr.png")
    shrunk = resize(as_tensor("sr.png"), (72, 72)).clamp(0, 1).mul(255).round().byte()
    Image.fromarray(shrunk.permute(1, 2, 0).numpy()).save("lr.png")
    options = {"inputs": (Path("sr.png"),), "output": "s.png", "lr": Path("lr.png"), "metrics": "lr_psnr"}
    (alone,) = images(CompareOptions(**options))
    (beside,) = images(CompareOptions(**options, hr=Path("hr.png")))
    assert beside.pictures["reference"].shape == (286, 287, 3)
    assert alone.scores["sr.png"] == beside.scores["sr.png"] == {"lr_psnr": float("inf")}
    reference, part = as_tensor("hr.png"), as_tensor("sr.png")[:, :286, :287]
    (scored,) = images(CompareOptions(inputs=(Path("sr.png"),), output="s.png", hr=Path("hr.png"), metrics="psnr"))
    assert scored.scores["sr.png"]["psnr_y"] == psnr(part, reference) == float("inf")


def test_nothing_is_scored_against_an_enlarged_reference(put):
    put("hr.png", (48, 32)), put("sr.png", (96, 64))
    (image,) = images(CompareOptions(inputs=(Path("sr.png"),), output="s.png", hr=Path("hr.png")))
    assert image.scores["sr.png"] == {}
    assert any("smaller" in note for note in image.notes)


def test_many_pictures_go_to_further_sheets(run, put):
    for name in "pqr":
        put(f"a/{name}.png"), put(f"b/{name}.png", levels=20)
    result = run("compare", "a", "b", "-o", "s.png", "--rows", 2, "--json")
    assert [line["event"] for line in result.lines] == ["sheet", "sheet", "summary"]
    assert [line["images"] for line in result.lines[:2]] == [2, 1]
    assert [line["output"] for line in result.lines[:2]] == ["s.png", "s-2.png"]
    assert result.lines[0]["bytes"] == Path("s.png").stat().st_size
    assert result.lines[2] == {"event": "summary", "done": 3, "failed": 0, "exit_code": 0}
    assert open_size("s.png")[1] > 1.8 * open_size("s-2.png")[1]


def test_a_page_is_one_file_of_limited_size(run, put):
    for name in "pq":
        put(f"a/{name}.png"), put(f"b/{name}.png", levels=20), put(f"hr/{name}.png")
    result = run("compare", "a", "b", "--hr", "hr", "-o", "r.html", "--max-size", "200kB", "--title", "A & B", "--json")
    page = Path("r.html").read_text(encoding="utf-8")
    assert result.code == 0
    assert result.lines[0]["bytes"] == len(page.encode()) <= 200_000
    assert result.lines[0]["images"] == 2
    assert "A &amp; B" in page
    assert "PSNR-Y" in page
    assert run("compare", "one, a=a", "b", "--hr", "hr", "-o", "usual.html", "-q").code == 0
    assert "<title>one, a \u00b7 b</title>" in Path("usual.html").read_text(encoding="utf-8")


def data_of(path: str) -> dict:
    """What a page shows."""
    return json.loads(Path(path).read_text(encoding="utf-8").split('id="report-data">')[1].split("</script>")[0])


def start_of(path: str) -> list[str]:
    """Labels a page starts with."""
    data = data_of(path)
    return [data["labels"][index] for index in data["start"]]


def test_a_page_starts_with_the_first_two_inputs(run, put):
    for folder in ("a", "b", "c", "hr"):
        put(f"{folder}/x.png", levels=len(folder))
    put("lr/x.png", (24, 16))
    assert run("compare", "a", "b", "c", "--hr", "hr", "--lr", "lr", "-o", "r.html", "--metrics", "none").code == 0
    assert start_of("r.html") == ["a", "b"]
    assert run("compare", "a", "--hr", "hr", "--lr", "lr", "-o", "one.html", "--metrics", "none").code == 0
    assert start_of("one.html") == ["reference", "a"]


def test_pictures_that_lose_to_fit_are_a_warning(run, put):
    for folder, seed in (("a", 1), ("b", 2)):
        noise = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        Path(folder).mkdir()
        Image.fromarray(noise).save(f"{folder}/x.png")
    good = run("compare", "a", "b", "-o", "good.html")
    assert "pictures are stored as WebP lossless" in good.err
    assert "warning" not in good.err
    small = run("compare", "a", "b", "-o", "small.html", "--max-size", "105kB")
    assert small.code == 0
    assert re.search(r"warning: pictures are stored as WebP [67]\d, which shows", small.err)
    assert "raise --max-size, or take fewer pictures with --limit" in small.err


def test_stdout_gets_one_png_and_nothing_else(put, capfdbinary):
    from linearsr_cli.app import main

    put("a.png"), put("b.png", levels=9)
    assert main(["compare", "a.png", "b.png", "-o", "-", "--json"]) == 0
    out, err = capfdbinary.readouterr()
    Path("got.png").write_bytes(out)
    assert out.startswith(b"\x89PNG")
    assert out.endswith(b"IEND\xaeB`\x82")
    assert open_size("got.png")[0] > 150
    assert b'"event": "sheet", "output": null' in err


@pytest.mark.parametrize(("name", "kind"), [("s.jpg", "JPEG"), ("s.webp", "WEBP"), ("S.PNG", "PNG")])
def test_the_ending_gives_the_format(run, put, name, kind):
    put("a.png"), put("b.png", levels=9)
    assert run("compare", "a.png", "b.png", "-o", name, "-q").err == ""
    with Image.open(name) as image:
        assert image.format == kind


def test_equal_gray_and_16_bit_pictures_are_compared(run):
    deep = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(deep).save("deep.png")
    Image.fromarray((deep // 257).astype(np.uint8)).save("gray.png")
    options = CompareOptions(inputs=(Path("deep.png"), Path("gray.png")), output="s.png")
    (image,) = images(options)
    assert image.notes == ("16-bit pictures rounded to 8 bits", "gray pictures repeated to three channels")
    Image.open("gray.png").save("again.png")
    assert run("compare", "gray.png", "again.png", "-o", "s.png").code == 0


@pytest.mark.parametrize(("border", "said"), [(0, "no border cut"), (4, "border 4 px left out")])
def test_a_definition_speaks_of_the_border_that_is_cut(put, border, said):
    from linearsr.metrics import METRICS
    from linearsr_cli.compare_scores import make_scoring

    names = [name for name, metric in METRICS.items() if metric.needs == "reference" and not metric.package]
    options = CompareOptions(inputs=(put("a.png"),), output="r.html", hr=put("b.png"), metrics=",".join(names))
    _, columns = make_scoring(options, Output(quiet=True), border)
    assert [column.name for column in columns] == names
    assert all(said in column.definition for column in columns)
    assert not any("every side" in column.definition for column in columns)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", ["s.png", "r.html"])
def test_a_signal_ends_with_a_summary_and_whole_sheets(run, put, monkeypatch, signum, code, name):
    for picture in "pqr":
        put(f"a/{picture}.png"), put(f"b/{picture}.png", levels=20)
    whole = Run.image

    def stop_at_the_second(self, scene):
        if scene.name == "q":
            os.kill(os.getpid(), signum)
        return whole(self, scene)

    monkeypatch.setattr(Run, "image", stop_at_the_second)
    rows = ("--rows", 1) if name == "s.png" else ()
    result = run("compare", "a", "b", "-o", name, *rows, "--json")
    assert result.code == code
    done = len(rows[:1])  # of a page that is not there none is
    assert result.lines[-1] == {"event": "summary", "done": done, "failed": 0, "exit_code": code}
    assert [line["event"] for line in result.lines[:-1]] == ["sheet"] * len(rows[:1])
    assert [path.name for path in Path().glob("*.*")] == (["s.png"] if rows else [])
    assert ("1 done, 0 failed\n" if rows else "0 done, 0 failed; nothing was written\n") in result.err


def test_pictures_that_wait_for_their_sheet_are_not_done_when_a_signal_comes(run, put, monkeypatch):
    for picture in "pqr":
        put(f"a/{picture}.png"), put(f"b/{picture}.png", levels=20)
    whole = Run.image

    def stop_at_the_last(self, scene):
        if scene.name == "r":
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, scene)

    monkeypatch.setattr(Run, "image", stop_at_the_last)
    result = run("compare", "a", "b", "-o", "s.png", "--json")
    assert result.lines == [{"event": "summary", "done": 0, "failed": 0, "exit_code": 130}]
    assert not Path("s.png").exists()


def test_a_page_that_does_not_fit_has_nothing_done(run):
    for folder, seed in (("a", 1), ("b", 2)):
        noise = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        Path(folder).mkdir()
        Image.fromarray(noise).save(f"{folder}/x.png")
    result = run("compare", "a", "b", "-o", "r.html", "--max-size", "60kB", "--json")
    assert "cannot fit into --max-size 60kB" in result.err
    assert result.lines == [{"event": "summary", "done": 0, "failed": 0, "exit_code": 2}]
    assert "0 done, 0 failed; nothing was written\n" in result.err
    assert not Path("r.html").exists()


def test_letters_that_a_sheet_cannot_show_are_told_once(run, put):
    for name in ("m\u00fcller", "muller", "p"):
        put(f"a/{name}.png"), put(f"b/{name}.png", levels=20)
    words = ("compare", "a", "b", "--title", "\u03b1, \u00fc", "--on-exists", "overwrite")
    result = run(*words, "-o", "s.png", "--rows", 1)
    said = "warning: the font of sheets lacks \u03b1 \u00fc, written there as \\u03b1 \\u00fc; a page shows them"
    assert result.err.count("warning") == result.err.count(said) == 1
    assert "warning" not in run(*words, "-o", "r.html").err
    assert run(*words, "-o", "s.png", "--quiet").err == ""
    assert "warning" not in run(*words[:3], "--limit", 1, "-o", "plain.png").err


def test_a_shift_of_colour_alone_is_a_place(put):
    put("a.png"), put("b.png")
    pixels = np.array(Image.open("b.png"))
    pixels[20:44, 48:72] += np.array([1, 2, 256 - 13], np.uint8)  # luma stays what it is
    Image.fromarray(pixels).save("b.png")
    (image,) = images(CompareOptions(inputs=(Path("a.png"), Path("b.png")), output="s.png", crop=24))
    assert image.places == ((48, 20, 24, 24),)


# -- the border of scores ---------------------------------------------------------------------------------------------


def noisy(folder: str, levels: float, clean: str = "hr") -> None:
    """The pictures of a folder, with noise that is stronger near their edges, where the border is."""
    Path(folder).mkdir()
    rng = np.random.default_rng(round(levels))
    for path in sorted(Path(clean).iterdir()):
        pixels = np.array(Image.open(path), dtype=float)
        noise = rng.normal(0, levels, pixels.shape)
        noise[6:-6, 6:-6] /= 3
        Image.fromarray((pixels + noise).clip(0, 255).round().astype(np.uint8)).save(Path(folder, path.name))


def scored(path: str) -> dict[str, dict[str, str]]:
    """Scores that a page prints, by "picture, label" and heading."""
    data = data_of(path)
    return {
        f"{image['name']}, {label}": {
            metric["title"]: f"{value:.{metric['digits']}f}"
            for metric, value in zip(data["metrics"], values, strict=True)
            if value is not None
        }
        for image in data["images"]
        for label, values in zip(data["labels"], image["scores"], strict=True)
        if any(value is not None for value in values)
    }


def evaluated(result) -> dict[str, dict[str, str]]:
    """The same of `linearsr eval --per-image scores.json`."""
    from linearsr.metrics import METRICS

    assert result.code == 0, result.err
    return {
        f"{row['image']}, {row['method']}": {
            METRICS[name].title: f"{value:.{METRICS[name].digits}f}" for name, value in row["scores"].items()
        }
        for row in json.loads(Path("scores.json").read_text(encoding="utf-8"))["images"]
    }


METRICS_ASKED = ("--metrics", "psnr,psnr_rgb,ssim,gmsd")


@pytest.mark.parametrize("border", [0, 4])
def test_scores_are_those_that_eval_prints_with_the_same_border(run, put, border):
    for name in "pq":
        put(f"hr/{name}.png", seed=ord(name))
    noisy("a", 9), noisy("b", 5)
    words = ("--hr", "hr", "--crop-border", border, *METRICS_ASKED)
    found = run("eval", "--sr", "a", "--sr", "b", *words, "--per-image", "scores.json", "--no-cache", "--bootstrap", 0)
    assert run("compare", "a", "b", *words, "-o", "r.html").code == 0
    assert len(scored("r.html")) == 4
    assert scored("r.html") == evaluated(found)
    said = f"border {border} px left out" if border else "no border cut"
    page = Path("r.html").read_text(encoding="utf-8")
    assert f"8-bit RGB pictures, {said}, luma in limited range" in page
    assert page.count(said) == 5  # the line of all scores, and the definition of each


def test_inputs_and_clean_pictures_give_the_border_that_eval_takes(run, put):
    for name in "pq":
        put(f"hr/{name}.png", (98, 66), seed=ord(name)), put(f"lr/{name}.png", (24, 16), seed=ord(name))
        Path("cut").mkdir(exist_ok=True)
        Image.open(f"hr/{name}.png").crop((0, 0, 96, 64)).save(f"cut/{name}.png")
    noisy("a", 9, "cut")
    words = ("--hr", "hr", "--lr", "lr", *METRICS_ASKED)
    found = run(
        "eval", "--sr", "a", *words, "--baseline", "none", "--per-image", "scores.json", "--no-cache", "--bootstrap", 0
    )
    assert run("compare", "a", *words, "-o", "r.html").code == 0
    page = scored("r.html")
    assert {name: page[name] for name in ("p, a", "q, a")} == evaluated(found)
    assert "border 4 px left out" in Path("r.html").read_text(encoding="utf-8")
    run("compare", "a", *words, "--crop-border", 0, "-o", "whole.html")
    assert scored("whole.html")["p, a"] != page["p, a"]
    assert "no border cut" in Path("whole.html").read_text(encoding="utf-8")


def test_a_sheet_says_under_its_scores_what_is_left_out(run, put, monkeypatch):
    from linearsr.comparison import sheet

    feet = []
    draw = sheet.compare_sheet
    monkeypatch.setattr(sheet, "compare_sheet", lambda *a, **kw: feet.append(kw["foot"]) or draw(*a, **kw))
    put("hr.png"), put("a.png", levels=9), put("lr.png", (24, 16))
    words = ("compare", "a.png", "--hr", "hr.png", "--on-exists", "overwrite", "-o", "s.png")
    assert run(*words).code == 0
    assert run(*words, "--lr", "lr.png", "--crop-border", 3).code == 0
    assert run(*words, "--metrics", "none").code == 0
    monkeypatch.setenv("LINEARSR_CROP_BORDER", "2")
    assert run(*words).code == 0
    monkeypatch.setenv("LINEARSR_COMPARE_CROP_BORDER", "1")
    assert run(*words).code == 0
    text = "Scores: 8-bit RGB pictures, {}, luma in limited range".format
    assert feet == [
        text("no border cut"),
        text("border 3 px left out (not of LR-PSNR)"),
        None,
        text("border 2 px left out"),
        text("border 1 px left out"),
    ]


# -- progress ---------------------------------------------------------------------------------------------------------


def test_each_encoding_that_is_tried_is_a_line(run):
    for folder, seed in (("a", 1), ("b", 2)):
        noise = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        Path(folder).mkdir()
        Image.fromarray(noise).save(f"{folder}/x.png")
    words = ("compare", "a", "b", "-o", "r.html", "--max-size", "105kB", "--on-exists", "overwrite")
    result = run(*words)
    tried = re.findall(r"^encoding as (WebP \d+), 1 of 2$", result.err, re.MULTILINE)
    (stored,) = re.findall(r"pictures are stored as (WebP \d+), which", result.err)
    assert len(tried) == len(set(tried)) > 2
    assert tried[0] == "WebP 95"
    assert stored in tried
    assert "encoding" not in run(*words, "--progress", "none").err
    assert run(*words, "--quiet").err == ""


def test_every_picture_that_is_encoded_is_shown(put):
    from linearsr.comparison.embedding import Encoding
    from linearsr_cli.compare_job import _encoding_shown

    class Shown:
        names: list[tuple[str, int]] = []

        def begin(self, name: str, pixels: int) -> None:
            self.names.append((name, pixels))

    put("a.png"), put("b.png")
    options = CompareOptions(inputs=(Path("a.png"), Path("b.png")), output="r.html")
    show = _encoding_shown(
        Run(plan=make_compare_plan(options), options=options, out=Output(quiet=True), scorers={}), Shown()
    )
    for number in (1, 2, 3):
        show(Encoding(quality=90), number, 3)
    assert Shown.names == [(f"encoding {number} of 3", 0) for number in (1, 2, 3)]


def test_a_bar_does_not_speak_of_a_model(put, monkeypatch):
    from linearsr_cli.app import main

    put("a/x.png"), put("b/x.png", levels=9)
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main(["compare", "a", "b", "-o", "s.png", "--places", "0"]) == 0
        monkeypatch.undo()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "0/1" in shown
    assert "reading" in shown
    assert "loading the model" not in shown


# -- bad input --------------------------------------------------------------------------------------------------------


def test_one_corrupt_picture_is_named_and_the_rest_done(run, put):
    for name in "pqr":
        put(f"a/{name}.png"), put(f"b/{name}.png", levels=20)
    Path("b/q.png").write_bytes(Path("b/q.png").read_bytes()[:90])
    Path("a/r.png").write_bytes(b"nothing")
    result = run("compare", "a", "b", "-o", "s.png", "--json")
    assert result.code == 3
    failed = {line["image"] for line in result.lines if line["event"] == "picture"}
    assert failed == {"q", "r"}
    assert result.lines[-1] == {"event": "summary", "done": 1, "failed": 2, "exit_code": 3}
    assert "b/q.png" in result.err
    assert open_size("s.png")


@pytest.mark.parametrize("name", ["s.png", "r.html"])
def test_nothing_is_written_when_every_picture_is_corrupt(run, put, name):
    put("a/x.png"), put("b/x.png")
    Path("b/x.png").write_bytes(Path("b/x.png").read_bytes()[:90])
    assert run("compare", "a", "b", "-o", name).code == 4
    assert not Path(name).exists()


def test_other_proportions_are_listed_before_any_work(run, put):
    for name in "pq":
        put(f"a/{name}.png", (96, 64)), put(f"b/{name}.png", (64, 96))
    put("a/r.png"), put("b/r.png")
    result = run("compare", "a", "b", "-o", "s.png")
    assert result.code == 2
    for path in ("a/p.png", "b/p.png", "a/q.png", "b/q.png"):
        assert path in result.err
    assert "r.png" not in result.err
    assert not Path("s.png").exists()


def test_names_that_do_not_pair_are_listed_and_order_pairs_them(run, put):
    put("a/x.png"), put("b/other.png")
    result = run("compare", "a", "b", "-o", "s.png")
    assert result.code == 2
    assert "other" in result.err
    assert run("compare", "a", "b", "-o", "s.png", "--pair-by", "order").code == 0


def test_what_is_there_is_never_replaced_unasked(run, put):
    put("a/x.png"), put("b/x.png"), put("a/y.png"), put("b/y.png")
    Path("s-2.png").write_text("mine")
    words = ("compare", "a", "b", "-o", "s.png", "--rows", 1)
    result = run(*words)
    assert result.code == 2
    assert "output is 's-2.png', which exists already" in result.err
    assert not Path("s.png").exists()
    assert run(*words, "--on-exists", "overwrite").code == 0
    assert open_size("s-2.png")
    before = Path("a/x.png").read_bytes()
    assert run("compare", "a", "b", "-o", "a/x.png", "--on-exists", "overwrite").code == 2
    assert Path("a/x.png").read_bytes() == before


def test_old_further_sheets_are_refused_or_named_up_to_a_gap(run, put):
    put("a/x.png"), put("b/x.png"), put("a/y.png"), put("b/y.png")
    for name in ("s-3.png", "s-4.png", "s-6.png", "s-04.png"):
        Path(name).write_text("old")
    words = ("compare", "a", "b", "-o", "s.png", "--rows", 1)
    result = run(*words)
    assert result.code == 2
    assert "output is 's-3.png', which exists already" in result.err
    assert not Path("s.png").exists()
    result = run(*words, "--on-exists", "overwrite")
    assert (result.code, result.out) == (0, "s.png\ns-2.png\n")
    assert sorted(path.name for path in Path().glob("s*.png")) == [
        "s-04.png", "s-2.png", "s-3.png", "s-4.png", "s-6.png", "s.png",
    ]  # fmt: skip
    assert "warning: s-3.png was there before and is no sheet of this comparison" in result.err


def test_an_input_named_like_a_further_sheet_stays(run, put):
    put("s-2.png"), put("s-3.png", levels=20)
    before = Path("s-2.png").read_bytes()
    for choice in ("error", "overwrite"):
        assert run("compare", "s-2.png", "s-3.png", "-o", "s.png", "--on-exists", choice).code == 0
    assert Path("s-2.png").read_bytes() == before
    assert Path("s-3.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.png", "-o", "s.png"), "expected two or more"),
        (("a.png", "b.png", "-o", "s.gif"), "expected a name ending in .png"),
        (("a.png", "b.png", "-o", "s"), ".html (a page)"),
        (("a.png", ".", "-o", "s.png"), "'a.png' is a file and '.' a folder"),
        (("a.png", "./a.png", "-o", "s.png"), "'a.png' is named twice, expected different"),
        (("one=a.png", "two=a.png", "-o", "s.png"), "'a.png' is named twice"),
        (("a.png", "y/../a.png", "-o", "s.png"), "'a.png' and 'y/../a.png' are the same"),
        (("x=a.png", "x=b.png", "-o", "s.png"), "label is 'x'"),
        (("x=a.png", "b.png", "--labels", "x,y", "-o", "s.png"), "--labels and NAME=PATH are both given"),
        (("a.png", "--hr", "none.png", "-o", "s.png"), "'none.png' does not exist"),
        (("y", "--hr", "x", "-o", "s.png"), "'x', which holds no picture"),
        (("y", "--lr", "x", "-o", "s.png"), "'x', which holds no picture"),
        (("a.png", "b.png", "--labels", "x", "-o", "s.png"), "1 labels for 2 inputs"),
        (("a.png", "b.png", "--labels", "x,x", "-o", "s.png"), "label is 'x'"),
        (("a.png", "b.png", "--hr", "a.png", "--labels", "x,reference", "-o", "s.png"), "label is 'reference'"),
        (("a.png", "b.png", "--zoom", "9", "-o", "s.png"), "zoom is '9'"),
        (("a.png", "b.png", "--zoom", "2", "-o", "r.html"), "--zoom and --rows are of sheets"),
        (("a.png", "b.png", "--max-size", "1MB", "-o", "s.png"), "--max-size is of a page"),
        (("a.png", "b.png", "--max-size", "10kB", "-o", "r.html"), "--max-size 10kB is less than the page without"),
        (("a.png", "b.png", "--max-size", "big", "-o", "r.html"), "size is 'big'"),
        (("a.png", "b.png", "--crop", "4", "-o", "s.png"), "crop is 4, expected at least 8"),
        (("a.png", "b.png", "--crop-border", "-1", "-o", "s.png"), "crop-border is -1, expected at least 0"),
        (("a.png", "b.png", "--metrics", "psnr", "-o", "s.png"), "PSNR-Y has no original"),
        (("a.png", "b.png", "--metrics", "psrn", "-o", "s.png"), "metric 'psrn' is unknown"),
        (("a.png", "b.png", "-o", "no/s.png"), "its folder is not there"),
    ],
)
def test_wrong_use_is_told_before_any_work(run, put, words, said):
    put("a.png"), put("b.png"), put("y/c.png")
    Path("x").mkdir()
    result = run("compare", *words)
    assert result.code == 2
    assert said in result.err
    assert result.out == ""
    assert not any(Path(name).exists() for name in ("s.png", "s.gif", "s", "r.html"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.png", "nothing.png"), "'nothing.png' does not exist"),
        (("x=none.png", "b.png"), "'none.png' does not exist"),
        (("none", "y"), "'none' does not exist"),
        (("a.png", "pipe"), "'pipe' is no regular file"),
        (("x", "y"), "x holds no picture"),
        (("y", "x"), "x holds no picture"),
    ],
)
def test_what_is_not_there_is_exit_4_as_for_upscale(run, put, words, said):
    put("a.png"), put("b.png"), put("y/c.png")
    Path("x").mkdir()
    os.mkfifo("pipe")
    result = run("compare", *words, "-o", "s.png")
    assert (result.code, result.out) == (4, "")
    assert said in result.err
    assert not Path("s.png").exists()
    missing = words[0] if words[0] in ("none", "x") else words[1]
    if "=" not in words[0]:
        assert run("upscale", missing, "-o", "out", "--model", "none").code == 4
        assert run("degrade", missing, "-o", "LR").code == 4


def test_a_metric_asked_for_without_its_weights_is_exit_5(run, put):
    put("a.png"), put("b.png")
    words = ("compare", "a.png", "--hr", "b.png", "-o", "s.png", "--lpips-weights", "none.safetensors")
    assert run(*words, "--metrics", "lpips").code == 5
    assert not Path("s.png").exists()


def test_several_sheets_do_not_fit_stdout(run, put):
    put("a/x.png"), put("b/x.png"), put("a/y.png"), put("b/y.png")
    result = run("compare", "a", "b", "-o", "-", "--rows", 1)
    assert result.code == 2
    assert "2 pictures are 2 sheets" in result.err


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"), [("6MB", 6_000_000), ("1.5 GB", 1_500_000_000), ("800kb", 800_000), ("700", 700)]
)
def test_parse_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "6 MiB", "0", "1e3"])
def test_parse_bytes_refuses_the_rest(text):
    with pytest.raises(ConfigError, match="expected a number with kB, MB or GB"):
        parse_bytes(text)


def test_parse_zoom():
    assert [parse_zoom(text) for text in (None, "auto", "1", "8")] == [None, None, 1, 8]
    for text in ("0", "2.5", "", "x"):
        with pytest.raises(ConfigError, match="from 1 to 8"):
            parse_zoom(text)


def test_labels_are_names_with_as_much_above_as_tells_them_apart():
    def labels(*paths: str) -> tuple[str, ...]:
        return label_inputs(CompareOptions(inputs=tuple(map(Path, paths)), output="s.png"))

    assert labels("x/a", "y/b") == ("a", "b")
    assert labels("one/a.png", "two/a.png") == ("one/a.png", "two/a.png")
    assert labels("1/out/x4", "2/out/x4") == ("1/out/x4", "2/out/x4")


def test_a_label_is_given_with_its_path_and_may_hold_commas_and_equals_signs(put):
    assert parse_inputs(["bicubic=a", "compact, 4 steps=b=c", "d"], None) == (
        (Path("a"), Path("b=c"), Path("d")),
        ("bicubic", "compact, 4 steps", None),
    )
    put("x=1/a.png")  # what exists is a path, as for `linearsr eval --sr`
    assert parse_inputs(["x=1", "=a", "b="], None) == ((Path("x=1"), Path("=a"), Path("b=")), None)
    assert parse_inputs(["a", "b"], "one , two") == ((Path("a"), Path("b")), ("one", "two"))
    options = CompareOptions(
        inputs=(Path("one/out"), Path("two/out")), output="s.png", labels=("compact, 4 steps", None)
    )
    assert label_inputs(options) == ("compact, 4 steps", "out")
    put("one/out/a.png"), put("two/out/a.png", levels=9)
    assert list(images(options)[0].pictures) == ["compact, 4 steps", "out"]


def test_pictures_too_small_for_a_score_say_so(run, put):
    for name in ("a.png", "b.png", "clean.png"):
        put(name, (9, 9))
    assert run("compare", "a.png", "b.png", "--hr", "clean.png", "-o", "r.html").code == 0
    assert "too small for SSIM-Y" in Path("r.html").read_text(encoding="utf-8")
