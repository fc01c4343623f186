"""`linearsr models` against a Hub on loopback: fetching, mending, copying, converting and publishing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_loopback"
CODER = {
    "config.json": b'{"_class_name": "AutoencoderDC"}',
    "diffusion_pytorch_model.safetensors": bytes(range(256)) * 8,
    "training_state.bin": b"never fetched",
}


def models(client: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
    return client.do("cli", ["models", *map(str, arguments)], **settings)


def fetched(world: Any) -> list[str]:
    """Names of the weights that came over the network since the last call."""
    return [request.path.rpartition("/")[2] for request in world.hub.take_log() if request.path.startswith("/cdn/")]


def edited(files: dict[str, bytes], **sections: Any) -> dict[str, bytes]:
    """A model's files with sections of its config.json changed."""
    config = json.loads(files["config.json"])
    return {**files, "config.json": json.dumps({**config, **sections}).encode()}


def with_coder(files: dict[str, bytes], source: str) -> dict[str, bytes]:
    return edited(files, autoencoder={"kind": "dcae", "factor": 32, "source": source, "scaling_factor": 0.41407})


def test_download_fetches_all_once_and_tells_the_licence_first(world: Any) -> None:
    commit = world.add("loop/all")
    world.hub.take_log()
    first = models(world.user, "download", "loop/all")
    folder = world.user.cached("loop/all") / "snapshots" / commit
    assert (first["code"], first["out"], first["err"]) == (0, f"{folder}\n", "licence of loop/all: CC0-1.0\n")
    assert fetched(world) == [f"expert-{index}.safetensors" for index in range(4)]
    assert models(world.user, "download", "loop/all")["code"] == 0
    assert fetched(world) == []
    assert models(world.offline, "verify", "loop/all", "--all")["code"] == 0
    (listed,) = [
        line
        for line in map(json.loads, models(world.offline, "list", "--json")["out"].splitlines())
        if line["model"] == "loop/all"
    ]
    assert (listed["revision"], listed["experts"], listed["refs"]) == (commit, [0, 1, 2, 3], ["main"])
    assert listed["bytes"] == sum(map(len, world.files.values()))


def test_info_fetches_the_config_and_no_weights(world: Any) -> None:
    world.add("loop/info")
    world.hub.take_log()
    answer = models(world.user, "info", "loop/info", "--json")
    about = json.loads(answer["out"])
    assert [expert["present"] for expert in about["experts"]] == [False] * 4
    assert about["bytes"] == sum(len(data) for name, data in world.files.items() if name != "config.json")
    assert fetched(world) == []


def test_one_expert_is_fetched_alone(world: Any) -> None:
    world.add("loop/one")
    world.hub.take_log()
    assert models(world.user, "download", "loop/one", "--expert", 3)["code"] == 0
    assert fetched(world) == ["expert-3.safetensors"]
    lines = models(world.offline, "verify", "loop/one")["out"].splitlines()
    assert lines == [*(f"missing  expert-{index}.safetensors" for index in range(3)), "ok       expert-3.safetensors"]
    assert models(world.offline, "verify", "loop/one", "--all")["code"] == 5


def test_a_broken_download_goes_on_with_what_is_missing(world: Any) -> None:
    world.add("loop/breaks", breaks={"expert-2.safetensors": 1})
    broken = models(world.user, "download", "loop/breaks")
    assert (broken["code"], broken["out"]) == (5, "")
    world.hub.take_log()
    assert models(world.user, "download", "loop/breaks")["code"] == 0
    assert set(fetched(world)) == {"expert-2.safetensors", "expert-3.safetensors"}
    assert models(world.offline, "verify", "loop/breaks", "--all")["code"] == 0


def test_repair_fetches_the_damaged_file_and_no_other(world: Any) -> None:
    commit = world.add("loop/damaged")
    models(world.user, "download", "loop/damaged")
    path = world.user.cached("loop/damaged") / "snapshots" / commit / "expert-1.safetensors"
    spoilt = bytearray(path.read_bytes())
    spoilt[-1] ^= 1
    path.resolve().write_bytes(bytes(spoilt))
    found = models(world.offline, "verify", "loop/damaged")
    assert found["code"] == 5
    assert [line.split()[0] for line in found["out"].splitlines()] == ["ok", "damaged", "ok", "ok"]
    assert "--repair what is damaged" in found["err"]
    world.add("loop/damaged", {**world.files, "expert-1.safetensors": b"of a later commit"})
    world.hub.repos["loop/damaged"].commits[commit] = world.files
    world.hub.take_log()
    mended = models(world.user, "verify", "loop/damaged", "--repair")
    assert (mended["code"], mended["err"]) == (0, "expert-1.safetensors is damaged, fetching it again\n")
    assert fetched(world) == ["expert-1.safetensors"]
    assert path.read_bytes() == world.files["expert-1.safetensors"]


