"""Embeddings of prompts on disk, so that the text encoder, larger than the network, is loaded once for all runs.

One safetensors file for each prompt. A file that is damaged, cut off or of another prompt counts as not there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from linearsr.atomic import write_bytes
from linearsr.errors import ImageError

__all__ = ["EmbeddingCache", "default_cache_folder"]

logger = logging.getLogger(__name__)
TENSOR, DIGEST = "embedding", "sha256"


def default_cache_folder() -> Path:
    """Where LinearSR keeps what it can make again: LINEARSR_CACHE, else XDG_CACHE_HOME/linearsr, else ~/.cache."""
    own = os.environ.get("LINEARSR_CACHE", "")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if shared else Path.home() / ".cache") / "linearsr"


class EmbeddingCache:
    """Embeddings of one text encoder, by prompt.

    What is read is bit for bit what was written: an embedding is stored as bfloat16 only where all its values are, as
    they are when the encoder computes in it.

    Args:
        folder: made at the first write; never has to exist or be writable.
        key: of the encoder, as `encoder_key` gives it; caches of other encoders may lie in the same folder.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        self._writable = True

    def path(self, prompt: str) -> Path:
        """File of a prompt, which need not be there; sub-folders by its first two letters keep listings short."""
        name = hashlib.sha256(json.dumps([self.key, prompt]).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, prompt: str) -> Tensor | None:
        """(K, C) float32, or None where there is no whole file."""
        path = self.path(prompt)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                stored, digest = file.get_tensor(TENSOR), (file.metadata() or {}).get(DIGEST)
        except (SafetensorError, OSError) as error:
            logger.debug("cached embedding %s is not readable, made again: %s", path, error)
            return None
        if digest != _digest(path.name, stored):
            logger.debug("cached embedding %s is damaged, made again", path)
            return None
        return stored.float()

    def put(self, prompt: str, embedding: Tensor) -> bool:
        """Store (K, C) float32; whether it is stored now. A folder that refuses is told of once, then left alone."""
        if not self._writable:
            return False
        path = self.path(prompt)
        short = embedding.to(torch.bfloat16)
        stored = short if torch.equal(short.float(), embedding) else embedding
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save({TENSOR: stored.contiguous()}, metadata={DIGEST: _digest(path.name, stored)}))
        except (ImageError, OSError) as error:
            logger.warning("embeddings of prompts are not kept in %s: %s", self.folder, error)
            self._writable = False
        return self._writable


def _digest(name: str, stored: Tensor) -> str:
    """Of the values and of what they belong to: safetensors itself notices a short file, but no changed byte."""
    about = f"{name} {stored.dtype} {tuple(stored.shape)}".encode()
    return hashlib.sha256(about + stored.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
