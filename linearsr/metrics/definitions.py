"""What each metric means: `METRICS`, the table that whoever prints, compares or stores a number reads. Data only.

A row says enough to make the number again. What the caller chooses is named in it: the *border*, pixels cut from every
side before a comparison with the original (0 unless stated), and the *range of luma*, limited unless stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["COLOR_FREE", "DEFAULT_METRICS", "METRICS", "Metric", "Need"]

Need = Literal["reference", "input", "tiles", "nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a number means and which way is better."""

    name: str
    """Key in `METRICS`."""
    title: str
    """Heading of its column."""
    direction: Literal["higher", "lower"]
    """Whether a higher or a lower value is the better one."""
    range: tuple[float, float]
    """Smallest and largest value possible."""
    needs: Need
    """What it looks at beside the result: the original, the input, the plan of the tiles, or nothing."""
    unit: str = ""
    """Unit of the value; empty for a bare number."""
    digits: int
    """Decimals to show."""
    definition: str
    """How the value is made, complete enough to make it again."""
    source: str
    """Where the definition comes from."""
    package: str = ""
    """Package that computes it; empty where LinearSR does. `lpips` may be replaced by a file of its weights."""
    licence: str = ""
    """Licence of that package."""

    @property
    def lower_better(self) -> bool:
        """True if a smaller value is the better one."""
        return self.direction == "lower"

    @property
    def needs_reference(self) -> bool:
        """True if it compares against a clean picture."""
        return self.needs == "reference"


_INF = float("inf")
_EIGHT_BIT = "of 8-bit RGB pictures, border cut from every side"
_LUMA = (
    "unrounded BT.601 luma (limited range, 65.481 R + 128.553 G + 24.966 B + 16, or full range, "
    "76.245 R + 149.685 G + 29.07 B, for R, G, B in 0..1)"
)
_SSIM = "11x11 Gaussian windows of sigma 1.5 that lie wholly inside, K1 = 0.01, K2 = 0.03, range 255"
_MS_SSIM = (
    "contrast and structure at scales 1 to 4 and SSIM at scale 5, each averaged over windows and channels, to the "
    "powers 0.0448, 0.2856, 0.3001, 0.2363, 0.1333 and multiplied; 2x2 means between scales; "
)
_PYIQA_LICENCE = "PolyForm-Noncommercial-1.0.0 and S-Lab"
_PYIQA = {"package": "pyiqa", "licence": _PYIQA_LICENCE}