def test_weights_of_a_component_are_checked_and_mended_too(world: Any) -> None:
    commit = world.add("loop/coder-2", CODER)
    world.add("loop/parts-2", with_coder(world.files, "loop/coder-2"))
    name = "diffusion_pytorch_model.safetensors"
    before = models(world.user, "download", "loop/parts-2", "--no-components")
    assert before["code"] == 0
    lines = models(world.offline, "verify", "loop/parts-2")["out"].splitlines()
    assert lines[4:] == ["missing  loop/coder-2"]
    models(world.user, "download", "loop/parts-2")
    path = world.user.cached("loop/coder-2") / "snapshots" / commit / name
    path.resolve().write_bytes(CODER[name][:-1])
    found = models(world.offline, "verify", "loop/parts-2")
    assert (found["code"], found["out"].splitlines()[4].split(":")[0]) == (5, f"damaged  loop/coder-2/{name}")
    mended = models(world.user, "verify", "loop/parts-2", "--repair", "--all")
    assert (mended["code"], mended["out"].splitlines()[4:]) == (0, [f"ok       loop/coder-2/{name}"])
    assert path.read_bytes() == CODER[name]


def test_a_copy_needs_no_network_and_a_second_run_fetches_nothing(world: Any, tmp_path: Path) -> None:
    from linearsr.checkpoint import read_config
    from linearsr.hub import open_model

    world.add("loop/coder", CODER, licence="mit")
    commit = world.add("loop/parts", {**with_coder(world.files, "loop/coder"), "LICENSE": b"CC0\n"})
    first = models(world.user, "download", "loop/parts", "--to", tmp_path / "copy")
    assert (first["code"], first["out"]) == (0, f"{tmp_path / 'copy'}\n")
    assert first["err"].splitlines()[:2] == ["licence of loop/parts: CC0-1.0", "licence of loop/coder: mit"]
    config = read_config(tmp_path / "copy")
    assert config.autoencoder.source == "./autoencoder"
    assert config.training["copied_from"] == {"model": "loop/parts", "revision": commit, "autoencoder": "loop/coder"}
    copied = {p.relative_to(tmp_path / "copy").as_posix(): p.read_bytes() for p in (tmp_path / "copy").rglob("*.*")}
    wanted = {f"autoencoder/{name}": data for name, data in CODER.items() if not name.endswith(".bin")}
    wanted |= {name: data for name, data in world.files.items() if name != "config.json"}
    assert {name: data for name, data in copied.items() if name != "config.json"} == wanted
    assert (tmp_path / "copy" / "LICENSE").read_bytes() == b"CC0\n"
    assert models(world.offline, "verify", tmp_path / "copy", "--all")["code"] == 0
    part = open_model(tmp_path / "copy").component(config.autoencoder.source, what="autoencoder")
    assert part == tmp_path / "copy" / "autoencoder"
    world.hub.take_log()
    again = models(world.user, "download", "loop/parts", "--to", tmp_path / "copy")
    assert again["err"].splitlines()[-1] == "0 files copied, 6 were there"
    assert fetched(world) == []


def test_no_components_leaves_them_on_the_hub(world: Any, tmp_path: Path) -> None:
    from linearsr.checkpoint import read_config

    world.add("loop/far-coder", CODER)
    world.add("loop/without", with_coder(world.files, "loop/far-coder"))
    world.hub.take_log()
    assert models(world.user, "download", "loop/without", "--to", tmp_path / "copy", "--no-components")["code"] == 0
    assert read_config(tmp_path / "copy").autoencoder.source == "loop/far-coder"
    assert not (tmp_path / "copy" / "autoencoder").exists()
    assert not [request for request in world.hub.take_log() if "far-coder" in request.path]


def test_rm_frees_the_cache(world: Any) -> None:
    commit = world.add("loop/goes")
    models(world.user, "download", "loop/goes")
    gone = models(world.offline, "rm", "loop/goes", "--yes")
    assert (gone["code"], gone["out"]) == (0, f"loop/goes@{commit}\n")
    assert not world.user.cached("loop/goes").exists()
    assert models(world.offline, "path", "loop/goes")["code"] == 5


