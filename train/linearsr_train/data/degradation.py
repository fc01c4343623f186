"""How low-resolution training pictures are made from high-resolution crops, and which tags name what was done.

Two recipes: `degrade_bicubic` (MATLAB's antialiased bicubic, nothing else) and `degrade_real` (the second-order chain
of Real-ESRGAN with SeeSR's milder numbers). Both run in loader workers: numpy and OpenCV only, no global random state.
All pictures are (H, W, 3) float32 RGB in [0, 1], sRGB encoded.

Every random draw of the chain is made first and kept in a `Plan`; `apply_plan` is then a pure function. That is what
makes exact tags possible: the same plan is run once more with one stage only, and the stage is named only if that
changes the final picture visibly.

What differs from the published chain, and why:
- Each of the stages blur, noise and jpeg is left out of a sample with a probability of its own. Published chains always
  apply all three, so no picture would lack one and a tag could not be told from a constant.
- The chain was published for x4. At a smaller scale f = sqrt(scale / 4) multiplies the sigmas of both random blurs and
  divides the cut-off of their sinc kernels, and the first resize shrinks to no less than what is 0.3 at x4, measured
  against the final size. Otherwise an x1 input would lose everything that an x4 input loses anyway by its size.
- Shrinking is always antialiased, as cameras and photo software do it: aliasing is in no tag. Without the blur stage
  all resizes are bicubic and never go below the final size, so that a picture without the tag `blur` is sharp.
- Poisson counts are drawn from a normal field by the Cornish-Fisher expansion: one field serves all runs of a plan.
  Their `vals` is at least 128: it falls with the levels used in a crop, and small flat crops would be destroyed.

Source: Wang et al. 2021 (arXiv:2107.10833), sections 3.1-3.3; parameters of SeeSR (arXiv:2311.16518).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from linearsr.errors import ConfigError, ShapeError
from linearsr.resize import axis_weights
from linearsr.tags.vocabulary import COMPACT_VOCABULARY, DEGRADATIONS
from linearsr_train.data.degradation_config import REAL_V1, DegradationConfig, Range
from linearsr_train.data.kernels import draw_kernel, draw_side, sinc_kernel

__all__ = [
    "REAL_SEED",
    "REAL_V1",
    "STAGES",
    "TAGS",
    "TAG_THRESHOLDS",
    "DegradationConfig",
    "Degraded",
    "NoisePlan",
    "Plan",
    "apply_plan",
    "degrade_bicubic",
    "degrade_real",
    "degrade_real_fixed",
    "draw_plan",
]

Image = NDArray[np.float32]
Size = tuple[int, int]

STAGES = DEGRADATIONS
TAGS = COMPACT_VOCABULARY
RESIZE_MODES = ("area", "bilinear", "bicubic")

TAG_THRESHOLDS: dict[str, tuple[float, float]] = {"blur": (2.0, 7.0), "noise": (1.5, 4.5), "jpeg": (1.2, 2.7)}
"""Stage -> (weak, strong): root mean square change of luma in 8-bit levels above which the tag is set.

Chosen on 400 crops of 160 pixels of the training photographs at each of the scales 1, 2, 3 and 4 (20th, 50th and 80th
percentile of the change where the stage is on, at x4: blur 3.6, 8.1, 14.1; noise 2.4, 4.1, 6.9; jpeg 1.2, 2.7, 4.5).
Over the four scales the weak and bare tags then fall on these shares of all samples: blur 0.23 and 0.43, noise 0.31 and
0.42, jpeg 0.25 and 0.37; 0.04 of the samples are "clean".
"""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_MIN_VALS = 128


REAL_SEED = 20210722
"""Seed of the fixed low-resolution pictures of the benchmarks."""


@dataclass(frozen=True, slots=True)
class Degraded:
    """A low-resolution picture and what was done to it."""

    lr: Image
    """(h, w, 3) float32 in [0, 1], every value k / 255."""
    tags: tuple[str, ...]
    """Members of `TAGS` in the order of `STAGES`, or ("clean",)."""


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """One noise but for its pixels, which follow from `seed` and the picture; `gray`: equal in all channels."""

    gaussian: bool
    """Gaussian of standard deviation `level` (in [0, 1] units); else Poisson times `level`."""
    level: float
    gray: bool
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All random draws of one sample. Kernels are (k, k) float32, k odd, summing to 1; sizes are (height, width).

    `active` are the stages that the sample has. With `jpeg_last` the second JPEG follows the last resize.
    """

    size: Size
    active: frozenset[str]
    kernel1: Image
    kernel2: Image | None
    final_kernel: Image | None
    size1: Size
    size2: Size
    modes: tuple[str, str, str]
    noise1: NoisePlan
    noise2: NoisePlan
    quality1: int
    quality2: int
    jpeg_last: bool


