"""Tags of pictures: those a user gives, or what a tagger names; and what has to be loaded for them, and when."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from linearsr.config import CheckpointConfig
from linearsr.device import memory_errors
from linearsr.engine import Engine
from linearsr.errors import ConfigError
from linearsr.hub import Model
from linearsr.image_arrays import network_input
from linearsr.image_io import Picture
from linearsr.runtime import Runtime
from linearsr.tags.tagger import Tagger

__all__ = ["TagFinder", "check_tagger", "load_tagger"]

Names = tuple[str, ...]


def check_tagger(tagger: str, config: CheckpointConfig) -> None:
    """Refuse the name of a tagger that a model cannot use.

    Args:
        tagger: `auto`, `none` or `KIND:SOURCE`.
        config: of the model.

    Raises:
        ConfigError: no such kind, or open words for a model with a closed vocabulary.
    """
    if tagger in ("auto", "none"):
        return
    from linearsr.tags.open_taggers import split_tagger

    split_tagger(tagger)
    if config.tags.kind != "text":
        raise ConfigError(
            f"tagger is {tagger!r}, but the model knows {len(config.tags.vocabulary)} tags only, expected auto or none",
            hint="open words need a model with a text encoder; leave `--tagger` out",
        )


def load_tagger(model: Model, tagger: str, runtime: Runtime, vocabulary: Sequence[str] | None) -> Tagger | None:
    """The tagger of that name; None where nothing names tags.

    Args:
        model: whose own one `auto` is.
        tagger: as `check_tagger`.
        runtime: where it computes.
        vocabulary: names that a zero-shot tagger chooses from; None is the list that comes with LinearSR.

    Raises:
        WeightsError: it cannot be had.
        ConfigError: a package that it needs is not installed.
    """
    if tagger == "none" or (tagger == "auto" and model.config.tags.tagger is None):
        return None
    if model.config.tags.kind == "closed":
        return model.load_tagger()
    from linearsr.tags.open_taggers import default_vocabulary, load_open_tagger, split_tagger

    kind, source = split_tagger(str(model.config.tags.tagger) if tagger == "auto" else tagger)
    words = default_vocabulary() if vocabulary is None else vocabulary
    own = Path(source).expanduser()
    if tagger != "auto" and own.is_dir():  # the user's `./folder` is one of this machine, not of the model
        folder = own
    else:
        folder = model.component(source, what="tagger")
    return load_open_tagger(kind, folder, words, runtime.device, runtime.dtype)


class TagFinder:
    """Finds the tags of pictures, and has the tagger in memory only while it does.

    Args:
        model: that the tags are for.
        engine: of the model.
        tagger: names tags where the user gives none; as `check_tagger`, or an object.
        vocabulary: as `load_tagger`.
    """

    def __init__(
        self, model: Model, engine: Engine, tagger: Tagger | str | None, vocabulary: Sequence[str] | None
    ) -> None:
        self.model, self.engine = model, engine
        self._tagger, self._vocabulary = tagger, vocabulary

    @cached_property
    def tagger(self) -> Tagger | None:
        """Loaded at its first use; None where nothing names any.

        Raises:
            WeightsError: it cannot be had.
        """
        if isinstance(self._tagger, str):
            with memory_errors("the tagger", hint="give `--tags`, or use `--tagger none` or `--device cpu`"):
                return load_tagger(self.model, self._tagger, self.engine.runtime, self._vocabulary)
        return self._tagger

    def find(self, picture: Picture | Tensor | None, tags: str | Names | None = None) -> Names:
        """Canonical tags for a picture, or for its pixels (3, h, w): those given, or what the tagger names.

        The picture may be None where tags are given.

        Raises:
            ConfigError: a tag that the model does not know.
            WeightsError: as `tagger`.
        """
        if tags is None and picture is not None and self.tagger is not None:
            with memory_errors("the tagger", hint="give `--tags`, or use `--tagger none` or `--device cpu`"):
                tags = self.tagger.tag(network_input(picture) if isinstance(picture, Picture) else picture)
        return self.engine.words.parse(() if tags is None else tags)

    def negative(self, tags: str | Names | None) -> Names | None:
        """Canonical tags that guidance leads away from; None is the model's own.

        Raises:
            ConfigError: a tag that the model does not know.
        """
        return None if tags is None else self.engine.words.parse(tags)

    def free(self) -> None:
        """Let go of the tagger; it loads again when a picture has no tags."""
        tagger = self.__dict__.pop("tagger", None)
        if hasattr(tagger, "free"):
            tagger.free()
