"""The frozen text encoder: prompts to the embeddings that the network attends to.

As SANA uses Gemma-2: prompts in lower case without outer spaces, cut at `max_tokens`, no instruction before them, the
last hidden state of the real tokens. Prompts go through one at a time: in bfloat16 neighbours of other lengths change
the third digit, and an embedding that is cached must not depend on what it was made beside.

Source: arXiv:2410.10629, section 2.3; padding and negative prompt as in diffusers' SanaPipeline.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr.config import TagsConfig
from linearsr.errors import ShapeError, WeightsError
from linearsr.tags.embedding_cache import EmbeddingCache, default_cache_folder
from linearsr.tags.pretrained import HeldModel, load_model, load_part, read_model_config, transformers_for
from linearsr.tags.prompts import normalise_prompt

__all__ = [
    "EmbeddingCache",
    "PromptEmbedder",
    "TextEncoder",
    "check_width",
    "default_cache_folder",
    "encoder_dtype",
    "encoder_key",
    "load_text_encoder",
    "make_embedder",
    "pad_embeddings",
]

logger = logging.getLogger(__name__)
WHAT = "text encoder"
READ_WHOLE = {".json", ".model", ".txt"}
"""Of the encoder's files, those that are small and say what it does; weights count by name and size."""


class TextEncoder:
    """A decoder-only language model whose last hidden state is the embedding.

    Args:
        model: gives `last_hidden_state` (1, K, C) for `input_ids` and `attention_mask`; frozen.
        tokenizer: that belongs to it.
        max_tokens: longest prompt; what is beyond is cut off.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:  # noqa: ANN401 - of transformers
        self._held = HeldModel(model, WHAT)
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self._told = False

    @property
    def width(self) -> int:
        """Channels C of an embedding."""
        return int(self._held.model.config.hidden_size)

    @torch.no_grad()  # not inference_mode: a network is trained on these tensors
    def encode(self, prompts: Sequence[str]) -> list[Tensor]:
        """Embed prompts, each by itself, so that the result does not depend on the others.

        Args:
            prompts: any text; the empty one is embedded as the token of the beginning.

        Returns:
            For each prompt (K, C) float32 on the host, 1 <= K <= max_tokens: real tokens only, no padding.

        Raises:
            WeightsError: an embedding is not finite.
        """
        return [self._encode(normalise_prompt(prompt)) for prompt in prompts]

    def _encode(self, prompt: str) -> Tensor:
        ids = torch.tensor([self._tokens(prompt)], device=self._held.device)
        hidden = self._held.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]  # (K, C)
        embedding = hidden.float().cpu()
        if not bool(torch.isfinite(embedding).all()):
            raise WeightsError(
                f"the {WHAT} gives values that are not finite for {prompt[:60]!r}",
                hint="use `--dtype fp32`, or fetch the encoder again",
            )
        return embedding

    def free(self) -> None:
        """Let go of the model and of its memory."""
        self._held.free()

    def _tokens(self, prompt: str) -> list[int]:
        ids: list[int] = self.tokenizer(prompt).input_ids
        if len(ids) > self.max_tokens:
            if not self._told:
                logger.warning(
                    "a prompt has %d tokens and is cut to %d (tags.max_tokens): %.60s...",
                    len(ids),
                    self.max_tokens,
                    prompt,
                )
                self._told = True
            ids = self.tokenizer(prompt, truncation=True, max_length=self.max_tokens).input_ids
        return ids if ids else [self.tokenizer.bos_token_id]


def encoder_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Precision that the encoder computes in when one is asked for: float32 for None, and instead of float16.

    Gemma-2's activations exceed float16's largest number; SANA and its published examples use bfloat16.
    """
    return torch.float32 if dtype in (None, torch.float16) else dtype


def check_width(folder: Path, caption_channels: int) -> None:
    """Refuse an encoder of another width than the network reads, before its weights are loaded.

    Args:
        folder: of the encoder.
        caption_channels: of the network, `model.caption_channels`.

    Raises:
        WeightsError: another width, or no config.
    """
    config = read_model_config(folder, WHAT)
    width = config.get("hidden_size")
    if width != caption_channels:
        raise WeightsError(
            f"{WHAT} {str(folder)!r} ({config.get('model_type')}) gives embeddings of width {width}, "
            f"expected {caption_channels} (model.caption_channels)",
            hint="use the encoder that the model was trained with; SANA's is Gemma-2 2B, of width 2304",
        )


