from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from linearsr.errors import ConfigError
from linearsr_cli.commands.upscale import upscale
from linearsr_cli.settings import UpscaleOptions, check_options
from linearsr_cli.values import parse_tile


def options(**given) -> UpscaleOptions:
    return UpscaleOptions(**{"inputs": ("a.png",), **given})


def test_every_flag_has_a_field_with_the_same_default():
    flags = {name: p.default for name, p in inspect.signature(upscale).parameters.items()}
    assert flags.pop("more_inputs") is None
    defaults = {field.name: field.default for field in fields(UpscaleOptions)}
    assert flags.keys() == defaults.keys()
    differing = {name: (flags[name], defaults[name]) for name in flags if flags[name] != defaults[name]}
    assert differing.keys() == {"inputs"}, differing


def test_the_list_of_flags_is_known():
    from linearsr_cli.app import _build

    flags = {flag for param in _build("upscale").params if param.param_type_name == "option" for flag in param.opts}
    assert flags == {
        "-0",
        "-f",
        "-i",
        "-o",
        "-q",
        "-r",
        "-s",
        "-t",
        "-v",
        "--alpha",
        "--batch-size",
        "--bit-depth",
        "--cfg-scale",
        "--color-fix",
        "--color-strength",
        "--compare",
        "--compile",
        "--device",
        "--dry-run",
        "--dtype",
        "--files-from",
        "--format",
        "--input",
        "--json",
        "--limit",
        "--long-side",
        "--lora",
        "--lossless",
        "--metadata",
        "--model",
        "--negative-tags",
        "--offload",
        "--tag-vocabulary",
        "--vae-tile",
        "--null",
        "--on-error",
        "--on-exists",
        "--output",
        "--print0",
        "--progress",
        "--quality",
        "--quiet",
        "--recursive",
        "--save-tags",
        "--scale",
        "--seed",
        "--size",
        "--steps",
        "--suffix",
        "--tagger",
        "--tags",
        "--tags-from",
        "--tile",
        "--tile-overlap",
        "--verbose",
    }


def test_default_options_pass():
    check_options(options())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": ()}, "no input given"),
        ({"inputs": ("",)}, "an input is ''"),
        ({"null": True}, "null is given without files-from"),
        ({"inputs": ("-",), "files_from": "-"}, "stdin is asked for twice"),
        ({"limit": 0}, "limit is 0"),
        ({"output": ""}, "output is ''"),
        ({"output": "--json"}, "output is '--json', which looks like an option"),
        ({"files_from": "-0"}, "files-from is '-0', which looks like an option"),
        ({"suffix": "a/b"}, "suffix is 'a/b'"),
        ({"scale": 0.0}, "scale is 0"),
        ({"scale": -1.0}, "scale is -1"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"scale": 65.0}, "scale is 65"),
        ({"scale": 2.0, "size": "10x10"}, "--scale and --size are both given"),
        ({"scale": 2.0, "long_side": 9}, "--scale and --long-side are both given"),
        ({"size": "9x", "long_side": 9}, "--size and --long-side are both given"),
        ({"size": "big"}, "size is 'big'"),
        ({"size": "0x10"}, "size is '0x10'"),
        ({"long_side": 0}, "long-side is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"tile": 128, "tile_overlap": 128}, "tile-overlap is 128"),
        ({"tile_overlap": -1}, "tile-overlap is -1"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"color_strength": 1.5}, "color-strength is 1.5"),
        ({"color_strength": float("nan")}, "color-strength is nan"),
        ({"tags": "clear"}, "unknown tag 'clear'"),
        ({"quality": 0}, "quality is 0"),
        ({"quality": 101}, "quality is 101"),
        ({"lossless": True, "format": "jpg"}, "JPEG cannot be lossless"),
        ({"bit_depth": "16", "format": "webp"}, "WEBP cannot hold 16 bits"),
        ({"quiet": True, "verbose": 1}, "quiet and verbose"),
        ({"print0": True, "json": True}, "print0 and json"),
        ({"print0": True, "dry_run": True}, "print0 and dry-run"),
        ({"compare": ""}, "compare is ''"),
    ],
)
def test_check_options_refuses_with_value_and_hint(given, message):
    with pytest.raises(ConfigError) as caught:
        check_options(options(**given))
    assert message in caught.value.message
    assert caught.value.hint


def test_check_options_leaves_tags_of_other_models_to_them():
    check_options(options(tags="a red door", model="someone/else"))


@pytest.mark.parametrize(("text", "tile"), [("auto", "auto"), (" OFF ", "off"), ("512", 512), ("7", 7)])
def test_parse_tile_reads_words_and_numbers(text, tile):
    assert parse_tile(text) == tile


@pytest.mark.parametrize("text", ["0", "-5", "big", "", "51.2"])
def test_parse_tile_refuses_zero_and_names_the_words(text):
    with pytest.raises(ConfigError, match="expected auto, off or a side") as caught:
        parse_tile(text)
    assert "--tile off" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({}, "_x4"),
        ({"scale": 2.0}, "_x2"),
        ({"scale": 2.5}, "_x2.5"),
        ({"size": "1920x1080"}, "_1920x1080"),
        ({"size": "1920x"}, "_1920w"),
        ({"size": "x1080"}, "_1080h"),
        ({"long_side": 2048}, "_2048px"),
    ],
)
def test_size_label_names_the_request(given, label):
    assert options(**given).size_label == label
