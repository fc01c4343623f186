"""A run that is killed by SIGKILL at random moments ends bit for bit where one ends that never was.

The file is also the program that the test launches: `test_kill.py CONFIG PHOTOS FOLDER`. It imports everything once and
forks a process for each attempt, so that twenty attempts cost little more than one run.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLS = 20
IN_TAGGER, IN_EXPORT = 2, 2
"""Of the kills, how many are kept for the two short parts at the end."""


# ---- the program


def attempt(config, photos: Path, folder: Path, events: int) -> None:
    """Run to the end in a process of its own, writing a line to `events` at every step and message."""
    from linearsr_train.run import run_training

    def tell(what: str) -> None:
        os.write(events, (what + "\n").encode())

    try:
        result = run_training(
            config, photos, folder, device="cpu", report_to="none",
            progress=lambda stage, step, *_: tell(f"{stage} {step}"), report=tell,
        )  # fmt: skip
        tell("finished" if result.finished else "stopped")
        os._exit(0)
    except BaseException as error:
        tell(f"failed {type(error).__name__} {error}")
        os._exit(1)


def start(config, photos: Path, folder: Path) -> tuple[int, int]:
    """Process id of an attempt, and where its lines are read from."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        attempt(config, photos, folder, write)
    os.close(write)
    return child, read


def lines_of(read: int, until: Callable[[str], bool], timeout: float = 300.0) -> list[tuple[str, float]]:
    """Lines with their times, up to the first that `until` accepts or to the end of the process."""
    seen, rest, deadline = [], b"", time.monotonic() + timeout
    while time.monotonic() < deadline and select.select([read], [], [], deadline - time.monotonic())[0]:
        data = os.read(read, 65536)
        if not data:
            break
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            seen.append((line.decode(), time.monotonic()))
            if until(seen[-1][0]):
                return seen
    return seen


def moments(reference: list[tuple[str, float]], began: float, rng: random.Random) -> list[tuple[int, float]]:
    """(number of the line, seconds after it) of random moments, rising: uniform in time over the stages, the rest in
    the tagger and in the last export."""
    names = [name for name, _ in reference]
    times = [moment for _, moment in reference]
    tagger = next(i for i, name in enumerate(names) if name.startswith("tagger"))
    export = len(names) - 2  # the tagger's last line; then the export, then "finished"
    parts = [
        (began, times[tagger], KILLS - IN_TAGGER - IN_EXPORT),
        (times[tagger], times[export], IN_TAGGER),
        (times[export], times[-1], IN_EXPORT),
    ]
    drawn = [
        low + (high - low) * (index + rng.random()) / count for low, high, count in parts for index in range(count)
    ]
    chosen = []
    for moment in drawn:
        before = max((i for i, t in enumerate(times) if t <= moment), default=-1)
        chosen.append((before, moment - (times[before] if before >= 0 else began)))
    return chosen


def kill(config, data: Path, folder: Path, position: dict[str, int], target: int, delay: float) -> list:
    """Start an attempt and kill it; where it was, and whether it was still running."""
    tagger = folder / "stages" / "tagger" / "tagger.safetensors"
    for tries in range(4):
        in_export = tagger.is_file()  # all but the export is done, so the first line is the last before it
        child, read = start(config, data, folder)
        at = 0 if in_export else target
        seen = lines_of(read, lambda line, at=at: position.get(line, -1) >= at) if at >= 0 else [("start", 0.0)]
        time.sleep(delay / 2**tries)  # sooner, if the run had come to its end
        os.kill(child, signal.SIGKILL)
        was_running = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        os.close(read)
        if was_running:
            break
    return [f"export after {seen[-1][0]}" if in_export else seen[-1][0], was_running]


def main(config_text: str, photos: str, folder: str) -> None:
    """Print what was killed where; the folders `whole` and `killed` hold the two runs."""
    import torch

    import linearsr_train.run  # noqa: F401 - paid once, for all that are forked
    from linearsr.config import from_dict
    from linearsr_train.config import TrainConfig

    torch.set_num_threads(1)  # a process forked from one with OpenMP threads would wait for them for ever
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # loads the compiler
    sys.modules["matplotlib"] = None  # type: ignore[assignment] - as where it is not installed; drawing takes seconds
    config, data = from_dict(TrainConfig, json.loads(config_text)), Path(photos)
    began = time.monotonic()
    child, read = start(config, data, Path(folder) / "whole")
    reference = lines_of(read, lambda line: False)
    assert os.waitpid(child, 0)[1] == 0, reference[-1:]
    position = {name: index for index, (name, _) in reversed(list(enumerate(reference)))}
    killed = [
        kill(config, data, Path(folder) / "killed", position, target, delay)
        for target, delay in moments(reference, began, random.Random(3))
    ]
    child, read = start(config, data, Path(folder) / "killed")
    last = lines_of(read, lambda line: False)
    os.waitpid(child, 0)
    print(json.dumps({"killed": killed, "lines": [name for name, _ in reference], "last": last[-1][0]}))


