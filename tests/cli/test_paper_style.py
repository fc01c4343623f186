"""The whole path of a paper-style model through the program: tagger, text encoder, DC-AE, four experts, colour fix.

All parts are real, tiny and random; the picture is a photograph.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from linearsr_train.stand_ins.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("paper") / "stand-in"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """45 x 31 pixels of a real photograph, so that neither side fits the grid."""
    path = tmp_path / "cat.png"
    Image.fromarray(data.chelsea()[100:224:4, 100:280:4]).save(path)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """The program in this process; gives the exit code and its JSON lines."""
    from linearsr_cli.app import main

    monkeypatch.setenv("LINEARSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, list[dict], str]:
        capfd.readouterr()
        code = main(["upscale", *map(str, arguments), "--device", "cpu", "--json"])
        text = capfd.readouterr()
        return int(code), [json.loads(line) for line in text.out.splitlines()], text.err

    return call


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_the_whole_path_makes_a_picture_of_the_right_size_with_tags_from_the_tagger(run, model, photo, tmp_path):
    code, lines, _ = run(photo, "--model", model, "-o", "out.png", "--steps", "20", "--dtype", "fp32")
    assert code == 0
    assert (lines[0]["width"], lines[0]["height"], lines[0]["status"]) == (180, 124, "done")
    assert lines[0]["tags_from"] == "tagger"
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) >= 1, "embeddings are kept on disk"
    out, small = pixels(tmp_path / "out.png"), pixels(photo)
    assert out.std() > 5
    # The colour fix takes the low frequencies from the input, whatever a random network paints.
    blocks = out.reshape(31, 4, 45, 4, 3).mean((1, 3))
    assert np.abs(blocks.mean((0, 1)) - small.mean((0, 1))).max() < 2.0


def test_equal_runs_are_equal_and_the_seed_and_tags_matter(run, model, photo, tmp_path):
    common = [photo, "--model", model, "--steps", "3", "--dtype", "fp32", "--color-fix", "none", "--tags", "cat, fur"]
    for name, extra in {
        "a": [],
        "b": [],
        "seed": ["--seed", "1"],
        "tags": ["--tags", "stone wall"],
        "negative": ["--negative-tags", "blur"],
        "plain": ["--cfg-scale", "1"],
        "by-expert": ["--cfg-scale", "1,4.5,4.5,4.5"],
        "other": ["--cfg-scale", "1,4.5,4.5,9"],
    }.items():
        assert run(*common, *extra, "-o", f"{name}.png")[0] == 0
    made = {path.stem: pixels(path) for path in tmp_path.glob("*.png") if path != photo}
    assert (made["a"] == made["b"]).all() and (made["a"] == made["by-expert"]).all()
    for name in ("seed", "tags", "negative", "plain", "other"):
        assert (made[name] != made["a"]).mean() > 0.01, name


def test_one_step_loads_one_expert(run, model, photo, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    for index in range(3):
        os.unlink(copy / f"expert-{index}.safetensors")
    assert run(photo, "--model", copy, "-o", "one.png", "--steps", "1")[0] == 0
    code, _, err = run(photo, "--model", copy, "-o", "twenty.png", "--steps", "20")
    assert code == 5 and "expert-2.safetensors" in err


@pytest.mark.parametrize("offload", ["expert", "sequential"])
def test_offload_changes_memory_and_nothing_else(run, model, photo, tmp_path, offload):
    common = [photo, "--model", model, "--steps", "4", "--dtype", "fp32", "--tags", "cat"]
    assert run(*common, "-o", "whole.png")[0] == 0
    assert run(*common, "-o", "part.png", "--offload", offload)[0] == 0
    differing = np.abs(pixels(tmp_path / "whole.png") - pixels(tmp_path / "part.png"))
    if offload == "expert":
        assert differing.max() == 0
    else:  # blocks that move are not packed for this processor, so their sums round otherwise
        assert differing.max() <= 1 and (differing > 0).mean() <= 1e-3


def test_a_folder_is_tagged_before_the_first_picture_is_sampled(run, model, photo, tmp_path, monkeypatch):
    from linearsr.model.transformer import LinearDiT
    from linearsr.tags.encoder import TextEncoder
    from linearsr.tags.zero_shot import ZeroShotTagger

    events: list[str] = []
    for owner, name, label in ((ZeroShotTagger, "tag", "tag"), (TextEncoder, "encode", "encode")):
        original = getattr(owner, name)

        def told(self, *args, _original=original, _label=label):
            events.append(_label)
            return _original(self, *args)

        monkeypatch.setattr(owner, name, told)
    freed = ZeroShotTagger.free
    monkeypatch.setattr(ZeroShotTagger, "free", lambda self: (events.append("free"), freed(self)))
    forward = LinearDiT.forward
    monkeypatch.setattr(LinearDiT, "forward", lambda self, *a: (events.append("sample"), forward(self, *a))[1])
    shutil.copy(photo, tmp_path / "dog.png")
    assert run(photo, "dog.png", "--model", model, "-o", "out", "--steps", "1", "--cfg-scale", "1")[0] == 0
    first = events.index("sample")
    assert events[:2] == ["tag", "tag"] and events.count("tag") == 2 and "free" in events[:first]
    assert "encode" in events[:first] and not {"tag", "encode"} & set(events[first:])
    assert events.count("sample") == 2


def test_a_scale_other_than_four_runs_at_four_and_is_resampled(run, model, photo, tmp_path):
    for scale, size in (("1", (45, 31)), ("2.5", (112, 78)), ("6", (270, 186))):
        assert run(photo, "--model", model, "-s", scale, "--steps", "1", "-o", f"s{scale}.png", "--tags", "")[0] == 0
        assert Image.open(tmp_path / f"s{scale}.png").size == size


def test_settings_that_do_not_fit_the_model_are_usage_errors(run, model, photo):
    for arguments, words in (
        (["--cfg-scale", "1,2"], "expected one, or 4"),
        (["--tile", "100"], "multiple of 32"),
        (["--tagger", "florence:x"], "kind 'florence'"),
        (["--tagger", "siglip"], "names no model"),
        (["--tag-vocabulary", "missing.txt"], "one tag a line"),
        (["--vae-tile", "100"], "multiple of 64"),
        (["--offload", "sequential", "--compile"], "expected one of them"),
    ):
        code, _, err = run(photo, "--model", model, "-o", "never.png", *arguments)
        assert code == 2 and words in err, (arguments, err)
        assert not Path("never.png").exists()
