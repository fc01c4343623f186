"""Prompts from text files beside the photographs, for models that read any words: `street.txt` tells of `street.jpg`.

Tags are separated by commas or line breaks, as for the closed vocabulary, but may be any few words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from linearsr.config import TagsConfig
from linearsr.errors import ConfigError, TrainingError
from linearsr.tags.prompts import make_prompt, parse_open_tags
from linearsr_train.data.sidecar import sidecar_text
from linearsr_train.data.sources import PhotoSet

__all__ = ["Prompts", "read_prompts"]


@dataclass(frozen=True)
class Prompts:
    """The prompt of every photograph that has one."""

    by_photo: Mapping[str, str]
    """File name -> prompt, none of them empty."""

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The distinct prompts; that at place i has the id i + 1 in a batch, and 0 is the empty prompt."""
        return tuple(sorted(set(self.by_photo.values())))

    def of(self, name: str) -> tuple[str, ...]:
        """Prompt of a photograph as the one name of `vocabulary` that it has; none where it has no prompt."""
        prompt = self.by_photo.get(name)
        return () if prompt is None else (prompt,)


def _read_tags(path: Path) -> tuple[str, ...]:
    """Tags of a photograph, any words.

    Raises:
        TrainingError: too many or too long ones.
    """
    try:
        return parse_open_tags(sidecar_text(path).replace("\n", ","))
    except ConfigError as error:
        raise TrainingError(f"{path.with_suffix('.txt')}: {error.message}", hint=error.hint) from error


def read_prompts(sets: Iterable[PhotoSet], tags: TagsConfig) -> Prompts:
    """Read the sidecars of all photographs.

    Args:
        sets: photographs to train on and to validate with.
        tags: `suffix` is added to every prompt, as it is for users.

    Raises:
        TrainingError: a sidecar that is no text or says too much, or two photographs of one name with different tags.
    """
    found: dict[str, tuple[str, str]] = {}
    for photos in sets:
        for index in range(len(photos)):
            name, path = photos.name(index), photos.path(index)
            prompt = make_prompt(_read_tags(path), tags.suffix)
            before, first = found.setdefault(name, (prompt, str(path)))
            if before != prompt:
                raise TrainingError(
                    f"{first} and {path} have the same name but different tags",
                    hint="give photographs of different folders different names",
                )
    return Prompts({name: prompt for name, (prompt, _) in found.items() if prompt})
