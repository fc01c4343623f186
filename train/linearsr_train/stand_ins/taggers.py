"""Tiny random taggers with the interfaces of the published ones: SigLIP, CLIP and Florence-2.

What they see in a picture means nothing: how many tags pass a threshold differs from picture to picture.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from linearsr.extras import require
from linearsr.tags.pretrained import quiet
from linearsr_train.stand_ins.text import BOS_ID, EOS_ID, PAD_ID, make_tokenizer

__all__ = ["SIDE", "write_clip", "write_florence2", "write_siglip"]

SIDE = 32
"""Pixels along one side of the pictures that they take."""
WIDTH = 16
LAYERS = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
}
VISION = {**LAYERS, "image_size": SIDE, "patch_size": 8}
SPECIAL_IDS = {"pad_token_id": PAD_ID, "eos_token_id": EOS_ID, "bos_token_id": BOS_ID}
NUM_PLACES = 1000
"""Tokens for coordinates, as Florence-2 has them."""
FLORENCE_VISION = {
    "depths": (1, 1),
    "patch_size": (7, 3),
    "patch_stride": (4, 4),
    "patch_padding": (3, 1),
    "patch_prenorm": (False, True),
    "embed_dim": (8, WIDTH),
    "num_heads": (2, 2),
    "num_groups": (2, 2),
    "window_size": 2,
    "projection_dim": WIDTH,
    "initializer_range": 0.3,
}
FLORENCE_TEXT = {
    "model_type": "bart",
    "d_model": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 2 * WIDTH,
    "decoder_ffn_dim": 2 * WIDTH,
    "max_position_embeddings": 512,
    "decoder_start_token_id": EOS_ID,
    "init_std": 0.5,
    **SPECIAL_IDS,
}


def _transformers() -> ModuleType:
    return require("transformers", "full", "the tagger")


def _save(folder: Path, model: Any, processor: Any) -> None:  # noqa: ANN401 - of transformers
    with quiet(_transformers()):
        model.eval().save_pretrained(folder)
        processor.save_pretrained(folder)


def _image_processor(name: str, **settings: Any) -> Any:  # noqa: ANN401 - of transformers
    transformers = _transformers()
    with quiet(transformers):  # it says so where torchvision is not there, and does without
        return getattr(transformers, name)(**settings)


def write_siglip(folder: Path, *, seed: int = 0) -> None:
    """Write a SigLIP model and processor as transformers does; equal for equal arguments.

    Args:
        folder: made if need be.
        seed: of the weights.

    Raises:
        ConfigError: transformers is not installed.
    """
    transformers = _transformers()
    tokenizer = make_tokenizer("$A <eos>", model_max_length=64, padding_side="left")  # SigLIP 2's does by itself
    text = {**LAYERS, **SPECIAL_IDS, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.SiglipModel(config)
        _stir(model)
        model.logit_scale.fill_(math.log(30.0))
        model.logit_bias.fill_(-16.0)
    images = _image_processor("SiglipImageProcessor", size={"height": SIDE, "width": SIDE})
    _save(folder, model, transformers.SiglipProcessor(images, tokenizer))


def write_clip(folder: Path, *, seed: int = 0) -> None:
    """Write a CLIP model and processor as transformers does; arguments as `write_siglip`."""
    transformers = _transformers()
    tokenizer = make_tokenizer("<bos> $A <eos>", model_max_length=77)
    text = {**LAYERS, **SPECIAL_IDS, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=WIDTH)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.CLIPModel(config)
        _stir(model)
    crop = {"height": SIDE, "width": SIDE}
    images = _image_processor("CLIPImageProcessor", size={"shortest_edge": SIDE}, crop_size=crop)
    _save(folder, model, transformers.CLIPProcessor(images, tokenizer))


def write_florence2(folder: Path, *, seed: int = 0) -> None:
    """Write a Florence-2 model and processor as transformers does; arguments as `write_siglip`."""
    transformers = _transformers()
    places = tuple(f"<loc_{index}>" for index in range(NUM_PLACES))
    named = {"image_token": "<image>"}
    tokenizer = make_tokenizer("<bos> $A <eos>", extra_tokens=("<image>", *places), extra_special_tokens=named)
    config = transformers.Florence2Config(
        vision_config=FLORENCE_VISION,
        text_config={**FLORENCE_TEXT, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.image_token_id,
        **SPECIAL_IDS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.Florence2ForConditionalGeneration(config)
    images = _image_processor("CLIPImageProcessor", size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    images.image_seq_length = (SIDE // 16) ** 2 + 1  # one for each patch, and their mean
    _save(folder, model, transformers.Florence2Processor(images, tokenizer))


def _stir(model: torch.nn.Module) -> None:
    """Give all weights that transformers starts at zero or one some noise, so that no branch is silent."""
    for value in model.parameters():
        value.add_(torch.randn_like(value) * 0.1)