def _draw_active(config: DegradationConfig, rng: np.random.Generator) -> frozenset[str]:
    """Each stage on its own; drawn again until there is at least one."""
    probs = (config.blur_stage_prob, config.noise_stage_prob, config.jpeg_stage_prob)
    while True:
        draws = rng.random(len(STAGES))
        active = frozenset(stage for stage, prob, draw in zip(STAGES, probs, draws, strict=True) if draw < prob)
        if active:
            return active


def _draw_factor(rng: np.random.Generator, probs: tuple[float, float, float], bounds: Range) -> float:
    kind = int(rng.choice(3, p=probs))
    factor = float(rng.uniform(1, bounds[1]) if kind == 0 else rng.uniform(bounds[0], 1))
    return 1.0 if kind == 2 else factor


def _draw_noise(rng: np.random.Generator, gaussian_prob: float, sigma: Range, scale: Range, gray: float) -> NoisePlan:
    gaussian = bool(rng.random() < gaussian_prob)
    level = float(rng.uniform(*sigma)) / 255 if gaussian else float(rng.uniform(*scale))
    return NoisePlan(gaussian, level, bool(rng.random() < gray), int(rng.integers(2**63)))


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def draw_plan(hr_size: Size, size: Size, config: DegradationConfig, rng: np.random.Generator) -> Plan:
    """Draw all that is random in one sample; sizes are (height, width), equal states of `rng` give equal plans."""
    scale = math.sqrt(hr_size[0] * hr_size[1] / (size[0] * size[1]))
    strength = min(1.0, math.sqrt(scale / 4))
    active = _draw_active(config, rng)
    kernel1 = draw_kernel(config, rng, False, strength)
    has_second = rng.random() < config.second_blur_prob
    kernel2 = draw_kernel(config, rng, True, strength)
    has_final = rng.random() < config.final_sinc_prob
    final_kernel = sinc_kernel(draw_side(config, rng), float(rng.uniform(math.pi / 3, math.pi)))
    resize_low = min(1.0, config.resize_range[0] * max(1.0, 4 / scale))
    factor1 = _draw_factor(rng, config.resize_prob, (resize_low, config.resize_range[1]))
    factor2 = _draw_factor(rng, config.resize_prob2, config.resize_range2)
    size1, size2 = _scaled(hr_size, factor1), _scaled(size, factor2)
    picks = rng.integers(len(RESIZE_MODES), size=3)
    modes = (RESIZE_MODES[picks[0]], RESIZE_MODES[picks[1]], RESIZE_MODES[picks[2]])
    if "blur" not in active:
        size1 = max(size1[0], size[0]), max(size1[1], size[1])
        size2 = max(size2[0], size[0]), max(size2[1], size[1])
        modes = ("bicubic", "bicubic", "bicubic")
    return Plan(
        size=size,
        active=active,
        kernel1=kernel1,
        kernel2=kernel2 if has_second else None,
        final_kernel=final_kernel if has_final else None,
        size1=size1,
        size2=size2,
        modes=modes,
        noise1=_draw_noise(rng, config.gaussian_prob, config.noise_sigma, config.poisson_scale, config.gray_noise_prob),
        noise2=_draw_noise(
            rng, config.gaussian_prob2, config.noise_sigma2, config.poisson_scale2, config.gray_noise_prob2
        ),
        quality1=round(rng.uniform(*config.jpeg_quality)),
        quality2=round(rng.uniform(*config.jpeg_quality2)),
        jpeg_last=bool(rng.random() < 0.5),
    )


@lru_cache(maxsize=256)
def _matrix(in_size: int, out_size: int, mode: str) -> Image:
    """Dense (out_size, in_size) weights of one axis, "bicubic" (MATLAB's) or antialiased "bilinear"; read-only."""
    if mode == "bicubic":
        weights, indices = axis_weights(in_size, out_size)
        matrix = np.zeros((out_size, in_size), dtype=np.float32)
        np.add.at(matrix, (np.arange(out_size)[:, None], indices.numpy()), weights.numpy())
        return matrix
    step = in_size / out_size
    centre = (np.arange(out_size) + 0.5) * step - 0.5
    matrix = np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(in_size)) / max(step, 1.0))
    return np.ascontiguousarray(matrix / matrix.sum(axis=1, keepdims=True), dtype=np.float32)


