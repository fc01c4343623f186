"""The bundled tagger of the compact family: a small network that names degradations from the low-resolution pixels.

It sees pieces of `crop` x `crop` pixels at native size, never resized, for noise and JPEG blocks live on the pixel
grid. A picture is judged by a few pieces spread over it, so that time and memory do not grow with its size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from linearsr.atomic import write_bytes
from linearsr.config import from_dict, to_dict
from linearsr.errors import ShapeError, WeightsError
from linearsr.tags.compact_network import TaggerModelConfig, TaggerNetwork
from linearsr.tags.vocabulary import COMPACT_VOCABULARY

__all__ = [
    "NEVER",
    "TAGGER_NAME",
    "CompactTagger",
    "TagThresholds",
    "decide_tags",
    "load_tagger",
    "piece_corners",
    "save_tagger",
    "tag_kinds",
    "take_crop",
]

TAGGER_NAME = "tagger.safetensors"
FILE_KEY = "linearsr_tagger"
FILE_VERSION = 1
MAX_BYTES = 1_000_000
NEVER = 2.0
"""A threshold that no probability reaches: the tag is never given."""


def tag_kinds(vocabulary: tuple[str, ...]) -> tuple[str, ...]:
    """Kinds of degradation of a vocabulary in its order: the bare names other than `clean`."""
    return tuple(name for name in vocabulary if name != "clean" and ":" not in name)


@dataclass(frozen=True, kw_only=True, slots=True)
class TagThresholds:
    """Least probability at which a tag is given; `NEVER` where no threshold was precise enough."""

    clean: float
    presence: dict[str, float]
    """By kind, of its presence at either strength."""
    strong: dict[str, float]
    """By kind, of its strong form; below it a present kind is called weak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _FileConfig:
    """What a tagger file says of itself in its metadata."""

    version: int
    vocabulary: tuple[str, ...]
    model: TaggerModelConfig
    thresholds: TagThresholds


def take_crop(lr: Tensor, top: int, left: int, crop: int) -> Tensor:
    """A (3, crop, crop) piece of (3, h, w); past the lower and right border the picture is mirrored."""

    def mirrored(start: int, size: int) -> Tensor:
        period = max(2 * (size - 1), 1)
        index = torch.arange(start, start + crop) % period
        return torch.minimum(index, period - index).clamp(max=size - 1)

    rows, cols = mirrored(top, lr.shape[1]), mirrored(left, lr.shape[2])
    if top + crop <= lr.shape[1] and left + crop <= lr.shape[2]:
        return lr[:, top : top + crop, left : left + crop]
    return lr[:, rows][:, :, cols]


