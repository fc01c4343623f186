"""Names of models, and the Hub without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from linearsr.errors import WeightsError
from linearsr.hub import BUNDLED, find_model

OFFLINE = """
import json, socket, sys

def refuse(*arguments, **settings):
    raise AssertionError("a connection was tried")

socket.socket.connect = refuse
from linearsr.errors import WeightsError
from linearsr.hub import find_model
assert "huggingface_hub" not in sys.modules
for model, name in json.loads(sys.argv[1]):
    try:
        found = find_model(model).fetch(name)
        print(json.dumps({"found": str(found)}))
    except WeightsError as error:
        print(json.dumps({"message": error.message, "hint": error.hint}))
"""


def _offline(home: Path, *requests: tuple[str, str]) -> list[dict[str, str]]:
    """Ask for files in a process of its own, since huggingface_hub reads its settings at import."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", OFFLINE, json.dumps(requests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_find_model_knows_the_bundled_one() -> None:
    source = find_model(BUNDLED)
    assert source.name == "compact"
    assert source.fetch("config.json").parts[-4:] == ("linearsr", "weights", "compact", "config.json")


def test_find_model_takes_an_existing_folder(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(tiny_checkpoint).fetch("config.json") == tiny_checkpoint / "config.json"
    monkeypatch.chdir(tiny_checkpoint.parent)
    assert find_model("tiny-model").fetch("config.json").is_file()


def test_an_existing_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_model("owner/name").fetch("config.json") == Path("owner/name/config.json")


@pytest.mark.parametrize(
    "model", ["compcat", "./nowhere", "/nowhere/at/all", "~/models", "a/b/c", "owner/", "a\\b", "owner/name@"]
)
def test_find_model_refuses_what_is_neither(model: str) -> None:
    with pytest.raises(WeightsError, match="neither 'compact', a folder, nor a Hub id") as caught:
        find_model(model)
    assert repr(model) in str(caught.value)
    assert "--model compact" in str(caught.value.hint)


def test_a_path_that_does_not_exist_is_never_a_hub_id() -> None:
    with pytest.raises(WeightsError, match="neither"):
        find_model(Path("owner/name"))


@pytest.mark.parametrize(
    ("model", "repo", "revision"),
    [
        ("owner/name", "owner/name", None),
        ("o-1/n.2_x@v1.0", "o-1/n.2_x", "v1.0"),
        ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
    ],
)
def test_find_model_splits_a_hub_id(model: str, repo: str, revision: str | None) -> None:
    source = find_model(model)
    assert (source.repo, source.revision, source.name) == (repo, revision, model)


def test_hub_files_that_leave_the_repository_are_refused_before_any_request() -> None:
    with pytest.raises(WeightsError, match="refused"):
        find_model("owner/name").fetch("../secret")


def test_hub_id_offline_is_a_weights_error_unless_cached(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--owner--cached"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    absent, bad, cached, pinned = _offline(
        tmp_path,
        ("owner/absent", "config.json"),
        ("owner/--bad--", "config.json"),
        ("owner/cached", "config.json"),
        (f"owner/cached@{commit}", "config.json"),
    )
    assert absent["message"] == "'config.json' of model 'owner/absent' is not cached and the Hub cannot be reached"
    assert "--model compact" in absent["hint"]
    assert "'owner/--bad--' is no valid Hub id" in bad["message"]
    for answer in (cached, pinned):
        assert answer["found"].endswith(f"{commit}/config.json")
