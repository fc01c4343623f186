"""The pages on models and paper scale: every command and Python block typed, on stand-ins; tables against the code.

Hub ids lead to a Hub on loopback that has the stand-ins under the names of the public repositories. All commands of
both pages run in one process, whose huggingface_hub knows only that Hub.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from linearsr.config import CheckpointConfig, to_dict
from linearsr.flow import log_snr
from linearsr.model.experts import PAPER_BOUNDARIES, expert_index
from linearsr.presets import PRESETS, PUBLISHED_STEPS, get_preset
from linearsr.schedules import dpm_flow_grid
from linearsr.tags.open_taggers import default_vocabulary
from linearsr.tags.tagger_kinds import EXAMPLES
from linearsr_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
MODELS, GUIDE = "docs/models.md", "docs/guides/paper-scale.md"
SET_UP = ("python3 -m venv", ".venv/bin/pip", ". .venv/bin/activate")
STAND_INS = "python -m linearsr_train.stand_ins stand_ins"
LAUNCH = "train/launch/torchrun.sh"
TOKEN = "hf_loopback"

SERVER = """
import contextlib, io, json, os, sys, traceback
told, sys.stdin = sys.stdin, open(os.devnull)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
sys.modules["matplotlib"] = None  # as where it is not installed: drawing takes seconds
from linearsr_cli.app import main
for line in told:
    kind, content = json.loads(line)
    out, err, code = io.StringIO(), io.StringIO(), 1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = int(main(content)) if kind == "cli" else exec(compile(content, "block", "exec"), {}) or 0
        except Exception:
            traceback.print_exc()
    answers.write(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}) + "\\n")
    answers.flush()
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the page's code blocks, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def lines(block: str) -> list[str]:
    """Commands of a console block, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", block).splitlines()
    assert all(line.startswith("$ ") for line in joined), block
    return [line.removeprefix("$ ") for line in joined]


def table_after(page: str, marker: str) -> list[list[str]]:
    """Cells of the body rows of the first table after an HTML comment that starts with `marker`, without backticks."""
    text = (ROOT / page).read_text(encoding="utf-8").split(f"<!-- {marker}", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert rows is not None, f"{page} has no table after {marker}"
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


# ---- commands


@dataclass
class Place:
    """A folder with what the pages name, a process that works there, and the Hub that it sees."""

    folder: Path
    hub: Any
    process: Any

    def do(self, kind: str, content: Any) -> dict[str, Any]:
        """Run arguments of `linearsr` ("cli") or a Python block ("python")."""
        self.process.stdin.write(json.dumps([kind, content]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process ended"
        return json.loads(answer)


def _write_photos(folder: Path) -> None:
    rng = np.random.default_rng(3)
    (folder / "photos").mkdir()
    for index in range(6):
        pixels = rng.integers(0, 255, (10, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 72), Image.Resampling.BICUBIC).save(folder / "photos" / f"{index}.jpg")
    Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / "photo.jpg")


def _files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _environment(folder: Path, address: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LINEARSR_"))}
    home = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    hub = {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **home, **hub, "NO_PROXY": "*", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    pytest.importorskip("diffusers", reason="needs the extra full")
    pytest.importorskip("transformers", reason="needs the extra full")
    spec = importlib.util.spec_from_file_location("loopback_hub", ROOT / "tests" / "hub" / "loopback_hub.py")
    loopback = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(loopback)
    folder, hub = tmp_path_factory.mktemp("paper"), loopback.LoopbackHub()
    environment = _environment(folder, hub.address)
    subprocess.run([sys.executable, *STAND_INS.split()[1:]], cwd=folder, env=environment, check=True)
    _write_photos(folder)
    (folder / "sana").symlink_to("stand_ins/sana")
    (folder / "runs").mkdir()
    (folder / "runs" / "sft").symlink_to("../tiny/sft")  # the guide's run at full size is its run on stand-ins
    made, preset = folder / "stand_ins", get_preset("sana-0.6b")
    for repo, name, licence in (
        (preset.repository, "sana", "other"),
        (preset.autoencoder.source, "autoencoder", "mit"),
        (preset.tags.encoder, "text_encoder", "gemma"),
        (EXAMPLES["siglip"], "tagger", "apache-2.0"),
        ("owner/name", "model", "cc0-1.0"),
    ):
        hub.add(repo, _files(made / name), licence=licence)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with hub.running():
        process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=folder, env=environment, **streams)
        try:
            yield Place(folder, hub, process)
        finally:
            process.stdin.close()
            process.wait(timeout=60)
            process.stdout.close()


def type_line(line: str, place: Place) -> None:
    """Run one line of a page as a reader would; what starts several processes is checked without starting them."""
    program, *arguments = shlex.split(line, comments=True)
    if line == STAND_INS:
        assert (place.folder / "stand_ins" / "model" / "config.json").is_file(), "the fixture ran it"
        return
    if program == LAUNCH:
        assert os.access(ROOT / LAUNCH, os.X_OK)
        assert '-m linearsr_cli.app train "$@"' in (ROOT / LAUNCH).read_text(encoding="utf-8")
        arguments = ["train", *arguments, "--print-config"]
    else:
        assert program == "linearsr", line
    done = place.do("cli", arguments)
    assert done["code"] == 0, f"{line}\n{done['out']}\n{done['err']}"


def type_page(page: str, place: Place) -> int:
    """Run all blocks of a page in their order; gives the number of commands."""
    count = 0
    for language, text in blocks(page):
        if language == "python":
            done = place.do("python", text)
            assert done["code"] == 0, f"{text}\n{done['err']}"
        for line in lines(text) if language == "console" else ():
            if not line.startswith(SET_UP):
                type_line(line, place)
                count += 1
    return count


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.slow
def test_commands_of_the_page_on_models_do_what_it_says(place: Place) -> None:
    assert type_page(MODELS, place) >= 15

    folder = place.folder
    assert size_of(folder / "from_copy.png") == (128, 96)
    assert (folder / "copies" / "name" / "text_encoder" / "tokenizer.json").is_file()
    four = json.loads((folder / "models" / "four" / "config.json").read_text())
    assert four["experts"]["files"] == ["base.safetensors"] * 4
    repo = place.hub.repos["you/name"]
    assert repo.private and set(repo.refs) == {"main", "v2"}
    assert not (folder / "hf" / "hub" / "models--owner--name" / "snapshots").exists(), "rm"


@pytest.mark.slow
def test_commands_of_the_guide_go_from_sana_to_a_model_in_use(place: Place) -> None:
    del place.hub.repos["owner/name"]  # it is what the guide publishes

    assert type_page(GUIDE, place) >= 15

    folder, pushed = place.folder, place.hub.repos["owner/name"]
    for name in ("noise", "tiny", "bridge", "tagged", "guided", "small_gpu"):
        assert size_of(folder / f"{name}.png") == (128, 96), name
    assert size_of(folder / "photo_large.png") == (128, 96)
    assert all(photo.with_suffix(".txt").is_file() for photo in (folder / "photos").glob("*.jpg"))
    assert pushed.private, "the guide publishes for its owner alone"
    config = json.loads(pushed.commits[pushed.refs["main"]]["config.json"])
    assert len(set(config["experts"]["files"])) == 4
    assert config["licence"] == PRESETS["sana-0.6b"].licence, "from the converted weights through three stages"
    assert config["sampling"]["expert_cfg_scales"] == [1.0, 4.5, 4.5, 4.5]
    assert config["tags"]["tagger"] is None


@pytest.mark.slow
def test_a_second_run_asks_once_for_each_repository_without_a_commit(place: Place) -> None:
    def requests(model: str) -> list[tuple[str, str]]:
        arguments = ["upscale", "photo.jpg", "--model", model, "--steps", "1", "-o", "again.png", "-q"]
        for _ in range(2):
            place.hub.take_log()
            assert place.do("cli", [*arguments, "--on-exists", "overwrite"])["code"] == 0
        return [(request.method, request.path.partition("/resolve/")[0]) for request in place.hub.take_log()]

    made = place.do("cli", ["models", "convert", "--from-sana", "sana", "-o", "asks"])
    assert made["code"] == 0, made["err"]
    preset = get_preset("sana-0.6b")
    assert requests("asks") == [("HEAD", f"/{preset.tags.encoder}"), ("HEAD", f"/{preset.autoencoder.source}")]
    commit = place.hub.add("owner/pinned", _files(place.folder / "stand_ins" / "model"))
    assert requests(f"owner/pinned@{commit}") == []
    assert requests("owner/pinned") == [("HEAD", "/owner/pinned")]


def test_every_command_of_models_has_an_example_and_exit_codes() -> None:
    from linearsr_cli.commands.models import app

    names = {command.name for command in app.registered_commands}
    text = (ROOT / MODELS).read_text(encoding="utf-8")
    shown = {
        line.split()[2]
        for language, block in blocks(MODELS)
        if language == "console"
        for line in lines(block)
        if line.startswith("linearsr models ")
    }
    codes = set(re.findall(r"^\| `(\w+)` \|", text.split("### Exit codes")[1].split("## What is checked")[0], re.M))

    assert shown == codes == names


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["info", "sana-0.6b"], 2),
        (["download", "sana-1.6b"], 2),
        (["rm", "compact", "--yes"], 2),
        (["rm", "you/nothing", "--yes"], 5),
        (["path", "you/nothing"], 5),
        (["info", "you/nothing"], 5),
        (["verify", "you/nothing"], 5),
        (["push", "nowhere", "you/nothing"], 5),
        (["push", "nowhere", "nothing"], 2),
        (["convert", "--from-sana", "nowhere", "-o", "out"], 5),
        (["convert", "--from-sana", "nowhere", "-o", "out", "--experts", "3"], 2),
        (["convert", "--from-sana", "nowhere", "-o", "out", "--preset", "sana-2b"], 2),
    ],
)
def test_exit_codes_are_those_of_the_page(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["models", *arguments]) == code


# ---- tables


def test_presets_of_the_page_are_those_of_the_code() -> None:
    rows = [
        [p.name, str(p.model.depth), str(p.model.width), f"{p.parameters:,}", p.repository] for p in PRESETS.values()
    ]
    text = (ROOT / MODELS).read_text(encoding="utf-8")

    assert table_after(MODELS, "presets") == rows
    for preset in PRESETS.values():
        for name in (preset.autoencoder.source, preset.tags.encoder):
            assert f"`{name}`" in text
        assert preset.licence in text
        assert not preset.tags.negative and preset.tags.tagger is None


def test_sections_of_the_page_are_those_of_the_config() -> None:
    rows = [row[0] for row in table_after(MODELS, "config")]

    assert rows == [field.name for field in dataclasses.fields(CheckpointConfig)]


def test_messages_of_the_page_are_those_of_the_code() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "linearsr").rglob("*.py"))
    rows = table_after(MODELS, "messages")

    assert len(rows) > 10
    assert [row[0] for row in rows if row[0] not in source] == []


def test_experts_of_each_step_are_those_of_the_grids() -> None:
    boundaries = tuple(float(log_snr(t)) for t in PAPER_BOUNDARIES)
    rows = []
    for steps in PUBLISHED_STEPS:
        used = [expert_index(float(t), boundaries) for t in dpm_flow_grid(steps)[:-1]]
        rows.append([steps, *(used.count(expert) for expert in range(4))])

    assert [[int(cell) for cell in row] for row in table_after(GUIDE, "steps")] == rows


def test_recipes_of_the_guide_are_those_of_the_package() -> None:
    stages = {"paper_pretrain": "pretrain", "paper_moe": "experts", "paper_sft": "sft"}
    rows = []
    for name, stage in stages.items():
        path = ROOT / "train" / "linearsr_train" / "recipes" / f"{name}.toml"
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        settings = recipe["stages"][stage]
        rows.append([name, recipe["data"]["crop"], recipe["loop"]["batch_size"], settings["max_steps"]])
        rows[-1].append(settings["learning_rate"])
    found = [
        [name, int(crop), int(batch), int(steps.replace(",", "")), float(rate)]
        for name, crop, batch, steps, rate in table_after(GUIDE, "recipes")
    ]

    assert found == rows


def test_settings_of_the_larger_network_make_its_preset(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [
        line
        for language, block in blocks(GUIDE)
        if language == "console"
        for line in lines(block)
        if "--print-config" in line
    ]

    assert main(shlex.split(line)[1:]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == json.loads(json.dumps(to_dict(PRESETS["sana-1.6b"].model)))


def test_taggers_of_the_page_are_those_of_the_code() -> None:
    page = "docs/concepts/tags.md"
    rows = table_after(page, "taggers")

    assert [(row[0], row[1]) for row in rows] == list(EXAMPLES.items())
    assert f"a list of {len(default_vocabulary())} common words" in (ROOT / page).read_text(encoding="utf-8")


def test_the_pages_say_what_has_not_been_done() -> None:
    assert "There are no trained weights at paper scale by this project yet" in (ROOT / MODELS).read_text("utf-8")
    assert "Nothing of it has been run at full size by this project" in (ROOT / GUIDE).read_text("utf-8")
