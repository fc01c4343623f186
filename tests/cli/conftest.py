from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FAKE = Path(__file__).with_name("fake_linearsr.py")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Under which `put` stores a model in the cache of the Hub."""


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


@pytest.fixture
def four_experts(tmp_path: Path, tiny_config, tiny_network) -> Path:
    """Folder of a tiny checkpoint of four experts, with a card."""
    from linearsr.checkpoint import save_checkpoint
    from linearsr.config import ExpertsConfig

    experts = ExpertsConfig(
        boundaries_log_snr=(2.496537, -3.89182, -5.467883), files=tuple(f"expert-{i}.safetensors" for i in range(4))
    )
    config = tiny_config(experts=experts)
    states = [tiny_network(config.model, seed=seed).state_dict() for seed in range(4)]
    folder = tmp_path / "four"
    save_checkpoint(folder, config, states)
    (folder / "MODEL_CARD.md").write_text("# Four\n\nA model.\n")
    return folder


@pytest.fixture
def damage():
    """Flip one bit in the middle of a file, its size unchanged."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))

    return flip


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty Hub cache; huggingface_hub reads where it is once, at import."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def put(cache: Path):
    """Put a folder into the cache as one commit, with blobs named by their hash and links to them, as the Hub does."""

    def store(
        folder: Path, repo: str = "owner/name", commit: str = COMMIT, ref: str = "main", without: str = ""
    ) -> Path:
        base = cache / f"models--{repo.replace('/', '--')}"
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() or name == without:
                continue
            blob = base / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            link = base / "snapshots" / commit / name
            for made in (blob, link):
                made.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, blob)
            link.symlink_to(os.path.relpath(blob, link.parent))
        (base / "refs").mkdir(exist_ok=True)
        (base / "refs" / ref).write_text(commit)
        return base / "snapshots" / commit

    return store
