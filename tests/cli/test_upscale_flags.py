"""One test a flag that it acts: on what the model is asked, or on the file that comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def last_call(fake, name: str = "upscale_picture") -> dict:
    return [given for called, given in fake.calls if called == name][-1]


def test_defaults_ask_for_x4_and_leave_the_rest_to_the_model(linearsr, fake, picture, size_of):
    picture("a.png", 12, 8)
    assert linearsr("upscale", "a.png").code == 0
    assert size_of("a_x4.png") == (48, 32)
    loaded = {
        "model": "compact",
        "device": "auto",
        "dtype": "auto",
        "offload": "none",
        "compile": False,
        "vae_tile": "auto",
        "tagger": "auto",
        "tag_vocabulary": None,
        "loras": (),
    }
    assert fake.calls[0] == ("from_pretrained", loaded)
    assert last_call(fake) == {
        "scale": None,
        "size": (48, 32),
        "long_side": None,
        "steps": None,
        "seed": 0,
        "tags": (),
        "negative_tags": None,
        "cfg_scale": None,
        "tile": "auto",
        "tile_overlap": None,
        "batch_size": 1,
        "alpha": "auto",
        "color_fix": None,
        "color_strength": 1.0,
    }


@pytest.mark.parametrize(
    ("arguments", "name", "size"),
    [
        (["-s", "2"], "a_x2.png", (26, 14)),
        (["--scale", "2.5"], "a_x2.5.png", (32, 18)),
        (["-s", "1"], "a_x1.png", (13, 7)),
        (["--size", "30x20"], "a_30x20.png", (30, 20)),
        (["--size", "39x"], "a_39w.png", (39, 21)),
        (["--size", "x21"], "a_21h.png", (39, 21)),
        (["--long-side", "26"], "a_26px.png", (26, 14)),
    ],
)
def test_size_options_set_the_exact_output_size(linearsr, picture, size_of, arguments, name, size):
    picture("a.png", 13, 7)
    assert linearsr("upscale", "a.png", *arguments).code == 0
    assert size_of(name) == size


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--steps", "1"], {"steps": 1}),
        (["--seed", "42"], {"seed": 42}),
        (["--tags", "jpeg:strong, noise:weak"], {"tags": ("noise:weak", "jpeg")}),
        (["--tags", "clean"], {"tags": ("clean",)}),
        (["--tags", ""], {"tags": ()}),
        (["--cfg-scale", "2.5"], {"cfg_scale": 2.5}),
        (["--cfg-scale", "0"], {"cfg_scale": 0.0}),
        (["-t", "off"], {"tile": "off"}),
        (["--tile", "512"], {"tile": 512}),
        (["-t", "512", "--tile-overlap", "64"], {"tile_overlap": 64}),
        (["--batch-size", "4"], {"batch_size": 4}),
        (["--alpha", "drop"], {"alpha": "drop"}),
        (["--color-fix", "none"], {"color_fix": "none"}),
        (["--color-fix", "adain"], {"color_fix": "adain"}),
        (["--color-strength", "0.5"], {"color_strength": 0.5}),
    ],
)
def test_network_options_reach_the_model(linearsr, fake, picture, arguments, given):
    picture("a.png")
    assert linearsr("upscale", "a.png", *arguments).code == 0
    assert last_call(fake) == last_call(fake) | given
    checked = last_call(fake, "validate")
    assert checked == checked | {key: value for key, value in given.items() if key in checked and key != "tags"}


def test_tags_are_judged_by_the_model_before_any_picture(linearsr, fake, picture):
    picture("a.png")
    assert linearsr("upscale", "a.png", "--tags", "noise, blur").code == 0
    assert last_call(fake, "validate")["tags"] == "noise, blur"
    fake.calls.clear()
    assert linearsr("upscale", "a.png", "--model", "other", "--tags", "nois", "--on-exists", "overwrite").code == 2
    assert [called for called, _ in fake.calls] == ["from_pretrained", "validate"]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--model", "some/folder"], {"model": "some/folder"}),
        (["--device", "cuda:1"], {"device": "cuda:1"}),
        (["--dtype", "bf16"], {"dtype": "bf16"}),
        (["--tagger", "none"], {"tagger": "none"}),
        (["--lora", "x.safetensors"], {"loras": (("x.safetensors", 1.0),)}),
        (["--lora", "x.safetensors:0.5", "--lora", "a:b"], {"loras": (("x.safetensors", 0.5), ("a:b", 1.0))}),
    ],
)
def test_loading_options_reach_the_model(linearsr, fake, picture, arguments, given):
    picture("a.png")
    for name in ("x.safetensors", "a:b"):
        Path(name).touch()
    assert linearsr("upscale", "a.png", *arguments).code == 0
    loaded = last_call(fake, "from_pretrained")
    assert loaded == loaded | given


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("webp", "WEBP"),
        ("tiff", "TIFF"),
        ("avif", "AVIF"),
        ("bmp", "BMP"),
        ("ppm", "PPM"),
    ],
)
def test_format_sets_kind_and_ending(linearsr, picture, name, kind):
    picture("a.png")
    result = linearsr("upscale", "a.png", "-f", name, "-o", "out")
    assert result.code == 0
    with Image.open(result.out.strip()) as image:
        assert image.format == kind


def test_output_ending_sets_the_format(linearsr, picture):
    picture("a.png")
    assert linearsr("upscale", "a.png", "-o", "b.webp").code == 0
    with Image.open("b.webp") as image:
        assert image.format == "WEBP"


@pytest.mark.parametrize("name", ["a.JPEG", "a.jpg", "a.tif", "a.TIFF", "a.webp"])
def test_auto_format_keeps_the_ending_of_the_input(linearsr, picture, tmp_path, name):
    picture(name)
    assert linearsr("upscale", name, "-o", "out").code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_auto_format_takes_png_where_the_input_kind_cannot_be_written(linearsr, tmp_path):
    Image.new("L", (8, 8), 9).save("a.gif")
    assert linearsr("upscale", "a.gif", "-o", "out").code == 0
    assert (tmp_path / "out" / "a.png").is_file()


def test_quality_changes_the_size_of_a_jpeg(linearsr, picture, tmp_path):
    picture("a.png", 40, 40)
    for quality in (30, 95):
        assert linearsr("upscale", "a.png", "-o", f"{quality}.jpg", "--quality", quality).code == 0
    assert (tmp_path / "30.jpg").stat().st_size < 0.6 * (tmp_path / "95.jpg").stat().st_size


def test_lossless_keeps_every_pixel_of_a_webp(linearsr, picture):
    source = np.asarray(Image.open(picture("a.png")))
    errors = {}
    for flag in ([], ["--lossless"]):
        assert linearsr("upscale", "a.png", "-s", "1", "-o", "b.webp", "--on-exists", "overwrite", *flag).code == 0
        with Image.open("b.webp") as image:
            errors[bool(flag)] = np.abs(np.asarray(image.convert("RGB")).astype(int) - source).max()
    assert errors[True] == 0
    assert errors[False] > 0


def test_bit_depth_16_writes_16_bits(linearsr, picture):
    from linearsr.image_io import probe

    path = picture("a.png")
    assert linearsr("upscale", "a.png", "-o", "b.png", "--bit-depth", "16").code == 0
    assert probe(path.with_name("b.png")).bit_depth == 16


def test_metadata_is_kept_or_stripped(linearsr, picture):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    picture("a.jpg", exif=exif)
    assert linearsr("upscale", "a.jpg", "-o", "keep.jpg").code == 0
    assert linearsr("upscale", "a.jpg", "-o", "strip.jpg", "--metadata", "strip").code == 0
    with Image.open("keep.jpg") as kept, Image.open("strip.jpg") as stripped:
        assert kept.getexif().get(0x010F) == "Maker"
        assert stripped.getexif().get(0x010F) is None


def test_suffix_names_the_result(linearsr, picture, tmp_path):
    picture("a.png")
    assert linearsr("upscale", "a.png", "--suffix", "-big").code == 0
    assert (tmp_path / "a-big.png").is_file()


def test_limit_takes_the_first_pictures(linearsr, fake, picture, tmp_path):
    for name in ("c", "a", "b"):
        picture(f"in/{name}.png")
    assert linearsr("upscale", "in", "-o", "out", "--limit", "2").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_recursive_mirrors_the_tree_and_leaves_out_the_output(linearsr, picture, tmp_path):
    picture("in/a.png")
    picture("in/sub/b.png")
    for _ in range(2):
        assert linearsr("upscale", "in", "-r", "-o", "in/out").code == 0
    made = sorted(
        path.relative_to(tmp_path / "in" / "out").as_posix() for path in (tmp_path / "in" / "out").rglob("*.png")
    )
    assert made == ["a.png", "sub/b.png"]


def test_input_option_is_the_same_as_the_argument(linearsr, picture, tmp_path):
    picture("a.png")
    picture("b.png")
    assert linearsr("upscale", "-i", "a.png", "b.png", "-o", "out").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("name", ["LINEARSR_STEPS", "LINEARSR_UPSCALE_STEPS"])
def test_environment_sets_an_option(linearsr, fake, picture, monkeypatch, name):
    monkeypatch.setenv(name, "3")
    picture("a.png")
    assert linearsr("upscale", "a.png").code == 0
    assert last_call(fake)["steps"] == 3


def test_variables_with_a_meaning_of_their_own_set_no_option():
    from linearsr_cli.app import _build
    from linearsr_cli.help import RESERVED

    names = {
        name
        for command in ("upscale", "train", "doctor")
        for param in _build(command).params
        for name in (param.envvar if param.envvar is not None else [])
    }
    assert "LINEARSR_TRAIN_DEBUG" in names
    assert "LINEARSR_STEPS" in names
    assert not names & set(RESERVED)


def test_flag_beats_environment_and_the_longer_name_beats_the_shorter(linearsr, fake, picture, monkeypatch):
    monkeypatch.setenv("LINEARSR_STEPS", "3")
    monkeypatch.setenv("LINEARSR_SEED", "3")
    monkeypatch.setenv("LINEARSR_UPSCALE_SEED", "4")
    picture("a.png")
    assert linearsr("upscale", "a.png", "--steps", "2").code == 0
    assert (last_call(fake)["steps"], last_call(fake)["seed"]) == (2, 4)


def test_one_file_and_a_folder_are_asked_for_with_the_same_settings(linearsr, fake, picture):
    picture("in/a.png")
    flags = ["-s", "3", "--steps", "2", "--seed", "5", "-t", "256", "--color-fix", "none", "-o", "out"]
    linearsr("upscale", "in/a.png", *flags)
    linearsr("upscale", "in", *flags, "--on-exists", "overwrite")
    first, second = [given for called, given in fake.calls if called == "upscale_picture"]
    assert first == second


def test_settings_that_only_the_model_can_judge_are_refused_before_any_picture(linearsr, fake, picture):
    picture("a.png")
    result = linearsr("upscale", "a.png", "--tile", "7")
    assert result.code == 2
    assert "error: tile is 7" in result.err
    assert "hint: " in result.err
    assert [called for called, _ in fake.calls] == ["from_pretrained", "validate"]
