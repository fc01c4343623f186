"""Models from a Hub on loopback, through the command line and the real huggingface_hub, 1.x and 2.x."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_loopback"
QUICK_S = 4.0
"""Longest time an error may take: the client waits one second for an answer here."""


@pytest.fixture(autouse=True)
def _nothing_asked_yet(world: Any) -> None:
    world.hub.take_log()
    world.later_hub.take_log()


def asked(log: list[Any]) -> list[tuple[str, str]]:
    """Method and file of each request."""
    return [(request.method, request.path.rpartition("/")[2]) for request in log]


def got(log: list[Any]) -> list[str]:
    """Weights that were sent, in this order."""
    return [name for method, name in asked(log) if method == "GET" and name.endswith(".safetensors")]


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name not in names}


def with_config(files: dict[str, bytes], change: Any) -> dict[str, bytes]:
    """A model whose config.json was changed by hand."""
    config = json.loads(files["config.json"])
    change(config)
    return {**files, "config.json": json.dumps(config).encode()}


def flip_byte(path: Path) -> None:
    """Change one byte of a cached file, which is a link to where its bytes are."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.resolve().write_bytes(data)


def test_each_version_of_the_client_is_the_one_that_runs(world):
    told = world.user.do("version")

    assert told["version"].startswith(f"{world.version}.")
    assert told["before"] is False, "huggingface_hub was imported before a Hub id was used"


def test_one_step_downloads_one_expert_and_twenty_steps_four(world):
    model = f"own/four@{world.add('own/four')}"

    one = world.upscale(world.user, model, "--steps", "1")
    first = world.hub.take_log()
    twenty = world.upscale(world.user, model, "--steps", "20")
    then = world.hub.take_log()

    assert (one["code"], twenty["code"]) == (0, 0), (one["err"], twenty["err"])
    assert asked(first)[0] == ("HEAD", "config.json")
    assert got(first) == ["expert-3.safetensors"]
    assert got(then) == ["expert-2.safetensors", "expert-1.safetensors", "expert-0.safetensors"]
    assert (len(first), len(then)) == (5, 7), "the Hub is asked more often than need be"
    assert (one["err"], twenty["err"]) == ("", ""), "huggingface_hub drew a bar of its own"


def test_a_second_run_makes_no_request_at_a_commit_and_one_at_a_branch(world):
    commit = world.add("own/second")
    assert world.upscale(world.user, "own/second", "--steps", "1")["code"] == 0
    assert len(world.hub.take_log()) == 5

    pinned = world.upscale(world.later, f"own/second@{commit}", "--steps", "1")
    at_commit = world.later_hub.take_log()
    branch = world.upscale(world.later, "own/second", "--steps", "1")
    at_branch = world.later_hub.take_log()

    assert (pinned["code"], branch["code"]) == (0, 0)
    assert asked(at_commit) == []
    assert asked(at_branch) == [("HEAD", "config.json")]


def test_all_files_come_from_the_commit_of_the_first(world):
    files = with_config(
        {**world.files, "parts/one.json": b"{}"},
        lambda config: config["files"].update({"parts/one.json": {"bytes": 2, "sha256": SHA_OF_BRACES}}),
    )
    commit = world.add("own/moves", files)
    assert world.user.do("open", "own/moves")["revision"] == commit
    world.hub.repos["own/moves"].commit({"config.json": b"{}", "expert-0.safetensors": b"other"})

    sub = world.user.do("file", "own/moves", "parts/one.json")
    expert = world.user.do("file", "own/moves", "expert-0.safetensors")

    assert Path(sub["path"]).parts[-4:] == ("snapshots", commit, "parts", "one.json")
    assert Path(expert["path"]).read_bytes() == world.files["expert-0.safetensors"]


def test_a_new_commit_of_the_branch_is_taken_the_next_time(world):
    world.add("own/newer")
    assert world.upscale(world.user, "own/newer", "--steps", "1")["code"] == 0
    newer = with_config(world.files, lambda config: config.update(licence="CC-BY-4.0"))
    commit = world.hub.repos["own/newer"].commit(newer)
    world.hub.take_log()

    opened = world.user.do("open", "own/newer")
    log = world.hub.take_log()
    world.user.do("file", "own/newer", "expert-3.safetensors")

    assert opened["revision"] == commit
    assert asked(log)[-1] == ("GET", "config.json")
    assert got(world.hub.take_log()) == [], "equal bytes were fetched again"


