"""Low-resolution pictures with a name: which recipe, which seed, and every number that was drawn.

A picture made here depends on its pixels, the recipe, the scale, the file name and the seed, never on other files or
on their order. Seed 0 gives the fixed pictures of the benchmarks. Files are the work of `pair_files`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linearsr.config import from_dict
from linearsr.errors import ConfigError, ShapeError
from linearsr.evaluation.pictures import cropped_size
from linearsr_train.data.degradation import (
    REAL_SEED,
    REAL_V1,
    STAGES,
    DegradationConfig,
    Image,
    NoisePlan,
    Plan,
    Size,
    degrade_bicubic,
    degrade_real,
    draw_plan,
)

__all__ = ["KINDS", "MadeInput", "MadePair", "Recipe", "crop_hr", "degrader", "load_recipe", "make_lr", "pair_sizes"]

KINDS = ("bicubic", "real")
_KEYS = ("name", "kind", "digest", "degradation")
"""Of a recipe as `Recipe.as_dict` gives it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How low-resolution pictures are made."""

    name: str
    kind: str
    """One of `KINDS`."""
    config: DegradationConfig | None = None
    """Of the chain; None for bicubic."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind is {self.kind!r}, expected {' or '.join(KINDS)}")
        if (self.config is not None) != (self.kind == "real"):
            expected = "a config" if self.kind == "real" else "no config: it has no settings"
            raise ConfigError(f"kind is {self.kind!r}, expected with it {expected}")

    @property
    def digest(self) -> str:
        """SHA-256 hex digest of kind and parameters; the name does not count."""
        values = {} if self.config is None else self.config.to_dict()
        plain = {k: [float(x) for x in v] if isinstance(v, list) else float(v) for k, v in values.items()}
        return hashlib.sha256(json.dumps([self.kind, plain], sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Plain data with every parameter; as a TOML or JSON file, `load_recipe` reads it back."""
        found: dict[str, Any] = {"name": self.name, "kind": self.kind, "digest": self.digest}
        return found if self.config is None else {**found, "degradation": self.config.to_dict()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MadePair:
    """A pair and how it came about."""

    lr: Image
    """(h, w, 3) float32 in [0, 1], every value k / 255."""
    hr: Image
    """(H, W, 3): what was given, cropped so that both fit."""
    tags: tuple[str, ...]
    """What was done to it, or ("clean",)."""
    parameters: dict[str, Any]
    """Plain data: sizes as [height, width] and what was drawn; a stage that was left out is None."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MadeInput:
    """A low-resolution picture as a tensor."""

    lr: Tensor
    """(3, h, w) float32 in [0, 1], every value k / 255."""
    tags: tuple[str, ...]


def load_recipe(text: str) -> Recipe:
    """Find a recipe by name, or read one.

    Args:
        text: `bicubic`, `real`, or a TOML or JSON file. That holds the settings of `DegradationConfig` at its top or
            in a table [degradation], or is a training recipe with its [data.degradation], or what `Recipe.as_dict`
            or `linearsr degrade` wrote. Settings that are left out have the values of `real`.

    Raises:
        ConfigError: no such file, or a setting that does not exist or does not fit; the file is named.
    """
    if text in KINDS:
        return Recipe(name=text, kind=text, config=REAL_V1 if text == "real" else None)
    path = Path(text)
    try:
        data = _parse(path)
        return _recipe_of(data, path.stem)
    except ConfigError as error:
        raise ConfigError(f"recipe {text}: {error.message}", hint=error.hint) from error


def _parse(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            "no such file, expected bicubic, real or the path of a TOML or JSON file",
            hint="`--recipe real`, or write the settings that differ from it into a file",
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
        data = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}", hint="check its permissions") from error
    except ValueError as error:  # of either parser, or bytes that are no UTF-8
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise ConfigError(f"it is not valid {kind}: {error}", hint="JSON needs the ending .json") from error
    if not isinstance(data, dict) or not data:
        raise ConfigError("it holds no settings, expected such as jpeg_quality = [30, 60]", hint="see docs/guides")
    return data


def _recipe_of(data: dict[str, Any], name: str) -> Recipe:
    """The recipe in plain data, whichever of the known forms it has."""
    if isinstance(data.get("recipe"), dict):  # the file that `linearsr degrade` writes beside its pictures
        data = data["recipe"]
    if "data" in data:
        return Recipe(name=name, kind="real", config=_of_training(data))
    if not any(key in data for key in _KEYS):
        return Recipe(name=name, kind="real", config=DegradationConfig.from_dict(data))
    _refuse_unknown(data, _KEYS)
    name, kind = data.get("name", name), data.get("kind", "real")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"name is {name!r}, expected a text")
    table = data.get("degradation", {} if kind == "real" else None)
    config = None if table is None else DegradationConfig.from_dict(_table(table, "degradation"))
    recipe = Recipe(name=name, kind=kind, config=config)
    if data.get("digest", recipe.digest) != recipe.digest:
        raise ConfigError(
            f"digest is {data['digest']!r}, expected {recipe.digest} for these settings",
            hint="drop the line `digest` if they were changed on purpose",
        )
    return recipe


def _of_training(data: dict[str, Any]) -> DegradationConfig:
    """The chain of a training recipe, whose other sections are left aside, or of [data.degradation] alone."""
    from linearsr_train.config import DataConfig, TrainConfig

    _refuse_unknown(data, tuple(spec.name for spec in fields(TrainConfig)))
    section = _table(data["data"], "data")
    if set(section) == {"degradation"}:
        return DegradationConfig.from_dict(_table(section["degradation"], "data.degradation"))
    return from_dict(DataConfig, section, where="data").degradation


def _refuse_unknown(data: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known beside it: {', '.join(known)}"
            raise ConfigError(f"unknown setting `{key}`", hint=hint)


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}, expected a table of settings")
    return value


def pair_sizes(height: int, width: int, scale: float) -> tuple[Size, Size]:
    """Sizes of both pictures of a pair, as (height, width).

    Args:
        height, width: of the picture that is there.
        scale: at least 1. A whole one crops the picture, at its right and bottom edge, to multiples of it.

    Returns:
        (high, low); low is high / scale, rounded where the scale is not whole.

    Raises:
        ConfigError: the scale is out of range.
        ShapeError: a side is smaller than the scale.
    """
    if not (math.isfinite(scale) and scale >= 1):
        raise ConfigError(f"scale is {scale:g}, expected a number of at least 1", hint="4 is usual")
    if min(height, width) < scale:
        raise ShapeError(
            f"picture is {width}x{height}, expected at least {math.ceil(scale)} pixels a side at scale {scale:g}",
            hint="leave it out, or use a smaller scale",
        )
    width, height = cropped_size((width, height), scale)
    high = height, width
    return high, (max(1, round(high[0] * (1 / scale))), max(1, round(high[1] * (1 / scale))))


def crop_hr(hr: Image, scale: float) -> Image:
    """The part of a picture, (H, W, 3), that its low-resolution version stands for; errors as `pair_sizes`."""
    if hr.ndim != 3:
        raise ShapeError(f"picture is {hr.shape}, expected (height, width, 3)")
    (height, width), _ = pair_sizes(hr.shape[0], hr.shape[1], scale)
    return np.ascontiguousarray(hr[:height, :width])


def make_lr(hr: Image, recipe: Recipe, *, scale: float, name: str, seed: int = 0) -> MadePair:
    """Make the low-resolution version of a picture.

    Args:
        hr: (H, W, 3) float32 in [0, 1], cropped here if need be.
        recipe: as from `load_recipe`.
        scale: at least 1.
        name: file name without folders, ending included; the draws follow from it.
        seed: 0 or above; 0 gives what `degrade_real_fixed` does, another one other draws. No effect on bicubic.

    Raises:
        ConfigError: scale or seed out of range.
        ShapeError: another shape or type, or a side smaller than the scale.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}, expected 0 or above", hint="0 gives the pictures of the benchmarks")
    hr = crop_hr(hr, scale)
    high, low = pair_sizes(hr.shape[0], hr.shape[1], scale)
    if recipe.config is None:
        made = degrade_bicubic(hr, low)
        return MadePair(lr=made.lr, hr=hr, tags=made.tags, parameters={"size": list(low)})
    made = degrade_real(hr, low, recipe.config, _generator(name, seed))
    plan = draw_plan(high, low, recipe.config, _generator(name, seed))  # the same draws again, to be told
    return MadePair(lr=made.lr, hr=hr, tags=made.tags, parameters=_parameters(plan))


def degrader(recipe: Recipe, *, scale: float, seed: int = 0) -> Callable[[Tensor, str], MadeInput]:
    """`make_lr` for tensors, as `linearsr.evaluation` takes it: from (3, H, W) and a file name to an input."""

    def degrade(hr: Tensor, name: str) -> MadeInput:
        made = make_lr(hr.permute(1, 2, 0).contiguous().numpy(), recipe, scale=scale, name=name, seed=seed)
        return MadeInput(lr=torch.from_numpy(made.lr).permute(2, 0, 1).contiguous(), tags=made.tags)

    return degrade


def _generator(name: str, seed: int) -> np.random.Generator:
    """Draws of one picture; for seed 0 those of `degrade_real_fixed`."""
    key = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    return np.random.default_rng([REAL_SEED, key] if seed == 0 else [REAL_SEED, key, seed])


def _parameters(plan: Plan) -> dict[str, Any]:
    blur = {"kernel1": _kernel(plan.kernel1), "kernel2": _kernel(plan.kernel2), "final": _kernel(plan.final_kernel)}
    noise = {"noise1": _noise(plan.noise1), "noise2": _noise(plan.noise2)}
    jpeg = {"quality1": plan.quality1, "quality2": plan.quality2, "last": plan.jpeg_last}
    stages = {"blur": blur, "noise": noise, "jpeg": jpeg}
    return {
        "size": list(plan.size),
        "size1": list(plan.size1),
        "size2": list(plan.size2),
        "modes": list(plan.modes),
        "active": [stage for stage in STAGES if stage in plan.active],
        **{stage: drawn if stage in plan.active else None for stage, drawn in stages.items()},
    }


def _kernel(kernel: Image | None) -> dict[str, Any] | None:
    """A kernel by its side and its values' digest: the plan does not keep what it was drawn from."""
    if kernel is None:
        return None
    return {"side": kernel.shape[0], "sha256": hashlib.sha256(kernel.astype("<f4").tobytes()).hexdigest()[:16]}


def _noise(noise: NoisePlan) -> dict[str, Any]:
    """Gaussian `sigma` is in 8-bit levels, as in the recipe; Poisson noise has its factor."""
    kind, level = ("gaussian", {"sigma": noise.level * 255}) if noise.gaussian else ("poisson", {"scale": noise.level})
    return {"kind": kind, **level, "gray": noise.gray, "seed": noise.seed}
