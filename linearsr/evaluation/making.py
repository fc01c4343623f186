"""What a method is: a function from an input to a result, with a description of all that decides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from linearsr.errors import ConfigError
from linearsr.evaluation.results import MethodInfo
from linearsr.tiling import TilePlan

__all__ = ["Input", "Made", "Method", "PlainMethod", "Reads", "input_of"]

Reads = Literal["input", "reference", "file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One picture to make a result of."""

    image: str
    """Name, as `Pair.image`."""
    size: tuple[int, int]
    """(width, height) of the result."""
    lr: Tensor | None = None
    """(3, h, w) in [0, 1] on the 8-bit grid; None where there is no input."""
    hr: Tensor | None = None
    """(3, H, W) the clean picture, for the autoencoder alone."""
    gray: bool = False
    """Whether the input's file is gray, so that the result is."""
    tags: tuple[str, ...] | None = None
    """What was done to the input, where that is known."""
    srs: Mapping[str, Path] = field(default_factory=dict)
    """Results that lie there already, by method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A result."""

    sr: Tensor
    """(3, H, W) in about [0, 1], on the host."""
    tiles: TilePlan | None = None
    """Its tiles; None for a result in one piece."""
    seconds: float | None = None
    """From input to result, weights loaded; None where nothing was made."""


class Method(Protocol):
    """One way to make results."""

    info: MethodInfo
    reads: Reads
    """What the result follows from."""

    def __call__(self, sample: Input) -> Made:
        """Make the result of one picture.

        Raises:
            ConfigError: there is nothing to make it of.
            ImageError, OutOfMemoryError: this picture cannot be done.
            WeightsError, DeviceError: no picture can.
        """


class PlainMethod:
    """A method made of a function."""

    def __init__(self, info: MethodInfo, reads: Reads, make: Callable[[Input], Made]) -> None:
        self.info, self.reads, self._make = info, reads, make

    def __call__(self, sample: Input) -> Made:
        """As `Method`."""
        return self._make(sample)


def input_of(sample: Input, name: str) -> Tensor:
    """The input of a picture.

    Raises:
        ConfigError: there is none; names the method that wanted it.
    """
    if sample.lr is None:
        raise ConfigError(
            f"{name!r} has no input for {sample.image!r}", hint="give `--lr FOLDER` or `--degrade bicubic`"
        )
    return sample.lr
