"""Taggers that name whatever they see, by kind, and the lists of tags that some of them choose from.

Nothing heavy is imported until a tagger is loaded, so that settings can be checked first.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from linearsr.errors import ConfigError
from linearsr.tags.prompts import MAX_TAG_CHARS
from linearsr.tags.tagger_kinds import EXAMPLES, MOST_TAGS, VOCABULARY_KINDS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "EXAMPLES",
    "MOST_TAGS",
    "VOCABULARY_KINDS",
    "OpenTagger",
    "default_vocabulary",
    "load_open_tagger",
    "read_vocabulary",
    "split_tagger",
]

logger = logging.getLogger(__name__)


class OpenTagger(Protocol):
    """A `linearsr.tags.tagger.Tagger` that holds a large model; one is loaded for a whole folder, then freed."""

    def tag(self, lr: Tensor) -> tuple[str, ...]:
        """Canonical open tags of (3, h, w) in [0, 1], surest first; empty for none."""

    def free(self) -> None:
        """Let go of the model and of its memory; the tagger cannot be used after."""


def split_tagger(tagger: str) -> tuple[str, str]:
    """Take `KIND:SOURCE` apart, such as `siglip:google/siglip2-base-patch16-224`.

    Returns:
        Kind, a key of `EXAMPLES`, and source: a folder or a Hub id.

    Raises:
        ConfigError: an unknown kind, or no source.
    """
    kind, _, source = (part.strip() for part in tagger.partition(":"))
    _check_kind(kind)
    if not source:
        raise ConfigError(
            f"tagger {tagger!r} names no model, expected {kind}:SOURCE", hint=f"for example {kind}:{EXAMPLES[kind]}"
        )
    return kind, source


def _check_kind(kind: str) -> None:
    if kind not in EXAMPLES:
        close = difflib.get_close_matches(kind, EXAMPLES, n=1)
        name = close[0] if close else "siglip"
        raise ConfigError(
            f"tagger is of kind {kind!r}, expected {', '.join(EXAMPLES)}", hint=f"for example {name}:{EXAMPLES[name]}"
        )


def default_vocabulary() -> tuple[str, ...]:
    """Several hundred common words for what photographs show: things, places, materials, textures."""
    text = (resources.files("linearsr.tags") / "photo_tags.txt").read_text(encoding="utf-8")
    return _read_lines(text.splitlines(), "photo_tags.txt")


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Read a user's list of tags: UTF-8, one a line; empty lines and those that begin with `#` are left out.

    Returns:
        Lower case, in the order of the file; repetitions are dropped, which is logged.

    Raises:
        ConfigError: it cannot be read, holds no tags, or a line is no tag.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"list of tags {str(path)!r} cannot be read: {error.strerror}", hint="give a text file with one tag a line"
        ) from error
    except ValueError as error:
        raise ConfigError(f"list of tags {str(path)!r} is not UTF-8 text", hint="save it as UTF-8") from error
    return _read_lines(text.splitlines(), str(path))


def _read_lines(lines: Iterable[str], name: str) -> tuple[str, ...]:
    tags: dict[str, None] = {}
    repeated = []
    for number, line in enumerate(lines, start=1):
        tag = " ".join(line.lower().split())
        if not tag or tag.startswith("#"):
            continue
        if len(tag) > MAX_TAG_CHARS:
            raise ConfigError(
                f"{name} line {number}: a tag of {len(tag)} characters, expected at most {MAX_TAG_CHARS}",
                hint="one tag a line, of a few words",
            )
        if "," in tag or not tag.isprintable():
            raise ConfigError(
                f"{name} line {number}: {tag[:40]!r} is no tag, expected words without commas",
                hint="put each tag on a line of its own",
            )
        if tag in tags:
            repeated.append(tag)
        tags[tag] = None
    if not tags:
        raise ConfigError(
            f"{name} holds no tags, expected one a line", hint="leave it out for the list that comes along"
        )
    if repeated:
        logger.info("%s: %d repeated tags are dropped: %.100s", name, len(repeated), ", ".join(repeated))
    return tuple(tags)


def load_open_tagger(
    kind: str,
    folder: Path | None,
    vocabulary: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    *,
    most: int = MOST_TAGS,
    threshold: float | None = None,
) -> OpenTagger:
    """Load a tagger from its folder, offline.

    Args:
        kind: siglip or clip (`zero_shot.py`), florence2 (`florence2.py`) or ram (`ram.py`).
        folder: model and processor as transformers saves them; for ram the converted weights.
        vocabulary: tags to choose from, for `VOCABULARY_KINDS`; None for `default_vocabulary`. Others ignore it.
        device: that it runs on.
        dtype: of its weights; None is float32, and ram's always are.
        most: tags for one picture at most.
        threshold: least score of a tag, for `VOCABULARY_KINDS`; None for the kind's own.

    Raises:
        ConfigError: an unknown kind, no folder, a setting out of range, or a package that is not installed.
        WeightsError: files are missing, damaged, or of another kind of model.
    """
    import torch

    _check_kind(kind)
    if folder is None:
        raise ConfigError(f"tagger {kind!r} has no folder, expected one", hint=f"for example {kind}:{EXAMPLES[kind]}")
    if most < 1:
        raise ConfigError(f"most tags is {most}, expected at least 1", hint="`--tagger none` gives none")
    where, precision = torch.device(device), torch.float32 if dtype is None else dtype
    if kind in VOCABULARY_KINDS:
        from linearsr.tags.zero_shot import load_zero_shot

        words = default_vocabulary() if vocabulary is None else tuple(vocabulary)
        return load_zero_shot(kind, folder, words, where, precision, most=most, threshold=threshold)
    if threshold is not None:
        raise ConfigError(
            f"threshold is {threshold:g} for tagger {kind!r}, expected none",
            hint=f"only {' and '.join(VOCABULARY_KINDS)} have one",
        )
    if kind == "florence2":
        from linearsr.tags.florence2 import load_florence2

        return load_florence2(folder, where, precision, most=most)
    from linearsr.tags.ram import load_ram

    return load_ram(folder, where, most=most)
