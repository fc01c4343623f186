"""Which files belong together: clean pictures, inputs and results, paired by name or by order and checked by size.

Opens no picture beyond its headers. Whatever does not fit is told at once, all of it in one error.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from linearsr.errors import ConfigError, ImageError
from linearsr.evaluation.matching import Problems, ambiguous, by_name, by_order
from linearsr.evaluation.pictures import cropped_size
from linearsr.image_io import IMAGE_SUFFIXES, probe

__all__ = [
    "KnownInput",
    "Pair",
    "PairedSet",
    "absolute",
    "check_sizes",
    "distinct_names",
    "pair_folders",
    "picture_size",
]

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownInput:
    """What is written down of how an input was made."""

    tags: tuple[str, ...]
    """What was done to it."""
    sha256: str
    """Of its 8-bit RGB values, row by row: of other pixels nothing is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One clean picture and what belongs to it."""

    image: str
    """Its name without ending, with its place below the folder, separated by `/`."""
    hr: Path
    lr: Path | None = None
    known: KnownInput | None = None
    """Of `lr`; None where nothing is written down."""
    srs: Mapping[str, Path] = field(default_factory=dict)
    """Results that lie there already, by the name of their method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedSet:
    """The pictures of one folder."""

    name: str
    """Of the folder of clean pictures."""
    pairs: tuple[Pair, ...]
    """In the order of the clean pictures' names, at least one."""


def pair_folders(
    hr: Path,
    *,
    lr: Path | None,
    srs: Mapping[str, Path],
    by: str,
    recursive: bool = False,
    limit: int | None = None,
) -> PairedSet:
    """Pair clean pictures with inputs and results.

    By name: files whose names are equal but for the ending, upper and lower case told apart. Where a clean picture has
    no such partner, one known suffix of each may be left off, such as `_x4` or `_HR`; where most
    files have none, the suffix that all files of the folder have. By order, digits are numbers.

    Args:
        hr: folder of clean pictures, or one picture.
        lr: folder of inputs, or None. Where `hr` is one picture this is one too, and so are `srs`, of any name.
        srs: folders of results, by the name of their method.
        by: `name`, or `order` of the names, for folders with names of their own.
        recursive: look into sub-folders; a place below the folder is part of the name.
        limit: use the first pictures only; others need no partner, and may have one.

    Raises:
        ConfigError: a folder is missing or empty, or the pictures do not pair; one error names all that do not.
    """
    if by not in ("name", "order"):
        raise ConfigError(f"pairing is by {by!r}, expected name or order", hint="use `--pair-by name`")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}, expected at least 1 picture", hint="leave `--limit` out for all")
    sides = {("sr", label): folder for label, folder in srs.items()}
    if lr is not None:
        sides["lr", ""] = lr
    clean = _listing(hr, "hr", recursive)
    problems = Problems()
    problems.add(f"ambiguous in {hr}", ambiguous(clean))
    names = sorted(clean)[:limit]
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for side, place in sides.items():
        _check_kinds(hr, place)
        files = _listing(place, side[0], recursive)
        if by == "order" or hr.is_file():
            found[side] = by_order(clean, files, (hr, place), problems)
        else:
            found[side] = by_name(clean, names, files, (hr, place), problems)
    problems.check("the pictures do not pair", "give partners equal names, or use `--pair-by order` for equal counts")
    pairs = tuple(
        Pair(
            image=name,
            hr=clean[name][0],
            lr=None if lr is None else found["lr", ""][name],
            srs={label: found["sr", label][name] for label in srs},
        )
        for name in names
    )
    place = absolute(hr)
    return PairedSet(name=(place.parent if hr.is_file() else place).name, pairs=pairs)


def _check_kinds(hr: Path, place: Path) -> None:
    if hr.is_file() != place.is_file() and place.exists():
        message = f"{str(hr)!r} and {str(place)!r} are a file and a folder, expected two of a kind"
        raise ConfigError(message, hint="give two pictures or two folders")


def absolute(path: Path) -> Path:
    """A path from the root, `..` taken out; a link keeps its own name, which is the one that the user typed."""
    return Path(os.path.abspath(path))


def _listing(place: Path, what: str, recursive: bool) -> dict[str, list[Path]]:
    """Picture files of a folder by name without ending; hidden ones are left out, linked folders not followed."""
    if place.is_file():
        return {place.stem: [place]}
    if not place.is_dir():
        raise ConfigError(f"{what} is {str(place)!r}, expected a folder that exists", hint="check the path")
    files: dict[str, list[Path]] = {}
    for path in _walk(place, recursive):
        files.setdefault(path.relative_to(place).with_suffix("").as_posix(), []).append(path)
    if not files:
        hint = "check the folder" if recursive else "check the folder, or add `-r` to look into sub-folders"
        raise ConfigError(f"{what} is {str(place)!r}, which holds no picture", hint=hint)
    return files


