from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FAKE = Path(__file__).with_name("fake_linearsr.py")


def _load_fake():
    spec = importlib.util.spec_from_file_location("fake_linearsr", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    """Every test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(monkeypatch):
    """The stand-in for `Upscaler`, fresh for every test."""
    module = _load_fake()
    monkeypatch.setitem(sys.modules, "linearsr.pipeline", module.fake_pipeline())
    return module.FakeUpscaler


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capfd):
    """Run `linearsr` in this process through `main`, as the console script does."""

    def run_main(*arguments) -> Result:
        from linearsr_cli.app import main

        capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Result(int(code), out, err)

    return run_main


@pytest.fixture
def linearsr(fake, run):
    """`run` with the stand-in model."""
    return run


@pytest.fixture
def fake_command() -> list[str]:
    """Command of a process that runs `linearsr` with the stand-in model."""
    return [sys.executable, str(FAKE)]


@pytest.fixture
def picture(tmp_path):
    """Save a small picture and return its path; its pixels depend on its name."""

    def save(name: str, width: int = 12, height: int = 8, mode: str = "RGB", **settings) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
        noise = np.random.default_rng(sum(name.encode())).integers(0, 256, (height, width, channels), dtype=np.uint8)
        Image.fromarray(noise[..., 0] if mode == "L" else noise).save(path, **settings)
        return path

    return save


@pytest.fixture
def size_of():
    def read_size(path) -> tuple[int, int]:
        with Image.open(path) as image:
            image.load()
            return image.size

    return read_size
