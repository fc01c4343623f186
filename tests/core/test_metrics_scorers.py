"""From names to scorers: parsing, what is missing, what the table says, and values equal to the functions'."""

from __future__ import annotations

import dataclasses
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from linearsr.errors import ConfigError, ImageError, ShapeError, WeightsError
from linearsr.metrics import (
    DEFAULT_METRICS,
    METRICS,
    Lpips,
    Sample,
    Scorer,
    ScoreSettings,
    gmsd,
    lr_psnr,
    make_scorers,
    ms_ssim,
    parse_metrics,
    psnr,
    quantise,
    score,
    seam_score,
    ssim,
)
from linearsr.resize import resize
from linearsr.tiling import plan_tiles

ALL = frozenset({"reference", "input", "tiles"})
OWN = ("psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb", "ms_ssim_y", "ms_ssim_rgb", "gmsd", "lr_psnr", "seam")
PYIQA = ("dists", "niqe", "musiq", "maniqa", "maniqa_pipal", "clipiqa")
_DATA = os.environ.get("LINEARSR_DATA")
needs_data = pytest.mark.skipif(_DATA is None, reason="set LINEARSR_DATA to the folder with metrics/")


@pytest.fixture
def sample() -> Sample:
    generator = torch.Generator().manual_seed(9)
    hr = quantise(resize(torch.rand(3, 12, 13, generator=generator), (192, 208)))
    lr = quantise(resize(hr, (48, 52)))
    sr = quantise(resize(lr, (192, 208)) + 0.03 * torch.randn(hr.shape, generator=generator))
    return Sample(sr=sr, hr=hr, lr=lr, tiles=plan_tiles(192, 208, 128, 16, 8))


