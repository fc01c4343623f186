"""What `linearsr eval` writes beside the scores: differences, versions, weights and protocol, in every form."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image, ImageFilter
from safetensors.torch import save_file

FORMS = (".json", ".csv", ".md", ".tex", ".txt")


@pytest.fixture
def folders(photos: Path, tmp_path: Path) -> list[object]:
    """Options that name two painted photographs, and two results of each: blurred a little, and more."""
    words: list[object] = ["--hr", tmp_path / "clean", "--no-cache"]
    for name in ("clean", "b_1%", "a&2"):
        (tmp_path / name).mkdir()
    for name in ("bridge", "river"):
        shutil.copy(photos / f"{name}.png", tmp_path / "clean")
        picture = Image.open(photos / f"{name}.png").convert("RGB")
        picture.filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "b_1%" / f"{name}.png")
        picture.filter(ImageFilter.GaussianBlur(1)).save(tmp_path / "a&2" / f"{name}.png")
    return [*words, "--sr", tmp_path / "b_1%", "--sr", tmp_path / "a&2", "--scale", 4]


def table(result) -> dict:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_every_form_tells_the_same_difference(run, folders: list[object], tmp_path: Path) -> None:
    outputs = [word for end in FORMS for word in ("-o", tmp_path / f"scores{end}")]
    found = table(run("eval", *folders, "--metrics", "psnr", "--differences", *outputs))
    texts = {end: (tmp_path / f"scores{end}").read_text() for end in FORMS}

    gain = found["rows"][1]["differences"]["psnr_y"]
    assert (gain["better"], gain["worse"], gain["ties"]) == (2, 0, 0)
    assert gain["low"] > 0
    line = list(csv.DictReader(io.StringIO(texts[".csv"])))[1]
    assert (line["method"], line["baseline"]) == ("a&2", "b_1%")
    assert [float(line[f"psnr_y_diff{end}"]) for end in ("", "_low", "_high")] == [
        gain[name] for name in ("mean", "low", "high")
    ]
    assert [line[f"psnr_y_{name}"] for name in ("better", "worse", "ties")] == ["2", "0", "0"]
    cells = [f"{gain['mean']:+.2f} [{gain['low']:.2f}, {gain['high']:.2f}]", "2/2", "0.500"]
    rows = [line.strip("| ") for line in texts[".md"].splitlines()]
    assert any(re.split(r" *\| ", row) == ["clean", "a&2", *cells] for row in rows)
    assert any(re.split(r" {2,}", row) == ["clean", "a&2", *cells] for row in texts[".txt"].splitlines())
    assert f"clean & a\\&2 & {cells[0].replace('[', '{[}')} & 2/2 & 0.500 \\\\" in texts[".tex"]
    for end in (".md", ".txt"):
        assert "Differences from b_1%, picture by picture" in texts[end]
    assert "\\caption{Differences from b\\_1\\%, picture by picture.}" in texts[".tex"]


def test_scores_of_each_picture_come_with_what_they_mean(run, folders: list[object], tmp_path: Path) -> None:
    words = ("--metrics", "psnr,niqe" if importlib.util.find_spec("pyiqa") else "psnr", "--bootstrap", 0)
    found = table(run("eval", *folders, *words, "--per-image", tmp_path / "images.json"))

    images = json.loads((tmp_path / "images.json").read_text())

    assert images["kind"] == "linearsr-evaluation-images"
    for name in ("facts", "protocol", "methods", "metrics", "notes", "skipped", "failures", "images", "baseline"):
        assert images[name] == found[name], name
    assert images["protocol"]["crop_border"] == 4
    assert images["baseline"] == "b_1%"
    assert [method["settings"]["folders"] for method in images["methods"]] == [["b_1%"], ["a&2"]]


def test_failures_of_each_picture_are_kept_though_nothing_is_scored(run, folders: list[object], tmp_path: Path) -> None:
    for path in (tmp_path / "a&2").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    result = run("eval", *folders, "--per-image", tmp_path / "images.json", "-f", "md")
    assert (result.code, result.out) == (4, "")
    images = json.loads((tmp_path / "images.json").read_text())
    assert [failure["image"] for failure in images["failures"]] == ["bridge", "river"]


def test_versions_are_those_that_compute(run, folders: list[object], tmp_path: Path) -> None:
    outputs = [word for end in (".md", ".tex", ".txt") for word in ("-o", tmp_path / f"scores{end}")]
    facts = table(run("eval", *folders, "--metrics", "psnr", "--bootstrap", 0, *outputs))["facts"]
    versions = facts["versions"]
    assert (versions["numpy"], versions["pillow"]) == (np.__version__, PIL.__version__)
    opencv = [version for name, version in versions.items() if name.startswith("opencv")]
    assert any(version.startswith(cv2.__version__) for version in opencv)
    assert not {"lpips", "pyiqa"} & set(versions)
    told = "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
    for end in (".md", ".tex", ".txt"):
        assert told in " ".join((tmp_path / f"scores{end}").read_text().split())
    assert facts["device"] in ("cpu", "cuda", "mps")


@pytest.fixture
def lpips_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package called `lpips`, installed as pip would, that computes something simpler."""
    (tmp_path / "packages" / "lpips-0.1.4.dist-info").mkdir(parents=True)
    about = "Metadata-Version: 2.1\nName: lpips\nVersion: 0.1.4\n"
    (tmp_path / "packages" / "lpips-0.1.4.dist-info" / "METADATA").write_text(about)
    code = "import torch\n\n\nclass LPIPS(torch.nn.Module):\n    def __init__(self, **_):\n        super().__init__()\n"
    code += "\n    def forward(self, a, b, normalize):\n        return (a - b).abs().mean()\n"
    (tmp_path / "packages" / "lpips.py").write_text(code)
    kept = sys.modules.pop("lpips", None)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    sys.modules.pop("lpips", None)
    if kept is not None:
        sys.modules["lpips"] = kept


@pytest.mark.usefixtures("lpips_package")
def test_lpips_is_said_to_be_of_what_computed_it(
    run, folders: list[object], lpips_weights: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "alex.safetensors"
    save_file(lpips_weights, str(weights))
    monkeypatch.delenv("LINEARSR_LPIPS_WEIGHTS", raising=False)
    command = ("eval", *folders, "--metrics", "lpips", "--bootstrap", 0)

    of_package = table(run(*command))["facts"]
    monkeypatch.setenv("LINEARSR_LPIPS_WEIGHTS", str(weights))
    of_file = table(run(*command))["facts"]
    text = run(*command, "-f", "md").out

    assert of_package["versions"]["lpips"] == "0.1.4"
    assert "lpips_weights" not in of_package
    assert "lpips" not in of_file["versions"]
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert of_file["lpips_weights"] == f"alex.safetensors, sha256 {digest}"
    assert f"- lpips weights: alex.safetensors, sha256 {digest}\n" in text
    assert "Package: lpips" not in text


def test_metrics_skipped_for_one_reason_are_one_line(run, folders: list[object]) -> None:
    if importlib.util.find_spec("pyiqa") is not None:
        pytest.skip("pyiqa is installed")
    result = run("eval", *folders, "--bootstrap", 0)
    assert result.code == 0
    assert sum("pyiqa" in line for line in result.err.splitlines()) == 1
    assert "note: not computed: DISTS, NIQE, MUSIQ, MANIQA, CLIPIQA: needs pyiqa, which is not installed" in result.err