def _resize_by_matrix(image: Image, size: Size, mode: str) -> Image:
    height, width = image.shape[:2]
    rows, cols = _matrix(height, size[0], mode), _matrix(width, size[1], mode)
    image = (rows @ image.reshape(height, -1)).reshape(size[0], width, 3)
    image = (cols @ image.transpose(1, 0, 2).reshape(width, -1)).reshape(size[1], size[0], 3)
    return np.ascontiguousarray(image.transpose(1, 0, 2))


def _resize(image: Image, size: Size, mode: str) -> Image:
    """Resize with `mode` of `RESIZE_MODES`; antialiased when shrinking. Not clamped."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    if size[0] >= height and size[1] >= width:
        flag = cv2.INTER_CUBIC if mode == "bicubic" else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, size[::-1], interpolation=flag), dtype=np.float32)
    if mode == "area":
        return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)
    return _resize_by_matrix(image, size, mode)


def _filter(image: Image, kernel: Image) -> Image:
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), dtype=np.float32)


def _to_levels(image: Image) -> NDArray[np.uint8]:
    """Nearest 8-bit level, after clamping to [0, 1]."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _from_levels(levels: NDArray[np.uint8]) -> Image:
    return levels.astype(np.float32) / np.float32(255)


def _jpeg(image: Image, quality: int) -> Image:
    """Through a JPEG file in memory, 4:2:0 chroma."""
    bgr = cv2.cvtColor(_to_levels(image), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return _from_levels(np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8))


def _poisson_noise(image: Image, normal: Image) -> Image:
    """Poisson(image * vals) / vals - image for 8-bit levels `image`; vals = 2^ceil(log2(levels used)), at least 128.

    The third-order Cornish-Fisher expansion turns the normal field into counts; right in mean and variance to 3 % for
    expected counts from 2 on.
    """
    levels = _to_levels(image)
    used = int(np.count_nonzero(np.bincount(levels.ravel(), minlength=256)))
    vals = np.float32(max(2 ** math.ceil(math.log2(used)), _MIN_VALS))
    image = _from_levels(levels)
    expected = image * vals
    skew = (normal * normal - 1) * np.float32(1 / 6) * np.minimum(expected, 1)
    counts = np.maximum(np.rint(expected + np.sqrt(expected) * normal + skew), 0)
    return counts / vals - image


def _add_noise(image: Image, noise: NoisePlan, normal: Image) -> Image:
    """`image` with noise, clamped to [0, 1]."""
    if noise.gaussian:
        return np.clip(image + normal * np.float32(noise.level), 0, 1)
    base = np.clip(image @ _LUMA[:, None] if noise.gray else image, 0, 1)
    return np.clip(image + _poisson_noise(base, normal) * np.float32(noise.level), 0, 1)


class _Chain:
    """One plan on one picture; what several runs share (first blur and resize, noise fields) is computed once."""

    def __init__(self, plan: Plan, hr: Image) -> None:
        self.plan = plan
        self.hr = hr
        self._firsts: dict[bool, Image] = {}
        self._fields: dict[int, Image] = {}

    def _first(self, has_blur: bool) -> Image:
        if has_blur not in self._firsts:
            image = _filter(self.hr, self.plan.kernel1) if has_blur else self.hr
            self._firsts[has_blur] = _resize(image, self.plan.size1, self.plan.modes[0])
        return self._firsts[has_blur]

    def _noisy(self, image: Image, noise: NoisePlan) -> Image:
        if noise.seed not in self._fields:
            shape = (*image.shape[:2], 1 if noise.gray else 3)
            self._fields[noise.seed] = np.random.default_rng(noise.seed).standard_normal(shape, dtype=np.float32)
        return _add_noise(image, noise, self._fields[noise.seed])

    def run(self, active: frozenset[str]) -> Image:
        """The final picture with the stages `active` only; the resizes always run."""
        plan, has_blur = self.plan, "blur" in active
        image = self._first(has_blur)
        if "noise" in active:
            image = self._noisy(image, plan.noise1)
        if "jpeg" in active:
            image = _jpeg(image, plan.quality1)
        if has_blur and plan.kernel2 is not None:
            image = _filter(image, plan.kernel2)
        image = _resize(image, plan.size2, plan.modes[1])
        if "noise" in active:
            image = self._noisy(image, plan.noise2)
        if "jpeg" in active and not plan.jpeg_last:
            image = _jpeg(image, plan.quality2)
        image = _resize(image, plan.size, plan.modes[2])
        if has_blur and plan.final_kernel is not None:
            image = _filter(image, plan.final_kernel)
        if "jpeg" in active and plan.jpeg_last:
            image = _jpeg(image, plan.quality2)
        return _from_levels(_to_levels(image))


