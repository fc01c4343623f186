"""From what was named to scenes: which files show the same, at which size, under which labels. Reads headers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.errors import ConfigError, LinearSRError
from linearsr_cli.compare_settings import CompareOptions, label_inputs
from linearsr_cli.inputs import expand_inputs
from linearsr_cli.output import clean

if TYPE_CHECKING:
    from linearsr.evaluation.pairing import Pair, PairedSet
    from linearsr.image_io import ImageInfo

__all__ = ["BICUBIC", "HR", "LR", "NAMED", "ComparePlan", "Scene", "make_compare_plan"]

HR, LR = "\0hr", "\0lr"
"""Columns of the clean picture and the input; no label and no file name holds a zero byte."""
BICUBIC = "bicubic"
"""Label of the input where it is always enlarged, and how."""
NAMED = 10
"""Pictures that an error names, and letters that a warning does; the rest is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One picture by every method."""

    name: str
    files: Mapping[str, Path]
    """Column -> file."""
    infos: Mapping[str, ImageInfo]
    size: tuple[int, int]
    """(width, height) to compare at."""

    @property
    def pixels(self) -> int:
        """Pixels of one column."""
        return self.size[0] * self.size[1]

    @property
    def has_clean(self) -> bool:
        """Whether the clean picture is there at the size of the results, so that they can be scored against it."""
        return HR in self.infos and self.enlarged(HR) == 1.0

    def enlarged(self, column: str) -> float:
        """Factor by which a picture is enlarged; 1 if it is not, or only cut."""
        from linearsr.comparison.sizes import enlargement

        info = self.infos[column]
        return enlargement((info.width, info.height), self.size)

    def cut_from(self, column: str) -> tuple[int, int] | None:
        """(width, height) of the file where it is cut to the size of the scene, else None."""
        info = self.infos[column]
        whole = (info.width, info.height)
        return whole if self.enlarged(column) == 1.0 and whole != self.size else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparePlan:
    """What a run will compare."""

    scenes: tuple[Scene, ...]
    labels: Mapping[str, str]
    """Column -> label, from the left; the clean picture and the input come first. The same for every scene."""
    inputs: tuple[str, ...]
    """Columns of what was named to be compared."""
    border: int = 0
    """Pixels left out at each side of a result that is scored against the clean picture."""
    failures: tuple[tuple[str, LinearSRError], ...] = field(default=())
    """Pictures that cannot be read, by name."""


def make_compare_plan(options: CompareOptions) -> ComparePlan:
    """Pair the pictures and find a size and labels for them.

    Raises:
        NoInputError: a folder that is to be compared holds none.
        ConfigError: they do not pair, or their shapes differ; all that do not fit are named.
        ImageError: a folder cannot be looked into.
    """
    from linearsr.evaluation.pairing import pair_folders

    _refuse_empty(options)
    inputs = dict(zip(label_inputs(options), options.inputs, strict=True))
    rest = dict(inputs)
    first = options.hr if options.hr is not None else rest.pop(next(iter(inputs)))
    paired = pair_folders(
        first, lr=options.lr, srs=rest, by=options.pair_by, recursive=options.recursive, limit=options.limit
    )
    scenes, failures, misfits = [], [], []
    for pair in paired.pairs:
        files = _columns(pair, options, inputs)
        try:
            scene = _scene(pair.image, files)
        except LinearSRError as error:
            failures.append((pair.image, error))
            continue
        misfits += _misfits(scene)
        scenes.append(scene)
    if misfits:
        more = f" and {len(misfits) - NAMED} more" if len(misfits) > NAMED else ""
        raise ConfigError(
            f"the pictures differ in shape: {'; '.join(misfits[:NAMED])}{more}",
            hint="compare pictures of the same view; sizes may differ, their proportions may not",
        )
    labels = _labels(scenes, tuple(inputs), options)
    return ComparePlan(
        scenes=tuple(scenes),
        labels=labels,
        inputs=tuple(inputs),
        border=_border(paired, options),
        failures=tuple(failures),
    )


def _refuse_empty(options: CompareOptions) -> None:
    """Name an input without pictures as what it is; to the pairing the first one is the clean picture."""
    for path in options.inputs:
        if path.is_dir():
            sources = expand_inputs([str(path)], recursive=options.recursive, stdin_file=None)
            error = sources[0].error
            if error is not None:
                raise error


def _border(paired: PairedSet, options: CompareOptions) -> int:
    """The border asked for; else the scale, as in `linearsr eval`, where inputs and clean pictures agree on one."""
    from linearsr.evaluation.pairing import check_sizes

    if options.crop_border is not None:
        return options.crop_border
    if options.hr is None or options.lr is None:
        return 0
    pairs = tuple(replace(pair, srs={}) for pair in paired.pairs)  # results may have any size here
    try:
        return round(check_sizes(replace(paired, pairs=pairs), None, degraded=False))
    except ConfigError:
        return 0


def _columns(pair: Pair, options: CompareOptions, inputs: Iterable[str]) -> dict[str, Path]:
    """Files of a pair by their columns, in order."""
    files = {} if options.hr is None else {HR: pair.hr}
    if pair.lr is not None:
        files[LR] = pair.lr
    return {**files, **{label: pair.srs.get(label, pair.hr) for label in inputs}}


def _scene(name: str, files: Mapping[str, Path]) -> Scene:
    """Look at the headers of one scene.

    Raises:
        ImageError: one cannot be read.
    """
    from linearsr.comparison.sizes import common_size
    from linearsr.image_io import probe

    infos = {column: probe(path) for column, path in files.items()}
    size = common_size((info.width, info.height) for info in infos.values())
    return Scene(name=name, files=files, infos=infos, size=size)


def _misfits(scene: Scene) -> list[str]:
    """Pictures of a scene that cannot be another size of its largest."""
    from linearsr.comparison.sizes import belongs

    largest = max(scene.infos.values(), key=lambda info: info.width * info.height)
    whole = (largest.width, largest.height)
    return [
        f"{clean(scene.files[column])} is {info.width}x{info.height}, {clean(str(largest.path))} {whole[0]}x{whole[1]}"
        for column, info in scene.infos.items()
        if not belongs((info.width, info.height), whole)
    ]


def _labels(scenes: Sequence[Scene], inputs: Sequence[str], options: CompareOptions) -> dict[str, str]:
    """Label of each column. The input is `bicubic` where every scene has it enlarged and nothing else is named so.

    Raises:
        ConfigError: two are equal.
    """
    labels = {} if options.hr is None else {HR: "reference"}
    if options.lr is not None:
        is_enlarged = bool(scenes) and all(scene.enlarged(LR) > 1.0 for scene in scenes)
        labels[LR] = BICUBIC if is_enlarged and BICUBIC not in inputs else "input"
    labels |= {name: name for name in inputs}
    for label in labels.values():
        if list(labels.values()).count(label) > 1:
            raise ConfigError(f"two columns are labelled {label!r}, expected different labels", hint="`--labels a,b`")
    return labels
