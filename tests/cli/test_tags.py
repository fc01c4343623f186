"""Tags from and into tables, the tagger, guidance and LoRA, as the command line handles them."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.errors import ConfigError
from linearsr_cli.inputs import Source
from linearsr_cli.plan_tags import match_rows
from linearsr_cli.tags import TagTable, read_tags, write_tags
from linearsr_cli.values import parse_lora


def source(name: str) -> Source:
    return Source(name=name, path=Path(name), relative=Path(name).name)


def table(*paths: str) -> TagTable:
    Path("t.csv").write_text("path,tags\n" + "".join(f"{path},blur\n" for path in paths))
    return read_tags("t.csv")


def matched(paths: list[str], inputs: list[str]) -> tuple[dict[str, str], list[str]]:
    found = match_rows(table(*paths), [source(name) for name in inputs])
    return {name: row.path for name, row in found.rows.items()}, [row.path for row in found.unused]


def saved(path: str = "t.csv") -> list[list[str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def asked(fake) -> list[tuple[str, ...]]:
    return [settings_["tags"] for called, settings_ in fake.calls if called == "upscale_picture"]


# -- the table --------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(st.sampled_from('a,;"\r\n \t'), min_size=1, max_size=6),
    st.binary(min_size=1, max_size=8).map(lambda data: data.replace(b"\0", b"_").decode("utf-8", "surrogateescape")),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.dictionaries(TEXTS, TEXTS, max_size=5))
def test_a_table_comes_back_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    write_tags(path, rows)
    assert {row.path: row.tags for row in read_tags(str(path)).rows} == rows


def test_a_file_name_that_is_not_unicode_comes_back(tmp_path):
    name = os.fsdecode(b'a\xff, "b"\n.png')
    write_tags(tmp_path / "t.csv", {name: "blur, noise"})
    (row,) = read_tags(str(tmp_path / "t.csv")).rows
    assert (row.row, row.path, row.tags) == (2, name, "blur, noise")


def test_tables_of_other_programs_are_read():
    Path("t.csv").write_bytes(b'\xef\xbb\xbfnote,Tags,Path\r\n\r\nx,"blur, jpeg",b.png\r\n,,c.png\r\n')
    assert [(row.row, row.path, row.tags) for row in read_tags("t.csv").rows] == [
        (3, "b.png", "blur, jpeg"),
        (4, "c.png", ""),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv has the columns nothing, expected 'path' once"),
        ("path\na.png\n", "has the columns path, expected 'tags' once"),
        ("file;tags\n", "has the columns file;tags, expected 'path' once"),
        ("path,tags,tags\n", "expected 'tags' once"),
        ("path,tags\na.png,blur,noise\n", r"row 2 of t.csv \(\): 3 cells, expected 2"),
        ("path,tags\na.png\n", "row 2 of t.csv .*1 cells, expected 2"),
        ("path,tags\n\n,blur\n", "row 3 of t.csv .*path is empty"),
        ("path,tags\na.png,blur\nb.png,\na.png,\n", r"row 4 of t.csv \(a.png\): listed in row 2 already"),
        ('path,tags\n"a.png,blur\n', "no CSV file"),
        ("path,tags\na\0.png,blur\n", "no CSV file: it holds zero bytes"),
    ],
)
def test_a_table_that_is_not_whole_is_refused(text, message):
    Path("t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_tags("t.csv")
    assert caught.value.hint


def test_rows_find_their_inputs_by_path_and_by_a_name_that_only_one_has():
    assert matched(["a.png", "sub/b.png"], ["a.png", "sub/b.png"]) == ({"a.png": "a.png", "sub/b.png": "sub/b.png"}, [])
    assert matched(["./sub/../a.png"], ["a.png"])[0] == {"a.png": "./sub/../a.png"}
    assert matched([str(Path.cwd() / "a.png")], ["a.png"])[1] == []
    assert matched(["b.png"], ["sub/b.png", "a.png"])[0] == {"sub/b.png": "b.png"}
    assert matched(["elsewhere/b.png"], ["sub/b.png"])[0] == {"sub/b.png": "elsewhere/b.png"}
    assert matched(["-"], ["-"])[0] == {"-": "-"}


def test_rows_that_are_of_no_one_input_are_left():
    assert matched(["c.png"], ["a.png"]) == ({}, ["c.png"])
    assert matched(["x/a.png"], ["y/a.png", "z/a.png"]) == ({}, ["x/a.png"])
    assert matched(["x/a.png", "w/a.png"], ["y/a.png"]) == ({}, ["x/a.png", "w/a.png"])
    assert matched(["y/a.png", "x/a.png"], ["y/a.png"]) == ({"y/a.png": "y/a.png"}, ["x/a.png"])
    both = {"y/a.png": "y/a.png", "z/a.png": "a.png"}
    assert matched(["y/a.png", "a.png"], ["y/a.png", "z/a.png"]) == (both, []), "the name has one input left"


@pytest.mark.parametrize(
    ("paths", "inputs", "message"),
    [
        (["a.png", "./a.png"], ["a.png"], r"row 3 of t.csv \(./a.png\): the same picture as row 2"),
        (
            ["a.png"],
            ["x/a.png", "y/a.png"],
            r"row 2 of t.csv \(a.png\): 2 inputs have this name, such as x/a.png",
        ),
    ],
)
def test_rows_that_are_not_clear_are_refused(paths, inputs, message):
    with pytest.raises(ConfigError, match=message):
        matched(paths, inputs)


# -- the run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "wide", "small"),
    [
        ([], ("noise",), ()),
        (["--tagger", "none"], (), ()),
        (["--tags", "jpeg"], ("jpeg",), ("jpeg",)),
        (["--tags", ""], (), ()),
        (["--tags-from", "in.csv"], ("noise",), ("blur", "jpeg:weak")),
        (["--tags-from", "in.csv", "--tagger", "none"], (), ("blur", "jpeg:weak")),
    ],
)
def test_tags_come_from_the_user_the_table_or_the_tagger(linearsr, fake, picture, arguments, wide, small):
    picture("wide.png", 24, 8)
    picture("small.png")
    Path("in.csv").write_text('path,tags\nsmall.png,"jpeg:weak, blur:strong"\n')
    result = linearsr("upscale", "wide.png", "small.png", "--model", "tagging", *arguments, "-o", "out", "--json")
    assert result.code == 0
    assert asked(fake) == [wide, small]
    tagger = "none" if "none" in arguments else "tagger"
    origins = ["user", "user"] if "--tags" in arguments else [tagger, "csv" if "--tags-from" in arguments else tagger]
    assert [(line["tags"], line["tags_from"]) for line in result.lines[:-1]] == [
        (list(wide), origins[0]),
        (list(small), origins[1]),
    ]


def test_a_model_without_a_tagger_says_none(linearsr, picture):
    picture("wide.png", 24, 8)
    result = linearsr("upscale", "wide.png", "-v", "--json")
    assert result.lines[0]["tags_from"] == "none"
    assert "tags: wide.png: none (none)" in result.err


def test_verbose_names_tags_and_where_they_come_from(linearsr, picture):
    picture("wide.png", 24, 8)
    picture("small.png")
    flags = ["--model", "tagging", "-o", "out", "--on-exists", "overwrite"]
    assert "tags: wide.png: noise (tagger)" in linearsr("upscale", "wide.png", *flags, "-v").err
    assert "tags: small.png: none (tagger)" in linearsr("upscale", "small.png", *flags, "-v").err
    assert "tags: small.png: jpeg (user)" in linearsr("upscale", "small.png", *flags, "-v", "--tags", "jpeg").err
    assert "tags:" not in linearsr("upscale", "wide.png", *flags).err


def test_saved_tags_are_what_tags_from_takes(linearsr, fake, picture):
    names = ["in/wide, very.png", 'in/say "a".png', "in/sub/b.png"]
    picture(names[0], 24, 8)
    for name in names[1:]:
        picture(name)
    assert linearsr("upscale", "in", "-r", "-o", "one", "--model", "tagging", "--save-tags", "t.csv").code == 0
    assert saved() == [["path", "tags"], ['in/say "a".png', ""], [names[0], "noise"], ["in/sub/b.png", ""]]
    fake.calls.clear()
    Path("t.csv").write_text(Path("t.csv").read_text().replace("sub/b.png,", 'sub/b.png,"noise:weak, blur"'))
    result = linearsr("upscale", "in", "-r", "-o", "two", "--tags-from", "t.csv", "--save-tags", "u.csv", "--json")
    assert asked(fake) == [(), ("noise",), ("blur", "noise:weak")]
    assert [line["tags_from"] for line in result.lines[:-1]] == ["csv"] * 3
    assert saved("u.csv")[-1] == ["in/sub/b.png", "blur, noise:weak"]


def test_only_pictures_that_were_done_are_saved(linearsr, picture):
    picture("a.png")
    data = picture("bad.png").read_bytes()
    Path("bad.png").write_bytes(data[: len(data) // 2])
    assert linearsr("upscale", "a.png", "bad.png", "-o", "out", "--tags", "blur", "--save-tags", "t.csv").code == 3
    assert saved() == [["path", "tags"], ["a.png", "blur"]]
    assert sorted(os.listdir()) == ["a.png", "bad.png", "home", "out", "t.csv"]


def test_a_run_that_goes_on_keeps_the_rows_of_what_is_done(linearsr, picture):
    picture("in/a.png")
    flags = ["-o", "out", "--save-tags", "t.csv"]
    assert linearsr("upscale", "in/a.png", *flags, "--tags", "blur").code == 0
    picture("in/b.png")
    assert linearsr("upscale", "in", *flags, "--tags", "noise").code == 0
    assert saved() == [["path", "tags"], ["in/a.png", "blur"], ["in/b.png", "noise"]]
    before = Path("t.csv").stat().st_mtime_ns
    assert linearsr("upscale", "in", *flags).code == 0
    assert Path("t.csv").stat().st_mtime_ns == before, "nothing was done"
    assert linearsr("upscale", "./in/a.png", *flags, "--on-exists", "overwrite").code == 0
    assert saved() == [["path", "tags"], ["./in/a.png", ""]]
    Path("out/b.png").unlink()
    assert linearsr("upscale", "in", *flags, "--tags", "jpeg").code == 0
    assert saved() == [["path", "tags"], ["in/a.png", ""], ["in/b.png", "jpeg"]], "one row a picture, however spelled"
    assert linearsr("upscale", "in", *flags, "--on-exists", "error", "-o", "new").code == 2


def test_an_interrupted_run_saves_the_tags_of_what_it_did(fake_command, picture, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "1")
    picture("a.png")
    picture("b.png")
    command = [*fake_command, "upscale", "a.png", "b.png", "-o", "out", "--tags", "blur", "--save-tags", "t.csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "out/a.png\n"
        process.terminate()
        assert process.wait(60) == 143
    assert saved() == [["path", "tags"], ["a.png", "blur"]]


def test_a_table_that_cannot_be_written_after_all_is_a_failure_of_its_own(linearsr, picture, monkeypatch):
    from linearsr import image_io
    from linearsr.errors import ImageError

    assert callable(image_io.write), "it has its own name of the function by now"

    def full(path, data):
        raise ImageError(f"{path} cannot be written: the disk is full", hint="free some space")

    monkeypatch.setattr("linearsr.atomic.write_bytes", full)
    picture("a.png")
    result = linearsr("upscale", "a.png", "-o", "out", "--save-tags", "t.csv", "--json")
    assert result.code == result.lines[-1]["exit_code"] == 3
    assert "t.csv cannot be written: the disk is full" in result.err
    assert result.lines[0]["status"] == "done"


def test_files_of_the_table_that_are_no_input_are_one_warning(linearsr, picture):
    picture("a.png")
    Path("t.csv").write_text("path,tags\nx.png,blur\ny.png,blur\na.png,blur\n")
    result = linearsr("upscale", "a.png", "--tags-from", "t.csv")
    assert result.code == 0
    assert result.err.count("warning") == 1
    assert "warning: 2 of 3 rows of t.csv are of no input, such as row 2 (x.png)" in result.err


def test_limit_makes_no_row_foreign(linearsr, picture):
    picture("a.png")
    picture("b.png")
    Path("t.csv").write_text("path,tags\na.png,blur\nb.png,blur\n")
    assert "warning" not in linearsr("upscale", "a.png", "b.png", "--limit", "1", "--tags-from", "t.csv").err


def test_resuming_with_other_tags_skips_what_is_done(linearsr, fake, picture):
    picture("a.png")
    linearsr("upscale", "a.png")
    fake.calls.clear()
    Path("t.csv").write_text("path,tags\na.png,blur\n")
    result = linearsr("upscale", "a.png", "--tags-from", "t.csv", "--cfg-scale", "2", "--json")
    assert [line.get("status") for line in result.lines] == ["skipped", None]
    assert result.lines[0]["tags"] is None
    assert fake.calls == []


# -- refused before the model loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tags-from", "-"], 2, "tags-from is '-', expected the name of a CSV file"),
        (["--tags-from", "none.csv"], 2, "tags-from is 'none.csv', which cannot be read"),
        (["--tags-from", "ok.csv", "--tags", "blur"], 2, "--tags and --tags-from are both given"),
        (["--tags-from", "bad.csv"], 2, "row 3 of bad.csv (b.png): unknown tag 'nois'"),
        (["--save-tags", "-"], 2, "save-tags is '-', expected the name of a CSV file"),
        (["--save-tags", ""], 2, "save-tags is ''"),
        (["--save-tags", "--json"], 2, "save-tags is '--json', which looks like an option"),
        (["--save-tags", "a.png"], 2, "save-tags is 'a.png', which is an input or an output too"),
        (["--save-tags", "./a_x4.png"], 2, "which is an input or an output too"),
        (["--save-tags", "side.png", "--compare", "side.png"], 2, "which is an input or an output too"),
        (["--save-tags", "home"], 2, "save-tags is 'home', which is a folder"),
        (["--save-tags", "new/t.csv"], 2, "save-tags is 'new/t.csv', whose folder does not exist"),
        (["--save-tags", "text.csv"], 2, "which exists and is no table of tags"),
        (["--save-tags", "ok.csv", "--on-exists", "error"], 2, "ok.csv exists already"),
        (["--cfg-scale", "nan"], 2, "cfg-scale is nan, expected 0 to 20"),
        (["--cfg-scale", "-0.1"], 2, "cfg-scale is -0.1"),
        (["--cfg-scale", "20.5"], 2, "cfg-scale is 20.5"),
        (["--cfg-scale", "much"], 2, "cfg-scale is 'much'"),
        (["--tagger", "some"], 2, ""),
        (["--lora", "none.safetensors"], 5, "lora is 'none.safetensors', which does not exist"),
        (["--lora", "home:2"], 5, "lora is 'home', which is a folder"),
        (["--lora", "ok.csv:nan"], 2, "lora is 'ok.csv:nan', expected PATH or PATH:WEIGHT"),
        (["--lora", ":2"], 2, "lora is ':2'"),
        (["--lora", ""], 2, "lora is ''"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_loads(linearsr, fake, picture, arguments, code, message):
    picture("a.png")
    Path("ok.csv").write_text("path,tags\na.png,blur\n")
    Path("bad.csv").write_text("path,tags\na.png,blur\nb.png,nois\n")
    Path("text.csv").write_text("mine\n")
    result = linearsr("upscale", "a.png", *arguments)
    assert result.code == code, result.err
    assert message in result.err
    assert "hint: " in result.err
    assert fake.calls == []
    assert Path("text.csv").read_text() == "mine\n"


def test_a_table_with_tags_of_another_model_is_judged_by_that_model_before_any_picture(linearsr, fake, picture):
    picture("a.png")
    Path("t.csv").write_text("path,tags\na.png,blur\nb.png,portrait\n")
    result = linearsr("upscale", "a.png", "--model", "tagging", "--tags-from", "t.csv")
    assert result.code == 2
    assert "row 3 of t.csv (b.png): unknown tag 'portrait'" in result.err
    assert asked(fake) == []


def test_dry_run_checks_tables_and_writes_none(linearsr, picture):
    picture("a.png")
    Path("t.csv").write_text("path,tags\na.png,nois\n")
    assert linearsr("upscale", "a.png", "--dry-run", "--tags-from", "t.csv").code == 2
    assert linearsr("upscale", "a.png", "--dry-run", "--save-tags", "u.csv").code == 0
    assert not Path("u.csv").exists()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.5", ("a.safetensors", 0.5)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        ("a.safetensors:1e-2", ("a.safetensors", 0.01)),
        (r"C:\x.safetensors", (r"C:\x.safetensors", 1.0)),
        (r"C:\x.safetensors:0.7", (r"C:\x.safetensors", 0.7)),
        ("a:b", ("a:b", 1.0)),
        ("a:", ("a:", 1.0)),
    ],
)
def test_lora_is_split_from_the_right_and_only_at_a_number(text, parsed):
    assert parse_lora(text) == parsed


# -- the real network -------------------------------------------------------------------------------------------------


@pytest.fixture
def tagging_model(tiny_checkpoint):
    """The tiny model with a tagger of random weights that is sure of everything, and a LoRA for it beside."""
    from dataclasses import replace

    import torch
    from safetensors.torch import load_file

    from linearsr.checkpoint import read_config, save_checkpoint
    from linearsr.model.lora import LoraInfo, add_lora, lora_state_dict, save_lora
    from linearsr.model.transformer import LinearDiT
    from linearsr.tags.compact import TagThresholds, save_tagger, tag_kinds
    from linearsr.tags.compact_network import TaggerModelConfig, TaggerNetwork

    config = read_config(tiny_checkpoint)
    kinds = tag_kinds(config.tags.vocabulary)
    low = dict.fromkeys(kinds, 0.01)
    network = TaggerNetwork(TaggerModelConfig(crop=32, widths=(4, 4), hidden=4), len(kinds)).eval()
    save_tagger(Path("tagger"), network, TagThresholds(clean=1.0, presence=low, strong=low))
    dit = LinearDiT(config.model)
    add_lora(dit, 2, 2.0)
    lora = {key: 0.3 * torch.randn(value.shape) for key, value in lora_state_dict(dit).items()}
    for name, model in (("mine", config.model), ("other", replace(config.model, stem_depth=2))):
        if name == "other":
            lora = {key: value for key, value in lora.items() if key.startswith("proj_out")}
        info = LoraInfo(rank=2, alpha=2.0, experts=(0,), boundaries_log_snr=(), model=model)
        save_lora(Path(f"{name}.safetensors"), {0: lora}, info)
    config = replace(config, tags=replace(config.tags, tagger="tagger.safetensors"), files={})
    states = [load_file(tiny_checkpoint / "expert-0.safetensors")]
    save_checkpoint(tiny_checkpoint, config, states, extra={"tagger.safetensors": Path("tagger")})
    return tiny_checkpoint


def pixels(name: str):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(name)).astype(int)


def test_the_models_tags_go_through_a_table_and_back_bit_for_bit(run, tagging_model, picture):
    picture("in/a.png", 20, 20)
    picture("in/b.png", 30, 20)
    flags = ["--model", tagging_model, "-s", "2", "--steps", "1", "--dtype", "fp32", "--bit-depth", "16"]
    result = run("upscale", "in", *flags, "-o", "one", "--save-tags", "t.csv", "--json")
    assert result.code == 0, result.err
    tags = [line["tags"] for line in result.lines[:-1]]
    assert all(tags)
    assert saved() == [["path", "tags"], *([f"in/{name}.png", ", ".join(tags[i])] for i, name in enumerate("ab"))]
    again = run("upscale", "in", *flags, "-o", "two", "--tagger", "none", "--tags-from", "t.csv", "--json")
    assert [line["tags_from"] for line in again.lines[:-1]] == ["csv", "csv"]
    assert run("upscale", "in", *flags, "-o", "none", "--tagger", "none").code == 0
    for name in ("a.png", "b.png"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes() != Path("none", name).read_bytes()


def test_guidance_acts_on_tags_alone(run, tagging_model, picture):
    from linearsr.image_io import read

    picture("a.png", 20, 20)
    flags = ["--model", tagging_model, "-s", "2", "--steps", "1", "--dtype", "fp32", "--bit-depth", "16"]
    levels = {}
    for name, more in {
        "plain": ["--tagger", "none"],
        "plain-20": ["--tagger", "none", "--cfg-scale", "20"],
        "tags": ["--tags", "jpeg"],
        "tags-20": ["--tags", "jpeg", "--cfg-scale", "20"],
        "tags-0": ["--tags", "jpeg", "--cfg-scale", "0"],
    }.items():
        assert run("upscale", "a.png", "-o", f"{name}.png", *flags, *more).code == 0
        levels[name] = read(Path(f"{name}.png")).rgb * 65535
    assert (levels["plain"] == levels["plain-20"]).all()
    assert abs(levels["plain"] - levels["tags-0"]).max() <= 1.5
    moved = {name: abs(levels[name] - levels["plain"]).max() for name in ("tags", "tags-20")}
    assert moved["tags"] > 5
    assert 15 * moved["tags"] < moved["tags-20"] < 25 * moved["tags"], (
        "twenty times as far, clamping and rounding aside"
    )


def test_a_lora_is_merged_and_one_of_another_model_names_both(run, tagging_model, picture):
    picture("a.png", 20, 20)
    flags = ["--model", tagging_model, "-s", "2", "--steps", "1", "--tagger", "none"]
    for name, more in {
        "plain": [],
        "none": ["--lora", "mine.safetensors:0"],
        "one": ["--lora", "mine.safetensors"],
        "halves": ["--lora", "mine.safetensors:0.5", "--lora", f"{Path.cwd()}/mine.safetensors:0.5"],
    }.items():
        assert run("upscale", "a.png", "-o", f"{name}.png", *flags, *more).code == 0
    assert (pixels("plain.png") == pixels("none.png")).all()
    assert abs(pixels("one.png") - pixels("plain.png")).max() > 3
    assert abs(pixels("one.png") - pixels("halves.png")).max() <= 1
    for name, message in (("other", "stem_depth 2 instead of 1"), ("t", "is no LoRA of LinearSR")):
        if name == "t":
            Path("t.safetensors").write_bytes(Path(tagging_model, "expert-0.safetensors").read_bytes())
        result = run("upscale", "a.png", "-o", "new.png", *flags, "--lora", f"{name}.safetensors")
        assert result.code == 5
        assert message in result.err
        assert f"{name}.safetensors" in result.err
    assert not Path("new.png").exists()
