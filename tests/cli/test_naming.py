from __future__ import annotations

from pathlib import Path

import pytest

from linearsr.errors import ConfigError
from linearsr_cli.inputs import Source
from linearsr_cli.naming import output_path, resolve_place
from linearsr_cli.settings import UpscaleOptions


def options(**given) -> UpscaleOptions:
    return UpscaleOptions(**{"inputs": ("a.png",), **given})


@pytest.mark.parametrize(
    ("output", "tokens", "kind"),
    [
        (None, ["a.png"], "beside"),
        ("-", ["a.png"], "stdout"),
        ("out", ["a.png"], "folder"),
        ("out", ["a.png", "b.png"], "folder"),
        ("out.v2/", ["a.png"], "folder"),
        ("out.v2", ["a.png", "b.png"], "folder"),
        ("there.d", ["a.png"], "folder"),
        ("there.png", ["a.png"], "folder"),
        ("b.png", ["a.png"], "file"),
        ("b.TIF", ["a.png"], "file"),
        ("b.png", ["-"], "file"),
        ("out", ["in"], "folder"),
    ],
)
def test_resolve_place_tells_files_from_folders(output, tokens, kind):
    Path("there.d").mkdir()
    Path("there.png").mkdir()
    Path("in").mkdir()
    assert resolve_place(options(output=output), tokens).kind == kind


@pytest.mark.parametrize(
    ("given", "tokens", "message"),
    [
        ({}, ["-"], "no name for the output"),
        ({"output": "-"}, ["a.png", "b.png"], "several inputs"),
        ({"output": "-"}, ["in"], "several inputs"),
        ({"output": "-"}, ["*.png"], "several inputs"),
        ({"output": "b.png"}, ["a.png", "b.png"], "one file"),
        ({"output": "b.png"}, ["in"], "one file"),
        ({"output": "file"}, ["in"], "one file"),
        ({"output": "file"}, ["a.png"], "expected a folder"),
        ({"output": "b.xyz"}, ["a.png"], "b.xyz"),
        ({"output": "b.gif"}, ["a.png"], "b.gif"),
        ({"output": "b.png", "suffix": "_x"}, ["a.png"], "suffix is '_x'"),
        ({"output": "-", "suffix": "_x"}, ["a.png"], "suffix is '_x'"),
        ({"output": "b.png", "format": "jpg"}, ["a.png"], "format is jpg"),
    ],
)
def test_resolve_place_refuses_what_does_not_fit(given, tokens, message):
    Path("in").mkdir()
    Path("file").touch()
    with pytest.raises(ConfigError) as caught:
        resolve_place(options(**given), tokens)
    assert message in caught.value.message
    assert caught.value.hint


def source(path: str, root: str | None = None) -> Source:
    relative = Path(path).name if root is None else Path(path).relative_to(root)
    return Source(name=path, path=Path(path), relative=Path(relative), root=None if root is None else Path(root))


@pytest.mark.parametrize(
    ("given", "item", "expected"),
    [
        ({}, source("in/a.b.jpg"), "in/a.b_x4.png"),
        ({"scale": 2.5}, source("a.jpg"), "a_x2.5.png"),
        ({"suffix": "_big"}, source("a.jpg"), "a_big.png"),
        ({}, source("in/sub/a.jpg", "in"), "in_x4/sub/a.png"),
        ({"suffix": "_big"}, source("in/sub/a.jpg", "in"), "in_x4/sub/a_big.png"),
        ({"output": "out"}, source("in/a.jpg"), "out/a.png"),
        ({"output": "out"}, source("in/sub/a.jpg", "in"), "out/sub/a.png"),
        ({"output": "out", "suffix": "_big"}, source("a.jpg"), "out/a_big.png"),
        ({"output": "b.png"}, source("in/a.jpg"), "b.png"),
        ({"output": "-"}, source("in/a.jpg"), None),
    ],
)
def test_output_path_names_results(given, item, expected):
    asked = options(**given)
    path = output_path(item, resolve_place(asked, [item.name]), asked, ".png")
    assert (None if path is None else path.as_posix()) == expected


def test_output_path_of_the_current_folder_is_beside_it(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    asked = options()
    path = output_path(source("a.jpg", "."), resolve_place(asked, ["."]), asked, ".png")
    assert path == tmp_path / "photos_x4" / "a.png"