@pytest.fixture
def weights_file(tmp_path: Path, lpips_weights: dict) -> Path:
    path = tmp_path / "lpips.safetensors"
    save_file(lpips_weights, str(path))
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Puts a package of one file in reach of `import`, for this test only."""
    made: list[str] = []

    def make(name: str, code: str) -> None:
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, name, raising=False)
        made.append(name)

    yield make
    for name in made:  # what the test imported; monkeypatch puts back what was there before
        sys.modules.pop(name, None)


# ---- the table


def test_the_table_has_every_metric_and_each_row_is_complete() -> None:
    assert tuple(METRICS) == (
        "psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb", "ms_ssim_y", "ms_ssim_rgb", "gmsd", "lpips", "dists", "niqe",
        "musiq", "maniqa", "maniqa_pipal", "clipiqa", "lr_psnr", "seam",
    )  # fmt: skip
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title.lower().replace("-", "_") == name
        assert metric.range[0] < metric.range[1]
        assert len(metric.definition) > 30 and metric.source, name
        assert (metric.package == "") is (metric.licence == ""), name
        assert metric.needs_reference is (metric.needs == "reference")
        assert set(dataclasses.asdict(metric)) >= {"direction", "range", "unit", "definition", "source"}
    assert {m.package for m in METRICS.values()} == {"", "lpips", "pyiqa"}
    assert {name for name, m in METRICS.items() if m.lower_better} == {"gmsd", "lpips", "dists", "niqe", "seam"}


def test_default_metrics_are_known_names_without_a_color() -> None:
    names = parse_metrics(",".join(DEFAULT_METRICS), "y")
    assert names == ("psnr_y", "ssim_y", "lpips", "lr_psnr", "dists", "niqe", "musiq", "maniqa", "clipiqa")


# ---- names


def test_parse_metrics_takes_hyphens_blanks_case_and_color() -> None:
    assert parse_metrics("PSNR, ms-ssim ,maniqa-PIPAL", "rgb") == ("psnr_rgb", "ms_ssim_rgb", "maniqa_pipal")
    assert parse_metrics("psnr-rgb,psnr,psnr_y,", "y") == ("psnr_rgb", "psnr_y")


def test_parse_metrics_names_what_is_close() -> None:
    with pytest.raises(ConfigError, match="'lpisp'") as caught:
        parse_metrics("psnr,lpisp", "y")
    assert "lpips" in str(caught.value.hint)
    with pytest.raises(ConfigError) as caught:
        parse_metrics("xyzzy", "y")
    assert "known are psnr, ssim" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="parted by commas"):
        parse_metrics(" , ", "y")


# ---- values


def test_scorers_give_the_values_of_the_functions(sample: Sample) -> None:
    settings = ScoreSettings(crop_border=4, y_range="full")
    scorers, skipped = make_scorers(OWN, settings, has=ALL, explicit=True)
    sr, hr = sample.sr, sample.hr
    inner = (..., slice(4, -4), slice(4, -4))
    expected = {
        "psnr_y": psnr(sr, hr, border=4, y_range="full"),
        "psnr_rgb": psnr(sr, hr, border=4, luma_only=False),
        "ssim_y": ssim(sr, hr, border=4, y_range="full"),
        "ssim_rgb": ssim(sr, hr, border=4, luma_only=False),
        "ms_ssim_y": ms_ssim(sr, hr, border=4, y_range="full"),
        "ms_ssim_rgb": ms_ssim(sr, hr, border=4, luma_only=False),
        "gmsd": gmsd(sr[inner], hr[inner]),
        "lr_psnr": lr_psnr(sr, sample.lr),
        "seam": seam_score(sr, sample.tiles),
    }
    assert skipped == ()
    assert score(scorers, sample) == expected
    assert len(set(expected.values())) == len(expected)
    for name, value in expected.items():
        assert METRICS[name].range[0] <= value <= METRICS[name].range[1]


def test_better_results_score_better_in_the_direction_of_the_table(sample: Sample, weights_file: Path) -> None:
    settings = ScoreSettings(lpips_weights=weights_file)
    scorers, _ = make_scorers((*OWN, "lpips"), settings, has=ALL, explicit=True)
    clean = dataclasses.replace(sample, sr=quantise((sample.sr + sample.hr) / 2))
    cols = torch.arange(208) >= 80
    worse = dataclasses.replace(sample, sr=quantise(sample.sr + 0.05 * cols))
    better_scores, worse_scores = score(scorers, clean), score(scorers, worse)
    for name in (*OWN, "lpips"):
        assert (better_scores[name] < worse_scores[name]) is METRICS[name].lower_better, name


def test_a_picture_of_one_tile_has_no_seam_score(sample: Sample) -> None:
    scorers, _ = make_scorers(("psnr_y", "seam"), ScoreSettings(), has=ALL, explicit=True)
    for tiles in (None, plan_tiles(192, 208, None, 0, 8)):
        whole = dataclasses.replace(sample, tiles=tiles)
        assert scorers["seam"](whole) is None
        assert set(score(scorers, whole)) == {"psnr_y"}


def test_errors_name_the_metric(sample: Sample) -> None:
    scorers, _ = make_scorers(("ms_ssim_y", "psnr_y", "lr_psnr"), ScoreSettings(crop_border=10), has=ALL, explicit=True)
    with pytest.raises(ShapeError, match=r"MS-SSIM-Y: .*at least 176x176"):
        scorers["ms_ssim_y"](sample)
    with pytest.raises(ShapeError, match="PSNR-Y: this result has no original"):
        scorers["psnr_y"](Sample(sr=sample.sr))
    with pytest.raises(ShapeError, match="LR-PSNR: this result has no input"):
        scorers["lr_psnr"](Sample(sr=sample.sr, hr=sample.hr))


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="-1"):
        ScoreSettings(crop_border=-1)
    with pytest.raises(ConfigError, match="'tv'"):
        ScoreSettings(y_range="tv")  # type: ignore[arg-type]


# ---- what is missing


def test_what_the_samples_lack_is_skipped_or_if_asked_for_an_error() -> None:
    scorers, skipped = make_scorers(OWN, ScoreSettings(), has=frozenset({"input"}), explicit=False)
    assert list(scorers) == ["lr_psnr"]
    assert [item.name for item in skipped] == [name for name in OWN if name != "lr_psnr"]
    assert all("no original" in item.reason and "--hr" in str(item.hint) for item in skipped[:-1])
    assert "no tiles" in skipped[-1].reason
    for name, lacking in (("psnr_y", "no original"), ("lr_psnr", "no input"), ("seam", "no tiles")):
        with pytest.raises(ConfigError, match=f"{METRICS[name].title} has {lacking}"):
            make_scorers((name,), ScoreSettings(), has=frozenset(), explicit=True)


def test_a_missing_package_is_skipped_with_its_install_line_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linearsr.metrics.packages.find_spec", lambda name: None)
    names = ("psnr_y", "lpips", *PYIQA)
    scorers, skipped = make_scorers(names, ScoreSettings(), has=ALL, explicit=False)
    assert list(scorers) == ["psnr_y"]
    assert [item.name for item in skipped] == ["lpips", *PYIQA]
    assert "--lpips-weights" in str(skipped[0].hint) and "linearsr[eval]" in str(skipped[0].hint)
    for item in skipped[1:]:
        assert METRICS[item.name].title in item.reason
        assert "pip install pyiqa" in str(item.hint) and "PolyForm-Noncommercial" in str(item.hint)
    for name in ("lpips", *PYIQA):
        with pytest.raises(WeightsError):
            make_scorers((name,), ScoreSettings(), has=ALL, explicit=True)


def test_unknown_names_are_refused_with_close_ones() -> None:
    with pytest.raises(ConfigError, match="'psnr'") as caught:
        make_scorers(("psnr",), ScoreSettings(), has=ALL, explicit=False)
    assert "psnr_y" in str(caught.value.hint)


# ---- LPIPS


def lpips_scorer(settings: ScoreSettings) -> Scorer:
    return make_scorers(("lpips",), settings, has=ALL, explicit=True)[0]["lpips"]


def test_lpips_crops_the_border_and_takes_the_file_of_the_settings(
    sample: Sample, weights_file: Path, lpips_weights: dict
) -> None:
    scorer = lpips_scorer(ScoreSettings(crop_border=7, lpips_weights=weights_file))
    inner = (..., slice(7, -7), slice(7, -7))
    assert scorer(sample) == Lpips(lpips_weights)(sample.sr[inner], sample.hr[inner])
    with pytest.raises(ShapeError, match="LPIPS: .*at least 31x31"):
        scorer(Sample(sr=torch.rand(3, 44, 60), hr=torch.rand(3, 44, 60)))


def test_lpips_takes_the_file_that_the_environment_names(
    sample: Sample, weights_file: Path, monkeypatch: pytest.MonkeyPatch, package: Callable, lpips_weights: dict
) -> None:
    package("lpips", "raise ImportError('the file comes first')")
    monkeypatch.setenv("LINEARSR_LPIPS_WEIGHTS", str(weights_file))
    assert lpips_scorer(ScoreSettings())(sample) == Lpips(lpips_weights)(sample.sr, sample.hr)
    monkeypatch.setenv("LINEARSR_LPIPS_WEIGHTS", str(weights_file.with_name("absent")))
    scorers, skipped = make_scorers(("lpips",), ScoreSettings(), has=ALL, explicit=False)
    assert not scorers and "absent" in skipped[0].reason
    assert lpips_scorer(ScoreSettings(lpips_weights=weights_file))(sample) is not None


def test_a_file_of_the_settings_that_cannot_be_read_is_always_an_error(tmp_path: Path) -> None:
    settings = ScoreSettings(lpips_weights=tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match="absent"):
        make_scorers(("psnr_y", "lpips"), settings, has=ALL, explicit=False)


def test_the_lpips_package_is_called_with_its_alexnet_and_pictures_in_0_to_1(
    sample: Sample, package: Callable, capsys: pytest.CaptureFixture
) -> None:
    code = """
    import torch
    class LPIPS(torch.nn.Module):
        def __init__(self, net, version, verbose):
            super().__init__()
            assert (net, version, verbose) == ('alex', '0.1', False)
            print('a line that is no result')
        def forward(self, a, b, normalize):
            assert normalize and not self.training
            return (a - b).abs().mean().view(1, 1, 1, 1)
    """
    package("lpips", code)
    value = lpips_scorer(ScoreSettings(crop_border=2))(sample)
    assert value == pytest.approx(float((sample.sr - sample.hr)[:, 2:-2, 2:-2].abs().mean()), abs=1e-6)
    assert capsys.readouterr().out == ""


def test_an_lpips_package_without_its_weights_is_found_before_any_work(package: Callable) -> None:
    package("lpips", "def LPIPS(**settings): raise OSError('no route to host\\nand more')")
    _, skipped = make_scorers(("lpips",), ScoreSettings(), has=ALL, explicit=False)
    assert skipped[0].reason == "lpips cannot load its weights: OSError: no route to host"


@needs_data
def test_the_lpips_scorer_reproduces_its_authors_example() -> None:
    folder = Path(str(_DATA)) / "metrics"
    scorer = lpips_scorer(ScoreSettings(lpips_weights=folder / "lpips-alex-v0.1.safetensors"))
    reference, near, far = (
        torch.from_numpy(np.array(Image.open(folder / name).convert("RGB"))).permute(2, 0, 1).float() / 255.0
        for name in ("ex_ref.png", "ex_p1.png", "ex_p0.png")
    )
    assert scorer(Sample(sr=far, hr=reference)) == pytest.approx(0.7219, abs=1e-3)
    assert scorer(Sample(sr=near, hr=reference)) == pytest.approx(0.1376, abs=1e-3)


# ---- pyiqa, by a package of the same shape: its licence keeps the real one out of the tests

FAKE_PYIQA = """
import torch
def create_metric(name, device, as_loss):
    assert as_loss is False and device == torch.device('cpu')
    print('Loading pretrained model')
    if name == 'musiq':
        raise OSError('Name or service not known')
    if name == 'maniqa':
        raise ImportError("No module named 'timm'")
    def network(*pictures):
        assert all(picture.dim() == 4 for picture in pictures)
        if name == 'clipiqa':
            return torch.tensor([float('nan')])
        if name == 'maniqa-pipal':
            raise AssertionError('input is too small')
        return torch.stack([picture.sum() * (i + 1) for i, picture in enumerate(pictures)]).sum().view(1, 1)
    return network
