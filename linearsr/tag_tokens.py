"""From tag names to what the network attends to: ids of a closed vocabulary, or embeddings of a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from linearsr.config import TagsConfig
from linearsr.device import memory_errors
from linearsr.errors import ConfigError
from linearsr.model.conditioning import pad_tag_ids
from linearsr.tags.vocabulary import parse_tags, tag_ids

if TYPE_CHECKING:
    from linearsr.tags.encoder import PromptEmbedder

__all__ = ["ClosedTags", "TagTokens", "TagWords", "TextTags", "make_tag_words"]

Names = tuple[str, ...]
ENCODER_HINT = "close other programs that use the device, or use `--device cpu`"


@dataclass(frozen=True, kw_only=True, slots=True)
class TagTokens:
    """One picture's tags as `Conditioning` takes them, one row each."""

    tags: Tensor
    mask: Tensor
    null_tags: Tensor
    null_mask: Tensor
    guides: bool
    """Whether tags and null differ; where they do not, guidance would run the network twice for nothing."""


class TagWords(Protocol):
    """How a model reads tags."""

    def parse(self, tags: str | Iterable[str]) -> Names:
        """Canonical names of tags as typed.

        Raises:
            ConfigError: a tag the model cannot take.
        """

    def tokens(self, names: Names, negative: Names | None, device: torch.device) -> TagTokens:
        """Tokens of canonical names, and of what guidance leads away from (None: the model's own)."""

    def prepare(self, pictures: Sequence[Names], negative: Names | None) -> None:
        """Do all that needs another model for these pictures, then let go of that model."""

    def check(self) -> None:
        """Find out whether that model can be had and fits, without loading it.

        Raises:
            WeightsError: it cannot, or does not.
        """


class ClosedTags:
    """Learned embeddings of a fixed vocabulary."""

    def __init__(self, vocabulary: tuple[str, ...]) -> None:
        self.vocabulary = vocabulary

    def parse(self, tags: str | Iterable[str]) -> Names:
        """As `vocabulary.parse_tags`."""
        return parse_tags(tags, self.vocabulary)

    def tokens(self, names: Names, negative: Names | None, device: torch.device) -> TagTokens:
        """Ids; guidance leads away from no tags, or from `negative`."""
        null = () if negative is None else negative
        ids, mask = pad_tag_ids([tag_ids(tags, self.vocabulary) for tags in (names, null)], device)
        return TagTokens(
            tags=ids[:1], mask=mask[:1], null_tags=ids[1:], null_mask=mask[1:], guides=set(names) != set(null)
        )

    def prepare(self, pictures: Sequence[Names], negative: Names | None) -> None:
        """Nothing to do."""

    def check(self) -> None:
        """Nothing to do."""


class TextTags:
    """Any words, through a frozen text encoder that is loaded when an embedding is not cached.

    Args:
        config: of the checkpoint; `suffix` and `negative`.
        make_embedder: gives the embedder at its first use.
    """

    def __init__(self, config: TagsConfig, make_embedder: Callable[[], PromptEmbedder]) -> None:
        self.config = config
        self._make_embedder = make_embedder
        self._embedder: PromptEmbedder | None = None

    def parse(self, tags: str | Iterable[str]) -> Names:
        """As `prompts.parse_open_tags`."""
        from linearsr.tags.prompts import parse_open_tags

        return parse_open_tags(tags)

    def tokens(self, names: Names, negative: Names | None, device: torch.device) -> TagTokens:
        """Embeddings of prompt and negative prompt."""
        from linearsr.tags.encoder import pad_embeddings

        prompt, null = self._prompt(names), self._null(negative)
        tokens, null_tokens = self._embed([prompt, null])
        tags, mask = pad_embeddings([tokens], device)
        null_tags, null_mask = pad_embeddings([null_tokens], device)
        return TagTokens(tags=tags, mask=mask, null_tags=null_tags, null_mask=null_mask, guides=prompt != null)

    def prepare(self, pictures: Sequence[Names], negative: Names | None) -> None:
        """Embed every distinct prompt of a run, then free the text encoder."""
        # Passes after the first have no tags. One prompt at a time: all of a large folder would not fit into memory.
        embedder = self._ready()
        with memory_errors("the text encoder", hint=ENCODER_HINT):
            for prompt in dict.fromkeys([self._null(negative), *(self._prompt(names) for names in ((), *pictures))]):
                embedder.embed([prompt])
        embedder.free()

    def _prompt(self, names: Names) -> str:
        from linearsr.tags.prompts import make_prompt

        return make_prompt(names, self.config.suffix)

    def _null(self, negative: Names | None) -> str:
        from linearsr.tags.prompts import make_prompt

        return self.config.negative if negative is None else make_prompt(negative, "")

    def _embed(self, prompts: list[str]) -> list[Tensor]:
        embedder = self._ready()
        with memory_errors("the text encoder", hint=ENCODER_HINT):
            embeddings = embedder.embed(prompts)
        embedder.free()  # it takes more memory than the network it is for
        return embeddings

    def check(self) -> None:
        """Look at the text encoder's settings."""
        self._ready()

    def _ready(self) -> PromptEmbedder:
        if self._embedder is None:
            self._embedder = self._make_embedder()
        return self._embedder


def make_tag_words(config: TagsConfig, make_embedder: Callable[[], PromptEmbedder]) -> TagWords:
    """How a checkpoint reads tags.

    Raises:
        ConfigError: a kind that takes none.
    """
    if config.kind == "text":
        return TextTags(config, make_embedder)
    if config.kind == "none":
        raise ConfigError("tags.kind is 'none', expected 'closed' or 'text'")
    return ClosedTags(config.vocabulary)