def piece_corners(height: int, width: int, crop: int, most: int) -> list[tuple[int, int]]:
    """(top, left) of at most `most` pieces spread evenly over a picture, the same for every run."""
    rows, cols = max(1, math.ceil(height / crop)), max(1, math.ceil(width / crop))
    if rows * cols > most:
        rows = min(rows, max(1, min(most, round(math.sqrt(most * rows / cols)))))
        cols = min(cols, max(1, most // rows))

    def starts(size: int, count: int) -> list[int]:
        room = max(0, size - crop)
        return [round(room * (i + 0.5) / count) if count < 2 else round(room * i / (count - 1)) for i in range(count)]

    return [(top, left) for top in starts(height, rows) for left in starts(width, cols)]


def decide_tags(probabilities: Sequence[float], kinds: tuple[str, ...], thresholds: TagThresholds) -> tuple[str, ...]:
    """Tags for the probabilities of `clean`, then presence and strong form of each kind; surest first.

    A kind is named if its presence is sure enough, `clean` if it is sure and no kind is named.
    """
    present, strong = probabilities[1 : 1 + len(kinds)], probabilities[1 + len(kinds) :]
    found = [
        (sure, kind if much >= thresholds.strong[kind] else f"{kind}:weak")
        for kind, sure, much in zip(kinds, present, strong, strict=True)
        if sure >= thresholds.presence[kind]
    ]
    if not found:
        return ("clean",) if probabilities[0] >= thresholds.clean else ()
    return tuple(name for _, name in sorted(found, key=lambda pair: -pair[0]))


class CompactTagger:
    """Names degradations by a `TaggerNetwork`; see `linearsr.tags.tagger.Tagger`.

    Args:
        network: with its weights.
        vocabulary: of the model that reads the tags.
        thresholds: how sure it must be.
        pieces: most pieces of one picture that are looked at.
    """

    def __init__(
        self,
        network: TaggerNetwork,
        thresholds: TagThresholds,
        vocabulary: tuple[str, ...] = COMPACT_VOCABULARY,
        pieces: int = 12,
    ) -> None:
        self.network = network.eval()
        self.thresholds = thresholds
        self.kinds = tag_kinds(vocabulary)
        self.pieces = pieces

    @torch.inference_mode()
    def probabilities(self, lr: Tensor) -> Tensor:
        """(1 + 2 K,) float32 on the CPU: `clean`, presence of each kind, strong form of each kind.

        Args:
            lr: (3, h, w) in [0, 1], of any size from 1 x 1 up; the logits of its pieces are averaged.

        Raises:
            ShapeError: another number of axes or channels, or no pixels.
        """
        if lr.dim() != 3 or lr.shape[0] != 3 or lr.numel() == 0:
            raise ShapeError(f"picture is {tuple(lr.shape)}, expected (3, height, width) with at least one pixel")
        crop = self.network.config.crop
        corners = piece_corners(lr.shape[1], lr.shape[2], crop, self.pieces)
        pieces = torch.stack([take_crop(lr, top, left, crop).float().cpu() for top, left in corners])
        return torch.sigmoid(self.network(pieces.to(memory_format=torch.channels_last)).mean(0))

    def tag(self, lr: Tensor) -> tuple[str, ...]:
        """Sure tags of one picture, (3, h, w) in [0, 1] at its native size; surest first, empty for none."""
        return decide_tags(self.probabilities(lr).tolist(), self.kinds, self.thresholds)


def save_tagger(
    path: Path, network: TaggerNetwork, thresholds: TagThresholds, vocabulary: tuple[str, ...] = COMPACT_VOCABULARY
) -> None:
    """Write one safetensors file in one step: matrices as float16, the rest as float32, all else in its metadata.

    Raises:
        WeightsError: the file would be larger than 1 MB.
    """
    config = _FileConfig(version=FILE_VERSION, vocabulary=vocabulary, model=network.config, thresholds=thresholds)
    tensors = {
        key: value.detach().to("cpu", torch.float16 if value.dim() > 1 else torch.float32).contiguous()
        for key, value in _weights(network).items()
    }
    # One entry alone: safetensors keeps no order of several, and equal taggers should give equal bytes.
    data = save(tensors, metadata={FILE_KEY: json.dumps(to_dict(config), sort_keys=True)})
    if len(data) > MAX_BYTES:
        raise WeightsError(f"tagger has {len(data)} bytes, expected at most {MAX_BYTES}", hint="use smaller widths")
    write_bytes(path, data)


def load_tagger(path: Path, vocabulary: tuple[str, ...] = COMPACT_VOCABULARY) -> CompactTagger:
    """Read a file of `save_tagger`, strictly.

    Raises:
        WeightsError: missing, damaged, of another vocabulary, or a tensor is missing, extra or of another shape.
    """
    if not path.is_file():
        raise WeightsError(f"tagger {str(path)!r} does not exist", hint="fetch the model again")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            text = (file.metadata() or {}).get(FILE_KEY)
        config = from_dict(_FileConfig, json.loads("null" if text is None else text))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path.name!r} is not a tagger of this version: {error}", hint="fetch it again") from error
    if config.version != FILE_VERSION:
        raise WeightsError(
            f"{path.name!r} is of version {config.version}, expected {FILE_VERSION}",
            hint="update LinearSR with `pip install -U linearsr`",
        )
    kinds = tag_kinds(config.vocabulary)
    if config.vocabulary != vocabulary:
        raise WeightsError(
            f"{path.name!r} knows the tags {', '.join(config.vocabulary)}, expected {', '.join(vocabulary)}",
            hint="use the tagger that came with the model",
        )
    for name in ("presence", "strong"):
        if set(getattr(config.thresholds, name)) != set(kinds):
            raise WeightsError(f"{path.name!r} has no {name} threshold for each of {', '.join(kinds)}")
    network = TaggerNetwork(config.model, len(kinds))
    expected = {key: tuple(value.shape) for key, value in _weights(network).items()}
    wrong = sorted(key for key in expected.keys() | tensors.keys() if expected.get(key) != _shape(tensors.get(key)))
    if wrong:
        raise WeightsError(
            f"{path.name!r} does not fit the network in {', '.join(wrong[:4])} ({len(wrong)} tensors)",
            hint="fetch the model again",
        )
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise WeightsError(f"{path.name!r} holds values that are not finite", hint="fetch the model again")
    network.load_state_dict({**network.state_dict(), **{key: value.float() for key, value in tensors.items()}})
    return CompactTagger(network.to(memory_format=torch.channels_last), config.thresholds, vocabulary)  # type: ignore[call-overload]


def _weights(network: TaggerNetwork) -> dict[str, Tensor]:
    """Without the step counters of the normalisation, which no result depends on."""
    return {key: value for key, value in network.state_dict().items() if value.is_floating_point()}


def _shape(value: Tensor | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape)
