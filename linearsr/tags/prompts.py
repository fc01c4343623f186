"""Open tags, any words, and the prompt that a text encoder reads. Standard library only.

A prompt is the tags in the order given, lower case, joined by comma and space, with no words about quality unless the
model was trained with them: few and sure tags guide best (SeeSR and OSEDiff assemble theirs in the same way).
"""

from __future__ import annotations

from collections.abc import Iterable

from linearsr.errors import ConfigError

__all__ = ["MAX_OPEN_TAGS", "MAX_TAG_CHARS", "make_prompt", "normalise_prompt", "parse_open_tags"]

MAX_OPEN_TAGS = 15
"""Tags that one picture can carry."""
MAX_TAG_CHARS = 100
"""Characters of one tag: a few words; sentences guide worse than tags."""


def parse_open_tags(tags: str | Iterable[str]) -> tuple[str, ...]:
    """Read tags as typed by a user, `"Stone bridge, river"`, into their canonical form.

    Args:
        tags: a list joined by commas, or single tags, which may hold commas too.

    Returns:
        Lower case, spaces inside collapsed to one, in the order given, without repetition; empty for none.

    Raises:
        ConfigError: a tag longer than `MAX_TAG_CHARS`, or more than `MAX_OPEN_TAGS` of them.
    """
    texts = (tags,) if isinstance(tags, str) else tags
    words = (" ".join(part.lower().split()) for text in texts for part in text.split(","))
    names = tuple(dict.fromkeys(word for word in words if word))
    for name in names:
        if len(name) > MAX_TAG_CHARS:
            raise ConfigError(
                f"tag {name[:30]!r}... has {len(name)} characters, expected at most {MAX_TAG_CHARS}",
                hint="name things in a few words each, separated by commas",
            )
    if len(names) > MAX_OPEN_TAGS:
        raise ConfigError(
            f"{len(names)} tags are given ({', '.join(names)[:60]}...), expected at most {MAX_OPEN_TAGS}",
            hint="keep those that name the main things in the picture",
        )
    return names


def make_prompt(tags: Iterable[str], suffix: str = "") -> str:
    """Join canonical tags and a suffix to a prompt; empty for neither.

    Args:
        tags: from `parse_open_tags`.
        suffix: words that the model was trained with after every prompt, such as `clean, high-resolution`.
    """
    return ", ".join(part for part in (*tags, normalise_prompt(suffix)) if part)


def normalise_prompt(prompt: str) -> str:
    """As SANA's text encoder reads it: lower case, no outer spaces."""
    return prompt.lower().strip()
