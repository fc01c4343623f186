"""`linearsr models download --to`, `convert` and `push`: what is copied, made and published."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest


def rewrite(folder: Path, **sections) -> None:
    """Change sections of a checkpoint's config.json."""
    from linearsr.checkpoint import read_config
    from linearsr.config import to_dict

    changed = replace(read_config(folder), **sections)
    (folder / "config.json").write_text(json.dumps(to_dict(changed)))


# -- download --to ------------------------------------------------------------------------------------------------


def test_a_copy_is_the_model_and_a_second_run_copies_nothing(run, damage, four_experts: Path) -> None:
    from linearsr.checkpoint import read_config

    first = run("models", "download", four_experts, "--to", "copy")
    assert (first.code, first.out) == (0, "copy\n")
    assert first.err.splitlines() == ["licence of four: CC0-1.0", "4 files copied, 0 were there"]
    for path in four_experts.iterdir():
        if path.name != "config.json":
            assert Path("copy", path.name).read_bytes() == path.read_bytes()
    assert read_config(Path("copy")).files == read_config(four_experts).files
    assert not [path for path in Path("copy").iterdir() if path.name.startswith(".")]
    stamps = {path: path.stat().st_mtime_ns for path in Path("copy").glob("*.safetensors")}
    damage(Path("copy", "expert-2.safetensors"))
    again = run("models", "download", four_experts, "--to", "copy")
    assert again.err.splitlines()[-1] == "1 files copied, 3 were there"
    changed = [path.name for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert changed == ["expert-2.safetensors"]
    assert run("models", "verify", "copy", "--all").code == 0


def test_one_expert_is_copied_alone_and_others_join_later(run, four_experts: Path) -> None:
    assert run("models", "download", four_experts, "--to", "copy", "--expert", "3").code == 0
    assert [path.name for path in Path("copy").glob("*.safetensors")] == ["expert-3.safetensors"]
    assert run("models", "verify", "copy").code == 0
    assert run("models", "verify", "copy", "--all").code == 5
    more = run("models", "download", four_experts, "--to", "copy")
    assert more.err.splitlines()[-1] == "3 files copied, 1 were there"
    assert run("models", "verify", "copy", "--all").code == 0


def test_a_damaged_source_is_never_copied(run, damage, four_experts: Path) -> None:
    damage(four_experts / "expert-1.safetensors")
    result = run("models", "download", four_experts, "--to", "copy")
    assert (result.code, result.out) == (5, "")
    assert "'expert-1.safetensors' has" in result.err
    assert not Path("copy", "expert-1.safetensors").exists()
    assert not Path("copy", "config.json").exists()


def test_a_copy_never_replaces_something_else(run, four_experts: Path, tiny_checkpoint: Path) -> None:
    before = (tiny_checkpoint / "config.json").read_bytes()
    result = run("models", "download", four_experts, "--to", tiny_checkpoint)
    assert (result.code, "holds a model that was not copied there, expected a copy of 'four'" in result.err) == (
        2,
        True,
    )
    assert (tiny_checkpoint / "config.json").read_bytes() == before
    assert run("models", "download", tiny_checkpoint, "--to", "copy").code == 0
    assert "holds a copy of 'tiny-model'" in run("models", "download", four_experts, "--to", "copy").err
    Path("file").touch()
    assert "is a file, expected a folder" in run("models", "download", four_experts, "--to", "file").err


def test_an_expert_that_does_not_exist_is_a_usage_error(run, four_experts: Path) -> None:
    result = run("models", "download", four_experts, "--to", "copy", "--expert", "4")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[0] == "error: expert 4 does not exist, expected 0 to 3"
    assert not Path("copy").exists()


def test_a_copy_holds_its_components_and_names_them_as_its_own(run, four_experts: Path, tmp_path: Path) -> None:
    from linearsr.checkpoint import read_config
    from linearsr.config import AutoencoderConfig

    coder = tmp_path / "coder"
    (coder / ".cache").mkdir(parents=True)
    (coder / "config.json").write_text('{"_class_name": "AutoencoderDC"}')
    (coder / "diffusion_pytorch_model.safetensors").write_bytes(bytes(range(256)))
    (coder / "old.bin").write_bytes(b"pickle")
    (coder / ".cache" / "x").touch()
    rewrite(four_experts, autoencoder=AutoencoderConfig(kind="dcae", factor=32, source=str(coder)))
    assert run("models", "download", four_experts, "--to", "copy").code == 0
    config = read_config(Path("copy"))
    assert config.autoencoder.source == "./autoencoder"
    listed = {name: config.files[name].bytes for name in config.files if "/" in name}
    assert listed == {"autoencoder/config.json": 32, "autoencoder/diffusion_pytorch_model.safetensors": 256}
    assert {path.name for path in Path("copy", "autoencoder").iterdir()} == {Path(name).name for name in listed}
    assert run("models", "verify", "copy", "--all").code == 0
    shutil.rmtree(coder)
    again = run("models", "download", four_experts, "--to", "copy")
    assert (again.code, again.err.splitlines()[-1]) == (0, "0 files copied, 6 were there")


# -- push ---------------------------------------------------------------------------------------------------------


def test_push_dry_run_lists_exactly_what_would_go_up(run, four_experts: Path) -> None:
    result = run("models", "push", four_experts, "owner/name", "--dry-run")
    weights = [f"expert-{index}.safetensors" for index in range(4)]
    assert (result.code, result.out.splitlines()) == (0, ["README.md", "config.json", *weights, "MODEL_CARD.md"])
    assert result.err.startswith("would upload 7 files, ")


@pytest.mark.parametrize(
    ("licence", "head"),
    [
        ("CC-BY-SA-4.0", ["license: cc-by-sa-4.0"]),
        ("NVIDIA Open Model License", ["license: other", 'license_name: "nvidia-open-model-license"']),
    ],
)
def test_the_card_says_what_the_hub_wants_to_know(tiny_config, licence: str, head: list[str]) -> None:
    from huggingface_hub import ModelCard

    from linearsr.publish import make_card

    text = make_card(tiny_config(licence=licence), "# Mine\n", "owner/name")
    assert text.splitlines()[1 : 1 + len(head)] == head
    card = ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == ("linearsr", "image-to-image")
    assert "super-resolution" in card.data.tags
    assert card.text.strip() == "# Mine"
    assert make_card(tiny_config(), text, "owner/name") == text
    own = make_card(tiny_config(), "", "owner/name")
    assert "linearsr upscale photo.jpg --model owner/name" in own


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (
            lambda folder: (folder / "optimizer.safetensors").touch(),
            2,
            "holds optimizer.safetensors beside the checkpoint",
        ),
        (
            lambda folder: (folder / "samples").mkdir() or (folder / "samples" / "a.png").touch(),
            2,
            "holds samples/a.png beside",
        ),
        (lambda folder: (folder / "state.pt").touch(), 5, "state.pt: pickles can run code"),
        (lambda folder: (folder / "expert-2.safetensors").write_bytes(b"x"), 5, "'expert-2.safetensors' has 1 bytes"),
        (lambda folder: (folder / "expert-2.safetensors").unlink(), 5, "'expert-2.safetensors' is missing"),
        (lambda folder: (folder / "config.json").unlink(), 5, "has no config.json"),
        (lambda folder: rewrite(folder, files={}), 5, "lists no size and hash for expert-0.safetensors"),
    ],
    ids=["state", "pictures", "pickle", "damaged", "missing", "no config", "not listed"],
)
def test_push_refuses_before_it_asks_the_hub(run, four_experts: Path, spoil, code: int, message: str) -> None:
    spoil(four_experts)
    result = run("models", "push", four_experts, "owner/name", "--dry-run")
    assert (result.code, result.out) == (code, "")
    assert message in result.err


