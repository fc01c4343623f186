from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from linearsr.errors import ConfigError, DeviceError, ImageError, OutOfMemoryError, WeightsError

FIELDS = {"event", "input", "output", "status", "width", "height", "scale", "seconds", "tags", "tags_from", "notes"}
SUMMARY = {"event", "done", "skipped", "failed", "seconds", "megapixels", "exit_code"}


def damaged(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def test_paths_of_results_are_all_that_stdout_holds(linearsr, picture):
    picture("a.png")
    picture("b.png")
    result = linearsr("upscale", "a.png", "b.png", "-o", "out")
    assert result.code == 0
    assert result.out == "out/a.png\nout/b.png\n"
    assert "2 done, 0 skipped, 0 failed" in result.err


def test_print0_ends_paths_in_a_zero_byte(linearsr, picture):
    picture("a.png")
    picture("b.png")
    assert linearsr("upscale", "a.png", "b.png", "-o", "out", "--print0").out == "out/a.png\0out/b.png\0"


def test_quiet_leaves_stderr_empty(linearsr, picture):
    picture("a.png")
    result = linearsr("upscale", "a.png", "-q")
    assert (result.code, result.out, result.err) == (0, "a_x4.png\n", "")


def test_verbose_says_why_a_file_is_skipped(linearsr, picture):
    picture("a.png")
    linearsr("upscale", "a.png")
    assert "skipped: a.png" not in linearsr("upscale", "a.png").err
    assert "skipped: a.png: a_x4.png exists" in linearsr("upscale", "a.png", "-v").err


def test_json_has_a_line_a_file_and_a_summary(linearsr, picture):
    picture("a.png", 12, 8)
    damaged(picture("b.png"))
    result = linearsr("upscale", "a.png", "b.png", "none.png", "-o", "out", "--json")
    assert result.code == 3
    files = {line["input"]: line for line in result.lines[:-1]}
    done = files["a.png"]
    assert done.keys() == FIELDS
    assert done["seconds"] >= 0
    assert {key: done[key] for key in FIELDS - {"seconds"}} == {
        "event": "file",
        "input": "a.png",
        "output": "out/a.png",
        "status": "done",
        "width": 48,
        "height": 32,
        "scale": 4.0,
        "tags": [],
        "tags_from": "none",
        "notes": [],
    }
    assert (files["b.png"]["tags"], files["b.png"]["tags_from"]) == (None, None)
    assert files["b.png"].keys() == FIELDS | {"error", "hint"}
    assert files["b.png"]["status"] == "failed"
    assert "b.png is damaged" in files["b.png"]["error"]
    assert files["none.png"]["output"] is None
    summary = result.lines[-1]
    assert summary.keys() == SUMMARY
    assert (summary["event"], summary["done"], summary["skipped"], summary["failed"]) == ("summary", 1, 0, 2)
    assert summary["megapixels"] == round(48 * 32 / 1e6, 3)
    assert summary["exit_code"] == 3


def test_json_notes_say_what_could_not_be_kept(linearsr, tmp_path):
    Image.new("RGB", (8, 8), 9).save("a.tif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    line = linearsr("upscale", "a.tif", "-o", "out", "--json").lines[0]
    assert line["status"] == "done"
    assert ["2 pages" in note for note in line["notes"]] == [True]


def test_files_known_to_be_bad_are_reported_before_the_work(linearsr, picture):
    picture("a.png")
    result = linearsr("upscale", "a.png", "none.png", "-o", "out", "--json")
    assert [line.get("status") for line in result.lines] == ["failed", "done", None]


@pytest.mark.parametrize(
    ("names", "code"),
    [(["good.png"], 0), (["good.png", "bad.png"], 3), (["bad.png"], 4), (["none.png", "bad.png"], 4), (["none*"], 4)],
)
def test_exit_code_counts_files(linearsr, picture, names, code):
    picture("good.png")
    damaged(picture("bad.png"))
    assert linearsr("upscale", *names, "-o", "out").code == code


@pytest.mark.parametrize(
    ("error", "alone", "with_others"),
    [
        (ImageError("x"), 4, 3),
        (ConfigError("x"), 2, 3),
        (OutOfMemoryError("x"), 6, 3),
        (MemoryError(), 6, 3),
        (RuntimeError("x"), 1, 3),
        (WeightsError("x"), 5, 5),
        (DeviceError("x"), 6, 6),
    ],
)
def test_exit_code_tells_what_failed(linearsr, fake, picture, error, alone, with_others):
    picture("a.png")
    picture("z.png")
    fake.failures = {"z.png": error}
    assert linearsr("upscale", "z.png", "-o", "one").code == alone
    result = linearsr("upscale", "a.png", "z.png", "-o", "two", "--json")
    assert result.code == with_others
    assert result.lines[-1]["exit_code"] == with_others
    assert result.lines[-1]["done"] == 1
    assert "Traceback" not in result.err


def test_a_fault_of_one_file_names_the_way_to_a_traceback(linearsr, fake, picture, monkeypatch):
    picture("a.png")
    fake.failures = {"a.png": RuntimeError("boom")}
    result = linearsr("upscale", "a.png")
    assert "error: a.png: unexpected RuntimeError: boom" in result.err
    assert "LINEARSR_DEBUG=1" in result.err
    monkeypatch.setenv("LINEARSR_DEBUG", "1")
    assert "Traceback" in linearsr("upscale", "a.png").err


@pytest.mark.parametrize("error", ["WeightsError", "DeviceError", "ConfigError"])
def test_a_model_that_cannot_load_ends_the_run_with_a_summary(linearsr, picture, monkeypatch, error):
    monkeypatch.setenv("FAKE_FAILURE", error)
    picture("a.png")
    result = linearsr("upscale", "a.png", "--json")
    assert result.code == {"WeightsError": 5, "DeviceError": 6, "ConfigError": 2}[error]
    assert [line["event"] for line in result.lines] == ["summary"]
    assert result.lines[0]["exit_code"] == result.code
    assert "error: asked to fail\nhint: ask for something else\n" in result.err


def test_on_error_stop_leaves_the_rest(linearsr, fake, picture, tmp_path):
    for name in ("a", "b", "c"):
        picture(f"{name}.png")
    fake.failures = {"b.png": ImageError("x")}
    result = linearsr("upscale", "a.png", "b.png", "c.png", "-o", "out", "--on-error", "stop")
    assert result.code == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert "1 left" in result.err


def test_on_error_stop_does_not_load_the_model_for_a_bad_plan(linearsr, fake, picture):
    picture("a.png")
    assert linearsr("upscale", "a.png", "none.png", "-o", "out", "--on-error", "stop").code == 4
    assert fake.calls == []


def test_failures_are_listed_again_after_many_files(linearsr, picture):
    for index in range(12):
        picture(f"in/{index}.png")
    damaged(Path("in/5.png"))
    result = linearsr("upscale", "in", "-o", "out")
    assert result.code == 3
    assert result.err.count("in/5.png is damaged") == 2


def test_every_line_of_a_result_is_written_when_it_is_done(fake_command, picture, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    picture("a.png")
    picture("b.png")
    with subprocess.Popen(
        [*fake_command, "upscale", "a.png", "b.png", "-o", "out", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        first = json.loads(process.stdout.readline())
        assert Path(first["output"]).is_file()
        assert not Path("out/b.png").exists()
        process.terminate()


# -- results that exist -----------------------------------------------------------------------------------------------


def test_skip_takes_a_complete_result_as_done_and_loads_no_model(linearsr, fake, picture):
    picture("a.png")
    linearsr("upscale", "a.png", "-o", "out")
    before = Path("out/a.png").stat().st_mtime_ns
    fake.calls.clear()
    result = linearsr("upscale", "a.png", "-o", "out", "--json")
    assert result.code == 0
    assert [line.get("status") for line in result.lines] == ["skipped", None]
    assert fake.calls == []
    assert Path("out/a.png").stat().st_mtime_ns == before


def test_skip_prints_the_path_like_a_fresh_result(linearsr, picture):
    picture("a.png")
    assert linearsr("upscale", "a.png").out == linearsr("upscale", "a.png").out == "a_x4.png\n"


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp", "ppm", "avif"])
def test_skip_does_a_truncated_result_again_and_says_so(linearsr, picture, size_of, ending):
    picture(f"a.{ending}", 24, 24)
    assert linearsr("upscale", f"a.{ending}", "-o", "out").code == 0
    assert linearsr("upscale", f"a.{ending}", "-o", "out", "--json").lines[0]["status"] == "skipped"
    target = Path(f"out/a.{ending}")
    target.write_bytes(target.read_bytes()[:-40])
    result = linearsr("upscale", f"a.{ending}", "-o", "out", "--json")
    assert result.lines[0]["status"] == "done"
    assert "done again" in result.lines[0]["notes"][0]
    assert size_of(target) == (96, 96)


def test_skip_keeps_a_picture_of_another_size_and_fails_that_file(linearsr, picture, size_of):
    picture("a.png", 12, 8)
    linearsr("upscale", "a.png", "-o", "b.png", "-s", "2")
    result = linearsr("upscale", "a.png", "-o", "b.png", "-s", "3")
    assert result.code == 4
    assert "b.png exists and is not this result: it is 24x16, not 36x24" in result.err
    assert "--on-exists overwrite" in result.err
    assert size_of("b.png") == (24, 16)
    assert linearsr("upscale", "a.png", "-o", "b.png", "-s", "3", "--on-exists", "overwrite").code == 0
    assert size_of("b.png") == (36, 24)


def test_overwrite_does_everything_again(linearsr, fake, picture):
    picture("a.png")
    linearsr("upscale", "a.png")
    fake.calls.clear()
    assert linearsr("upscale", "a.png", "--on-exists", "overwrite").code == 0
    assert len(fake.calls) == 3


def test_error_refuses_before_the_model_loads(linearsr, fake, picture):
    picture("a.png")
    picture("b.png")
    linearsr("upscale", "b.png", "-o", "out")
    fake.calls.clear()
    result = linearsr("upscale", "a.png", "b.png", "-o", "out", "--on-exists", "error")
    assert result.code == 2
    assert "error: out/b.png exists already" in result.err
    assert fake.calls == []
    assert not Path("out/a.png").exists()


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_dry_run_prints_the_plan_and_touches_nothing(linearsr, fake, picture):
    picture("a.png", 12, 8)
    picture("b.jpg", 10, 10)
    linearsr("upscale", "b.jpg", "-o", "out")
    fake.calls.clear()
    result = linearsr("upscale", "a.png", "b.jpg", "none.png", "-o", "out", "--dry-run")
    assert result.code == 3
    lines = result.out.splitlines()
    assert lines[0].split() == ["upscale", "a.png", "->", "out/a.png", "48x32", "png"]
    assert lines[1].split() == ["skip", "b.jpg", "->", "out/b.jpg", "40x40", "jpeg"]
    assert lines[2].startswith("1 to upscale, 1 skipped, 1 failed; 0.0 MP")
    assert "error: none.png does not exist" in result.err
    assert fake.calls == []
    assert not Path("out/a.png").exists()


def test_dry_run_as_json_has_the_fields_of_a_run(linearsr, picture):
    picture("a.png")
    result = linearsr("upscale", "a.png", "none.png", "-o", "new/out", "--dry-run", "--json")
    assert [line.get("status") for line in result.lines] == ["planned", "failed", None]
    assert result.lines[0].keys() == FIELDS
    assert result.lines[-1].keys() == SUMMARY | {"planned"}
    assert result.lines[-1]["planned"] == 1
    assert not Path("new").exists()


def test_dry_run_imports_no_torch(fake_command, picture):
    picture("a.png")
    code = "import sys; from linearsr_cli.app import main; main(); print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [fake_command[0], "-c", code, "upscale", "a.png", "--dry-run"], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "False"


def test_plan_warns_when_the_disk_is_too_small(linearsr, picture, monkeypatch):
    import shutil

    picture("a.png", 64, 64)
    monkeypatch.setattr("linearsr_cli.plan_checks.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert "warning: the results need about 131 kB" in linearsr("upscale", "a.png", "--dry-run").err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["a.png", "-o", "."], ["a.png"]),
        (["a.png", "-o", "a.png"], ["a.png"]),
        (["a.png", "-o", "./sub/../a.png"], ["a.png"]),
        (["a.png", "--suffix", ""], ["a.png"]),
        (["a.png", "-o", "link"], ["a.png"]),
        (["a.png", "sub/a.png", "-o", "out"], ["a.png", "sub/a.png", "out/a.png"]),
        (["a.png", "a.jpg", "-f", "webp"], ["a.png", "a.jpg", "a_x4.webp"]),
        (["a.png", "a.jpg", "-f", "png", "-o", "sub"], ["a.png", "a.jpg"]),
        (["a.png", "--compare", "a_x4.png"], ["a_x4.png"]),
        (["a.png", "--compare", "a.png"], ["a.png"]),
    ],
)
def test_plan_refuses_clashing_names_before_anything_is_done(linearsr, fake, picture, arguments, named):
    for name in ("a.png", "a.jpg", "sub/a.png"):
        picture(name)
    Path("link").symlink_to(".")
    before = Path("a.png").read_bytes()
    result = linearsr("upscale", *arguments)
    assert result.code == 2
    assert all(name in result.err for name in named), result.err
    assert result.err.count("\n") == 2
    assert result.out == ""
    assert fake.calls == []
    assert Path("a.png").read_bytes() == before


def test_limit_does_not_hide_that_an_output_would_replace_an_input(linearsr, picture):
    picture("in/a.png")
    picture("in/a.jpg")
    result = linearsr("upscale", "in", "-o", "in", "-f", "png", "--limit", "1")
    assert result.code == 2
    assert "would replace the input" in result.err
