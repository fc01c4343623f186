"""Zero-shot taggers: a picture's embedding beside those of "a photo of TAG." for every tag of a list.

SigLIP and SigLIP 2 give each tag a probability of its own. CLIP's cosines mean nothing by themselves, so a tag counts
by how far it stands out from the others on the same picture.

Source: arXiv:2303.15343 (SigLIP, section 3), arXiv:2103.00020 (CLIP, section 3.1.4: the words around a label).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.errors import ConfigError, WeightsError
from linearsr.tags.pretrained import (
    HeldModel,
    load_model,
    load_part,
    picture_input,
    read_model_config,
    transformers_for,
)
from linearsr.tags.tagger_kinds import EXAMPLES, MOST_TAGS

__all__ = ["PROMPT", "THRESHOLDS", "ZeroShotTagger", "load_zero_shot"]

logger = logging.getLogger(__name__)
PROMPT = "a photo of {}."
THRESHOLDS = {"siglip": 0.1, "clip": 2.5}
"""Least score of a tag: SigLIP's probability, CLIP's z-score over the list. Chosen for few and sure tags, from how such
scores are distributed, not tuned on pictures: of tags that say nothing, 6 in 1000 reach z = 2.5."""
SIGLIP_TOKENS = 64
"""SigLIP was trained on texts padded on the right to this length, without a mask; what it gives out is the last place,
so padding on the left, as Gemma's tokenizer does by itself, would change everything."""
TEXT_BATCH = 64