def test_push_refuses_a_component_of_this_machine(run, four_experts: Path) -> None:
    from linearsr.config import AutoencoderConfig

    rewrite(four_experts, autoencoder=AutoencoderConfig(kind="dcae", factor=32, source="/data/coder"))
    result = run("models", "push", four_experts, "owner/name", "--dry-run")
    assert (result.code, "the autoencoder is '/data/coder', a folder of this machine" in result.err) == (2, True)


def test_push_needs_a_token_and_a_name(run, four_experts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    result = run("models", "push", four_experts, "owner/name")
    assert (result.code, result.out) == (2, "")
    assert "error: no token for the Hub" in result.err
    assert "hf auth login" in result.err
    assert "repository is 'name', expected owner/name" in run("models", "push", four_experts, "name").err


# -- convert ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from-sana", "nowhere/at/all", "-o", "out"], 5, "nowhere/at/all"),
        (["--from-sana", ".", "-o", "out", "--preset", "sana-0.6"], 2, "did you mean 'sana-0.6b'?"),
        (["--from-sana", ".", "-o", "out", "--dtype", "int8"], 2, "'int8' is not one of"),
        (["--from-sana", ".", "-o", "out", "--experts", "3"], 2, "experts is 3, expected 1 or 4"),
        (["-o", "out"], 2, "--from-sana"),
    ],
)
def test_convert_explains_bad_input(run, arguments: list[str], code: int, message: str) -> None:
    result = run("models", "convert", *arguments)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert not Path("out").exists()


def test_convert_takes_local_components_as_absolute_places(run, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from linearsr.checkpoint import read_config
    from linearsr_train.stand_ins.sana import write_sana

    write_sana(tmp_path / "sana")
    (tmp_path / "coder").mkdir()
    result = run("models", "convert", "--from-sana", "sana", "-o", "out", "--autoencoder", "coder", "-q")
    assert (result.code, result.out, result.err) == (0, "out\n", "")
    config = read_config(Path("out"))
    assert config.autoencoder.source == str(tmp_path / "coder")
    assert config.tags.encoder == "Efficient-Large-Model/gemma-2-2b-it"
    assert "is not empty" in run("models", "convert", "--from-sana", "sana", "-o", "out").err
    assert run("models", "convert", "--from-sana", "sana", "-o", "out", "--overwrite").code == 0
