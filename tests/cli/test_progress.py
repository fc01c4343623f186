from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from linearsr_cli.output import Output
from linearsr_cli.progress import open_progress


def on_terminal(command: list[str], *, stdout=None, extra_env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command whose stderr (and stdout, unless given) is a terminal; its exit code and what the terminal saw."""
    terminal, child_end = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **(extra_env or {})}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=child_end if stdout is None else stdout, stderr=child_end, env=env
    )
    os.close(child_end)
    seen = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and select.select([terminal], [], [], 10)[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not data:
            break
        seen += data
    os.close(terminal)
    return process.wait(timeout=10), seen.decode()


@pytest.fixture
def two_pictures(picture, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    picture("a.png", 1000, 250)
    picture("b.png", 500, 500)


def test_bar_on_a_terminal_counts_pixels_of_the_whole_job(fake_command, two_pictures):
    code, seen = on_terminal([*fake_command, "upscale", "a.png", "b.png", "-o", "out"])
    assert code == 0
    assert "8.0 MP" in seen
    assert "2/2" in seen
    percents = [int(text) for text in re.findall(r"(\d+)%", seen)]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] == 100
    assert len(set(percents)) > 4
    assert re.search(r"\d:\d\d:\d\d", seen)  # time left
    assert "out/a.png" in seen
    assert "out/b.png" in seen


def test_bar_leaves_a_piped_stdout_alone(fake_command, two_pictures, tmp_path):
    with open("paths", "wb") as file:
        code, seen = on_terminal([*fake_command, "upscale", "a.png", "b.png", "-o", "out"], stdout=file)
    assert code == 0
    assert Path("paths").read_bytes() == b"out/a.png\nout/b.png\n"
    assert "100%" in seen


@pytest.mark.parametrize("flags", [["--progress", "plain"], ["--progress", "none"], ["-q"]])
def test_no_bar_on_a_terminal_when_not_wanted(fake_command, two_pictures, flags):
    code, seen = on_terminal([*fake_command, "upscale", "a.png", "b.png", "-o", "out", *flags])
    assert code == 0
    assert "%" not in seen
    assert ("[2/2] b.png -> out/b.png 2000x2000" in seen) == ("plain" in flags)


def test_no_bar_on_a_dumb_terminal(fake_command, two_pictures):
    _, seen = on_terminal([*fake_command, "upscale", "a.png", "-o", "out"], extra_env={"TERM": "dumb"})
    assert "%" not in seen
    assert "[1/1] a.png" in seen


def test_no_color_is_honoured(fake_command, two_pictures):
    command = [*fake_command, "upscale", "a.png", "-o", "out", "--on-exists", "overwrite"]
    color = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")
    assert color.search(on_terminal(command)[1])
    plain = on_terminal(command, extra_env={"NO_COLOR": "1"})[1]
    codes = {code for found in color.findall(plain) for code in found[2:-1].split(";")}
    assert not codes & {str(n) for n in [*range(30, 50), *range(90, 108)]}, codes


def test_plain_without_a_terminal(linearsr, picture):
    picture("a.png", 12, 8)
    err = linearsr("upscale", "a.png").err
    assert re.search(r"^\[1/1\] a\.png -> a_x4\.png 48x32 in \d+\.\d s$", err, re.MULTILINE)


def test_bar_without_a_terminal_becomes_plain_with_a_warning(linearsr, picture):
    picture("a.png")
    result = linearsr("upscale", "a.png", "--progress", "bar")
    assert result.code == 0
    assert "warning: --progress bar needs a terminal" in result.err
    assert "[1/1]" in result.err


def test_none_keeps_the_summary(linearsr, picture):
    picture("a.png")
    result = linearsr("upscale", "a.png", "--progress", "none")
    assert "[1/1]" not in result.err
    assert "1 done" in result.err


def test_fractions_outside_0_to_1_do_no_harm():
    with open_progress("none", Output(), files=1, pixels=10) as progress:
        progress.begin("a.png", 10)
        progress.fraction(2.0)
        progress.end("a.png")
