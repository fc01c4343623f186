"""Fixtures: a Hub on loopback, and users' processes with huggingface_hub 1.x and 2.x."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
HUB_1 = Path(sys.prefix) / "hub-1"
"""Where `make test` puts huggingface_hub 1.x."""


def load_loopback_hub() -> Any:
    spec = importlib.util.spec_from_file_location("loopback_hub", HERE / "loopback_hub.py")
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


class Client:
    """A user's process of `client.py` that is told what to do."""

    def __init__(self, parent: Any, home: Path, address: str, path: list[Path], **environment: str) -> None:
        self.home = home
        own = {
            "HF_HOME": str(home),
            "HF_ENDPOINT": address,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "NO_PROXY": "*",
            **environment,
        }
        with socket.create_server(("127.0.0.1", 0)) as server:
            user = {"environment": own, "path": [str(folder) for folder in path], "port": server.getsockname()[1]}
            parent.write(json.dumps(user) + "\n")
            parent.flush()
            server.settimeout(120)
            self._link, _ = server.accept()
        self._lines = self._link.makefile("rw")

    def do(self, *step: Any, **settings: Any) -> dict[str, Any]:
        """Carry out one step of `client.py` and give what it came to."""
        self._lines.write(json.dumps({"step": step, "settings": settings}) + "\n")
        self._lines.flush()
        line = self._lines.readline()
        assert line, "the process ended"
        return json.loads(line)

    def cached(self, repo: str) -> Path:
        """Folder of a repository in its cache."""
        return self.home / "hub" / f"models--{repo.replace('/', '--')}"

    def close(self) -> None:
        self._lines.close()
        self._link.close()


@dataclass
class World:
    """A Hub, and the processes that talk to it with one version of huggingface_hub."""

    version: str
    hub: Any
    user: Client
    later_hub: Any
    """The same repositories at another address, for the second user; a test stops it."""
    later: Client
    """A second process with the same cache."""
    offline: Client
    """A third one, with `HF_HUB_OFFLINE`."""
    files: dict[str, bytes]
    """Of a model with four experts."""
    picture: Path

    def add(self, repo: str, files: dict[str, bytes] | None = None, **settings: Any) -> str:
        """Put a repository on the Hub, by default the model; gives its commit."""
        return self.hub.add(repo, self.files if files is None else files, **settings)

    def upscale(self, client: Client, model: str, *arguments: str, **settings: Any) -> dict[str, Any]:
        """Run `linearsr upscale` with a model."""
        fixed = ["--device", "cpu", "--on-exists", "overwrite", "-q", "-o", str(self.picture.with_name("out.png"))]
        return client.do("cli", ["upscale", str(self.picture), "--model", model, *fixed, *arguments], **settings)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory, tiny_config: Any, tiny_network: Any) -> dict[str, bytes]:
    """Files of a tiny model with an expert for each of the published intervals."""
    from linearsr.checkpoint import save_checkpoint
    from linearsr.config import ExpertsConfig
    from linearsr.flow import log_snr
    from linearsr.model.experts import PAPER_BOUNDARIES

    folder = tmp_path_factory.mktemp("four") / "model"
    names = tuple(f"expert-{index}.safetensors" for index in range(4))
    cuts = tuple(float(log_snr(t)) for t in PAPER_BOUNDARIES)
    config = tiny_config(experts=ExpertsConfig(boundaries_log_snr=cuts, files=names))
    save_checkpoint(folder, config, [tiny_network(config.model, seed).state_dict() for seed in range(4)])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What to write users into, one JSON line each: the process that they are forked from."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LINEARSR_"))}
    home = tmp_path_factory.mktemp("user")
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "client.py")]
    process = subprocess.Popen(command, env={**kept, **own}, stdin=subprocess.PIPE, text=True)
    yield process.stdin
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="session", params=["1", "2"], ids=["huggingface_hub-1", "huggingface_hub-2"])
def world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    parent: Any,
    model_files: dict[str, bytes],
) -> Iterator[World]:
    """Everything for one version of huggingface_hub."""
    if request.param == "1" and not HUB_1.is_dir():
        pytest.skip(f"no huggingface_hub 1.x in {HUB_1}; `make test` puts it there")
    path = [HUB_1] if request.param == "1" else []
    module, folder = load_loopback_hub(), tmp_path_factory.mktemp("hub")
    picture = folder / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(picture)
    hub, later_hub = module.LoopbackHub(), module.LoopbackHub()
    later_hub.repos = hub.repos
    with hub.running(), later_hub.running():
        clients = [
            Client(parent, folder / "home", hub.address, path),
            Client(parent, folder / "home", later_hub.address, path),
            Client(parent, folder / "home", hub.address, path, HF_HUB_OFFLINE="1"),
        ]
        try:
            yield World(request.param, hub, clients[0], later_hub, clients[1], clients[2], model_files, picture)
        finally:
            for client in clients:
                client.close()