class ZeroShotTagger:
    """Chooses tags from a list; see `linearsr.tags.open_taggers.OpenTagger`.

    The texts are embedded once, here; the picture is enlarged or shrunk whole to the model's own size.

    Args:
        kind: siglip or clip.
        model: of transformers, with `get_image_features` and `get_text_features`.
        processor: its tokenizer and image processor.
        vocabulary: the tags, at least one; for clip enough of them that one can stand out.
        most: tags for one picture at most.
        threshold: least score; None for `THRESHOLDS`.

    Raises:
        ConfigError: too few tags, or a threshold that no score can have.
    """

    def __init__(
        self,
        kind: str,
        model: Any,  # noqa: ANN401 - of transformers
        processor: Any,  # noqa: ANN401
        vocabulary: Sequence[str],
        *,
        most: int = MOST_TAGS,
        threshold: float | None = None,
    ) -> None:
        self.kind, self.vocabulary, self.most = kind, tuple(vocabulary), most
        self.threshold = THRESHOLDS[kind] if threshold is None else threshold
        _check_threshold(kind, self.threshold, len(self.vocabulary))
        self._held = HeldModel(model, f"{kind} tagger")
        self._image_processor = processor.image_processor
        side = int(model.config.vision_config.image_size)
        self._size = (side, side)
        self._texts = self._embed_texts(processor.tokenizer)

    @torch.inference_mode()
    def scores(self, lr: Tensor) -> Tensor:
        """(V,) float32 on the host, one for each tag: siglip probabilities, clip z-scores.

        Args:
            lr: (3, h, w) in [0, 1], of any size from 1 x 1 up.

        Raises:
            ShapeError: another number of axes or channels, or no pixels.
            WeightsError: the tagger was freed.
        """
        model = self._held.model
        pixels = picture_input(lr, self._size, self._image_processor).to(self._held.device, self._held.dtype)
        image = F.normalize(_features(model.get_image_features(pixel_values=pixels)).float(), dim=-1)
        cosines = (image @ self._texts.T)[0]  # (V,)
        if self.kind == "siglip":
            return torch.sigmoid(model.logit_scale.float().exp() * cosines + model.logit_bias.float()).cpu()
        spread = cosines.std(correction=0)
        return ((cosines - cosines.mean()) / spread.clamp(min=torch.finfo(torch.float32).tiny)).cpu()

    def tag(self, lr: Tensor) -> tuple[str, ...]:
        """Sure tags of one picture, (3, h, w) in [0, 1]; surest first, empty for none."""
        scores = self.scores(lr)
        best = torch.topk(scores, min(self.most, len(scores)))
        found = [
            self.vocabulary[index]
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if score >= self.threshold
        ]
        if not found:
            logger.debug("no tag reaches %g; the best is %.3g", self.threshold, best.values[0])
        return tuple(found)

    def free(self) -> None:
        """Let go of the model and of its memory."""
        self._held.free()

    @torch.inference_mode()
    def _embed_texts(self, tokenizer: Any) -> Tensor:  # noqa: ANN401 - of transformers
        """(V, C) float32 of length 1, on the model's device."""
        texts = [PROMPT.format(tag) for tag in self.vocabulary]
        features = []
        for start in range(0, len(texts), TEXT_BATCH):
            batch = texts[start : start + TEXT_BATCH]
            inputs = self._tokens(tokenizer, batch)
            features.append(_features(self._held.model.get_text_features(**inputs)).float())
        return F.normalize(torch.cat(features), dim=-1)

    def _tokens(self, tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:  # noqa: ANN401 - of transformers
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        longest = int(self._held.model.config.text_config.max_position_embeddings)
        if self.kind == "siglip":
            length = min(SIGLIP_TOKENS, longest)
            encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            return {"input_ids": encoded["input_ids"].to(self._held.device)}
        encoded = tokenizer(texts, padding=True, max_length=longest, truncation=True, return_tensors="pt")
        return {name: encoded[name].to(self._held.device) for name in ("input_ids", "attention_mask")}


def _features(output: Any) -> Tensor:  # noqa: ANN401 - of transformers
    """Embeddings (B, C), which some versions of transformers wrap."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _check_threshold(kind: str, threshold: float, num_tags: int) -> None:
    if num_tags < 1:
        raise ConfigError("the list of tags is empty, expected at least one", hint="leave it out for the own list")
    if kind == "siglip" and not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold is {threshold:g}, expected a probability, 0 to 1", hint="for example 0.1")
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold is {threshold:g}, expected a z-score", hint="for example 2.5")
    # The z-score of one value among n is at most sqrt(n - 1).
    if kind == "clip" and not threshold < math.sqrt(num_tags - 1):
        raise ConfigError(
            f"none of {num_tags} tags can reach a z-score of {threshold:g}, "
            f"expected at least {math.floor(threshold**2) + 2} tags",
            hint="give a longer list, a lower threshold, or a siglip tagger, which needs no list to compare with",
        )


def load_zero_shot(
    kind: str,
    folder: Path,
    vocabulary: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    *,
    most: int = MOST_TAGS,
    threshold: float | None = None,
) -> ZeroShotTagger:
    """Load model and processor of a folder, offline; arguments as `open_taggers.load_open_tagger`.

    Raises:
        ConfigError: transformers or what the tokenizer needs is not installed, or as `ZeroShotTagger`.
        WeightsError: files are missing or damaged, or another kind of model.
    """
    what = f"{kind} tagger"
    transformers = transformers_for(f"the {what}")
    found = read_model_config(folder, what).get("model_type")
    if found != kind:
        hint = f"use {found}:SOURCE" if found in EXAMPLES else f"for example {kind}:{EXAMPLES[kind]}"
        if found == "siglip2":
            hint = f"this one takes pictures of any shape (naflex); use one of fixed size, such as {EXAMPLES['siglip']}"
        raise WeightsError(f"{what} {str(folder)!r} is of type {found!r}, expected {kind!r}", hint=hint)
    _check_threshold(kind, THRESHOLDS[kind] if threshold is None else threshold, len(vocabulary))
    processor = load_part(transformers.AutoProcessor.from_pretrained, folder, f"{what}'s processor")
    model = load_model(transformers.AutoModel.from_pretrained, folder, what, device, dtype)
    return ZeroShotTagger(kind, model, processor, vocabulary, most=most, threshold=threshold)
