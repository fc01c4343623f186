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

import dataclasses
import difflib
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from linearsr.errors import ConfigError, ShapeError
from linearsr.resize import axis_weights

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
Range = tuple[float, float]
Size = tuple[int, int]

STAGES = ("blur", "noise", "jpeg")
TAGS = ("clean", "blur:weak", "blur", "noise:weak", "noise", "jpeg:weak", "jpeg")
KERNEL_KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
RESIZE_MODES = ("area", "bilinear", "bicubic")

TAG_THRESHOLDS: dict[str, tuple[float, float]] = {"blur": (2.0, 7.0), "noise": (1.5, 4.5), "jpeg": (1.2, 2.7)}
"""Stage -> (weak, strong): root mean square change of luma in 8-bit levels above which the tag is set.

Chosen on 400 crops of 160 pixels of the training photographs at each of the scales 1, 2, 3 and 4 (20th, 50th and 80th
percentile of the change where the stage is on, at x4: blur 3.6, 8.1, 14.1; noise 2.4, 4.1, 6.9; jpeg 1.2, 2.7, 4.5).
Over the four scales the weak and bare tags then fall on these shares of all samples: blur 0.23 and 0.43, noise 0.31 and
0.42, jpeg 0.25 and 0.37; 0.04 of the samples are "clean".
"""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_TRIM = 1e-3  # a border of a kernel that holds less than this share of its weight is cut off: filters get cheaper
_MIN_VALS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradationConfig:
    """Parameters of the second-order chain; the defaults are the recipe "real".

    They are SeeSR's numbers, but for the three stage probabilities, which are ours.
    """

    blur_stage_prob: float = 0.75
    """Probability that a sample is blurred at all (first, second and final filter), in [0, 1]. Published: 1."""
    noise_stage_prob: float = 0.75
    """Probability that a sample gets noise at all (both noises), in [0, 1]. Published: 1."""
    jpeg_stage_prob: float = 0.75
    """Probability that a sample is JPEG-compressed at all (both times), in [0, 1]. Published: 1."""
    kernel_size: tuple[int, int] = (7, 21)
    """Smallest and largest odd side of the random kernels, in pixels."""
    kernel_probs: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Probabilities of the shapes in `KERNEL_KINDS`, summing to 1; both blurs."""
    sinc_prob: float = 0.1
    """Probability that the first kernel is a sinc filter (ringing) instead, in [0, 1]."""
    sinc_prob2: float = 0.1
    """As `sinc_prob`, second blur."""
    blur_sigma: Range = (0.2, 3.0)
    """Standard deviation of the first blur in high-resolution pixels at x4, above 0."""
    blur_sigma2: Range = (0.2, 1.5)
    """Standard deviation of the second blur in pixels of the resized picture at x4, above 0."""
    betag: Range = (0.5, 4.0)
    """Exponent of the generalized Gaussian kernels, above 0; 1 is Gaussian. Half of the draws lie below 1."""
    betap: Range = (1.0, 2.0)
    """Exponent of the plateau kernels, above 0. Half of the draws are the lower end when that is 1."""
    second_blur_prob: float = 0.5
    """Probability of the second blur within the blur stage, in [0, 1]."""
    final_sinc_prob: float = 0.8
    """Probability of the final sinc filter (cut-off from pi / 3 to pi) within the blur stage, in [0, 1]."""
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of enlarging, shrinking and keeping in the first resize, summing to 1."""
    resize_range: Range = (0.3, 1.5)
    """Factors of the first resize against the high-resolution size at x4; lower end in (0, 1], upper at least 1."""
    resize_prob2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    """As `resize_prob`, second resize."""
    resize_range2: Range = (0.6, 1.2)
    """Factors of the second resize against the final size; lower end in (0, 1], upper at least 1."""
    gaussian_prob: float = 0.5
    """Probability that the first noise is Gaussian; Poisson otherwise."""
    gaussian_prob2: float = 0.5
    """As `gaussian_prob`, second noise."""
    noise_sigma: Range = (1.0, 15.0)
    """Standard deviation of the first Gaussian noise in 8-bit levels, at least 0."""
    noise_sigma2: Range = (1.0, 12.0)
    """As `noise_sigma`, second noise."""
    poisson_scale: Range = (0.05, 2.0)
    """Factor on the first Poisson noise, at least 0."""
    poisson_scale2: Range = (0.05, 1.0)
    """As `poisson_scale`, second noise."""
    gray_noise_prob: float = 0.4
    """Probability that the first noise is the same in all channels, in [0, 1]."""
    gray_noise_prob2: float = 0.4
    """As `gray_noise_prob`, second noise."""
    jpeg_quality: Range = (60.0, 95.0)
    """Quality of the first JPEG, 1 to 100."""
    jpeg_quality2: Range = (60.0, 100.0)
    """Quality of the second JPEG, 1 to 100."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_field(field.name, getattr(self, field.name), field.default)
        if self.blur_stage_prob + self.noise_stage_prob + self.jpeg_stage_prob <= 0:
            raise ConfigError(
                "blur_stage_prob, noise_stage_prob and jpeg_stage_prob are all 0, expected at least one above 0",
                hint="for clean pictures use the bicubic recipe",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DegradationConfig:
        """Build from plain data such as a TOML table; lists become tuples, missing keys take the defaults.

        Raises:
            ConfigError: a key is unknown (the message's hint names the closest one) or a value is wrong.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean `{close[0]}`?" if close else "known keys: " + ", ".join(known)
                raise ConfigError(f"degradation has no setting `{key}`", hint=hint)
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back: numbers and lists of numbers."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _check_field(name: str, value: object, default: object) -> None:
    """One setting of `DegradationConfig`: type, count and range, told from its name."""
    is_tuple, count = isinstance(default, tuple), len(default) if isinstance(default, tuple) else 1
    expected = f"{count} numbers" if is_tuple else "one number"
    numbers = value if isinstance(value, tuple) else (value,)
    is_number = all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
    if not is_number or isinstance(value, tuple) != is_tuple or len(numbers) != count:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")
    low, high = min(numbers), max(numbers)
    if "prob" in name:
        expected += " from 0 to 1 that sum to 1" if is_tuple else " from 0 to 1"
        ok = low >= 0 and high <= 1 and (not is_tuple or abs(sum(numbers) - 1) < 1e-6)
    elif name == "kernel_size":
        expected = "two odd whole numbers, at least 3"
        ok = low >= 3 and all(isinstance(x, int) and x % 2 == 1 for x in numbers)
    elif name.startswith("resize"):
        expected, ok = "a lower end in (0, 1] and an upper end of at least 1", 0 < low <= 1 <= high
    elif name.startswith("jpeg"):
        expected, ok = "numbers from 1 to 100", 1 <= low <= high <= 100
    elif name.startswith(("noise", "poisson")):
        expected, ok = "numbers of at least 0", low >= 0
    else:
        expected, ok = "numbers above 0", low > 0
    if not ok or ("prob" not in name and numbers[0] > numbers[-1]):
        order = "" if "prob" in name else ", the smaller first"
        raise ConfigError(f"{name} is {value!r}, expected {expected}{order}")


REAL_V1 = DegradationConfig()
"""The recipe "real" of published numbers. A change of its values, or of what they mean, needs a new name."""
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


@lru_cache(maxsize=32)
def _grid(side: int) -> tuple[Image, Image]:
    """Coordinates x and y of every kernel element, (side, side), centre 0."""
    line = np.arange(side, dtype=np.float32) - (side - 1) / 2
    x, y = np.meshgrid(line, line)
    return x, y


def _normalised(kernel: NDArray[Any]) -> Image:
    """`kernel` without its empty border, summing to 1."""
    kernel = kernel / kernel.sum()
    cut, middle = 0, kernel.shape[0] // 2
    weight = np.abs(kernel)
    total = weight.sum()
    while cut < middle - 1 and total - weight[cut + 1 : -cut - 1, cut + 1 : -cut - 1].sum() < _TRIM * total:
        cut += 1
    kernel = kernel[cut : kernel.shape[0] - cut, cut : kernel.shape[1] - cut]
    return np.ascontiguousarray(kernel / kernel.sum(), dtype=np.float32)


def _bell_kernel(side: int, kind: str, sigmas: tuple[float, float], angle: float, beta: float) -> Image:
    """Gaussian, generalized Gaussian exp(-q^beta / 2) or plateau 1 / (q^beta + 1), with q = x^T Sigma^-1 x."""
    x, y = _grid(side)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    q = (along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2
    return _normalised(1 / (q**beta + 1) if kind.startswith("plateau") else np.exp(-0.5 * q**beta))


def _bessel_j1(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """J1 by its integral over half a period; 64 midpoints are exact to rounding for 0 <= x <= 60."""
    tau = (np.arange(64) + 0.5) * (math.pi / 64)
    return np.cos(tau - x[:, None] * np.sin(tau)).mean(axis=1)


def _sinc_kernel(side: int, cutoff: float) -> Image:
    """Circular low-pass filter with `cutoff` in radians per pixel, (0, pi]; it rings."""
    x, y = _grid(side)
    squares, index = np.unique(np.rint(x * x + y * y), return_inverse=True)  # few differ, so J1 is cheap
    radii = np.sqrt(squares.astype(np.float64))
    values = np.full(radii.shape, cutoff * cutoff / (4 * math.pi))
    values[1:] = cutoff * _bessel_j1(cutoff * radii[1:]) / (2 * math.pi * radii[1:])
    return _normalised(values[index.reshape(side, side)])


def _draw_side(config: DegradationConfig, rng: np.random.Generator) -> int:
    return int(rng.choice(np.arange(config.kernel_size[0], config.kernel_size[1] + 1, 2)))


def _draw_beta(rng: np.random.Generator, bounds: Range) -> float:
    (low, high), below = bounds, rng.random() < 0.5
    if low >= 1 or high <= 1:
        return 1.0 if below and low == 1 else float(rng.uniform(low, high))
    return float(rng.uniform(low, 1) if below else rng.uniform(1, high))


def _draw_kernel(config: DegradationConfig, rng: np.random.Generator, second: bool, strength: float) -> Image:
    """A kernel of a random shape; `strength` in (0, 1] narrows it for scales below 4."""
    sinc_prob = config.sinc_prob2 if second else config.sinc_prob
    sigma = config.blur_sigma2 if second else config.blur_sigma
    side = _draw_side(config, rng)
    if rng.random() < sinc_prob:
        cutoff = rng.uniform(math.pi / 3 if side < 13 else math.pi / 5, math.pi)
        return _sinc_kernel(side, min(cutoff / strength, math.pi))
    kind = KERNEL_KINDS[int(rng.choice(len(KERNEL_KINDS), p=config.kernel_probs))]
    sigma_x, sigma_y = (float(x) * strength for x in rng.uniform(*sigma, size=2))
    angle = float(rng.uniform(-math.pi, math.pi))
    beta = _draw_beta(rng, config.betap if kind.startswith("plateau") else config.betag)
    if kind in ("iso", "aniso"):
        beta = 1.0
    sigmas = (sigma_x, sigma_y if kind.endswith("aniso") else sigma_x)
    return _bell_kernel(side, kind, sigmas, angle, beta)


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
    kernel1 = _draw_kernel(config, rng, False, strength)
    has_second = rng.random() < config.second_blur_prob
    kernel2 = _draw_kernel(config, rng, True, strength)
    has_final = rng.random() < config.final_sinc_prob
    final_kernel = _sinc_kernel(_draw_side(config, rng), float(rng.uniform(math.pi / 3, math.pi)))
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


@lru_cache(maxsize=64)
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
