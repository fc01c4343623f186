from __future__ import annotations

import io
import json
import os
import pty
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def call(command, *arguments, stdin: bytes = b"", cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([*command, *map(str, arguments)], input=stdin, capture_output=True, cwd=cwd)


def test_a_picture_goes_through_a_pipe(fake_command, picture):
    source = picture("a.png", 12, 8)
    done = call(fake_command, "upscale", "-", "-o", "-", "-s", "2", stdin=source.read_bytes())
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (24, 16))
        assert (np.asarray(image)[::2, ::2] == np.asarray(Image.open(source))).all()


def test_format_of_a_pipe_is_that_of_f(fake_command, picture):
    done = call(fake_command, "upscale", "-", "-o", "-", "-f", "webp", stdin=picture("a.png").read_bytes())
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "WEBP"


def test_stdin_may_go_to_a_file_or_a_folder(fake_command, picture, size_of):
    data = picture("a.jpg", 12, 8).read_bytes()
    assert call(fake_command, "upscale", "-", "-o", "b.png", stdin=data).stdout == b"b.png\n"
    assert call(fake_command, "upscale", "-", "-o", "out", stdin=data).stdout == b"out/stdin.jpg\n"
    assert size_of("b.png") == size_of("out/stdin.jpg") == (48, 32)


def test_a_file_may_go_to_stdout_with_json_on_stderr(fake_command, picture):
    picture("a.png")
    done = call(fake_command, "upscale", "a.png", "-o", "-", "--json", "--progress", "none")
    assert Image.open(io.BytesIO(done.stdout)).format == "PNG"
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"{")]
    assert [line["event"] for line in lines] == ["file", "summary"]
    assert lines[0]["output"] is None


def test_bad_stdin_is_named_as_such(fake_command):
    done = call(fake_command, "upscale", "-", "-o", "-", stdin=b"not a picture at all, just text")
    assert done.returncode == 4
    assert done.stdout == b""
    assert b"error: " in done.stderr
    assert b"stdin" in done.stderr
    assert b"/linearsr-" not in done.stderr


def test_empty_stdin_is_an_error(fake_command):
    done = call(fake_command, "upscale", "-", "-o", "-")
    assert done.returncode == 4
    assert b"is empty (0 bytes)" in done.stderr


def test_stdin_is_never_read_unless_asked_for(fake_command, picture):
    picture("a.png")
    with subprocess.Popen(
        [*fake_command, "upscale", "a.png"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.read() == b"a_x4.png\n"  # would hang on the open pipe
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_stdin_from_a_terminal_is_refused(fake_command):
    terminal, child_end = pty.openpty()
    done = subprocess.run(
        [*fake_command, "upscale", "-", "-o", "b.png"], stdin=child_end, capture_output=True, timeout=20
    )
    os.close(terminal)
    os.close(child_end)
    assert done.returncode == 2
    assert b"error: stdin is a terminal" in done.stderr


def test_no_temporary_file_is_left_behind(fake_command, picture, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert call(fake_command, "upscale", "-", "-o", "-", stdin=picture("a.png").read_bytes()).returncode == 0
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(("flags", "separator"), [([], "\n"), (["-0"], "\0")])
def test_files_from_takes_a_list_through_stdin(fake_command, picture, flags, separator):
    for name in ("a.png", "b c.png"):
        picture(name)
    listed = separator.join(["a.png", "b c.png", ""]).encode()
    done = call(fake_command, "upscale", "--files-from", "-", *flags, "-o", "out", stdin=listed)
    assert done.stdout == b"out/a.png\nout/b c.png\n"


def test_an_empty_list_is_nothing_done(fake_command):
    done = call(fake_command, "upscale", "--files-from", "-", "-o", "out")
    assert done.returncode == 4
    assert b"error: the list of files is empty" in done.stderr


@pytest.mark.parametrize(
    "name", [b"\xc3\xbcml\xc3\xa4ut \xe5\x9b\xbe.png", b"bad\xff.png", b"new\nline.png", b"--odd.png"]
)
def test_any_file_name_comes_out_as_it_went_in(fake_command, picture, name):
    data = picture("a.png").read_bytes()
    Path(os.fsdecode(name)).write_bytes(data)
    command = [*map(os.fsencode, fake_command), b"upscale", b"-o", b"out"]
    done = subprocess.run([*command, b"--print0", b"--", name], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"out/" + name + b"\0"
    assert os.path.exists(b"out/" + name)
    assert done.stderr.count(b"\n") == 2  # a name with a line end does not break the line
    done = subprocess.run([*command, b"--json", b"--", name], capture_output=True)
    line = json.loads(done.stdout.splitlines()[0])
    assert os.fsencode(line["output"]) == b"out/" + name


def xargs(fake_command, *flags) -> subprocess.CompletedProcess:
    tail = ["xargs", "-0", *fake_command, "upscale", "-o", "out", "--json", *flags]
    with subprocess.Popen(["find", "in", "-type", "f", "-print0"], stdout=subprocess.PIPE) as find:
        return subprocess.run(tail, stdin=find.stdout, capture_output=True, text=True)


def test_find_and_xargs_with_a_corrupt_file_among_good_ones(fake_command, picture):
    for name in ("a.png", "b c.jpg", "sub/d.webp"):
        picture(f"in/{name}")
    bad = picture("in/bad.jpg", 64, 64)
    bad.write_bytes(bad.read_bytes()[:700])
    done = xargs(fake_command)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    status = {line["input"]: line["status"] for line in lines if line["event"] == "file"}
    assert status == {"in/a.png": "done", "in/b c.jpg": "done", "in/sub/d.webp": "done", "in/bad.jpg": "failed"}
    assert lines[-1] == lines[-1] | {"event": "summary", "done": 3, "failed": 1, "exit_code": 3}
    assert done.returncode == 123  # what xargs makes of any code from 1 to 125
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b c.jpg", "d.webp"]
    assert "Traceback" not in done.stderr

    again = xargs(fake_command)
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert lines[-1] == lines[-1] | {"done": 0, "skipped": 3, "failed": 1, "exit_code": 3}


def test_the_same_files_without_xargs_exit_with_3(fake_command, picture):
    picture("in/a.png")
    Path("in/bad.png").write_bytes(b"")
    assert call(fake_command, "upscale", "in/a.png", "in/bad.png", "-o", "out", "--json").returncode == 3


def test_a_closed_stdout_ends_the_run_without_a_traceback(fake_command, picture):
    for index in range(5):
        picture(f"in/{index}.png")
    line = " ".join(f"'{part}'" for part in [*fake_command, "upscale", "in", "-o", "out"]) + " | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_log_of_the_library_goes_to_stderr(fake_command, picture):
    picture("a.png")
    done = call(fake_command, "upscale", "a.png", "-vv")
    assert done.stdout == b"a_x4.png\n"