def test_what_is_not_on_the_hub_is_exit_code_5(world: Any) -> None:
    answer = models(world.user, "download", "loop/nowhere")
    assert (answer["code"], answer["out"]) == (5, "")
    assert "'loop/nowhere' does not exist on the Hub" in answer["err"]


# -- push ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def export(model_files: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    for name, data in model_files.items():
        (folder / name).write_bytes(data)
    (folder / "MODEL_CARD.md").write_text("# Mine\n")
    return folder


def test_push_publishes_what_download_brings_back(world: Any, export: Path, tmp_path: Path) -> None:
    pushed = models(world.user, "push", export, "loop/pushed", "--private", token=TOKEN)
    assert (pushed["code"], pushed["out"]) == (0, f"{world.hub.address}/loop/pushed\n"), pushed
    repo = world.hub.repos["loop/pushed"]
    assert repo.private
    files = repo.commits[repo.refs["main"]]
    assert len(repo.commits) == 2, "that of the creation, and one"
    assert set(files) == {".gitattributes", "README.md", "MODEL_CARD.md", *world.files}
    assert {name: files[name] for name in world.files} == world.files
    assert files["README.md"].decode().startswith("---\nlicense: cc0-1.0\nlibrary_name: linearsr\n")
    assert files["README.md"].decode().endswith("---\n\n# Mine\n")
    back = models(world.user, "download", "loop/pushed", "--to", tmp_path / "back", token=TOKEN)
    assert back["code"] == 0, back
    for name, data in world.files.items():
        if name != "config.json":
            assert (tmp_path / "back" / name).read_bytes() == data


def test_push_to_a_branch_leaves_main_alone(world: Any, export: Path) -> None:
    models(world.user, "push", export, "loop/branched", token=TOKEN)
    main = world.hub.repos["loop/branched"].refs["main"]
    (export / "MODEL_CARD.md").write_text("# Later\n")
    pushed = models(world.user, "push", export, "loop/branched", "--revision", "v2", token=TOKEN)
    assert pushed["out"] == f"{world.hub.address}/loop/branched/tree/v2\n"
    repo = world.hub.repos["loop/branched"]
    assert repo.refs["main"] == main
    assert b"# Later" in repo.commits[repo.refs["v2"]]["README.md"]


def test_push_without_rights_says_what_to_do(world: Any, export: Path) -> None:
    refused = models(world.user, "push", export, "loop/refused", token="hf_wrong")
    assert (refused["code"], refused["out"]) == (5, "")
    assert "the Hub refuses this token to write to 'loop/refused' (status 401)" in refused["err"]
    assert "hf auth login" in refused["err"]
    assert "hf_wrong" not in refused["err"]
    none = models(world.user, "push", export, "loop/refused")
    assert (none["code"], "no token for the Hub" in none["err"]) == (2, True)
    assert "loop/refused" not in world.hub.repos


def test_push_sends_nothing_when_the_export_is_not_whole(world: Any, export: Path) -> None:
    (export / "expert-0.safetensors").write_bytes(b"short")
    world.hub.take_log()
    assert models(world.user, "push", export, "loop/short", token=TOKEN)["code"] == 5
    assert world.hub.take_log() == []


# -- convert ------------------------------------------------------------------------------------------------------


def test_convert_of_a_hub_id_fetches_the_transformer_only(world: Any, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from linearsr.checkpoint import read_config
    from linearsr_train.stand_ins.sana import write_sana

    sana = write_sana(tmp_path / "sana")
    files = {p.relative_to(sana).as_posix(): p.read_bytes() for p in sana.rglob("*") if p.is_file()}
    world.add("loop/sana", {**files, "vae/diffusion_pytorch_model.safetensors": b"large"}, licence="other")
    world.hub.take_log()
    arguments = ("--from-sana", "loop/sana", "-o", tmp_path / "out", "--dtype", "fp32", "--encoder", "loop/text")
    made = models(world.user, "convert", *arguments)
    assert (made["code"], made["out"]) == (0, f"{tmp_path / 'out'}\n"), made
    assert made["err"].splitlines()[0] == "licence of loop/sana: other"
    assert set(fetched(world)) == {
        Path(name).name for name in files if name.startswith("transformer/") and "safet" in name
    }
    config = read_config(tmp_path / "out")
    assert (config.tags.encoder, config.model.lr_stem, config.model.width) == ("loop/text", (64, 128, 32), 64)
    checked = models(world.offline, "verify", tmp_path / "out")
    assert (checked["code"], checked["out"].splitlines()[0]) == (0, "ok       expert-0.safetensors")
