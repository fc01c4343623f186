"""Scores kept between runs, so that a rerun makes and scores only what changed.

A key is a digest of all that decides a value: pixels, settings, the code that made them. Two kinds of entries lie in
one folder. That of a *made result* is keyed by its input, its method and the code, and says which pixels came out; that
of *scores* is keyed by those pixels and holds each metric under a key of its own. The pixels themselves are not kept: a
metric that is asked for later makes the result anew, unless `evaluate` finds it among its saved results.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from linearsr.atomic import write_bytes
from linearsr.errors import ImageError
from linearsr.metrics import METRICS, ScoreSettings
from linearsr.metrics.packages import LPIPS_WEIGHTS_VARIABLE
from linearsr.model_folder import file_sha256
from linearsr.tags.embedding_cache import default_cache_folder

__all__ = ["ScoreCache", "default_eval_cache", "file_digest", "key_of", "metric_keys", "source_digest"]

logger = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1]
SCORING = ("metrics/**/*.py", "evaluation/pictures.py", "image_*.py", "resize.py")
"""Code that decides scores of given files."""
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
"""Names that OpenCV goes by."""
PACKAGES = ("numpy", "pillow", *OPENCV, "imagecodecs", "diffusers", "transformers")
"""Whose versions decide pixels, beside torch: they decode, filter, and bring networks."""
_INFINITE = {"inf": math.inf, "-inf": -math.inf}


def default_eval_cache() -> Path:
    """`eval` in the folder of all that LinearSR can make again, see `default_cache_folder`."""
    return default_cache_folder() / "eval"


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of named parts, in any order: strings, numbers, None, and lists, tuples and mappings of them."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a key cannot hold {type(value).__name__}")


def file_digest(path: Path) -> str:
    """SHA-256 of a picture's file.

    Raises:
        ImageError: it cannot be read.
    """
    return file_sha256(path, ImageError)


@lru_cache(maxsize=8)
def source_digest(*patterns: str) -> str:
    """SHA-256 of the package's own code and the versions of `PACKAGES`, which decide pixels and scores.

    Args:
        patterns: of files below the package; none for all of its modules and lists of tags.
    """
    chosen = patterns if patterns else ("**/*.py", "tags/*.txt")
    versions = {"torch": torch.__version__, **{name: _version(name) for name in PACKAGES}}
    digest = hashlib.sha256(key_of(versions).encode())
    for path in sorted({path for pattern in chosen for path in PACKAGE.glob(pattern)}):
        digest.update(
            f"\n{path.relative_to(PACKAGE).as_posix()} ".encode() + hashlib.sha256(path.read_bytes()).digest()
        )
    return digest.hexdigest()


def metric_keys(names: tuple[str, ...], settings: ScoreSettings) -> dict[str, str]:
    """For each metric a key of all that decides its value but the pictures: definition, settings, weights, code."""
    device = torch.device(settings.device).type
    keys = {}
    for name in names:
        metric = METRICS[name]
        keys[name] = key_of(
            {
                "metric": name,
                "definition": metric.definition,
                "crop_border": settings.crop_border,
                "y_range": settings.y_range,
                "weights": _lpips_digest(settings) if name == "lpips" else None,
                "package": _version(metric.package) if metric.package else None,
                "device": device if metric.package else None,
                "code": source_digest(*SCORING),
            }
        )
    return keys


def _lpips_digest(settings: ScoreSettings) -> str | None:
    """Of the weights file that `make_scorers` takes; None where the package brings its own."""
    named = os.environ.get(LPIPS_WEIGHTS_VARIABLE)
    path = settings.lpips_weights if settings.lpips_weights is not None else Path(named) if named else None
    return None if path is None else file_digest(path.expanduser())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class ScoreCache:
    """Small mappings by key, each in a JSON file of its own.

    Values are strings, numbers, None, and lists and mappings of them; infinite numbers are written as `"inf"` and
    `"-inf"`, which therefore cannot be stored as strings. What is damaged counts as not there.

    Args:
        folder: made at the first write; never has to exist or be writable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writable = True

    def path(self, key: str) -> Path:
        """File of a key, which need not be there; sub-folders by its first two letters keep listings short."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> dict[str, Any] | None:
        """What was stored, or None where there is no whole file of that key."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            entry = stored["entry"]
            if stored["sha256"] != _digest(key, entry) or not isinstance(entry, dict):
                raise ValueError("its digest differs")
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.debug("cached scores %s are damaged, made again: %s", path, error)
            return None
        return {name: _decoded(value) for name, value in entry.items()}

    def put(self, key: str, entry: Mapping[str, Any]) -> bool:
        """Store a mapping; whether it is stored now. A folder that refuses is told of once, then left alone.

        Raises:
            ValueError: a value is not a number; such a score is a failure, not a value to keep.
        """
        if not self._writable:
            return False
        encoded = _encoded(entry)
        text = json.dumps({"entry": encoded, "sha256": _digest(key, encoded)}, allow_nan=False)
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, text.encode(), sync=False)  # what a power cut damages is found by its digest
        except (ImageError, OSError) as error:
            logger.warning("scores are not kept in %s: %s", self.folder, error)
            self._writable = False
        return self._writable


def _digest(key: str, entry: object) -> str:
    return key_of({"key": key, "entry": entry})


def _encoded(value: object) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(name): _encoded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: object) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return _INFINITE.get(value, value)
    if isinstance(value, dict):
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value