def test_a_broken_download_keeps_finished_files_and_starts_again_from_nothing(world):
    commit = world.add("own/breaks", breaks={"expert-1.safetensors": 1})
    model = f"own/breaks@{commit}"

    broken = world.upscale(world.user, model, "--steps", "20")
    first = world.hub.take_log()
    parts = [*world.user.cached("own/breaks").rglob("*.incomplete")]
    again = world.upscale(world.user, model, "--steps", "20")
    then = world.hub.take_log()

    assert broken["code"] == 5
    assert "'expert-1.safetensors' of model 'own/breaks@" in broken["err"]
    assert got(first)[:3] == ["expert-3.safetensors", "expert-2.safetensors", "expert-1.safetensors"]
    assert again["code"] == 0
    assert got(then) == ["expert-1.safetensors", "expert-0.safetensors"]
    assert [request.range for request in then] == [None] * len(then), "it went on with what a broken file left"
    assert parts == []


def test_an_interrupted_download_leaves_nothing_half_behind(world):
    model = f"own/stopped@{world.add('own/stopped')}"
    world.user.do("open", model, "expert-2.safetensors")
    assert "path" in world.user.do("file", model, "expert-3.safetensors")

    stopped = world.user.do("file", model, "expert-2.safetensors")
    cached = world.user.cached("own/stopped")
    names = sorted(path.name for path in cached.glob("snapshots/*/*"))
    world.hub.take_log()
    world.user.do("open", model)
    found = world.user.do("file", model, "expert-2.safetensors")

    assert stopped["error"] == "KeyboardInterrupt"
    assert names == ["config.json", "expert-3.safetensors"]
    assert got(world.hub.take_log()) == ["expert-2.safetensors"]
    assert Path(found["path"]).read_bytes() == world.files["expert-2.safetensors"]


@pytest.mark.parametrize("arguments", [["--steps", "1"], ["--steps", "20"]], ids=["one step", "twenty steps"])
def test_a_flipped_byte_in_the_cache_is_found(world, arguments):
    repo = f"own/flipped-{len(arguments[1])}"
    model = f"{repo}@{world.add(repo)}"
    assert world.upscale(world.user, model, *arguments)["code"] == 0
    (cached,) = world.user.cached(repo).glob("snapshots/*/expert-3.safetensors")

    flip_byte(cached)
    run = world.upscale(world.user, model, *arguments)

    assert run["code"] == 5
    assert f"error: model '{model}': 'expert-3.safetensors' has sha256" in run["err"]
    assert f"hint: run `linearsr models verify {model} --repair`" in run["err"]


def test_a_flipped_byte_on_the_way_is_found(world):
    damaged = bytearray(world.files["expert-3.safetensors"])
    damaged[-1] ^= 1
    commit = world.add("own/wrong-hash", {**world.files, "expert-3.safetensors": bytes(damaged)})

    run = world.upscale(world.user, f"own/wrong-hash@{commit}", "--steps", "1")

    assert run["code"] == 5
    assert "'expert-3.safetensors' has sha256" in run["err"]


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../x", "..\\x"])
def test_a_listed_file_outside_the_folder_is_refused(world, name):
    entry = {"bytes": 2, "sha256": SHA_OF_BRACES}
    world.add("own/escapes", with_config(world.files, lambda config: config["files"].update({name: entry})))

    run = world.upscale(world.user, "own/escapes", "--steps", "1")

    assert run["code"] == 5
    assert f"file name {name!r} leaves the model's folder" in run["err"]
    assert got(world.hub.take_log()) == []


