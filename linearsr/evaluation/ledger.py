"""What earlier runs found: which pixels a method made of an input, and how they scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from linearsr.evaluation.cache import ScoreCache, file_digest, key_of, metric_keys, source_digest
from linearsr.evaluation.cases import Case
from linearsr.evaluation.making import Made, Method
from linearsr.evaluation.pictures import pixels_digest
from linearsr.metrics import METRICS, ScoreSettings
from linearsr.tiling import TilePlan

__all__ = ["Ledger", "Result"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One result, without its pixels."""

    pixels: str
    """Key of the pixels: of the file for results that lie there, else of what was made."""
    seconds: float | None = None
    tiles: str | None = None
    """Key of where its tiles lie; None for one piece."""


class Ledger:
    """Results and scores by all that decides them.

    Args:
        cache: that keeps them; None keeps nothing.
        metrics: that are asked for.
        settings: of scoring.
        explicit: as `make_scorers`: a picture that had no value of a metric is scored again, for it fails now.
    """

    def __init__(
        self, cache: ScoreCache | None, metrics: tuple[str, ...], settings: ScoreSettings, *, explicit: bool = False
    ) -> None:
        self._cache = cache
        self._explicit = explicit
        self._keys = metric_keys(metrics, settings)

    def result(self, case: Case, method: Method) -> Result | None:
        """What a method's result is, as far as it is known without making it.

        Raises:
            ImageError: a file that it follows from cannot be read.
        """
        if method.reads == "file":
            return _file_result(case, method)
        entry = None if self._cache is None else self._cache.get(_made_key(case, method))
        return None if entry is None or set(entry) != set(Result.__slots__) else Result(**entry)

    def keep_result(self, case: Case, method: Method, made: Made) -> Result:
        """Keep what a method made, its pixels on the 8-bit grid; the record of it. Errors as `result`."""
        if method.reads == "file":
            return _file_result(case, method)
        result = Result(pixels=pixels_digest(made.sr), seconds=made.seconds, tiles=_tiles_key(made.tiles))
        if self._cache is not None:
            self._cache.put(_made_key(case, method), asdict(result))
        return result

    def scores(self, case: Case, result: Result) -> dict[str, float | None]:
        """Values that are known, None for a metric that is known to have none; errors as `Case.origin`."""
        entry = None if self._cache is None else self._cache.get(_scores_key(result))
        keys = {} if entry is None else {name: self._score_key(name, case, result) for name in self._keys}
        found = {name: entry[key] for name, key in keys.items() if entry is not None and key in entry}
        return {name: value for name, value in found.items() if value is not None or self._may_lack(name)}

    def _may_lack(self, name: str) -> bool:
        """Whether to have no value is an answer: of the seams of one piece always, of a small picture by default."""
        return METRICS[name].needs == "tiles" or not self._explicit

    def keep_scores(self, case: Case, result: Result, scores: Mapping[str, float | None]) -> None:
        """Keep values beside those of other metrics."""
        if self._cache is None or not scores:
            return
        key = _scores_key(result)
        entry = self._cache.get(key)
        named = {self._score_key(name, case, result): value for name, value in scores.items()}
        self._cache.put(key, {**({} if entry is None else entry), **named})

    def _score_key(self, name: str, case: Case, result: Result) -> str:
        """Key of a value among those of one result: the metric, and what it looks at beside the result."""
        beside: Any = {
            "reference": lambda: case.reference,
            "input": lambda: case.origin["pixels"],
            "tiles": lambda: result.tiles,
            "nothing": lambda: None,
        }[METRICS[name].needs]()
        return key_of({"metric": self._keys[name], "beside": beside})


def _file_result(case: Case, method: Method) -> Result:
    file = file_digest(case.pair.srs[method.info.name])
    return Result(pixels=key_of({"file": file, "size": case.size}))


def _made_key(case: Case, method: Method) -> str:
    return key_of(
        {
            "kind": "result",
            "settings": method.info.settings,
            "from": case.reference if method.reads == "reference" else case.origin,
            "size": case.size,
            "code": source_digest(),
        }
    )


def _scores_key(result: Result) -> str:
    return key_of({"kind": "scores", "pixels": result.pixels})


def _tiles_key(plan: TilePlan | None) -> str | None:
    if plan is None:
        return None
    return key_of({"rows": plan.row_starts, "cols": plan.col_starts, "side": [plan.tile_height, plan.tile_width]})
