"""The published protocols: their numbers, their luma, and what the documentation says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from linearsr.errors import ConfigError
from linearsr.evaluation.protocols import PROTOCOLS, get_protocol, note_sizes
from linearsr.metrics import METRICS, psnr, quantise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def test_classical_protocols_crop_the_scale_and_make_bicubic_inputs() -> None:
    for scale in (2, 3, 4):
        protocol = get_protocol(f"classical-x{scale}")
        assert (protocol.scale, protocol.crop_border, protocol.degradation) == (scale, scale, "bicubic")
        assert protocol.metrics == ("psnr_y", "ssim_y", "lpips")
        assert (protocol.color, protocol.y_range, protocol.hr_px) == ("y", "limited", None)


def test_real_protocol_crops_nothing_and_takes_given_pairs() -> None:
    protocol = get_protocol("real-x4")

    assert (protocol.scale, protocol.crop_border, protocol.degradation, protocol.hr_px) == (4, 0, None, 512)
    assert protocol.metrics == (
        "psnr_y",
        "ssim_y",
        "lpips",
        "dists",
        "niqe",
        "musiq",
        "maniqa_pipal",
        "clipiqa",
    )
    assert any("FID" in note for note in protocol.notes)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_protocol_asks_for_known_metrics(name: str) -> None:
    assert get_protocol(name).name == name
    assert set(get_protocol(name).metrics) <= set(METRICS)


@pytest.mark.parametrize(
    ("name", "hint"), [("clasical_x4", "classical-x4"), ("REAL-X4", "real-x4"), ("?", "known are")]
)
def test_get_protocol_suggests_the_closest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(name))) as caught:
        get_protocol(name)

    assert caught.value.hint is not None and hint in caught.value.hint


def test_luma_of_yiq_gives_as_much_less_as_the_protocol_says() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = quantise(torch.rand(3, 64, 64, generator=generator))
    other = quantise(clean + 0.05 * torch.randn(3, 64, 64, generator=generator))
    weights = torch.tensor((0.299, 0.587, 0.114), dtype=torch.float64).view(3, 1, 1)
    error = ((clean.double() - other.double()) * weights).sum(0).square().mean()
    yiq = float(-10 * torch.log10(error))

    stated = re.search(r"gives (\d\.\d\d) dB\s+less", get_protocol("real-x4").luma)

    assert stated is not None
    assert psnr(other, clean) - yiq == pytest.approx(float(stated[1]), abs=0.005)


def test_note_sizes_tells_of_other_sizes_once() -> None:
    protocol = get_protocol("real-x4")
    right, given = ((128, 128), (512, 512)), (None, (512, 512))

    (note,) = note_sizes(protocol, [right, ((128, 120), (512, 480)), ((64, 64), (512, 512)), given])

    assert "2 of 4 pictures are not 512x512" in note
    assert note_sizes(protocol, [right, given]) == ()
    assert note_sizes(get_protocol("classical-x4"), [((1, 1), (4, 4))]) == ()


def test_documentation_has_every_protocol_with_its_numbers() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        cells[0].strip("`"): cells[1:]
        for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
        if cells[0].strip("`") in PROTOCOLS
    }

    assert set(rows) == set(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        inputs = "given" if protocol.degradation is None else protocol.degradation
        assert rows[name][:4] == [str(protocol.scale), inputs, str(protocol.crop_border), protocol.y_range], name
        assert tuple(rows[name][4].replace("`", "").split(", ")) == protocol.metrics, name


def documented(heading: str) -> dict[str, list[str]]:
    """Rows of the first table below a heading, by their first cell."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n### {heading}\n", 1)[1].split("\n### ")[0].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize(("heading", "num"), [("RealSR", 8), ("DRealSR", 8), ("DIV2K-Val", 9)])
def test_documentation_has_published_tables_of_plausible_numbers(heading: str, num: int) -> None:
    rows = documented(heading)

    names = rows["method"][:-1]
    assert len(names) == num and rows["method"][-1] == "from"
    ranges = {"PSNR": (20, 30), "SSIM": (0.5, 0.85), "LPIPS": (0.25, 0.5), "DISTS": (0.18, 0.32), "FID": (20, 40)}
    ranges |= {"NIQE": (4, 9), "MUSIQ": (50, 72), "MANIQA": (0.4, 0.7), "CLIPIQA": (0.5, 0.75)}
    for method, values in rows.items():
        if method == "method" or set(method) <= {"-"}:
            continue
        assert values[-1] in ("F", "P", "M"), method
        for name, value in zip(names, values[:-1], strict=True):
            low, high = ranges[name]
            assert low <= float(value.rstrip("*")) <= high, (heading, method, name)


def test_documented_anchor_agrees_with_the_published_row() -> None:
    """The log of OSEDiff's own script, rounded, is the row of the tables."""
    for heading, dataset in (("RealSR", "RealSR"), ("DRealSR", "DRealSR")):
        rows, anchors = documented(heading), documented("Check your set-up")
        row = next(values for method, values in rows.items() if method.startswith("OSEDiff"))
        for shown, exact in zip(row[:-1], anchors[dataset], strict=True):
            digits = len(shown.partition(".")[2])
            assert float(exact) == pytest.approx(float(shown), abs=0.5001 * 10**-digits + 5e-4), (heading, shown, exact)