def _walk(root: Path, recursive: bool) -> Iterator[Path]:
    def refuse(problem: OSError) -> None:
        message = f"{problem.filename} cannot be looked into: {problem.strerror}"
        raise ConfigError(message, hint="check the permissions of the folder") from problem

    for here, folders, files in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(files):
            path = Path(here, name)
            # A pipe in a folder would be waited for without end.
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and not path.is_fifo():
                yield path


def distinct_names(sets: Sequence[PairedSet]) -> tuple[PairedSet, ...]:
    """The same sets, those of one name told apart by the folder above: `Set5/HR` and `Set14/HR`.

    Raises:
        ConfigError: they have that in common too.
    """
    names, out = [paired.name for paired in sets], []
    for paired in sets:
        first = paired.pairs[0]
        above = absolute(first.hr).parents[first.image.count("/") + 1].name
        out.append(paired if names.count(paired.name) == 1 else replace(paired, name=f"{above}/{paired.name}"))
    for paired in out:
        if sum(other.name == paired.name for other in out) > 1:
            raise ConfigError(f"two sets of pictures are named {paired.name!r}", hint="rename one of the folders")
    return tuple(out)


def check_sizes(paired: PairedSet, scale: float | None, degraded: bool) -> float:
    """Check the sizes of all pictures from their headers, and work out the scale.

    A file whose headers cannot be read is passed over: it fails by itself when its turn comes.

    Args:
        paired: the pictures.
        scale: of input to clean picture; None derives it from the inputs, and is 1 where there are none.
        degraded: the inputs are made here, so those given do not count.

    Returns:
        The scale.

    Raises:
        ConfigError: results of another size than the clean picture, before or after it is cut to multiples of a
            whole scale, or inputs of another size than that divided by the scale. One error names them all.
    """
    sizes = [(pair, picture_size(pair.hr), None if degraded else picture_size(pair.lr)) for pair in paired.pairs]
    scale = _derive([(hr, lr) for _, hr, lr in sizes if hr and lr]) if scale is None else scale
    problems = Problems()
    for pair, hr, lr in sizes:
        if hr is None:
            continue
        cut = cropped_size(hr, scale)
        if min(cut) < 1:
            problems.add(f"smaller than the scale, {scale:g}", [f"{pair.hr} ({_text(hr)})"])
        elif lr is not None and not all(_fits(*sides, scale) for sides in zip(hr, lr, strict=True)):
            wanted = (max(1, round(side / scale)) for side in cut)
            problems.add("inputs", [f"{pair.lr} is {_text(lr)}, expected {_text(wanted)}"])
        for path in pair.srs.values():
            sr = picture_size(path)
            if sr is not None and sr not in (hr, cut):
                problems.add("results", [f"{path} is {_text(sr)}, expected {_text(cut)}"])
    problems.check(
        f"sizes do not fit at scale {scale:g}",
        "check that the folders belong together, and give the scale of the inputs with `--scale`",
    )
    return float(scale)


def picture_size(path: Path | None) -> Size | None:
    """(width, height), upright; None where there is no file or its headers say nothing."""
    try:
        info = None if path is None else probe(path)
    except ImageError:
        return None
    return None if info is None else (info.width, info.height)


def _text(size: Iterable[int]) -> str:
    return "x".join(map(str, size))


def _fits(hr: int, lr: int, scale: float) -> bool:
    """Whether a side of an input belongs to one of a clean picture."""
    if scale == round(scale):
        return hr // round(scale) == lr
    return lr in (round(hr / scale), int(hr / scale)) or round(lr * scale) == hr


def _derive(sizes: Sequence[tuple[Size, Size]]) -> float:
    """The roundest scale that suits all, or else most; 1 for no sizes."""
    sides = [pair for hr, lr in sizes for pair in zip(hr, lr, strict=True)]
    if not sides:
        return 1.0
    ratios = (statistics.median(hr / lr for hr, lr in sides), sum(hr for hr, _ in sides) / sum(lr for _, lr in sides))
    candidates = [max(1.0, round(ratio, digits)) for digits in (0, 1, 2, 9) for ratio in ratios]
    return float(max(candidates, key=lambda scale: sum(_fits(*pair, scale) for pair in sides)))
