"""The guides to evaluating, comparing and making pairs: every command typed, on small painted photographs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from linearsr_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("evaluation", "compare", "degrade")
SIDE = 64


def commands(page: str) -> list[str]:
    """Lines after `$ ` of all console blocks."""
    text = (ROOT / "docs" / "guides" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def place(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders and files that the pages name: clean pictures, small ones, and several enlargements of these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINEARSR_STEPS", "1")
    filters = {"results": Image.Resampling.BICUBIC, "better": Image.Resampling.LANCZOS}
    same = {"results": ("bicubic", "mine", "out"), "better": ("theirs",)}
    for name in ("bridge", "river"):
        clean = Image.open(photos / f"{name}.png").crop((0, 0, SIDE, SIDE))
        small = clean.resize((SIDE // 4, SIDE // 4), Image.Resampling.BICUBIC)
        folders = {folder: clean for folder in ("clean", "photos")} | {folder: small for folder in ("small", "inputs")}
        folders |= {folder: small.resize(clean.size, kind) for folder, kind in filters.items()}
        for folder, picture in folders.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            picture.save(tmp_path / folder / f"{name}.png")
    for folder, copies in same.items():
        for copy in copies:
            shutil.copytree(tmp_path / folder, tmp_path / copy)
    for name, folder in (("before.png", "results"), ("after.png", "better"), ("photo.png", "clean")):
        shutil.copy(tmp_path / folder / "river.png", tmp_path / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_guides_run(page: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands(page)
    assert len(lines) >= 2, "the page's console blocks were not found"
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "linearsr", line
        for made in (*place.glob("sheet*"), *place.glob("report*")):
            made.unlink()  # two lines of a page may show the same name
        assert main(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
