"""A DC-AE from a folder as diffusers saves it: strictly, from safetensors only, without the network.

diffusers' own loader initialises what is missing and drops what is extra; here either is an error.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from linearsr.errors import WeightsError
from linearsr.extras import require
from linearsr.model_folder import PICKLE_SUFFIXES, pickles_in, read_json
from linearsr.state_dicts import some, tensor_problems

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

__all__ = ["build_autoencoder", "read_autoencoder", "read_with_decoder"]

CLASS_NAME = "AutoencoderDC"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "diffusion_pytorch_model.safetensors"
FETCH_AGAIN = "fetch the autoencoder again"


def build_autoencoder(folder: Path) -> AutoencoderDC:
    """The network that config.json of a folder describes, without memory for its weights, on the meta device.

    Raises:
        ConfigError: diffusers is not installed.
        WeightsError: no config.json, or not one of an `AutoencoderDC`.
    """
    diffusers = require("diffusers", "full", "the DC-AE autoencoder")
    if folder.is_file():
        kind = "a pickle, which can run code when loaded" if folder.suffix in PICKLE_SUFFIXES else "a file"
        raise WeightsError(f"autoencoder {str(folder)!r} is {kind}, expected a folder", hint="give the folder")
    settings = _read_settings(folder)
    unknown = sorted(settings.keys() - inspect.signature(diffusers.AutoencoderDC.__init__).parameters.keys())
    if unknown:
        raise WeightsError(
            f"{CONFIG_NAME} of autoencoder {folder.name!r} has settings that diffusers {diffusers.__version__} "
            f"does not know: {some(unknown)}",
            hint="update it with `pip install -U diffusers`",
        )
    try:
        with torch.device("meta"):
            return diffusers.AutoencoderDC(**settings)
    except Exception as error:  # wrong values fail in many ways deep inside diffusers
        raise WeightsError(
            f"{CONFIG_NAME} of autoencoder {folder.name!r} makes no {CLASS_NAME}: {error}", hint=FETCH_AGAIN
        ) from error


def read_autoencoder(
    folder: Path, dtype: torch.dtype, parts: tuple[str, ...] = ("encoder", "decoder")
) -> AutoencoderDC:
    """Build the autoencoder of a folder with its weights, on the host.

    Args:
        folder: with config.json and the weights.
        dtype: of the weights in memory.
        parts: that get weights; another stays without, on the meta device.

    Raises:
        ConfigError: diffusers is not installed.
        WeightsError: a file is missing or damaged, the config is of something else, or a tensor is missing, extra or
            of another shape (all listed, whatever the parts).
    """
    model = build_autoencoder(folder)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    path = _weights_path(folder)
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
            _check_tensors(folder, expected, found)
            for part in parts:
                keys = [key for key in expected if key.startswith(f"{part}.")]
                state = {key.removeprefix(f"{part}."): file.get_tensor(key).to(dtype) for key in keys}
                model.get_submodule(part).load_state_dict(state, strict=True, assign=True)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{str(path)!r} is not a safetensors file: {error}", hint=FETCH_AGAIN) from error
    return model


def read_with_decoder(folder: Path, decoder_folder: Path, dtype: torch.dtype) -> AutoencoderDC:
    """The autoencoder of `folder` with the decoder of another.

    Raises:
        ConfigError, WeightsError: as `read_autoencoder` for either folder, or their latents differ in shape.
    """
    model = read_autoencoder(folder, dtype, ("encoder",))
    other = read_autoencoder(decoder_folder, dtype, ("decoder",))
    latents = [(m.config["latent_channels"], m.spatial_compression_ratio) for m in (model, other)]
    if latents[0] != latents[1]:
        raise WeightsError(
            "decoder {!r} takes latents of {} channels at 1/{}, expected {} at 1/{}".format(
                decoder_folder.name, *latents[1], *latents[0]
            ),
            hint="give a decoder for this autoencoder, or none",
        )
    model.decoder = other.decoder
    return model


def _read_settings(folder: Path) -> dict[str, Any]:
    """config.json without what diffusers notes about the file itself."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise WeightsError(
            f"autoencoder folder {str(folder)!r} has no {CONFIG_NAME}",
            hint=f"give a folder as diffusers saves an {CLASS_NAME}, such as the `vae` folder of SANA",
        )
    data = read_json(path, hint=FETCH_AGAIN)
    name = data.get("_class_name")
    if name != CLASS_NAME:
        raise WeightsError(
            f"{str(path)!r} is the config of {name!r}, expected {CLASS_NAME!r}",
            hint="give a DC-AE autoencoder, such as the `vae` folder of SANA",
        )
    return {key: value for key, value in data.items() if not key.startswith("_")}


def _weights_path(folder: Path) -> Path:
    path = folder / WEIGHTS_NAME
    if path.is_file():
        return path
    if pickles := pickles_in(folder):
        raise WeightsError(
            f"autoencoder {folder.name!r} has only {some(pickles)}, a pickle, which can run code when loaded; "
            f"expected {WEIGHTS_NAME}",
            hint="give a folder with safetensors weights",
        )
    raise WeightsError(f"autoencoder {folder.name!r} has no {WEIGHTS_NAME}", hint=FETCH_AGAIN)


def _check_tensors(folder: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    if problems := tensor_problems(expected, found):
        raise WeightsError(
            f"weights of autoencoder {folder.name!r} do not fit its {CONFIG_NAME}: {problems}",
            hint=FETCH_AGAIN,
        )