def apply_plan(plan: Plan, hr: Image, active: Iterable[str] | None = None) -> Image:
    """Run the chain of `plan` on `hr` with the stages `active` (default: the plan's own) and every resize.

    Gives (h, w, 3) float32 in [0, 1] on the 8-bit grid, with the same draws, noise included, whatever `active` is.
    """
    return _Chain(plan, hr).run(plan.active if active is None else frozenset(active))


def _stage_changes(chain: _Chain, singles: Mapping[str, Image]) -> dict[str, float]:
    """How much each stage alone changes the final picture: root mean square of luma, in 8-bit levels.

    Blur is measured against the plain bicubic result, because the random resizes lose sharpness too and are drawn so
    only where the blur stage is on; noise and jpeg against the chain's resizes alone.
    """
    changes, resized = {}, chain.run(frozenset())
    for stage, image in singles.items():
        reference = degrade_bicubic(chain.hr, chain.plan.size).lr if stage == "blur" else resized
        changes[stage] = float(np.sqrt(np.mean(np.square((image - reference) @ _LUMA)))) * 255
    return changes


def _tags_of(changes: Mapping[str, float]) -> tuple[str, ...]:
    tags = []
    for stage in STAGES:
        weak, strong = TAG_THRESHOLDS[stage]
        change = changes.get(stage, 0.0)
        if change > weak:
            tags.append(stage if change > strong else f"{stage}:weak")
    return tuple(tags) if tags else ("clean",)


def _check_sizes(hr: Image, size: Size) -> None:
    if hr.ndim != 3 or hr.shape[2] != 3 or hr.dtype != np.float32:
        raise ShapeError(f"picture is {hr.dtype} {hr.shape}, expected float32 (height, width, 3)")
    if not (1 <= size[0] <= hr.shape[0] and 1 <= size[1] <= hr.shape[1]):
        raise ShapeError(
            f"low-resolution size is {tuple(size)}, expected 1 to {hr.shape[0]} rows and 1 to {hr.shape[1]} columns",
            hint="the scale must be at least 1",
        )


def degrade_bicubic(hr: Image, size: Size) -> Degraded:
    """MATLAB's antialiased bicubic to `size` = (height, width), rounded to 8 bit; tags ("clean",).

    Args:
        hr: (H, W, 3) float32 in [0, 1]; else ShapeError.
        size: at most (H, W), else ShapeError; equal to it gives `hr` itself, rounded.
    """
    _check_sizes(hr, size)
    image = hr if hr.shape[:2] == tuple(size) else _resize_by_matrix(hr, size, "bicubic")
    return Degraded(_from_levels(_to_levels(image)), ("clean",))


def degrade_real(hr: Image, size: Size, config: DegradationConfig, rng: np.random.Generator) -> Degraded:
    """Degrade like a bad photograph: the second-order chain, with exact tags.

    Args:
        hr: (H, W, 3) float32 in [0, 1]; else ShapeError.
        size: (h, w) of the result, at most (H, W); else ShapeError.
        config: the recipe.
        rng: advanced by the draws; equal states give equal results.
    """
    _check_sizes(hr, size)
    chain = _Chain(draw_plan((hr.shape[0], hr.shape[1]), (size[0], size[1]), config, rng), hr)
    active = chain.plan.active
    lr = chain.run(active)
    singles = {stage: lr if len(active) == 1 else chain.run(frozenset({stage})) for stage in STAGES if stage in active}
    return Degraded(lr, _tags_of(_stage_changes(chain, singles)))


def degrade_real_fixed(hr: Image, scale: float, name: str, config: DegradationConfig = REAL_V1) -> Degraded:
    """`degrade_real` with draws that follow from the file name alone: the same picture in every benchmark run.

    Args:
        hr: (H, W, 3) float32 in [0, 1].
        scale: at least 1, else ConfigError; the result has (round(H / scale), round(W / scale)) pixels, at least one.
        name: file name without folders.
        config: the recipe.
    """
    if not (math.isfinite(scale) and scale >= 1):
        raise ConfigError(f"scale is {scale}, expected a number of at least 1")
    key = int.from_bytes(hashlib.sha256(name.encode()).digest())
    rng = np.random.default_rng([REAL_SEED, key])
    return degrade_real(hr, _scaled((hr.shape[0], hr.shape[1]), 1 / scale), config, rng)