BAD = {
    "no such id": ("own/no-such", {}, "model 'own/no-such' does not exist on the Hub", 1),
    "no such id, with a token": ("own/no-such", {"token": TOKEN}, "model 'own/no-such' does not exist on the Hub", 1),
    "no such revision": ("own/plain@v9", {}, "model 'own/plain@v9' has no revision 'v9'", 1),
    "no valid id": ("own/--bad--", {}, "model 'own/--bad--' is no valid Hub id", 0),
    "no model": ("own/empty", {}, "model 'own/empty' has no file 'config.json'", 1),
    "gated": ("own/gated", {}, "model 'own/gated' needs its licence accepted first", 1),
    "gated, with a token": ("own/gated", {"token": TOKEN}, "model 'own/gated' needs its licence accepted first", 1),
    "private": ("own/private", {}, "model 'own/private' does not exist on the Hub", 1),
    "bad token": ("own/plain", {"token": "hf_wrong"}, "does not accept the token", 1),
    "no answer": ("own/hangs", {}, "cannot be reached (ReadTimeout", 1),
    "out of order": ("own/down", {}, "answers 'config.json' of model 'own/down' with status 503", 1),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_hub_refuses_is_told_quickly(world, case):
    model, settings, message, requests = BAD[case]
    world.add("own/plain")
    world.add("own/empty", {"README.md": b"nothing"})
    world.add("own/gated", gated=True)
    world.add("own/private", private=True)
    world.add("own/hangs", hangs=True)
    world.add("own/down", status=503)
    world.hub.take_log()

    run = world.upscale(world.user, model, "--steps", "1", **settings)

    assert run["code"] == 5
    assert message in run["err"]
    assert "\nhint: " in run["err"]
    assert "hf_" not in run["err"], "the token is shown"
    assert run["seconds"] < QUICK_S
    assert len(world.hub.take_log()) == requests


def test_a_private_model_is_had_with_a_token_that_no_other_host_sees(world):
    commit = world.add("own/mine", private=True)

    run = world.upscale(world.user, f"own/mine@{commit}", "--steps", "1", token=TOKEN)

    hosts = {(request.host, request.has_token) for request in world.hub.take_log()}
    assert run["code"] == 0, run["err"]
    assert hosts == {("127.0.0.1", True), ("localhost", False)}


def test_a_missing_expert_is_told(world):
    world.add("own/partly", without(world.files, "expert-3.safetensors"))

    run = world.upscale(world.user, "own/partly", "--steps", "1")

    assert run["code"] == 5
    assert "model 'own/partly' has no file 'expert-3.safetensors'" in run["err"]


def test_a_disk_that_takes_no_more_is_told(world):
    model = f"own/large@{world.add('own/large')}"
    world.user.do("open", model)

    refused = world.user.do("file", model, "expert-0.safetensors", limit=1000)
    found = world.user.do("file", model, "expert-0.safetensors")

    home = str(world.user.home / "hub")
    assert refused["error"] == "WeightsError"
    assert refused["message"].endswith(f"cannot be stored in {home!r}: the file is too large for this disk")
    assert "HF_HOME" in refused["hint"]
    assert "path" in found


def test_licence_and_progress_are_told(world):
    size = len(world.files["expert-3.safetensors"])
    model = f"own/told@{world.add('own/told')}"

    opened = world.user.do("open", model)
    expert = world.user.do("file", model, "expert-3.safetensors")
    other = world.user.do("file", model, "expert-0.safetensors")
    world.user.do("open", model)
    cached = world.user.do("file", model, "expert-3.safetensors")

    config = len(world.files["config.json"])
    assert opened["events"] == [["download", "own/told/config.json", config, config]]
    assert expert["events"] == [
        ["licence", model, "CC0-1.0"],
        ["download", "own/told/expert-3.safetensors", size, size],
    ]
    assert [event[0] for event in other["events"]] == ["download"], "the licence was told twice"
    assert cached["events"] == []


def test_a_component_of_another_repository_comes_without_pickles_and_code(world):
    weights = bytes(range(256)) * 4 * 11 * 1024  # 11 MiB, more than the client reads at once
    wanted = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": weights, "merges.txt": b"a b"}
    others = {"evil.bin": b"x", "code.py": b"x", "onnx/config.json": b"{}", "../../up.json": b"{}"}
    commit = world.add("own/vae", {**wanted, **others}, licence="apache-2.0")
    model = f"own/around@{world.add('own/around')}"
    world.user.do("open", model)
    world.hub.take_log()

    told = world.user.do("component", model, f"own/vae@{commit}")
    log = world.hub.take_log()
    again = world.user.do("component", model, f"own/vae@{commit}")
    offline = world.offline.do("open", model) and world.offline.do("component", model, "own/vae")

    assert told["files"] == sorted(wanted)
    assert {name for method, name in asked(log) if method == "GET"} == {*wanted, commit}
    assert ["licence", f"own/vae@{commit}", "apache-2.0"] in told["events"]
    progress = [event[2:] for event in told["events"] if event[1].endswith(".safetensors")]
    assert progress == [[10 * 2**20, len(weights)], [len(weights), len(weights)]]
    assert (again["files"], again["events"], world.hub.take_log()) == (told["files"], [], [])
    assert "HF_HUB_OFFLINE" in offline["message"], "main was never asked for, so nobody knows its commit"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "model.bin": b"x"}, "has no .safetensors file, and pickled weights are never loaded"),
        ({"model.safetensors": b"x"}, "autoencoder 'own/odd' has no file 'config.json'"),
    ],
    ids=["pickles only", "no config"],
)
def test_a_component_that_cannot_be_used_is_told(world, files, message):
    world.add("own/odd", files)
    model = f"own/around-odd@{world.add('own/around-odd')}"
    world.user.do("open", model)

    told = world.user.do("component", model, "own/odd")

    assert told["error"] == "WeightsError"
    assert message in told["message"]


