"""The compact family's closed vocabulary: names of degradations. Standard library only.

`clean`, or any of `blur`, `noise`, `jpeg`, each bare (strong) or with `:weak`; `:strong` is accepted as another
spelling of the bare form. No tag at all is the null tag, which tells the network nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from linearsr.errors import ConfigError

__all__ = ["COMPACT_VOCABULARY", "DEGRADATIONS", "MAX_TAGS", "parse_tags", "tag_ids"]

DEGRADATIONS = ("blur", "noise", "jpeg")
COMPACT_VOCABULARY = ("clean", "blur:weak", "blur", "noise:weak", "noise", "jpeg:weak", "jpeg")
"""Order of the learned embeddings: position i has id i + 1, id 0 is the null tag."""
MAX_TAGS = 3
"""One tag for each degradation is the most a picture can carry."""


def parse_tags(tags: str | Iterable[str], vocabulary: tuple[str, ...] = COMPACT_VOCABULARY) -> tuple[str, ...]:
    """Read tags as typed by a user, `"jpeg:strong, noise:weak"`, into their canonical names.

    Returns:
        Names of `vocabulary` in its order, without repetition; empty for the null tag.

    Raises:
        ConfigError: an unknown tag, two strengths of one degradation, or `clean` beside another tag.
    """
    parts = tags.split(",") if isinstance(tags, str) else list(tags)
    names = {part.strip().lower().removesuffix(":strong") for part in parts if part.strip()}
    for name in sorted(names):
        if name not in vocabulary:
            close = difflib.get_close_matches(name, vocabulary, n=1)
            raise ConfigError(
                f"unknown tag {name!r}, expected {', '.join(vocabulary)}",
                hint=f"did you mean {close[0]!r}?" if close else "leave `--tags` out to let the model decide",
            )
    for kind in DEGRADATIONS:
        if {kind, f"{kind}:weak"} <= names:
            raise ConfigError(f"tags {kind!r} and '{kind}:weak' contradict each other", hint="keep one of them")
    if "clean" in names and len(names) > 1:
        raise ConfigError(
            f"tags are {', '.join(sorted(names))}, but 'clean' means no degradation", hint="drop 'clean' or the others"
        )
    return tuple(name for name in vocabulary if name in names)


def tag_ids(tags: tuple[str, ...], vocabulary: tuple[str, ...] = COMPACT_VOCABULARY) -> list[int]:
    """Ids of canonical tags for the embedding, 1-based; id 0 (the null tag) is never in the list."""
    return [vocabulary.index(tag) + 1 for tag in tags]
