"""Which pictures an evaluation is of: folders paired, their scale, and what is written down of given inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr.errors import ConfigError
from linearsr_cli.eval_settings import EvalOptions, folder_label, split_label
from linearsr_cli.output import Output, clean

if TYPE_CHECKING:
    from linearsr.evaluation.pairing import PairedSet
    from linearsr_train.data.pair_table import PairFolder

__all__ = ["find_scale", "pair_sets", "recognise_inputs", "result_folders", "still_known"]

SCALE = 4.0
"""Of inputs that are made here, where none is given."""
NAMED = 10
"""Pictures that an error or a note names."""


def result_folders(options: EvalOptions) -> dict[str, list[Path]]:
    """Folders of results by name, as many under each name as there are sets.

    Raises:
        ConfigError: a folder that is not there, or other counts.
    """
    found: dict[str, list[Path]] = {}
    for text in options.sr:
        path = Path(split_label(text)[1])
        if not path.exists():
            raise ConfigError(f"sr is {str(path)!r}, which does not exist", hint="check the path")
        found.setdefault(folder_label(text, len(options.hr)), []).append(path)
    for label, paths in found.items():
        if len(options.hr) == 1 and len(paths) > 1:
            raise ConfigError(f"{len(paths)} folders of results are called {label!r}", hint="`--sr NAME=DIR` for each")
        if len(paths) != len(options.hr):
            raise ConfigError(
                f"{len(paths)} folders of results called {label!r} for {len(options.hr)} --hr, expected one for each",
                hint="`--sr NAME=DIR`, once for every --hr, in their order",
            )
    return found


def pair_sets(options: EvalOptions, folders: Mapping[str, Sequence[Path]]) -> tuple[PairedSet, ...]:
    """One set for each `--hr`.

    Raises:
        ConfigError: pictures do not pair.
    """
    from linearsr.evaluation.pairing import distinct_names, pair_folders

    pairs = [
        pair_folders(
            hr,
            lr=options.lr[index] if options.lr else None,
            srs={label: paths[index] for label, paths in folders.items()},
            by=options.pair_by,
            recursive=options.recursive,
            limit=options.limit,
        )
        for index, hr in enumerate(options.hr)
    ]
    return distinct_names(pairs)


def find_scale(sets: tuple[PairedSet, ...], options: EvalOptions) -> float:
    """The scale of all pictures: given, or found from the sizes of inputs and clean pictures.

    Raises:
        ConfigError: the sets differ, or sizes do not fit.
    """
    from linearsr.evaluation.pairing import check_sizes

    wanted = options.scale
    if wanted is None and options.degrade is not None:
        wanted = SCALE
    found = {paired.name: check_sizes(paired, wanted, options.degrade is not None) for paired in sets}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{clean(name)} x{scale:g}" for name, scale in found.items())
        raise ConfigError(f"the sets have different scales: {listed}", hint="evaluate them one by one")
    return next(iter(found.values()))


def recognise_inputs(
    sets: Sequence[PairedSet], options: EvalOptions, out: Output
) -> tuple[tuple[PairedSet, ...], dict[str, dict[str, Any]]]:
    """Attach what `linearsr degrade` has written down of the inputs of `--lr`.

    Returns:
        The sets, and by the name of a set how its inputs were made; a set of which nothing is known is not in it.

    Raises:
        ConfigError: `--tags true`, and of some inputs nothing is written down.
    """
    known: list[PairedSet] = []
    facts: dict[str, dict[str, Any]] = {}
    for paired, place in zip(sets, options.lr, strict=bool(options.lr)):
        with_tags, found = _recognise(paired, place, out)
        known.append(with_tags)
        if found is not None and any(pair.known is not None for pair in with_tags.pairs):
            facts[paired.name] = found
    unknown = [str(pair.lr) for paired in known for pair in paired.pairs if pair.known is None]
    if options.tags == "true" and unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise ConfigError(
            f"tags are 'true', but nobody has written down what was done to {', '.join(unknown[:NAMED])}{more}",
            hint="`--tags auto`, or inputs made by `linearsr degrade` or `--degrade`",
        )
    return (tuple(known) if known else tuple(sets)), facts


def _recognise(paired: PairedSet, place: Path, out: Output) -> tuple[PairedSet, dict[str, Any] | None]:
    """One set with what the tables of its folder, or of one above, tell; damaged ones tell nothing: a warning."""
    from linearsr.evaluation.pairing import KnownInput

    folder = place if place.is_dir() else place.parent
    try:
        below, record = _tables(folder)
    except ConfigError as error:
        out.warn(f"{clean(error.message)}; so nothing is known of how the inputs were made")
        return paired, None
    if record is None:
        return paired, None
    pairs = []
    for pair in paired.pairs:
        row = None if pair.lr is None else record.rows.get((below / pair.lr.relative_to(folder)).as_posix())
        if row is not None:
            tags = tuple(word.strip() for word in row.tags.split(","))
            pair = replace(pair, known=KnownInput(tags=tags, sha256=row.lr_sha256))
        pairs.append(pair)
    with_tags = replace(paired, pairs=tuple(pairs))
    return with_tags, {"recipe": record.settings.recipe.as_dict(), "seed": record.settings.seed} | _count(with_tags)


def _tables(folder: Path) -> tuple[Path, PairFolder | None]:
    """Tables of a folder, or of the nearest above that has some, and the place of the folder below that one.

    Above the name that was given come those above the folder that a link leads to.
    """
    from linearsr.evaluation.pairing import absolute
    from linearsr_train.data.pair_table import read_pairs

    for start in (absolute(folder), folder.resolve()):
        for above in (start, *start.parents):
            record = read_pairs(above)
            if record is not None:
                return start.relative_to(above), record
    return Path(), None


def _count(paired: PairedSet, others: int = 0) -> dict[str, str]:
    """How many pictures of a set are known, where not all of them are; `others` turned out to be other pictures."""
    num = sum(pair.known is not None for pair in paired.pairs) - others
    return {} if num == len(paired.pairs) else {"pictures": f"{num} of {len(paired.pairs)}"}


def still_known(
    written_down: Mapping[str, Mapping[str, Any]], sets: Sequence[PairedSet], other_inputs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """What `recognise_inputs` found, less inputs, as (set, image), whose pixels are not those written down."""
    left: dict[str, dict[str, Any]] = {}
    for paired in (paired for paired in sets if paired.name in written_down):
        others = sum(name == paired.name for name, _ in other_inputs)
        if sum(pair.known is not None for pair in paired.pairs) > others:
            left[paired.name] = {**written_down[paired.name], **_count(paired, others)}
    return left