def load_text_encoder(
    folder: Path, config: TagsConfig, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> TextEncoder:
    """Load tokenizer and model of a folder, offline, from safetensors only.

    Args:
        folder: tokenizer files, config.json and weights at its root; of a causal language model its decoder is used.
        config: `max_tokens`.
        device: that it runs on.
        dtype: as `encoder_dtype` takes it; bfloat16 is what SANA was trained with.

    Raises:
        ConfigError: transformers is not installed.
        WeightsError: files are missing or damaged, or the model is no decoder-only language model.
    """
    transformers = transformers_for(f"the {WHAT}")
    settings = read_model_config(folder, WHAT)
    if settings.get("is_encoder_decoder") or "hidden_size" not in settings:
        raise WeightsError(
            f"{WHAT} {str(folder)!r} is of type {settings.get('model_type')!r}, expected a decoder-only language model",
            hint="SANA's is Gemma-2, type 'gemma2'",
        )
    tokenizer = load_part(transformers.AutoTokenizer.from_pretrained, folder, "tokenizer")
    if tokenizer.bos_token_id is None:
        raise WeightsError(
            f"the tokenizer in {str(folder)!r} has no token for the beginning, expected one for the empty prompt",
            hint="use the tokenizer that the encoder was published with",
        )
    tokenizer.truncation_side = "right"
    if dtype is torch.float16:
        logger.warning("float16 is too narrow for the %s, whose activations overflow it; it computes in float32", WHAT)
    load = transformers.AutoModel.from_pretrained
    model = load_model(load, folder, WHAT, torch.device(device), encoder_dtype(dtype))
    return TextEncoder(model, tokenizer, config.max_tokens)


def encoder_key(folder: Path, max_tokens: int, dtype: torch.dtype | None) -> str:
    """Name an encoder by what its embeddings depend on, for `EmbeddingCache`; reads no weights.

    Args:
        folder: its files: settings and vocabulary count by content, weights by name and size.
        max_tokens: of the prompts.
        dtype: as `encoder_dtype` takes it. Devices and versions of torch, which change the last digits, do not count.
    """
    digest = hashlib.sha256(f"{max_tokens} {encoder_dtype(dtype)}".encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in READ_WHOLE and path.is_file():
            digest.update(f"\n{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
        elif path.suffix == ".safetensors":
            digest.update(f"\n{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()


class PromptEmbedder:
    """Embeds prompts; the encoder is loaded only when one is not cached.

    Args:
        load: gives the encoder.
        cache: on disk; None keeps embeddings in memory only.
    """

    def __init__(self, load: Callable[[], TextEncoder], cache: EmbeddingCache | None = None) -> None:
        self._load, self._cache = load, cache
        self._encoder: TextEncoder | None = None
        self._kept: dict[str, Tensor] = {}
        """What no disk keeps."""

    def embed(self, prompts: Sequence[str]) -> list[Tensor]:
        """(K, C) float32 on the host for each prompt, from the cache where it is there.

        Raises:
            LinearSRError: as the encoder's loader.
        """
        names = [normalise_prompt(prompt) for prompt in prompts]
        found: dict[str, Tensor] = {}
        for name in dict.fromkeys(names):
            embedding = self._cached(name)
            if embedding is None:
                if self._encoder is None:
                    self._encoder = self._load()
                embedding = self._encoder.encode([name])[0]
                if self._cache is None or not self._cache.put(name, embedding):
                    self._kept[name] = embedding
            found[name] = embedding
        return [found[name] for name in names]

    def free(self) -> None:
        """Let go of the encoder and its memory; it loads again when it is needed."""
        if self._encoder is not None:
            self._encoder.free()
            self._encoder = None

    def _cached(self, prompt: str) -> Tensor | None:
        if prompt in self._kept:
            return self._kept[prompt]
        return None if self._cache is None else self._cache.get(prompt)


def make_embedder(
    folder: Path,
    config: TagsConfig,
    caption_channels: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    cache_folder: Path | None = None,
) -> PromptEmbedder:
    """An embedder for the encoder in a folder, checked against the network but not loaded yet.

    Args:
        folder, config, device, dtype: as `load_text_encoder`.
        caption_channels: of the network.
        cache_folder: of the embeddings; None is `embeddings` in `default_cache_folder`.

    Raises:
        WeightsError: as `check_width`.
    """
    check_width(folder, caption_channels)
    where = default_cache_folder() / "embeddings" if cache_folder is None else cache_folder
    cache = EmbeddingCache(where, encoder_key(folder, config.max_tokens, dtype))
    return PromptEmbedder(lambda: load_text_encoder(folder, config, device, dtype), cache)


def pad_embeddings(embeddings: Sequence[Tensor], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Lay out embeddings for a batch, padded with zeros on the right.

    Args:
        embeddings: (K, C) each, of one width C, K >= 1.
        device: of the result.

    Returns:
        (B, K, C) float32 with the longest's K, and (B, K) bool, True where a token is real.

    Raises:
        ShapeError: none are given, one has no tokens, or their widths differ.
    """
    shapes = [tuple(value.shape) for value in embeddings]
    if not shapes or any(len(s) != 2 or s[0] < 1 or s[1] != shapes[0][1] for s in shapes):
        raise ShapeError(f"embeddings are {shapes}, expected at least one, each (K, C) with one C and K of at least 1")
    tags = torch.nn.utils.rnn.pad_sequence([value.float() for value in embeddings], batch_first=True)
    lengths = torch.tensor([value.shape[0] for value in embeddings])
    mask = torch.arange(tags.shape[1])[None, :] < lengths[:, None]
    return tags.to(device), mask.to(device)
