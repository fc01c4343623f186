"""Metrics of other packages, and the weights of LPIPS: found and loaded once, before any picture is scored."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from linearsr.errors import ConfigError, ImageError, WeightsError
from linearsr.extras import require
from linearsr.metrics.definitions import METRICS
from linearsr.metrics.perceptual import LPIPS_MIN_PX, Lpips
from linearsr.metrics.planes import crop_pair

__all__ = ["LPIPS_WEIGHTS_VARIABLE", "load_lpips", "load_pyiqa"]

LPIPS_WEIGHTS_VARIABLE = "LINEARSR_LPIPS_WEIGHTS"
_LPIPS_HINT = (
    f"give its weights as one safetensors file by `--lpips-weights FILE` or {LPIPS_WEIGHTS_VARIABLE}, "
    'or run `pip install "linearsr[eval]"`'
)
_PYIQA_HINT = f"run `pip install pyiqa`; its licence is {METRICS['niqe'].licence}: not for commercial use"
_DOWNLOAD_HINT = "weights are downloaded when they are first used: run once with a network, or leave the metric out"
_PYIQA_MIN_PX = {"niqe": 192}
"""NIQE takes a covariance over blocks of 96 pixels: a single block has none."""

PairFn = Callable[[Tensor, Tensor], float]


def load_lpips(weights: Path | None, device: str) -> PairFn:
    """LPIPS from a file, else from the file that the environment names, else from the `lpips` package.

    Args:
        weights: safetensors file; None for the other two.
        device: where to compute.

    Returns:
        Distance of two (3, H, W) pictures in [0, 1] on any device.

    Raises:
        WeightsError: the file cannot be read, or there is neither a file nor a package that works.
    """
    named = os.environ.get(LPIPS_WEIGHTS_VARIABLE)
    path = weights if weights is not None else Path(named) if named else None
    if path is None:
        return _lpips_package(device)
    metric = Lpips.from_file(path.expanduser()).to(device)
    return lambda a, b: metric(a.to(device), b.to(device))


def _lpips_package(device: str) -> PairFn:
    """The `lpips` package: AlexNet, version 0.1."""
    if find_spec("lpips") is None:
        raise WeightsError("LPIPS has no weights: no file was named and lpips is not installed", hint=_LPIPS_HINT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            network = require("lpips", "eval", "LPIPS").LPIPS(net="alex", version="0.1", verbose=False)
    except Exception as error:  # whatever its parts raise: torchvision's import, a download, a damaged cache
        raise WeightsError(f"lpips cannot load its weights: {_first_line(error)}", hint=_LPIPS_HINT) from error
    network = network.to(device).eval()

    def distance(a: Tensor, b: Tensor) -> float:
        first, second = crop_pair(a, b, minimum=LPIPS_MIN_PX)
        with torch.no_grad():
            return float(network(first.float().to(device), second.float().to(device), normalize=True).mean())

    return distance


def load_pyiqa(name: str, device: str) -> Callable[[Tensor, Tensor | None], float]:
    """A metric of the `pyiqa` package.

    Args:
        name: key of `METRICS`; its hyphenated form is pyiqa's name.
        device: where to compute.

    Returns:
        Value of a (3, H, W) picture in [0, 1] and, where the metric needs one, its original; on any device.

    Raises:
        WeightsError: pyiqa is not installed or cannot load the metric.
    """
    title, theirs = METRICS[name].title, name.replace("_", "-")
    if find_spec("pyiqa") is None:
        raise WeightsError(f"{title} needs pyiqa, which is not installed", hint=_PYIQA_HINT)
    try:
        # both the loading and the network print; the output of the program is for results
        with contextlib.redirect_stdout(sys.stderr):
            network = require("pyiqa", "eval", title).create_metric(theirs, device=torch.device(device), as_loss=False)
    except Exception as error:  # whatever its parts raise: an import, a download, a name that an old version lacks
        is_import = isinstance(error, ImportError | ConfigError)
        hint = "its packages are not complete: " + _PYIQA_HINT if is_import else _DOWNLOAD_HINT
        raise WeightsError(f"pyiqa cannot load {title}: {_first_line(error)}", hint=hint) from error
    minimum = _PYIQA_MIN_PX.get(name, 1)

    def value(x: Tensor, reference: Tensor | None) -> float:
        first, second = crop_pair(x, x if reference is None else reference, minimum=minimum)
        pictures = (first,) if reference is None else (first, second)
        try:
            with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
                return float(network(*(picture.float().to(device) for picture in pictures)).mean())
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            raise ImageError(
                f"{title} failed on {x.shape[-1]}x{x.shape[-2]} pixels: {_first_line(error)}",
                hint="a larger picture may do; leave the metric out otherwise",
            ) from error

    return value


def _first_line(error: Exception) -> str:
    """Kind and first line of an error of another package."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
