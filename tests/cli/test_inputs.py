from __future__ import annotations

import os
from pathlib import Path

import pytest

from linearsr.errors import ConfigError, ImageError
from linearsr_cli.errors import NoInputError
from linearsr_cli.inputs import expand_inputs, read_tokens
from linearsr_cli.settings import UpscaleOptions


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def expand(*tokens: str, recursive: bool = False, leave_out: tuple[Path, ...] = ()):
    return expand_inputs(list(tokens), recursive=recursive, stdin_file=None, leave_out=leave_out)


def names(*tokens: str, **settings) -> list[str]:
    found = expand(*tokens, **settings)
    assert all(source.error is None for source in found), [source.error for source in found]
    return [source.path.as_posix() for source in found]


def test_expand_inputs_keeps_the_order_of_named_files():
    touch("b.png", "a.jpg", "c.txt")
    assert names("b.png", "a.jpg", "c.txt") == ["b.png", "a.jpg", "c.txt"]


def test_expand_inputs_takes_pictures_of_a_folder_sorted_without_hidden_and_system_files():
    touch("in/b.PNG", "in/a.jpeg", "in/.hidden.png", "in/Thumbs.db", "in/notes.txt", "in/sub/c.png", "in/.git/d.png")
    assert names("in") == ["in/a.jpeg", "in/b.PNG"]


def test_expand_inputs_mirrors_the_tree_when_recursive():
    touch("in/a.png", "in/sub/deep/b.png", "in/.cache/c.png")
    found = expand("in", recursive=True)
    assert [source.relative.as_posix() for source in found] == ["a.png", "sub/deep/b.png"]
    assert {source.root for source in found} == {Path("in")}


def test_expand_inputs_leaves_out_the_output_folder():
    touch("in/a.png", "in/out/a.png", "in/out/deep/b.png", "in/other/c.png")
    assert names("in", recursive=True, leave_out=(Path("in/other/../out"),)) == ["in/a.png", "in/other/c.png"]


def test_expand_inputs_does_not_follow_linked_folders():
    touch("in/a.png")
    os.symlink(".", "in/loop")
    assert names("in", recursive=True) == ["in/a.png"]


def test_expand_inputs_takes_camera_raw_files_so_that_they_are_refused_by_name():
    touch("in/a.png", "in/b.CR2")
    assert names("in") == ["in/a.png", "in/b.CR2"]


def test_expand_inputs_takes_every_file_once():
    touch("in/a.png", "in/b.png")
    assert names("in/b.png", "in", "./in/a.png", "in/*.png") == ["in/b.png", "in/a.png"]


def test_expand_inputs_skips_a_named_system_file():
    touch("in/Thumbs.db", "in/a.png")
    assert names("in/Thumbs.db", "in/a.png") == ["in/a.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.png", ["in/a.png", "in/b.png"]),
        ("in/[b-z]*", ["in/b.png", "in/sub/c.png"]),
        ("in/**/*.png", ["in/a.png", "in/b.png", "in/sub/c.png"]),
        ("in/s*", ["in/sub/c.png"]),
    ],
)
def test_expand_inputs_expands_a_quoted_glob(pattern, expected):
    touch("in/a.png", "in/b.png", "in/sub/c.png", "in/z.txt")
    assert names(pattern) == expected


def test_expand_inputs_takes_a_file_whose_name_looks_like_a_glob():
    touch("odd[1].png", "odd1.png")
    assert names("odd[1].png") == ["odd[1].png"]


@pytest.mark.parametrize(
    ("token", "kind", "message"),
    [
        ("none.png", ImageError, "none.png does not exist"),
        ("none*.png", NoInputError, "no picture matches none*.png"),
        ("empty", NoInputError, "empty holds no picture"),
        ("link.png", ImageError, "link.png is a broken link"),
    ],
)
def test_expand_inputs_reports_what_is_not_there_and_goes_on(token, kind, message):
    touch("a.png", "empty/x.txt")
    os.symlink("nowhere", "link.png")
    bad, good = expand(token, "a.png")
    assert isinstance(bad.error, kind)
    assert message in bad.error.message
    assert bad.error.hint
    assert good.path == Path("a.png")


def test_expand_inputs_points_to_recursion_for_a_folder_of_folders():
    touch("in/sub/a.png")
    assert "-r" in expand("in")[0].error.hint


def options(**given) -> UpscaleOptions:
    return UpscaleOptions(**{"inputs": (), **given})


@pytest.mark.parametrize(
    ("data", "null", "expected"),
    [
        (b"a.png\nb c.png\n\n", False, ["a.png", "b c.png"]),
        (b"a.png\r\nb.png", False, ["a.png", "b.png"]),
        (b"a.png\0new\nline.png\0", True, ["a.png", "new\nline.png"]),
        ("\u00fc.png\n".encode(), False, ["\u00fc.png"]),
        (b"bad\xff.png\n", False, [os.fsdecode(b"bad\xff.png")]),
    ],
)
def test_read_tokens_reads_a_list(data, null, expected):
    Path("list").write_bytes(data)
    assert read_tokens(options(files_from="list", null=null)) == expected


def test_read_tokens_puts_the_list_after_the_inputs():
    Path("list").write_text("b.png\n")
    assert read_tokens(options(inputs=("a.png",), files_from="list")) == ["a.png", "b.png"]


def test_read_tokens_refuses_a_missing_list():
    with pytest.raises(ConfigError, match="files-from is 'none'"):
        read_tokens(options(files_from="none"))


def test_read_tokens_refuses_zero_bytes_without_null():
    Path("list").write_bytes(b"a.png\0b.png\0")
    with pytest.raises(ConfigError) as caught:
        read_tokens(options(files_from="list"))
    assert "-0" in caught.value.hint
