"""The Recognize Anything Model as a tagger, where its package `ram` is installed. Not tried with its weights.

The package is not on PyPI and pins old versions of others, so it is no extra of LinearSR. It fetches the vocabulary of
`bert-base-uncased` by itself. Its weights are published as a pickle, which is never read here: they are converted once.

Source: arXiv:2306.03514; thresholds are the package's own, one for each tag.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from linearsr.errors import ConfigError, WeightsError
from linearsr.state_dicts import some
from linearsr.tags.pretrained import HeldModel, picture_input
from linearsr.tags.tagger_kinds import MOST_TAGS

__all__ = ["CONVERT", "INSTALL", "RamTagger", "load_ram"]

logger = logging.getLogger(__name__)
WHAT = "ram tagger"
SIDE = 384
WEIGHTS_NAME = "model.safetensors"
NEEDED = ("visual_encoder.", "image_proj.", "label_embed", "wordvec_proj.", "tagging_head.", "fc.")
"""Weights that tagging reads; the rest serves captions."""
REMADE = ("relative_position_index", "attn_mask")
"""Tables that its code makes again."""
INSTALL = "pip install git+https://github.com/xinyu1205/recognize-anything.git"
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('ram_swin_large_14m.pth', weights_only=True); "
    "s.save_file({k: v.clone().contiguous() for k, v in w['model'].items()}, 'model.safetensors')\""
)


class _ImageNet:
    """Mean and deviation that its vision model was trained with."""

    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)


class RamTagger:
    """Names what it knows of 4585 tags; see `linearsr.tags.open_taggers.OpenTagger`.

    Args:
        model: `ram.models.ram.RAM`, for pictures of 384 x 384 pixels.
        most: tags for one picture at most.
    """

    def __init__(self, model: Any, *, most: int = MOST_TAGS) -> None:  # noqa: ANN401 - of ram
        self._held = HeldModel(model, WHAT)
        self.most = most

    @torch.inference_mode()
    def tag(self, lr: Tensor) -> tuple[str, ...]:
        """Tags of one picture, (3, h, w) in [0, 1], above their own thresholds; surest first, empty for none."""
        model = self._held.model
        pixels = picture_input(lr, (SIDE, SIDE), _ImageNet).to(self._held.device, self._held.dtype)
        answers: list[Tensor] = []
        # Its own function gives names in the order of its list and no probabilities; this layer's output is those.
        hook = model.fc.register_forward_hook(lambda module, inputs, output: answers.append(output))
        try:
            model.generate_tag(pixels)
        finally:
            hook.remove()
        sure = torch.sigmoid(answers[0].float()).flatten().cpu()  # (4585,)
        order = torch.argsort(sure, descending=True).tolist()
        found = [str(model.tag_list[i]).lower() for i in order if sure[i] > model.class_threshold[i]]
        if not found:
            logger.debug("the %s names nothing", WHAT)
        return tuple(found[: self.most])

    def free(self) -> None:
        """Let go of the model and of its memory."""
        self._held.free()


def load_ram(folder: Path, device: torch.device, *, most: int = MOST_TAGS) -> RamTagger:
    """Build RAM in float32 with the converted weights of a folder; arguments as `open_taggers.load_open_tagger`.

    Raises:
        ConfigError: the package is not installed or does not import.
        WeightsError: the weights are missing, damaged or do not fit.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise WeightsError(
            f"{WHAT} {str(folder)!r} has no {WEIGHTS_NAME}, expected RAM's weights converted once",
            hint=f"run `{CONVERT}`",
        )
    try:
        from ram.models import ram as build
    except ImportError as error:
        raise ConfigError(f"the {WHAT} needs the package ram: {error}", hint=f"run `{INSTALL}`") from error
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{str(path)!r} is not a safetensors file: {error}", hint=f"run `{CONVERT}`") from error
    model = build(pretrained="", image_size=SIDE, vit="swin_l")
    try:
        missing = model.load_state_dict(tensors, strict=False).missing_keys
    except RuntimeError as error:
        raise WeightsError(f"{str(path)!r} does not fit RAM: {error}", hint="convert ram_swin_large_14m.pth") from error
    needed = [key for key in missing if key.startswith(NEEDED) and not key.endswith(REMADE)]
    if needed:
        raise WeightsError(f"{str(path)!r} lacks {some(sorted(needed))}", hint="convert ram_swin_large_14m.pth")
    return RamTagger(model.eval().requires_grad_(False).float().to(device), most=most)
