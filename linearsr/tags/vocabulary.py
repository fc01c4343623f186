"""The compact family's closed vocabulary: names of degradations, and of contents if trained so. Standard library only.

`clean`, or any of `blur`, `noise`, `jpeg`, each bare (strong) or with `:weak`; `:strong` is accepted as another
spelling of the bare form. Content tags, the names beyond these, go with any of them and with each other. No tag at all
is the null tag, which tells the network nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from linearsr.errors import ConfigError

__all__ = [
    "COMPACT_VOCABULARY",
    "DEGRADATIONS",
    "MAX_CONTENT_TAGS",
    "MAX_TAGS",
    "closed_vocabulary",
    "parse_tags",
    "tag_ids",
]

DEGRADATIONS = ("blur", "noise", "jpeg")
COMPACT_VOCABULARY = ("clean", "blur:weak", "blur", "noise:weak", "noise", "jpeg:weak", "jpeg")
"""Order of the learned embeddings: position i has id i + 1, id 0 is the null tag."""
MAX_TAGS = 3
"""One tag for each degradation is the most a picture can carry, content tags aside."""
MAX_CONTENT_TAGS = 5
"""Content tags that a picture can carry beside its degradations: few and precise ones guide best."""


def closed_vocabulary(content_tags: Iterable[str] = ()) -> tuple[str, ...]:
    """Names in the order of their embeddings: the degradations, then the content tags.

    Raises:
        ConfigError: a content tag that is empty, repeated, the name of a degradation, or cannot be typed in a list.
    """
    names = list(COMPACT_VOCABULARY)
    for tag in content_tags:
        if not tag or tag != tag.strip().lower() or any(mark in tag for mark in ",:\n"):
            raise ConfigError(
                f"content tag {tag!r} cannot be used, expected lower case without commas, colons and outer spaces",
                hint="for example 'night street'",
            )
        if tag in names:
            taken = "is listed twice" if tag not in COMPACT_VOCABULARY else "is the name of a degradation"
            raise ConfigError(f"content tag {tag!r} {taken}, expected names of their own", hint="drop or rename it")
        names.append(tag)
    return tuple(names)


def parse_tags(tags: str | Iterable[str], vocabulary: tuple[str, ...] = COMPACT_VOCABULARY) -> tuple[str, ...]:
    """Read tags as typed by a user, `"jpeg:strong, noise:weak"`, into their canonical names.

    Returns:
        Names of `vocabulary` in its order, without repetition; empty for the null tag.

    Raises:
        ConfigError: an unknown tag, two strengths of one degradation, `clean` beside a degradation, or more than
            `MAX_CONTENT_TAGS` content tags.
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
    content = names.difference(COMPACT_VOCABULARY)
    if "clean" in names and len(names) - len(content) > 1:
        raise ConfigError(
            f"tags are {', '.join(sorted(names))}, but 'clean' means no degradation", hint="drop 'clean' or the others"
        )
    if len(content) > MAX_CONTENT_TAGS:
        raise ConfigError(
            f"{len(content)} content tags are given ({', '.join(sorted(content))}), expected at most "
            f"{MAX_CONTENT_TAGS}",
            hint="keep those that name the main things in the picture",
        )
    return tuple(name for name in vocabulary if name in names)


def tag_ids(tags: tuple[str, ...], vocabulary: tuple[str, ...] = COMPACT_VOCABULARY) -> list[int]:
    """Ids of canonical tags for the embedding, 1-based; id 0 (the null tag) is never in the list."""
    return [vocabulary.index(tag) + 1 for tag in tags]
