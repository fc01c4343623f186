"""A tiny random Gemma-2 with a tokenizer of its own, in the place of the text encoder that SANA uses.

The tokenizer is trained here on a few sentences, with Gemma's conventions: words marked by a low line, bytes for what
it does not know, a token for the beginning and none for the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from linearsr.extras import require
from linearsr.tags.pretrained import quiet

__all__ = ["PAD_ID", "SENTENCES", "make_tokenizer", "write_text_encoder"]

SENTENCES = (
    "a photo of a stone bridge over a quiet river, trees on both banks.",
    "brick wall, wooden door, iron gate and a narrow street after the rain.",
    "a red car and two bicycles in front of a shop window at night.",
    "grass, leaves, flowers and the fur of a sleeping cat in warm light.",
    "mountains, clouds and snow above a lake; a small boat near the shore.",
    "what does the image describe? locate the objects with category name in the image.",
    "portrait of a person with curly hair, knitted wool, blurred background.",
)
"""What the tokenizers are trained on."""
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
"""By id, as Gemma has them."""
PAD_ID, EOS_ID, BOS_ID = 0, 1, 2
SPACE = "\u2581"


def make_tokenizer(template: str, *, extra_tokens: tuple[str, ...] = (), **settings: Any) -> Any:  # noqa: ANN401
    """Train a byte-level-safe BPE tokenizer of some hundred tokens; equal for equal arguments.

    Args:
        template: what surrounds a prompt, such as `<bos> $A`.
        extra_tokens: further tokens that are never split.
        **settings: of `PreTrainedTokenizerFast`, such as `model_max_length`.

    Raises:
        ConfigError: transformers is not installed.
    """
    transformers = require("transformers", "full", "the text encoder")
    tokenizers = require("tokenizers", "full", "the text encoder")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(SPACE, "merged_with_next")
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace(SPACE, " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*SPECIAL_TOKENS, *(f"<0x{value:02X}>" for value in range(256))],
        initial_alphabet=[SPACE, *(chr(code) for code in range(ord("!"), ord("~") + 1))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(list(extra_tokens))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[("<bos>", BOS_ID), ("<eos>", EOS_ID)]
    )
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), SPECIAL_TOKENS, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)


def write_text_encoder(folder: Path, *, hidden: int = 16, seed: int = 0) -> None:
    """Write tokenizer and model as transformers does, both at the folder's root; equal for equal arguments.

    Args:
        folder: made if need be.
        hidden: width of the embeddings, a multiple of 4; `model.caption_channels` of the network that reads them.
        seed: of the weights.

    Raises:
        ConfigError: transformers is not installed.
    """
    transformers = require("transformers", "full", "the text encoder")
    # Gemma pads on the left by itself; the stand-in does too, so that whoever relies on the right side is found out.
    tokenizer = make_tokenizer("<bos> $A", padding_side="left")
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=hidden // 2,
        query_pre_attn_scalar=hidden // 2,
        initializer_range=0.3,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=BOS_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.Gemma2Model(config).eval()
    with quiet(transformers):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