"""


def test_pyiqa_gets_the_border_cut_only_where_it_compares(
    sample: Sample, package: Callable, capsys: pytest.CaptureFixture
) -> None:
    package("pyiqa", FAKE_PYIQA)
    scorers, _ = make_scorers(("dists", "niqe"), ScoreSettings(crop_border=4), has=ALL, explicit=True)
    inner = (..., slice(4, -4), slice(4, -4))
    expected = float(sample.sr[inner].sum() + 2 * sample.hr[inner].sum())
    assert scorers["dists"](sample) == pytest.approx(expected, rel=1e-5)
    assert scorers["niqe"](sample) == pytest.approx(float(sample.sr.sum()), rel=1e-5)
    assert capsys.readouterr().out == ""


def test_pyiqa_that_cannot_load_is_skipped_with_the_reason_and_what_to_do(package: Callable) -> None:
    package("pyiqa", FAKE_PYIQA)
    scorers, skipped = make_scorers(("musiq", "maniqa", "dists"), ScoreSettings(), has=ALL, explicit=False)
    assert list(scorers) == ["dists"]
    assert skipped[0].reason == "pyiqa cannot load MUSIQ: OSError: Name or service not known"
    assert "network" in str(skipped[0].hint)
    assert "timm" in skipped[1].reason and "pip install pyiqa" in str(skipped[1].hint)
    with pytest.raises(WeightsError, match="MUSIQ"):
        make_scorers(("musiq",), ScoreSettings(), has=ALL, explicit=True)


def test_a_pyiqa_metric_without_a_value_is_an_error_of_that_picture(sample: Sample, package: Callable) -> None:
    package("pyiqa", FAKE_PYIQA)
    scorers, _ = make_scorers(("clipiqa", "maniqa_pipal", "niqe"), ScoreSettings(), has=ALL, explicit=True)
    with pytest.raises(ImageError, match="CLIPIQA of this picture is not a number"):
        scorers["clipiqa"](sample)
    with pytest.raises(ImageError, match="MANIQA-PIPAL failed on 208x192 pixels: AssertionError: input is too small"):
        scorers["maniqa_pipal"](sample)
    with pytest.raises(ShapeError, match="NIQE: .*at least 192x192"):
        scorers["niqe"](Sample(sr=torch.rand(3, 191, 300)))