_ROWS = (
    Metric(
        name="psnr_y",
        title="PSNR-Y",
        direction="higher",
        range=(0.0, _INF),
        needs="reference",
        unit="dB",
        digits=2,
        definition=f"10 log10(255^2 / MSE) of {_LUMA} {_EIGHT_BIT}",
        source="ITU-R BT.601; the protocol of the super-resolution benchmarks (MATLAB rgb2ycbcr)",
    ),
    Metric(
        name="psnr_rgb",
        title="PSNR-RGB",
        direction="higher",
        range=(0.0, _INF),
        needs="reference",
        unit="dB",
        digits=2,
        definition=f"10 log10(255^2 / MSE), one MSE over R, G and B together, {_EIGHT_BIT}",
        source="the definition of PSNR; sRGB values as they are stored",
    ),
    Metric(
        name="ssim_y",
        title="SSIM-Y",
        direction="higher",
        range=(-1.0, 1.0),
        needs="reference",
        digits=4,
        definition=f"mean SSIM of {_LUMA} {_EIGHT_BIT}; {_SSIM}",
        source="Wang et al., IEEE TIP 13(4), 2004, eq. 13",
    ),
    Metric(
        name="ssim_rgb",
        title="SSIM-RGB",
        direction="higher",
        range=(-1.0, 1.0),
        needs="reference",
        digits=4,
        definition=f"mean over R, G and B of the mean SSIM of each {_EIGHT_BIT}; {_SSIM}",
        source="Wang et al., IEEE TIP 13(4), 2004, eq. 13",
    ),
    Metric(
        name="ms_ssim_y",
        title="MS-SSIM-Y",
        direction="higher",
        range=(0.0, 1.0),
        needs="reference",
        digits=4,
        definition=f"{_MS_SSIM}{_LUMA} {_EIGHT_BIT}, at least 176 pixels a side left; {_SSIM}",
        source="Wang, Simoncelli and Bovik, Asilomar 2003, eq. 7 and section 3.2",
    ),
    Metric(
        name="ms_ssim_rgb",
        title="MS-SSIM-RGB",
        direction="higher",
        range=(0.0, 1.0),
        needs="reference",
        digits=4,
        definition=f"{_MS_SSIM}R, G and B {_EIGHT_BIT}, at least 176 pixels a side left; {_SSIM}",
        source="Wang, Simoncelli and Bovik, Asilomar 2003, eq. 7 and section 3.2",
    ),
    Metric(
        name="gmsd",
        title="GMSD",
        direction="lower",
        range=(0.0, 0.5),
        needs="reference",
        digits=4,
        definition="standard deviation (divisor n - 1) of the gradient-magnitude similarity: grey 0..255 by 0.2989, "
        "0.5870, 0.1140, halved by 2x2 averages, Prewitt gradients, c = 170; border cut from every side",
        source="arXiv:1308.3052, eq. 3 to 6",
    ),
    Metric(
        name="lpips",
        title="LPIPS",
        direction="lower",
        range=(0.0, _INF),
        needs="reference",
        digits=4,
        definition="LPIPS v0.1 with AlexNet: squared differences of channel-normalised features, weighted, "
        "averaged over positions, summed over five layers; RGB, border cut from every side",
        source="arXiv:1801.03924, eq. 1",
        package="lpips",
        licence="BSD-2-Clause",
    ),
    Metric(
        name="dists",
        title="DISTS",
        direction="lower",
        range=(0.0, 1.0),
        needs="reference",
        digits=4,
        definition="pyiqa `dists`: 1 - weighted similarity of means and covariances of VGG16 features; RGB at full "
        "size, border cut from every side",
        source="arXiv:2004.07728, eq. 8",
        **_PYIQA,
    ),
    Metric(
        name="niqe",
        title="NIQE",
        direction="lower",
        range=(0.0, _INF),
        needs="nothing",
        digits=4,
        definition="pyiqa `niqe`: distance of natural-scene statistics of 96x96 blocks at two scales from a pristine "
        "model; full-range BT.601 luma rounded to 8 bits, whole picture, at least 192 pixels a side",
        source="Mittal, Soundararajan and Bovik, IEEE SPL 20(3), 2013, eq. 10",
        **_PYIQA,
    ),
    Metric(
        name="musiq",
        title="MUSIQ",
        direction="higher",
        range=(0.0, 100.0),
        needs="nothing",
        digits=2,
        definition="pyiqa `musiq`: multi-scale transformer, weights for KonIQ-10k, whole picture at full size and with "
        "longer sides of 224 and 384; RGB",
        source="arXiv:2108.05997",
        **_PYIQA,
    ),
    Metric(
        name="maniqa",
        title="MANIQA",
        direction="higher",
        range=(0.0, 1.0),
        needs="nothing",
        digits=4,
        definition="pyiqa `maniqa`: weights for KonIQ-10k, mean of 20 crops of 224x224 on a regular grid, smaller "
        "pictures enlarged to it; RGB",
        source="arXiv:2204.08958",
        **_PYIQA,
    ),
    Metric(
        name="maniqa_pipal",
        title="MANIQA-PIPAL",
        direction="higher",
        range=(0.0, 1.0),
        needs="nothing",
        digits=4,
        definition="pyiqa `maniqa-pipal`: weights for PIPAL, as the tables of SeeSR and OSEDiff; mean of 20 crops of "
        "224x224 on a regular grid, smaller pictures enlarged to it; RGB",
        source="arXiv:2204.08958; flavour by the evaluation script of OSEDiff, arXiv:2406.08177",
        **_PYIQA,
    ),
    Metric(
        name="clipiqa",
        title="CLIPIQA",
        direction="higher",
        range=(0.0, 1.0),
        needs="nothing",
        digits=4,
        definition="pyiqa `clipiqa`: CLIP ResNet-50 without positions, softmax between 'Good photo.' and 'Bad photo.'; "
        "RGB, whole picture",
        source="arXiv:2207.12396, eq. 2",
        **_PYIQA,
    ),
    Metric(
        name="lr_psnr",
        title="LR-PSNR",
        direction="higher",
        range=(0.0, _INF),
        needs="input",
        unit="dB",
        digits=2,
        definition="consistency with the input: the result shrunk to the input's size by MATLAB's antialiased bicubic, "
        "clamped, rounded to 8 bits; 10 log10(255^2 / MSE) over R, G and B against the input, no border",
        source="Lugmayr et al., NTIRE 2021 Learning the Super-Resolution Space Challenge (LR PSNR)",
    ),
    Metric(
        name="seam",
        title="Seam",
        direction="lower",
        range=(0.0, _INF),
        needs="tiles",
        digits=3,
        definition="bounded energy of the steps across the borders of tiles and the middles of their overlaps, over "
        "that of the lines 8 and 16 pixels beside them; steps against the slope around them, of 0..255, averaged over "
        "runs of 16 pixels, e = s / (s + 1) of their mean square over R, G and B; no border; 1 = no seam",
        source="LinearSR: `linearsr.metrics.seam_score`",
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ROWS})

COLOR_FREE = ("psnr", "ssim", "ms_ssim")
"""Names that stand for `_y` or `_rgb`, by the colour that the caller compares."""
DEFAULT_METRICS: tuple[str, ...] = (
    "psnr",
    "ssim",
    "lpips",
    "lr_psnr",
    "dists",
    "niqe",
    "musiq",
    "maniqa",
    "clipiqa",
)