def test_an_own_component_is_fetched_and_checked(world):
    parts = {"autoencoder/config.json": b"{}", "autoencoder/model.safetensors": b"{}"}
    entry = {"bytes": 2, "sha256": SHA_OF_BRACES}
    files = with_config(world.files, lambda config: config["files"].update(dict.fromkeys(parts, entry)))
    world.add("own/whole", {**files, **parts, "autoencoder/more.json": b"{}"})
    world.add("own/damaged", {**files, **parts, "autoencoder/model.safetensors": b"[]"})
    world.user.do("open", "own/whole")
    world.user.do("open", "own/damaged")

    whole = world.user.do("component", "own/whole", "./autoencoder")
    damaged = world.user.do("component", "own/damaged", "./autoencoder")
    absent = world.user.do("component", "own/whole", "./tagger")

    assert whole["files"] == ["config.json", "model.safetensors"]
    assert Path(whole["path"]).name == "autoencoder"
    assert "'autoencoder/model.safetensors' has sha256" in damaged["message"]
    assert "--repair" in damaged["hint"]
    assert "has no file in config.json" in absent["message"]


def test_offline_uses_the_cache_and_says_what_is_not_there(world):
    commit = world.add("own/offline")
    assert world.upscale(world.user, "own/offline", "--steps", "1")["code"] == 0
    world.hub.take_log()

    branch = world.upscale(world.offline, "own/offline", "--steps", "1")
    pinned = world.upscale(world.offline, f"own/offline@{commit}", "--steps", "1")
    more = world.upscale(world.offline, "own/offline", "--steps", "20")
    absent = world.upscale(world.offline, "own/never", "--steps", "1")

    assert (branch["code"], pinned["code"]) == (0, 0), (branch["err"], pinned["err"])
    assert (more["code"], absent["code"]) == (5, 5)
    assert "model 'own/offline' lacks 'expert-2.safetensors' in the cache, and HF_HUB_OFFLINE is set" in more["err"]
    assert "model 'own/never' lacks 'config.json' in the cache" in absent["err"]
    assert max(more["seconds"], absent["seconds"]) < QUICK_S
    assert world.hub.take_log() == []


def test_what_is_uploaded_comes_back(world, tmp_path):
    folder = tmp_path / "export"
    for name, data in {**world.files, "autoencoder/config.json": b"{}"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    sent = world.user.do("upload", str(folder), "own/uploaded", token=TOKEN)
    again = world.user.do("upload", str(folder), "own/uploaded", token=TOKEN)
    run = world.upscale(world.later, "own/uploaded", "--steps", "1", token=TOKEN)

    kept = world.hub.repos["own/uploaded"].commits[sent["commit"]]
    assert sent["files"] == sorted([".gitattributes", "autoencoder/config.json", *world.files])
    assert without(kept, ".gitattributes", "autoencoder/config.json") == world.files
    assert again["files"] == sent["files"]
    assert run["code"] == 0, run["err"]


def test_a_hub_out_of_reach_is_told_quickly_and_the_cache_serves(world):
    world.add("own/cached")
    assert world.upscale(world.user, "own/cached", "--steps", "1")["code"] == 0
    world.later_hub.close()

    known = world.upscale(world.later, "own/cached", "--steps", "1")
    more = world.upscale(world.later, "own/cached", "--steps", "20")
    absent = world.upscale(world.later, "own/never", "--steps", "1")

    address = world.later_hub.address
    assert known["code"] == 0, known["err"]
    assert (more["code"], absent["code"]) == (5, 5)
    assert f"'expert-2.safetensors' of model 'own/cached' is not cached, and the Hub at {address}" in more["err"]
    assert f"'config.json' of model 'own/never' is not cached, and the Hub at {address} cannot be" in absent["err"]
    assert "ConnectError" in absent["err"]
    assert max(more["seconds"], absent["seconds"]) < QUICK_S


SHA_OF_BRACES = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
