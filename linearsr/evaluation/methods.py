"""What makes results: interpolations and files that lie there; models and their autoencoders are in `models`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

import linearsr
from linearsr.errors import ConfigError
from linearsr.evaluation.making import Input, Made, Method, PlainMethod, input_of
from linearsr.evaluation.models import autoencoder_ceiling, model_methods
from linearsr.evaluation.pairing import absolute
from linearsr.evaluation.pictures import read_picture
from linearsr.evaluation.results import MethodInfo
from linearsr.image_encode import quantised
from linearsr.resize import resize

__all__ = ["FILTERS", "Method", "autoencoder_ceiling", "folder_method", "interpolation", "model_methods"]

FILTERS = ("bicubic", "lanczos", "bilinear", "nearest")
_PILLOW = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def interpolation(name: str) -> Method:
    """An interpolation: `bicubic` is MATLAB's, `lanczos`, `bilinear` and `nearest` are Pillow's on 8 bits.

    Raises:
        ConfigError: another name.
    """
    if name not in FILTERS:
        raise ConfigError(f"interpolation is {name!r}, expected {', '.join(FILTERS)}", hint="use bicubic")
    ours = name == "bicubic"
    settings = {"filter": name, "of": f"linearsr {linearsr.__version__}" if ours else f"Pillow {PIL.__version__}"}

    def make(sample: Input) -> Made:
        lr, (width, height) = input_of(sample, name), sample.size
        start = time.perf_counter()
        if ours:
            sr = resize(lr, (height, width))
        else:
            picture = Image.fromarray(quantised(lr.permute(1, 2, 0).contiguous().numpy(), 8))
            array = np.array(picture.resize((width, height), _PILLOW[name]))
            sr = torch.from_numpy(array).permute(2, 0, 1).float().div_(255.0)
        return Made(sr=sr, seconds=time.perf_counter() - start)

    return PlainMethod(MethodInfo(name=name, kind="baseline", settings=settings), "input", make)


def folder_method(label: str, paths: Sequence[Path] = ()) -> Method:
    """Results that lie there already, found in `Input.srs`.

    Args:
        label: under which they were paired, the name of the method.
        paths: the folders, of which the settings keep the names.
    """

    def make(sample: Input) -> Made:
        if label not in sample.srs:
            raise ConfigError(f"{label!r} has no result for {sample.image!r}", hint="pair its folder first")
        return Made(sr=read_picture(sample.srs[label], sample.size))

    settings = {"folders": [absolute(path).name for path in paths]}
    return PlainMethod(MethodInfo(name=label, kind="folder", settings=settings), "file", make)
