"""Content tags from text files beside the photographs: `street.txt` holds the tags of `street.jpg`.

Tags are separated by commas or line breaks. Every tag must be one of the names that the recipe lists, so that a
misspelt tag is an error and never a silent gap in the training data.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from linearsr.errors import TrainingError
from linearsr.tags.vocabulary import MAX_CONTENT_TAGS
from linearsr_train.data.sources import PhotoSet

__all__ = ["read_content", "read_sidecar", "sidecar_text"]

_SHOWN = 40
"""Characters of an unknown tag that are shown: a sidecar may hold a whole sentence."""


def sidecar_text(path: Path) -> str:
    """What stands in the sidecar of a photograph; empty without one.

    Raises:
        TrainingError: it is no text, or cannot be read.
    """
    path = path.with_suffix(".txt")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise TrainingError(f"{path} cannot be read: {reason}", hint="give tags as plain text, or remove it") from error


def read_sidecar(path: Path, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Read the content tags of a photograph.

    Args:
        path: the photograph; the sidecar has its name with the suffix `.txt`.
        allowed: content tags of the recipe, in its order.

    Returns:
        Names of `allowed` in its order, without repetition; empty without a sidecar.

    Raises:
        TrainingError: an unknown tag, more than `MAX_CONTENT_TAGS` tags, or a file that is no text.
    """
    sidecar = path.with_suffix(".txt")
    parts = sidecar_text(path).replace("\n", ",").split(",")
    names = [part.strip().lower() for part in parts if part.strip()]
    for name in names:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
            raise TrainingError(
                f"{sidecar} has the unknown tag {shown!r}, expected names of data.content_tags",
                hint=f"did you mean {close[0]!r}?" if close else f"it lists {', '.join(allowed) or 'none'}",
            )
    tags = tuple(name for name in allowed if name in names)
    if len(tags) > MAX_CONTENT_TAGS:
        raise TrainingError(
            f"{sidecar} has {len(tags)} tags, expected at most {MAX_CONTENT_TAGS}", hint="keep the most telling ones"
        )
    return tags


def read_content(photos: PhotoSet, allowed: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Read the sidecars of all photographs, as `CropDataset` takes them.

    Returns:
        File name -> content tags, for every photograph that has some.

    Raises:
        TrainingError: as `read_sidecar`, or two photographs of one name in different folders have different tags.
    """
    content: dict[str, tuple[str, ...]] = {}
    first: dict[str, Path] = {}
    for index in range(len(photos)):
        name, path = photos.name(index), photos.path(index)
        tags = read_sidecar(path, allowed)
        if tags != content.setdefault(name, tags):
            raise TrainingError(
                f"{first[name]} and {path} have the same name but different tags",
                hint="give photographs of different folders different names",
            )
        first.setdefault(name, path)
    return {name: tags for name, tags in content.items() if tags}
