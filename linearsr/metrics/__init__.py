"""How good a result is: close to an original, consistent with its input, pleasing without either, free of seams.

`METRICS` says what each number means; `scorers` turns names into functions. Every picture is RGB, sRGB encoded, float
in [0, 1], as (3, H, W) or (B, 3, H, W); nothing but `lr_psnr` rounds to 8 bits by itself: published figures need
`quantise` on both pictures first. Sums run in float64 where float32 would cost digits (SSIM subtracts two large
numbers). Knows nothing of models or folders.
"""

from linearsr.metrics.definitions import DEFAULT_METRICS, METRICS, Metric
from linearsr.metrics.fidelity import lr_psnr, psnr
from linearsr.metrics.gradients import gmsd
from linearsr.metrics.perceptual import Lpips
from linearsr.metrics.planes import luma, mod_crop, quantise
from linearsr.metrics.scorers import Sample, Scorer, ScoreSettings, Skipped, make_scorers, parse_metrics, score
from linearsr.metrics.seams import seam_score
from linearsr.metrics.structure import ms_ssim, ssim

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Lpips",
    "Metric",
    "Sample",
    "ScoreSettings",
    "Scorer",
    "Skipped",
    "gmsd",
    "lr_psnr",
    "luma",
    "make_scorers",
    "mod_crop",
    "ms_ssim",
    "parse_metrics",
    "psnr",
    "quantise",
    "score",
    "seam_score",
    "ssim",
]
