"""What README and quickstart tell a reader to type, typed: shell lines on small pictures, and the Python blocks."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, rocket

from linearsr_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/quickstart.md")
NOT_RUN = ("make ", "python3 -m venv", ".venv/bin/pip", ". .venv/bin/activate", "linearsr train", "runs/mine",
           "linearsr finetune", "runs/facades", "linearsr models", "owner/name")  # fmt: skip
"""What lines that are not run hold: set-up, which is the business of a clean clone, training, which takes hours, and
models of the Hub, whose lines `test_docs_paper.py` runs."""
SHELL = set("|<>")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def shell_lines(page: str) -> list[str]:
    """Lines after `$ ` of all console blocks, without those of `NOT_RUN`."""
    lines = [line.removeprefix("$ ") for block in blocks(page, "console") for line in block.splitlines()]
    return [line for line in lines if not any(part in line for part in NOT_RUN)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pictures that the pages name, each some 30 pixels wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINEARSR_STEPS", "1")  # where a line says nothing of steps: a quarter of the time
    photo = Image.fromarray(np.ascontiguousarray(astronaut()[80:104, 200:232]))
    for name in ("photo.jpg", "old.jpg", "scan.png", "holiday/a.jpg", "holiday/day two/b c.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    Image.fromarray(np.ascontiguousarray(rocket()[200:220, 300:330])).save(tmp_path / "holiday" / "d.jpg")
    (tmp_path / "list.txt").write_text("photo.jpg\nscan.png\n", encoding="utf-8")
    return tmp_path


def run_shell(line: str, place: Path) -> None:
    """A line with pipes or redirections, in a shell, with this environment's `linearsr` first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=place,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_console_blocks_run_and_make_what_the_page_says(page: str, place: Path) -> None:
    lines = shell_lines(page)

    assert len(lines) >= 8, "the page's console blocks were not found"
    for line in lines:
        if SHELL & set(re.sub(r"#.*", "", line)):
            run_shell(line, place)
            continue
        program, *arguments = shlex.split(line, comments=True)
        assert program == "linearsr", line
        assert main(arguments) == 0, line
    for name in ("photo_x4.jpg", "piped.png", "large/day two/b c.jpg"):
        with Image.open(name) as result:
            assert result.size == (128, 96), name


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: str, place: Path) -> None:
    codes = blocks(page, "python")

    assert codes
    for code in codes:
        exec(compile(code, page, "exec"), {})
    with Image.open("photo_large.png") as large:
        assert large.width in (128, 80)


@pytest.mark.slow
def test_library_example_runs(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "library.py", "photo.jpg", "out.png"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "(32, 24) -> (64, 48)" in done.stdout
    with Image.open("out.png") as out:
        assert out.size == (128, 96)


@pytest.mark.slow
def test_demo_writes_both_sheets(place: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", "-o", "shown"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "shown/side_by_side.png" in done.stdout
    with Image.open("shown/side_by_side.png") as sheet, Image.open("shown/before_after.png") as details:
        assert sheet.width == details.width
        assert sheet.height > 2 * details.height * 0.8
    scores = re.findall(r"^(\w+) +(\d+\.\d\d) +(\d+\.\d\d) +(\d+\.\d\d)$", done.stdout, flags=re.MULTILINE)
    assert {row[0] for row in scores} == {"astronaut", "cat", "coffee", "rocket"}
    assert all(float(one) > float(bicubic) for _, bicubic, one, _ in scores), "one step is worse than bicubic"


def test_readme_exit_codes_are_those_of_the_program() -> None:
    from linearsr_cli.errors import ExitCode

    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| exit code |")[1].split("\n\n")[0]
    codes = {
        int(number) for row in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.MULTILINE) for number in row.split(",")
    }

    assert codes == {int(code) for code in ExitCode}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_readme_commands_are_targets_of_the_makefile() -> None:
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "CONTRIBUTING.md"))
    named = set(re.findall(r"make (demo|test|gate|lint|types|docs|figures|bench|clean)\b", text))

    for target in sorted(named | {"demo", "test"}):
        run = subprocess.run(["make", "-n", "-C", ROOT, target], capture_output=True, text=True)
        assert run.returncode == 0, f"make {target}: {run.stderr}"