# ---- the test


def contents(path: Path) -> tuple:
    """Metadata, and names, types, shapes and bytes of all tensors; safetensors itself keeps no order of the former."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    return metadata, {key: (v.dtype, tuple(v.shape), v.numpy().tobytes()) for key, v in sorted(tensors.items())}


@pytest.fixture(scope="module")
def killed(
    photos: Path, tiny_recipe: Callable, _stored_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict]:
    from linearsr_train.state import plain_config

    config = tiny_recipe(
        init=str(_stored_checkpoint),  # random weights, so that every stage has much to gain
        loop__validation_photos=1,
        loop__checkpoint_steps=2,
        loop__batch_size=2,
        stages__pretrain__max_steps=8,
        stages__pretrain__validation_steps=4,
        stages__experts__max_steps=3,
        stages__experts__validation_steps=3,
        stages__sft__max_steps=2,
    )
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, __file__, json.dumps(plain_config(config)), str(photos), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_the_kills_hit_a_running_process_in_all_parts_of_the_run(killed: tuple[Path, dict]) -> None:
    _, report = killed
    assert len(report["killed"]) == KILLS
    assert [where for where, was_running in report["killed"] if not was_running] == []
    kinds = Counter(re.match("[a-z]+", where)[0] for where, _ in report["killed"] if where[0].isalpha())
    assert kinds["pretrain"] >= 1 and kinds["expert"] >= 4 and kinds["sft"] >= 2, report["killed"]
    assert kinds["tagger"] + kinds["export"] >= IN_TAGGER + IN_EXPORT, report["killed"]


def test_a_killed_run_ends_with_the_same_weights(killed: tuple[Path, dict]) -> None:
    folder, report = killed
    assert report["last"] == "finished"
    whole, again = folder / "whole", folder / "killed"
    names = sorted(path.relative_to(whole) for path in whole.rglob("*.safetensors"))
    assert len([name for name in names if name.parts[0] == "export"]) == 5
    assert sorted(path.relative_to(again) for path in again.rglob("*.safetensors")) == names
    assert [name for name in names if contents(whole / name) != contents(again / name)] == []


def test_the_weights_that_are_compared_have_learned_something(killed: tuple[Path, dict]) -> None:
    """Else equal weights would prove nothing: every stage went on with a later step than its first."""
    stages = killed[0] / "whole" / "stages"
    done = {path.parent.name: json.loads(path.read_text()) for path in stages.rglob("done.json")}
    assert len(done) == 9
    assert len([name for name, entry in done.items() if entry["chosen"] > 0]) >= 7, done


def test_a_killed_run_ends_every_stage_in_the_same_state(killed: tuple[Path, dict]) -> None:
    """Raw weights, average, moments, generator, controller and counts, not the chosen average alone."""
    import torch

    def flat(value, name: str = ""):
        if isinstance(value, dict):
            return {key: leaf for k, v in value.items() for key, leaf in flat(v, f"{name}/{k}").items()}
        if isinstance(value, list):
            return {key: leaf for i, v in enumerate(value) for key, leaf in flat(v, f"{name}/{i}").items()}
        return {name: value}

    folder, _ = killed
    checkpoints = sorted((folder / "whole").rglob("last.pt"))
    assert len(checkpoints) == 9
    for path in checkpoints:
        other = folder / "killed" / path.relative_to(folder / "whole")
        a, b = (flat(torch.load(one, weights_only=True)) for one in (path, other))
        assert a.keys() == b.keys()
        assert [k for k, v in a.items() if not (torch.equal(v, b[k]) if torch.is_tensor(v) else v == b[k])] == [], path


def test_a_killed_run_leaves_the_same_curves_and_a_log_that_can_be_read(killed: tuple[Path, dict]) -> None:
    from linearsr_train.runlog import read_log

    folder, _ = killed
    curves = sorted((folder / "whole").rglob("curve.csv"))
    assert len(curves) == 9
    for path in curves:
        assert path.read_bytes() == (folder / "killed" / path.relative_to(folder / "whole")).read_bytes(), path
    log = read_log(folder / "killed" / "log.jsonl")
    assert log[-1]["event"] == "end" and log[-1]["finished"]
    assert len([entry for entry in log if entry["event"] == "start"]) >= KILLS / 2


if __name__ == "__main__":
    main(*sys.argv[1:])
