from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from linearsr_cli.signals import Stopped, StopSignals, hold


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_cleanly(fake_command, picture, monkeypatch, size_of, signum, code):
    monkeypatch.setenv("FAKE_SECONDS", "0.6")
    for name in ("a", "b", "c", "d", "e"):
        picture(f"in/{name}.png", 12, 8)
    process = subprocess.Popen(
        [*fake_command, "upscale", "in", "-o", "out", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = json.loads(process.stdout.readline())
    time.sleep(0.2)  # into the second file
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    lines = [first, *map(json.loads, out.splitlines())]
    assert lines[-1] == lines[-1] | {"event": "summary", "done": len(lines) - 1, "failed": 0, "exit_code": code}
    assert len(lines) - 1 < 5
    made = sorted(Path("out").iterdir())
    assert [str(path) for path in made] == [line["output"] for line in lines[:-1]]
    assert [size_of(path) for path in made] == [(48, 32)] * len(made)
    assert "Traceback" not in err
    assert "interrupted" in err
    assert "left" in err


def test_a_run_goes_on_where_a_signal_ended_it(fake_command, picture, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    for name in ("a", "b", "c"):
        picture(f"in/{name}.png")
    command = [*fake_command, "upscale", "in", "-o", "out", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process.stdout.readline()
    process.terminate()
    process.communicate(timeout=20)
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert lines[-1]["skipped"] >= 1
    assert lines[-1]["skipped"] + lines[-1]["done"] == 3


def test_hold_lets_the_block_end_first():
    steps = []
    with pytest.raises(Stopped) as caught, StopSignals():
        with hold():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("written")
        steps.append("never")
    assert steps == ["written"]
    assert caught.value.exit_code == 143


def test_a_second_signal_does_not_wait_for_hold():
    steps = []
    with pytest.raises(Stopped), StopSignals(), hold():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("once")
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("never")
    assert steps == ["once"]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    with hold():
        pass  # works without a context as well
