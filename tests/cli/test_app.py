from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from linearsr import __version__
from linearsr.errors import ConfigError, DeviceError, ImageError, OutOfMemoryError, WeightsError
from linearsr_cli.app import COMMANDS, app
from linearsr_cli.errors import NoInputError, describe, exit_code_of

HEAVY = ("torch", "numpy", "PIL", "cv2", "rich", "huggingface_hub")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["upscale", "-h"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
from linearsr_cli.app import main
assert main({arguments!r}) == 0
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_help_takes_less_than_0_4_seconds():
    def spent() -> float:
        """Processor seconds of finished children: the wall time of an idle machine, whatever else runs."""
        times = os.times()
        return times.children_user + times.children_system

    def once() -> float:
        before = spent()
        subprocess.run([sys.executable, "-m", "linearsr_cli.app", "--help"], check=True, capture_output=True)
        return spent() - before

    seconds = min(once() for _ in range(3))
    assert seconds < 0.4, f"{seconds:.2f} s"


@pytest.mark.parametrize("arguments", [["--help"], ["upscale", "--help"], ["doctor", "--help"]])
def test_help_shows_examples_before_options(run, arguments):
    text = run(*arguments).out
    assert 0 < text.index("Examples:") < text.index("--help")


def test_help_lists_the_installed_commands(run):
    text = run("--help").out
    assert "upscale" in text
    assert "doctor" in text


def test_help_is_the_same_under_another_hash_seed():
    pages = {
        subprocess.run(
            [sys.executable, "-m", "linearsr_cli.app", "upscale", "-h"],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "0123"
    }
    assert len(pages) == 1


def test_version_goes_to_stdout(run):
    result = run("--version")
    assert (result.code, result.out, result.err) == (0, f"linearsr {__version__}\n", "")


def test_no_command_shows_help_on_stderr_and_fails(run):
    result = run()
    assert result.code == 2
    assert result.out == ""
    assert "upscale" in result.err


def test_misspelt_command_is_a_usage_error_with_a_suggestion(run):
    result = run("upscal", "a.png")
    assert result.code == 2
    assert result.out == ""
    assert "'upscale'" in result.err
    assert "hint: see `linearsr --help`" in result.err


def test_unknown_option_is_a_usage_error(run):
    result = run("upscale", "a.png", "--tille", "5")
    assert result.code == 2
    assert "--tille" in result.err
    assert "hint: see `linearsr upscale --help`" in result.err
    assert "Traceback" not in result.err


def test_option_names_cannot_be_abbreviated(run):
    assert run("upscale", "a.png", "--sca", "2").code == 2


def test_underscores_stand_for_hyphens(linearsr, fake, picture):
    picture("a.png")
    assert linearsr("upscale", "a.png", "--batch_size", "3").code == 0
    assert fake.calls[-1][1]["batch_size"] == 3


def test_a_module_that_does_not_exist_is_no_command(monkeypatch):
    monkeypatch.setitem(COMMANDS, "ghost", ("linearsr_cli.commands.ghost", "Not there."))
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "ghost" not in result.output


def test_a_command_may_bring_its_own_typer_app(monkeypatch, tmp_path):
    (tmp_path / "plugin_command.py").write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef greet(name: str): typer.echo('hello ' + name)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "greet", ("plugin_command", "Greet."))
    result = CliRunner().invoke(app, ["greet", "you"])
    assert (result.exit_code, result.output) == (0, "hello you\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (ImageError("x"), 4),
        (NoInputError("x"), 4),
        (WeightsError("x"), 5),
        (DeviceError("x"), 6),
        (OutOfMemoryError("x"), 6),
        (MemoryError(), 6),
        (KeyError("x"), 1),
        (typer.BadParameter("x"), 2),
    ],
)
def test_exit_code_of_each_error(error, code):
    assert exit_code_of(error) == code


def test_describe_keeps_an_error_on_one_line():
    message, hint = describe(ImageError("bad\nname \x1b[31m.png", hint="try\nagain"))
    assert message == "bad name \\x1b[31m.png"
    assert hint == "try again"


@pytest.mark.parametrize("debug", ["", "0", "1"])
def test_unexpected_error_shows_a_traceback_only_when_asked(run, monkeypatch, debug):
    monkeypatch.setenv("LINEARSR_DEBUG", debug)
    monkeypatch.setattr("linearsr_cli.commands.upscale.run", lambda options: 1 / 0)
    result = run("upscale", "a.png")
    assert result.code == 1
    assert result.out == ""
    assert ("Traceback" in result.err) == (debug == "1")
    assert "error: unexpected ZeroDivisionError: division by zero" in result.err
    assert "hint: set LINEARSR_DEBUG=1" in result.err
