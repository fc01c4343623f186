"""The documentation against the code: links, tables that are recomputed, the generated page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from linearsr.flow import log_snr
from linearsr.model.experts import PAPER_BOUNDARIES, bisect_log_snr, expert_index
from linearsr.schedules import compact_grid, dpm_flow_grid

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "linearsr/weights/compact/*.md")
    for path in ROOT.glob(pattern)
)
BOUNDARIES = tuple(float(log_snr(t)) for t in PAPER_BOUNDARIES)
PUBLISHED_STEPS = (1, 2, 3, 4, 8, 20)
BUNDLED = ROOT / "linearsr" / "weights" / "compact" / "config.json"


def prose(page: Path) -> str:
    """The page without code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", ""))
    return words.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(match[1]) for match in re.finditer(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere, by file or by heading."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (fragment and fragment not in anchors(path)):
            broken.append(target)
    return broken


def table_after(page: str, marker: str) -> list[list[str]]:
    """Cells of the body rows of the first table after an HTML comment that starts with `marker`."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"<!-- {marker}", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert rows is not None, f"{page} has no table after {marker}"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()]
    return cells[2:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, here\n[a](nowhere.md) [b](#a-heading-here) [c](#other) [d](https://example.org/x)\n")

    assert broken_links(page) == ["nowhere.md", "#other"]


def test_pages_name_no_folder_of_a_machine() -> None:
    found = [p.name for p in PAGES if re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", p.read_text("utf-8"))]

    assert found == []


def test_generated_reference_is_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_reference.py", "--check"], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr


def test_grids_of_the_docs_are_those_of_the_code() -> None:
    rows = table_after("concepts/flow.md", "grids")

    for steps, family, times, experts in rows:
        grid = dpm_flow_grid(int(steps)) if family == "SANA" else compact_grid(int(steps))
        digits = 4 if family == "SANA" else 3
        assert times.split() == [f"{float(t):.{digits}f}" for t in grid[:-1]], (family, steps)
        assert experts.split() == [str(expert_index(float(t), BOUNDARIES)) for t in grid[:-1]], (family, steps)
        assert float(grid[-1]) == 0.0
    assert [(row[1], int(row[0])) for row in rows] == [
        *(("compact", steps) for steps in PUBLISHED_STEPS),
        ("SANA", 20),
    ]


def test_boundaries_of_the_docs_are_those_of_the_code() -> None:
    rows = [[float(cell) for cell in row] for row in table_after("concepts/experts.md", "boundaries")]

    assert tuple(row[0] for row in rows) == PAPER_BOUNDARIES
    assert [row[0] for row in rows] == pytest.approx(bisect_log_snr(), abs=5e-4)
    for t, value, ratio in rows:
        assert value == pytest.approx(float(log_snr(t)), abs=5e-4)
        assert ratio == pytest.approx(((1 - t) / t) ** 2, rel=2e-2)


def test_bundled_model_samples_as_the_docs_say() -> None:
    sampling = json.loads(BUNDLED.read_text(encoding="utf-8"))["sampling"]
    page = " ".join((ROOT / "docs" / "concepts" / "tiling.md").read_text(encoding="utf-8").split())

    assert f"a tile of {sampling['tile']} and an overlap of {sampling['tile_overlap']} output pixels" in page
    assert [int(steps) for steps in sampling["t_grids"]] == list(PUBLISHED_STEPS)
    for steps, grid in sampling["t_grids"].items():
        assert grid == pytest.approx(compact_grid(int(steps)).tolist(), abs=1e-6)


def test_pitfalls_name_code_and_tests_that_exist() -> None:
    rows = table_after("contributing/pitfalls.md", "pitfalls")

    for trap, where, held_by in rows:
        for path in re.findall(r"`([\w/]+\.py)`", where):
            assert (ROOT / path).is_file(), f"{trap}: {path}"
        tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", held_by)
        assert tests, f"no test holds: {trap}"
        for path, name in tests:
            assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), f"{trap}: {path}::{name}"


def test_file_guide_names_every_module_and_folder() -> None:
    guide = (ROOT / "README.md").read_text(encoding="utf-8").split("## Files")[1].split("## Licence")[0]
    modules = {p.name for p in (ROOT / "linearsr").glob("*.py") if not p.stem.startswith(("image_", "__"))}
    folders = {f"{p.name}/" for p in (ROOT / "linearsr").iterdir() if p.is_dir() and p.name != "__pycache__"}
    named = set(re.findall(r"`(?:linearsr/)?([\w./]+?/?)`", guide))

    assert modules | {"image_io.py"} <= named
    assert folders - {"weights/"} <= named
    missing = [
        path for path in re.findall(r"^\| `([\w./-]+)`", guide, flags=re.MULTILINE) if not (ROOT / path).exists()
    ]
    assert missing == []
