"""Florence-2 as a tagger: names of the objects it finds and the phrases it describes regions with, in its own words.

Source: arXiv:2311.06242, section 4 (tasks as prompts, places as tokens after each phrase).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr.errors import WeightsError
from linearsr.tags.pretrained import (
    HeldModel,
    load_model,
    load_part,
    picture_input,
    quiet,
    read_model_config,
    transformers_for,
)
from linearsr.tags.prompts import MAX_TAG_CHARS
from linearsr.tags.tagger_kinds import EXAMPLES, MOST_TAGS

__all__ = ["TASKS", "Florence2Tagger", "load_florence2", "read_phrases", "unique_tags"]

logger = logging.getLogger(__name__)
WHAT = "florence2 tagger"
TASKS = ("<OD>", "<DENSE_REGION_CAPTION>")
"""Names of objects first: shorter and surer than descriptions."""
MAX_NEW_TOKENS = 256
"""Each task's answer is cut here: about 40 objects, of which `most` are used."""
PLACES = re.compile(r"(?:<loc_\d+>)+")
MARKS = re.compile(r"<[^<>]*>")
ARTICLE = re.compile(r"^(?:a|an|the) ")


def read_phrases(answer: str) -> list[str]:
    """Phrases of an answer such as `car<loc_1><loc_2><loc_3><loc_4>door<loc_...>`, in its order.

    What is not followed by a place was cut off, and is left out.
    """
    return [MARKS.sub("", phrase).strip() for phrase in PLACES.split(answer)[:-1]]


def unique_tags(phrases: Iterable[str], most: int) -> tuple[str, ...]:
    """Phrases as canonical open tags: lower case, no commas, article or full stop, no repeats, at most `most`.

    Long phrases, and what is no text, are left out.
    """
    cleaned = (" ".join(phrase.lower().replace(",", " ").split()).strip(" .") for phrase in phrases)
    names = (ARTICLE.sub("", phrase) for phrase in cleaned)
    return tuple(dict.fromkeys(name for name in names if 0 < len(name) <= MAX_TAG_CHARS and _is_text(name)))[:most]


def _is_text(name: str) -> bool:
    """Words rather than marks and broken bytes."""
    return name.isprintable() and "\ufffd" not in name and any(letter.isalnum() for letter in name)


class Florence2Tagger:
    """Names what it finds; see `linearsr.tags.open_taggers.OpenTagger`. Greedy, so equal for equal pictures.

    Args:
        model: `Florence2ForConditionalGeneration` of transformers.
        processor: `Florence2Processor`.
        most: tags for one picture at most.
        max_new_tokens: of each answer.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - of transformers
        processor: Any,  # noqa: ANN401
        *,
        most: int = MOST_TAGS,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self._held = HeldModel(model, WHAT)
        self._processor = processor
        self.most, self.max_new_tokens = most, max_new_tokens
        size = processor.image_processor.size
        self._size = (int(size["height"]), int(size["width"]))

    @torch.inference_mode()
    def answer(self, lr: Tensor, task: str) -> str:
        """Text that the model gives for a task, with its marks.

        Args:
            lr: (3, h, w) in [0, 1], of any size from 1 x 1 up.
            task: one of `TASKS`.

        Raises:
            ShapeError: another number of axes or channels, or no pixels.
            WeightsError: the tagger was freed.
        """
        model, processor = self._held.model, self._processor
        pixels = picture_input(lr, self._size, processor.image_processor).to(self._held.device, self._held.dtype)
        tokenizer = processor.tokenizer
        prompt = processor.task_prompts_without_inputs[task]
        text = f"{processor.image_token * processor.num_image_tokens}{tokenizer.bos_token}{prompt}{tokenizer.eos_token}"
        inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self._held.device)
        with quiet(transformers_for(f"the {WHAT}")):
            ids = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                pixel_values=pixels,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
            )
        return tokenizer.decode(ids[0], skip_special_tokens=False)

    def tag(self, lr: Tensor) -> tuple[str, ...]:
        """Names of objects, then descriptions of regions, of (3, h, w) in [0, 1]; empty for none."""
        found = unique_tags((phrase for task in TASKS for phrase in read_phrases(self.answer(lr, task))), self.most)
        if not found:
            logger.debug("the %s names nothing", WHAT)
        return found

    def free(self) -> None:
        """Let go of the model and of its memory."""
        self._held.free()


def load_florence2(folder: Path, device: torch.device, dtype: torch.dtype, *, most: int = MOST_TAGS) -> Florence2Tagger:
    """Load model and processor of a folder, offline; arguments as `open_taggers.load_open_tagger`.

    Raises:
        ConfigError: transformers is not installed.
        WeightsError: files are missing or damaged, another kind of model, or transformers is too old for it.
    """
    transformers = transformers_for(f"the {WHAT}")
    settings = read_model_config(folder, WHAT)
    found = settings.get("model_type")
    if found != "florence2" or "auto_map" in settings:
        # The first published folders bring code of their own and other names of weights.
        own = "with code of its own, which is never run" if found == "florence2" else f"of type {found!r}"
        raise WeightsError(
            f"{WHAT} {str(folder)!r} is {own}, expected one for transformers' own Florence-2",
            hint=f"for example florence2:{EXAMPLES['florence2']}",
        )
    if not hasattr(transformers, "Florence2ForConditionalGeneration"):
        raise WeightsError(
            f"transformers {transformers.__version__} has no Florence-2, expected 4.56 or later",
            hint="run `pip install -U transformers`",
        )
    processor = load_part(transformers.AutoProcessor.from_pretrained, folder, f"{WHAT}'s processor")
    load = transformers.Florence2ForConditionalGeneration.from_pretrained
    return Florence2Tagger(load_model(load, folder, WHAT, device, dtype), processor, most=most)
