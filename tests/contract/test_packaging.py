"""What is in the wheel and the sdist, and whether the wheel works where the source tree is not.

The builds run offline with the hatchling of this environment. The wheel goes into a virtual environment of its own that
borrows torch and the rest from this one through a `.pth` file: a line in it adds a folder, but not what `.pth` files in
that folder name, so the editable install of the source tree is not borrowed.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEVER_IMPORTABLE = ("train", "recipes", "tests", "launch", "benchmarks", "docs", "examples")
"""Names that belong to users' own code and files."""
IMPORTABLE = ("linearsr", "linearsr_cli", "linearsr_train")
FOUND = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n) is not None])"
WEIGHTS = ROOT / "linearsr" / "weights" / "compact"


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run in a folder that is not the source tree and with no `PYTHONPATH`; fail with what it said."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env={**clean, **env}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True, slots=True)
class Built:
    """The two distributions and the names in them, for the sdist without its top folder."""

    wheel: Path
    wheel_names: frozenset[str]
    sdist_names: frozenset[str]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist from the tree, and a wheel from that sdist, as an index would get them."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", out, cwd=ROOT)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(out / "source", filter="data")
    (source,) = (out / "source").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=source)
    (wheel,) = out.glob("*.whl")
    return Built(wheel, frozenset(zipfile.ZipFile(wheel).namelist()), frozenset(names))


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a fresh environment that holds the wheel and borrows the dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n", encoding="utf-8")
    scripts = Path(sysconfig.get_path("scripts", "venv", vars=scheme))
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed", "--no-warn-script-location")
    run(scripts / "python", *pip, "--disable-pip-version-check", built.wheel, cwd=folder)
    return scripts


def test_entry_points_resolve() -> None:
    assert PROJECT["scripts"], "no console script is declared"
    for name, target in PROJECT["scripts"].items():
        module, _, attribute = target.partition(":")

        assert callable(getattr(importlib.import_module(module), attribute)), name


def test_constraints_pin_every_dependency_and_torch_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {name.lower().replace("_", "-") for name in pins}
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["dev"], *extras["demo"]]
    names = {requirement.split(">")[0].split("<")[0].split("=")[0].replace("_", "-") for requirement in wanted}

    assert names - pinned == set()
    assert "+" not in pins["torch"], "a local version such as 2.13.0+cpu exists on some indexes only"


def test_editable_install_makes_only_the_packages_importable(tmp_path: Path) -> None:
    done = run(sys.executable, "-c", FOUND, *NEVER_IMPORTABLE, *IMPORTABLE, cwd=tmp_path)

    assert done.stdout.strip() == str(list(IMPORTABLE))


@pytest.mark.slow
def test_wheel_holds_code_weights_and_recipes_and_nothing_else(built: Built) -> None:
    names = built.wheel_names
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "train" / "linearsr_train").rglob("*.toml")}

    assert {
        "linearsr/py.typed",
        "linearsr/weights/compact/config.json",
        "linearsr/weights/compact/MODEL_CARD.md",
        "linearsr/weights/compact/ATTRIBUTION.md",
        "linearsr_cli/app.py",
        "linearsr_train/config.py",
    } <= names
    assert tracked, "no recipe in the source tree"
    assert {name.removeprefix("train/") for name in tracked} <= names
    assert {name.split("/")[0] for name in names} == {*IMPORTABLE, f"linearsr-{version()}.dist-info"}
    assert f"linearsr-{version()}.dist-info/licenses/LICENSE" in names


@pytest.mark.slow
def test_wheel_holds_every_weight_file_of_the_config_whole(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        files = json.loads(wheel.read("linearsr/weights/compact/config.json"))["files"]
        sizes = {name: wheel.getinfo(f"linearsr/weights/compact/{name}").file_size for name in files}

    assert files, "the bundled model lists no file"
    assert sizes == {name: entry["bytes"] for name, entry in files.items()}


@pytest.mark.slow
def test_sdist_holds_what_a_build_and_a_test_run_need(built: Built) -> None:
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "constraints.txt",
        "linearsr/weights/compact/config.json",
        "linearsr/weights/compact/LICENSE-WEIGHTS.md",
        "train/linearsr_train/recipes/compact_cpu.toml",
        "tests/contract/test_packaging.py",
        "docs/make_reference.py",
        "examples/demo.py",
    } <= built.sdist_names
    stray = {name for name in built.sdist_names if name.startswith(("runs/", ".venv/", "demo/", ".notes/"))}
    assert stray == set()


@pytest.mark.slow
def test_installed_wheel_makes_only_the_packages_importable(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "python", "-c", FOUND, *NEVER_IMPORTABLE, *IMPORTABLE, cwd=tmp_path)

    assert done.stdout.strip() == str(list(IMPORTABLE))


@pytest.mark.slow
def test_installed_wheel_comes_from_its_own_environment(installed: Path, tmp_path: Path) -> None:
    code = "import linearsr, linearsr_train; print(linearsr.__file__); print(linearsr_train.__file__)"

    done = run(installed / "python", "-c", code, cwd=tmp_path)

    assert all(Path(line).is_relative_to(installed.parent) for line in done.stdout.splitlines()), done.stdout


@pytest.mark.slow
def test_installed_wheel_finds_its_recipes(installed: Path, tmp_path: Path) -> None:
    code = "from linearsr_train.config import read_toml, recipe_names as r; print([read_toml(n)['name'] for n in r()])"

    done = run(installed / "python", "-c", code, cwd=tmp_path)

    assert "compact_cpu" in done.stdout


@pytest.mark.slow
def test_installed_wheel_says_its_version_and_upscales(installed: Path, tmp_path: Path) -> None:
    Image.radial_gradient("L").resize((32, 32)).convert("RGB").save(tmp_path / "small.png")

    said = run(installed / "linearsr", "--version", cwd=tmp_path)
    done = run(installed / "linearsr", "upscale", "small.png", "-o", "large.png", cwd=tmp_path, HF_HUB_OFFLINE="1")

    assert said.stdout.strip() == f"linearsr {version()}"
    assert done.stdout.strip() == "large.png"
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (128, 128)
        darkest, lightest = large.convert("L").getextrema()
        assert lightest - darkest > 150, "the gradient did not survive"


def version() -> str:
    from linearsr import __version__

    return __version__
