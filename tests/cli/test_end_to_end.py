"""The command line with the real network: a tiny one with random weights, and the bundled one where it is there."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import shutil
import textwrap
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BUNDLED = resources.files("linearsr") / "weights" / "compact" / "config.json"


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_stand_in_has_the_signatures_of_the_real_upscaler(fake):
    code = Path(importlib.util.find_spec("linearsr").submodule_search_locations[0], "pipeline.py").read_text()
    classes = {node.name: node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)}
    methods = {node.name: node for node in classes["Upscaler"].body if isinstance(node, ast.FunctionDef)}
    for name in ("from_pretrained", "validate", "find_tags", "upscale_picture"):
        theirs = methods[name].args
        ours = ast.parse(textwrap.dedent(inspect.getsource(getattr(fake, name)))).body[0].args
        for part in ("args", "kwonlyargs"):
            assert [arg.arg for arg in getattr(ours, part)] == [arg.arg for arg in getattr(theirs, part)], (name, part)


def test_a_picture_comes_out_larger_and_alike(run, tiny_checkpoint, picture, size_of):
    y, x = np.mgrid[0:24, 0:32]
    smooth = np.stack([x * 7, y * 9, 255 - x * 4], axis=2).astype(np.uint8)
    Image.fromarray(smooth).save("a.png")
    result = run("upscale", "a.png", "--model", tiny_checkpoint, "--compare", "side.png")
    assert (result.code, result.out) == (0, "a_x4.png\n"), result.err
    assert size_of("a_x4.png") == (128, 96)
    back = np.asarray(Image.open("a_x4.png").resize((32, 24), Image.Resampling.BOX)).astype(float)
    assert np.abs(back - smooth).mean() < 12
    assert Path("side.png").is_file()


@pytest.mark.parametrize("arguments", [["-s", "1"], ["-s", "2.5"], ["--size", "77x53"], ["-s", "6"]])
def test_sizes_are_exact(run, tiny_checkpoint, picture, size_of, arguments):
    picture("a.png", 19, 13)
    result = run("upscale", "a.png", "--model", tiny_checkpoint, "-o", "b.png", "--dry-run", "--json", *arguments)
    planned = result.lines[0]
    assert run("upscale", "a.png", "--model", tiny_checkpoint, "-o", "b.png", *arguments).code == 0
    assert size_of("b.png") == (planned["width"], planned["height"])


def test_one_file_alone_and_within_a_folder_have_the_same_bytes(run, tiny_checkpoint, picture):
    for name in ("a", "b", "c"):
        picture(f"in/{name}.png", 20, 20)
    flags = ["--model", tiny_checkpoint, "--seed", "3"]
    assert run("upscale", "in", "-o", "all", *flags).code == 0
    assert run("upscale", "in/c.png", "in/b.png", "-o", "two", *flags).code == 0
    assert run("upscale", "in/b.png", "-o", "one", *flags).code == 0
    assert digest("all/b.png") == digest("two/b.png") == digest("one/b.png")
    assert digest("all/c.png") == digest("two/c.png")
    assert digest("all/b.png") != digest("all/c.png")


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "1"],
        ["--steps", "2"],
        ["--tags", "jpeg"],
        ["--color-fix", "wavelet"],
        ["-t", "off"],
    ],
)
def test_network_options_change_the_pixels(run, tiny_checkpoint, picture, flags):
    picture("a.png", 32, 32)
    assert run("upscale", "a.png", "--model", tiny_checkpoint, "-o", "plain.png").code == 0
    assert run("upscale", "a.png", "--model", tiny_checkpoint, "-o", "other.png", *flags).code == 0
    assert digest("plain.png") != digest("other.png")


def test_one_step_does_not_depend_on_the_seed(run, tiny_checkpoint, picture):
    picture("a.png", 16, 16)
    for seed in (1, 2):
        assert (
            run(
                "upscale", "a.png", "--model", tiny_checkpoint, "--steps", "1", "--seed", seed, "-o", f"{seed}.png"
            ).code
            == 0
        )
    assert digest("1.png") == digest("2.png")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--tile", "7"], 2, "tile is 7"),
        (["--tile", "65"], 2, "tile is 65"),
        (["--tags", "sepia"], 2, "unknown tag 'sepia'"),
        (["--steps", "100000"], 2, "steps is 100000"),
        (["--device", "gpu"], 2, "device is 'gpu'"),
        (["--device", "cuda:99"], 6, "device 'cuda:99' is not available"),
        (["--device", "cpu", "--dtype", "fp16"], 6, "fp16"),
    ],
)
def test_settings_are_refused_with_the_exit_code_of_their_kind(run, tiny_checkpoint, picture, arguments, code, text):
    picture("a.png")
    result = run("upscale", "a.png", "--model", tiny_checkpoint, *arguments)
    assert result.code == code, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert text in errors[0]
    assert "hint: " in result.err
    assert "Traceback" not in result.err
    assert not Path("a_x4.png").exists()


def break_missing_tensor(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.pop(sorted(tensors)[0]))


def break_extra_tensor(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update(surprise=next(iter(tensors.values())).clone()))


def break_hash(folder: Path) -> None:
    path = folder / "expert-0.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def break_size(folder: Path) -> None:
    path = folder / "expert-0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_file(folder: Path) -> None:
    (folder / "expert-0.safetensors").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def break_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def edit_weights(folder: Path, edit) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "expert-0.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["files"]["expert-0.safetensors"] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (break_missing_tensor, "missing"),
        (break_extra_tensor, "extra surprise"),
        (break_hash, "sha256"),
        (break_size, "bytes, expected"),
        (break_file, "is missing"),
        (break_config, "config.json"),
        (break_folder, "model"),
    ],
)
def test_bad_weights_exit_with_5(run, tiny_checkpoint, picture, spoil, text):
    shutil.copytree(tiny_checkpoint, "model/tiny")
    folder = Path("model/tiny").resolve()  # two words with a slash could be a Hub id as well
    spoil(folder)
    picture("a.png")
    result = run("upscale", "a.png", "--model", folder, "--json")
    assert result.code == 5, result.err
    assert result.lines[-1]["exit_code"] == 5
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert text in errors[0]
    assert "Traceback" not in result.err
    assert not Path("a_x4.png").exists()


def test_a_pickle_is_refused_as_weights(run, picture):
    import pickle

    Path("model.pth").write_bytes(pickle.dumps({"weight": 1}))
    picture("a.png")
    result = run("upscale", "a.png", "--model", "model.pth")
    assert result.code == 5
    assert "pickle" in result.err


def test_doctor_reports_and_tries_a_picture(run, tiny_checkpoint):
    result = run("doctor", "--model", tiny_checkpoint, "--json")
    assert result.code == 0, result.err
    (report,) = result.lines
    assert report["event"] == "doctor"
    assert report["packages"]["torch"]
    assert report["memory_gb"]["total"] >= report["memory_gb"]["available"] > 0
    assert report["devices"][0]["name"] == "cpu"
    assert report["run"]["ok"] is True
    assert report["run"]["output"] == "256x256"
    assert report["run"]["seconds"] > 0


def test_doctor_for_people_has_aligned_lines(run, tiny_checkpoint):
    result = run("doctor", "--model", tiny_checkpoint)
    assert result.code == 0
    assert "small run               ok, 64x64 to 256x256 in " in result.out


def test_doctor_still_reports_when_the_model_is_missing(run):
    result = run("doctor", "--model", "no/such/folder", "--json")
    assert result.code == 5
    assert result.lines[0]["packages"]["torch"]
    assert result.lines[0]["run"]["ok"] is False
    assert "error: " in result.err


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the bundled weights are not in this tree")
def test_the_bundled_model_upscales(run, picture, size_of):
    picture("a.jpg", 32, 32)
    result = run("upscale", "a.jpg", "--json")
    assert result.code == 0, result.err
    assert size_of("a_x4.jpg") == (128, 128)
    assert result.lines[-1] == result.lines[-1] | {"done": 1, "exit_code": 0}


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the bundled weights are not in this tree")
def test_doctor_is_content_with_the_bundled_model(run):
    assert run("doctor").code == 0
