"""Models as methods: what `linearsr upscale` would write, at several numbers of steps from one set of weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linearsr.engine import choose_overlap, choose_tile
from linearsr.errors import ConfigError, ImageError
from linearsr.evaluation.making import Input, Made, Method, PlainMethod, input_of
from linearsr.evaluation.model_facts import model_facts, model_title
from linearsr.evaluation.results import SEES_REFERENCE, MethodInfo
from linearsr.families import LatentFamily
from linearsr.noise import content_key
from linearsr.pipeline import Upscaler
from linearsr.sizing import OutputSize, pass_sizes
from linearsr.tiling import TilePlan, plan_tiles

if TYPE_CHECKING:
    from linearsr.hub_repo import OnDownload, OnLicence

__all__ = ["autoencoder_ceiling", "model_methods"]

WARM_UP_PX = 16
_ENDLESS = (2**30, 2**30)
"""Canvas that no tile covers, to learn the side that `auto` finds room for."""


def model_methods(
    model: str | Path,
    steps: Sequence[int] | None = None,
    *,
    seed: int = 0,
    tags: str | None = None,
    cfg_scale: float | tuple[float, ...] | None = None,
    tile: str | int = "auto",
    color_fix: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offload: str = "none",
    label: str | None = None,
    on_download: OnDownload | None = None,
    on_licence: OnLicence | None = None,
) -> tuple[Method, ...]:
    """A model as `linearsr upscale` runs it, once for each number of steps; weights load when a result is made.

    Args:
        model: as `Upscaler.from_pretrained`.
        steps: numbers of network evaluations; None for the model's own.
        seed: of the noise, the same for every picture, which gets noise of its own by its pixels.
        tags: None asks the model's own tagger, `none` gives no tags, `true` what was done to each input where that is
            known, anything else the tags of every picture.
        cfg_scale, tile, color_fix: as `Upscaler.upscale_picture`.
        device, dtype, offload, on_download, on_licence: as `Upscaler.from_pretrained`.
        label: name in the table; None is the last part of the model's name.

    Raises:
        ConfigError: a setting that the model cannot serve.
        WeightsError, DeviceError: no such model or device.
    """
    upscaler = Upscaler.from_pretrained(
        model, device=device, dtype=dtype, offload=offload, on_download=on_download, on_licence=on_licence,
        tagger="auto" if tags is None else "none",
    )  # fmt: skip
    counts = (upscaler.config.sampling.steps,) if steps is None else tuple(dict.fromkeys(steps))
    names = () if tags == "none" else None if tags in (None, "true") else upscaler.find_tags(None, tags)
    for count in counts:
        upscaler.validate(steps=count, tags=names, cfg_scale=cfg_scale, tile=tile, color_fix=color_fix)
    settings = {"cfg_scale": cfg_scale, "tile": tile, "color_fix": color_fix, "seed": seed}
    shared = _SharedModel(upscaler, settings, names, known=tags == "true")
    title = model_title(model) if label is None else label
    facts = {**model_facts(upscaler, title), **shared.facts()}
    infos = [
        MethodInfo(
            name=f"{title}, {count} step{'s' if count > 1 else ''}",
            kind="model",
            steps=count,
            settings={**facts, "steps": count},
        )
        for count in counts
    ]
    return tuple(PlainMethod(info, "input", partial(shared.make, info)) for info in infos)


def autoencoder_ceiling(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    label: str | None = None,
    on_download: OnDownload | None = None,
    on_licence: OnLicence | None = None,
) -> Method:
    """The clean picture through the model's autoencoder and back: no network in its latent can be asked for more.

    Args:
        model, device, dtype, on_download, on_licence: as `Upscaler.from_pretrained`.
        label: name in the table; None is the last part of the model's name and `autoencoder`.

    Raises:
        ConfigError: the model has no learned autoencoder.
        WeightsError, DeviceError: no such model or device.
    """
    upscaler = Upscaler.from_pretrained(
        model, device=device, dtype=dtype, tagger="none", on_download=on_download, on_licence=on_licence
    )
    family = upscaler.engine.family
    if not isinstance(family, LatentFamily):
        raise ConfigError(
            f"model {str(model)!r} has no learned autoencoder, so there is nothing that it loses",
            hint="leave the autoencoder out of the baselines",
        )

    def make(sample: Input) -> Made:
        if sample.hr is None:
            raise ConfigError("the autoencoder alone needs the clean picture", hint="give `--hr FOLDER`")
        pictures, autoencoder = sample.hr[None], family.autoencoder  # loaded before the clock starts
        sr, seconds = _timed(upscaler.device, lambda: autoencoder.reconstruct(pictures)[0])
        return Made(sr=sr, seconds=seconds)

    title = model_title(model)
    info = MethodInfo(
        name=f"{title} autoencoder" if label is None else label,
        kind="baseline",
        settings={**model_facts(upscaler, title), **SEES_REFERENCE},
    )
    return PlainMethod(info, "reference", make)


class _SharedModel:
    """A loaded model and the settings that its methods have in common.

    Args:
        upscaler: the model.
        settings: of every result.
        names: tags of every picture; None for those of each.
        known: tags of each are what was done to it, not what a tagger finds.
    """

    def __init__(
        self, upscaler: Upscaler, settings: Mapping[str, Any], names: tuple[str, ...] | None, known: bool
    ) -> None:
        self.upscaler, self.settings = upscaler, settings
        self._names, self._known = names, known
        self._warm: set[int] = set()
        self._found: tuple[str, tuple[str, ...]] | None = None
        """Tags of the last picture, by its pixels."""

    def facts(self) -> dict[str, Any]:
        """Settings for the table."""
        engine, fix = self.upscaler.engine, self.settings["color_fix"]
        own = "tagger" if engine.config.tags.tagger is not None else "none"
        tags = ("true" if self._known else own) if self._names is None else ", ".join(self._names)
        return {
            **self.settings,
            "tile_px": choose_tile(engine, self.settings["tile"], _ENDLESS),
            "tags": tags if tags else "none",
            "cfg_scale": engine.guidance(self.settings["cfg_scale"]),
            "color_fix": engine.config.sampling.color_fix if fix is None else fix,
        }

    def make(self, info: MethodInfo, sample: Input) -> Made:
        """One result."""
        lr, upscaler, steps = input_of(sample, info.name), self.upscaler, info.settings["steps"]
        self._warm_up(steps)
        tags = self._tags(sample, lr)
        plan = _planned(upscaler, lr, sample.size, self.settings["tile"])

        def run() -> Tensor:
            sr = upscaler.upscale_tensor(lr, size=sample.size, steps=steps, tags=tags, **self.settings)
            return sr.mean(dim=0, keepdim=True).expand(3, -1, -1) if sample.gray else sr  # as `upscale_picture`

        sr, seconds = _timed(upscaler.device, run)
        return Made(sr=sr, tiles=plan, seconds=seconds)

    def _tags(self, sample: Input, lr: Tensor) -> tuple[str, ...] | None:
        """Tags to give; None lets the model ask its tagger."""
        names = self._names
        if self._known:
            if sample.tags is None:
                raise ImageError(
                    f"tags are 'true', but what was done to the input of {sample.image!r} is not known",
                    hint="let `linearsr degrade` make the inputs, or give `--tags none`",
                )
            names = sample.tags
        if not self.upscaler.tags_ahead:
            return names
        # Tagger and text encoder are larger than the network: they load once for a picture, outside the clock.
        if names is None:
            key = content_key(lr)
            if self._found is None or self._found[0] != key:
                self._found = key, self.upscaler.find_tags(lr)
            names = self._found[1]
        self.upscaler.prepare([names])
        return names

    def _warm_up(self, steps: int) -> None:
        """Make a result of a few pixels first, so that loading the weights is in no picture's time."""
        if steps in self._warm:
            return
        self.upscaler.check_parts()
        tags = () if self.upscaler.tags_ahead or self._known else self._names
        few = torch.full((3, WARM_UP_PX, WARM_UP_PX), 0.5)
        self.upscaler.upscale_tensor(
            few, size=(4 * WARM_UP_PX, 4 * WARM_UP_PX), steps=steps, tags=tags, **self.settings
        )
        self._warm.add(steps)


def _timed(device: torch.device, make: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """A result and its seconds, the device's queue empty before and after."""
    _wait(device)
    start = time.perf_counter()
    out = make()
    _wait(device)
    return out, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def _planned(upscaler: Upscaler, lr: Tensor, size: tuple[int, int], tile: str | int) -> TilePlan | None:
    """Tiles of a result's last pass, as `enlarge` plans them; None for one piece, or where it is resized after.

    Want of memory may make them smaller while the result is made, which is not seen here.
    """
    engine, start = upscaler.engine, (lr.shape[-1], lr.shape[-2])
    passes = pass_sizes(*start, OutputSize(width=size[0], height=size[1], scale=1.0))
    before = start if len(passes) == 1 else (passes[-2].width, passes[-2].height)
    out = engine.family.pass_size(*before, passes[-1])
    if (out.width, out.height) != size:
        return None
    height, width = (math.ceil(side / engine.grid) * engine.grid for side in (out.height, out.width))
    side = choose_tile(engine, tile, (height, width))
    if side is None:
        return None
    plan = plan_tiles(height, width, side, min(choose_overlap(engine, tile, None), side // 2), engine.grid)
    return plan if len(plan.tiles) > 1 else None
