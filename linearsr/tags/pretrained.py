"""Models and tokenizers of transformers from a folder: without the network, from safetensors only, no code from files.

transformers initialises at random what a file lacks and goes on; here that is an error.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from linearsr.errors import ConfigError, ShapeError, WeightsError
from linearsr.extras import require
from linearsr.model_folder import pickles_in, read_json
from linearsr.resize import resize
from linearsr.state_dicts import some

__all__ = [
    "HeldModel",
    "free_device",
    "load_model",
    "load_part",
    "picture_input",
    "quiet",
    "read_model_config",
    "transformers_for",
]

CONFIG_NAME = "config.json"
CODEC_PACKAGES = {
    "sentencepiece": "sentencepiece",
    "protobuf": "protobuf",
    "google": "protobuf",
    "tiktoken": "tiktoken",
}


def transformers_for(what: str) -> ModuleType:
    """The package, or an error that names `what` needs it.

    Raises:
        ConfigError: not installed.
    """
    return require("transformers", "full", what)


@contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """Without transformers' own bars and warnings, which would land in the middle of ours; put back after."""
    logs = transformers.utils.logging
    bars, level = logs.is_progress_bar_enabled(), logs.get_verbosity()
    logs.disable_progress_bar()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def read_model_config(folder: Path, what: str) -> dict[str, Any]:
    """config.json of a model's folder; says nothing of whether the weights fit it.

    Raises:
        WeightsError: no folder, no config, or not a JSON object.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        problem = f"has no {CONFIG_NAME}" if folder.is_dir() else "is no folder"
        raise WeightsError(
            f"{what} {str(folder)!r} {problem}, expected a folder as transformers saves it",
            hint=f"it holds {CONFIG_NAME}, model.safetensors and the files of a tokenizer",
        )
    return read_json(path, hint=f"fetch the {what} again")


def load_part(load: Callable[..., Any], folder: Path, what: str, **settings: Any) -> Any:  # noqa: ANN401
    """Call a `from_pretrained` on a folder, offline and without code from the folder.

    Raises:
        ConfigError: the tokenizer's format needs a package that is not installed.
        WeightsError: a file is missing or damaged, or of a kind that this transformers does not know.
    """
    try:
        with quiet(transformers_for(f"the {what}")):
            return load(str(folder), local_files_only=True, trust_remote_code=False, **settings)
    except ImportError as error:
        text = str(error)
        packages = sorted({package for word, package in CODEC_PACKAGES.items() if word in text.lower()})
        raise ConfigError(
            f"the {what} in {str(folder)!r} needs a package that does not import: {_first_line(error)}",
            hint=f"run `pip install {' '.join(packages)}`" if packages else "update transformers",
        ) from error
    except Exception as error:  # a wrong or damaged file fails in many ways deep inside transformers
        raise WeightsError(
            f"the {what} in {str(folder)!r} cannot be loaded: {_first_line(error)}", hint=f"fetch the {what} again"
        ) from error


def load_model(load: Callable[..., Any], folder: Path, what: str, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401 - a class of transformers
    """A model with all its weights, frozen, on a device.

    Args:
        load: `from_pretrained` of an auto class or of a model.
        folder: config.json and safetensors files.
        what: it is, for messages.
        device, dtype: of the weights.

    Raises:
        WeightsError: no safetensors file, or a tensor is missing or of another shape.
    """
    if not any(folder.glob("*.safetensors")):
        pickles = pickles_in(folder)
        only = f"has only {some(pickles)}, a pickle, which can run code when loaded; expected" if pickles else "has no"
        raise WeightsError(
            f"{what} {str(folder)!r} {only} safetensors weights", hint="give a folder with model.safetensors"
        )
    model, report = load_part(
        load, folder, what, use_safetensors=True, output_loading_info=True, dtype=dtype, ignore_mismatched_sizes=True
    )
    wrong = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    problems = [
        *([f"missing {some(sorted(report['missing_keys']))}"] if report["missing_keys"] else []),
        *([f"of another shape {some(sorted(wrong))}"] if wrong else []),
    ]
    if problems:
        raise WeightsError(
            f"the weights of {what} {str(folder)!r} do not fit its config: {'; '.join(problems)}",
            hint=f"fetch the {what} again",
        )
    return model.eval().requires_grad_(False).to(device)


class HeldModel:
    """A model until it is freed; whoever uses it takes it from here each time and keeps no other reference.

    Args:
        model: a module on its device.
        what: it is, for messages.
    """

    def __init__(self, model: Any, what: str) -> None:  # noqa: ANN401 - of transformers
        self._model, self._what = model, what
        first = next(model.parameters())
        self.device: torch.device = first.device
        self.dtype: torch.dtype = first.dtype

    @property
    def model(self) -> Any:  # noqa: ANN401 - of transformers
        """The module.

        Raises:
            WeightsError: it was freed.
        """
        if self._model is None:
            raise WeightsError(f"the {self._what} was freed, expected one that is loaded", hint="load it again")
        return self._model

    def free(self) -> None:
        """Let go of the module and of its memory; a second time does nothing."""
        if self._model is None:
            return
        self._model = None
        gc.collect()  # modules of transformers hold one another in circles
        free_device(self.device)


def picture_input(lr: Tensor, size: tuple[int, int], image_processor: Any) -> Tensor:  # noqa: ANN401
    """A picture as a vision model wants it: the whole of it at the model's own size, by antialiased bicubic.

    The processor's own resizing would crop what is not square, and some of it is bilinear.

    Args:
        lr: (3, h, w) in [0, 1].
        size: height and width that the model takes.
        image_processor: of transformers; its mean and deviation.

    Returns:
        (1, 3, height, width) float32, normalised.

    Raises:
        ShapeError: another number of axes or channels, or no pixels.
    """
    if lr.dim() != 3 or lr.shape[0] != 3 or lr.numel() == 0:
        raise ShapeError(f"picture is {tuple(lr.shape)}, expected (3, height, width) with at least one pixel")
    pixels = resize(lr.float(), size).clamp(0.0, 1.0)
    mean, std = (torch.tensor(v, device=lr.device) for v in (image_processor.image_mean, image_processor.image_std))
    return ((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))[None]


def free_device(device: torch.device) -> None:
    """Give memory that dropped models held on a device back, so that another program or network can have it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
