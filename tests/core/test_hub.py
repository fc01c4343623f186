"""Names of models, and the Hub without a network."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from linearsr.config import FileEntry
from linearsr.errors import ConfigError, WeightsError
from linearsr.hub import BUNDLED, Model, find_model, open_model
from linearsr.hub_errors import Asked, explain
from linearsr.hub_repo import root_of

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
    "model",
    [
        *("compcat", "./nowhere", "/nowhere/at/all", "~/models", "a/b/c", "owner/", "a\\b", "owner/name@"),
        *("owner/name@..", "owner/name@../../x", "owner/name@a//b", "owner/name@.hidden", "owner/name@a/"),
    ],
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


@pytest.mark.parametrize("name", ["../secret", "a/../../b", "/etc/passwd", "a\\b", "c:x", ""])
def test_hub_files_that_leave_the_repository_are_refused_before_any_request(name: str) -> None:
    with pytest.raises(WeightsError, match="leaves the model's folder"):
        find_model("owner/name").fetch(name)


@pytest.mark.parametrize("name", ["config.json", "a/config.json", "a/b/config.json"])
def test_root_of_undoes_the_name(name: str) -> None:
    assert root_of(Path("/cache/commit") / name, name) == Path("/cache/commit")


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
    assert absent["message"] == "model 'owner/absent' lacks 'config.json' in the cache, and HF_HUB_OFFLINE is set"
    assert "--model compact" in absent["hint"]
    assert "'owner/--bad--' is no valid Hub id" in bad["message"]
    for answer in (cached, pinned):
        assert answer["found"].endswith(f"{commit}/config.json")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_disk_that_refuses_is_told_by_its_reason(code: int, words: str) -> None:
    error = explain(OSError(code, os.strerror(code)), Asked("model", "owner/name", "expert-0.safetensors"))
    assert error.message.startswith("'expert-0.safetensors' of model 'owner/name' cannot be stored in ")
    assert error.message.endswith(words)
    assert "HF_HOME" in str(error.hint)


def test_a_token_is_never_shown() -> None:
    error = explain(RuntimeError("Illegal header value b'Bearer hf_secret\\x01'"), Asked("model", "o/n", "a"))
    assert "hf_secret" not in f"{error.message} {error.hint}"
    assert "Bearer ***" in error.message


@pytest.fixture
def with_parts(tiny_checkpoint: Path) -> Model:
    """The tiny model with a component of two files in a sub-folder."""
    model = open_model(tiny_checkpoint)
    files = dict(model.config.files)
    for name, data in {"vae/config.json": b"{}", "vae/sub/model.safetensors": b"weights"}.items():
        (tiny_checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (tiny_checkpoint / name).write_bytes(data)
        files[name] = FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return replace(model, config=replace(model.config, files=files))


def test_component_finds_its_own_folder(with_parts: Model, tiny_checkpoint: Path) -> None:
    assert with_parts.component("./vae", what="autoencoder") == tiny_checkpoint / "vae"
    assert with_parts.component("./vae/", what="autoencoder") == tiny_checkpoint / "vae"
    assert with_parts.component("./vae/sub", what="autoencoder") == tiny_checkpoint / "vae" / "sub"


def test_component_takes_a_local_folder(with_parts: Model, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert with_parts.component(str(tmp_path / "elsewhere"), what="autoencoder") == tmp_path / "elsewhere"


@pytest.mark.parametrize("source", ["./va", "./sub", "./tagger"])
def test_component_names_a_folder_that_is_not_listed(with_parts: Model, source: str) -> None:
    with pytest.raises(WeightsError, match=f"autoencoder '{source}' of model 'tiny-model' has no file in config.json"):
        with_parts.component(source, what="autoencoder")


@pytest.mark.parametrize("source", ["/nowhere/at/all", "nowhere", "a/b/c", "owner/name@../x"])
def test_component_names_what_is_no_place(with_parts: Model, source: str) -> None:
    with pytest.raises(WeightsError, match="neither a folder of the model"):
        with_parts.component(source, what="autoencoder")


def test_component_finds_a_changed_file(with_parts: Model, tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "vae" / "sub" / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(WeightsError, match="'vae/sub/model.safetensors' has sha256") as caught:
        with_parts.component("./vae", what="autoencoder")
    assert "--repair" not in str(caught.value.hint), "a folder cannot be repaired from the Hub"


def test_a_file_is_hashed_once_unless_it_changes(with_parts: Model, tiny_checkpoint: Path) -> None:
    path = tiny_checkpoint / "vae" / "config.json"
    before = path.stat()
    assert with_parts.file("vae/config.json") == path
    path.write_bytes(b"[]")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert with_parts.file("vae/config.json") == path  # nothing says that it has changed, so it is not read again
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(WeightsError, match="has sha256"):
        with_parts.file("vae/config.json")


def test_a_file_that_is_not_listed_is_refused(with_parts: Model, tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "more.json").write_text("{}")
    with pytest.raises(WeightsError, match="lists no size and hash for 'more.json'"):
        with_parts.file("more.json")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd"])
def test_a_config_that_lists_files_outside_the_folder_is_refused(tiny_checkpoint: Path, name: str) -> None:
    path = tiny_checkpoint / "config.json"
    config = json.loads(path.read_text())
    config["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="leaves the model's folder") as caught:
        open_model(tiny_checkpoint)
    assert not isinstance(caught.value, ConfigError), "the exit code is that of weights"
