"""The bundled tagger: pieces, decisions, files. How well one does is measured by `benchmarks/run_tagger.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from linearsr.errors import ConfigError, ShapeError, WeightsError
from linearsr.tags.compact import (
    MAX_BYTES,
    NEVER,
    TAGGER_NAME,
    CompactTagger,
    TagThresholds,
    decide_tags,
    load_tagger,
    piece_corners,
    save_tagger,
    tag_kinds,
    take_crop,
)
from linearsr.tags.compact_network import TaggerModelConfig, TaggerNetwork
from linearsr.tags.tagger import Tagger
from linearsr.tags.vocabulary import COMPACT_VOCABULARY, DEGRADATIONS

SHAPE = TaggerModelConfig(crop=32, widths=(8, 12), hidden=8)
HALF = TagThresholds(clean=0.5, presence=dict.fromkeys(DEGRADATIONS, 0.5), strong=dict.fromkeys(DEGRADATIONS, 0.5))


def _network(shape: TaggerModelConfig = SHAPE) -> TaggerNetwork:
    """Seeded, with statistics of its own and values that float16 holds exactly."""
    torch.manual_seed(3)
    network = TaggerNetwork(shape, 3)
    network(torch.rand(4, 3, shape.crop, shape.crop))
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(value.half())
    return network.eval()


@pytest.fixture
def tagger_file(tmp_path: Path) -> Path:
    path = tmp_path / TAGGER_NAME
    save_tagger(path, _network(), HALF)
    return path


def _rewrite(path: Path, change: Callable[[dict[str, Tensor], dict], None]) -> None:
    """Change tensors and metadata of a file in place."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["linearsr_tagger"])
    change(tensors, config)
    save_file(tensors, path, metadata={"linearsr_tagger": json.dumps(config)})


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 14))
def test_piece_corners_lie_inside_and_cover_what_few_pieces_can(height: int, width: int, most: int) -> None:
    corners = piece_corners(height, width, 96, most)

    assert 1 <= len(corners) <= most
    assert len(set(corners)) == len(corners)
    assert all(0 <= top <= max(0, height - 96) and 0 <= left <= max(0, width - 96) for top, left in corners)
    if -(-height // 96) * -(-width // 96) <= most:
        seen = np.zeros((height, width), bool)
        for top, left in corners:
            seen[top : top + 96, left : left + 96] = True
        assert seen.all()


@pytest.mark.parametrize(
    ("size", "rows", "cols"),
    [((1000, 1000), 3, 4), ((9000, 100), 12, 1), ((90, 50_000), 1, 12), ((300, 60_000), 1, 12)],
)
def test_piece_corners_follow_the_shape_of_large_pictures(size: tuple[int, int], rows: int, cols: int) -> None:
    corners = piece_corners(*size, 96, 12)

    assert len({top for top, _ in corners}) == rows
    assert len({left for _, left in corners}) == cols
    if cols > 1:
        assert {0, size[1] - 96} <= {left for _, left in corners}


@given(st.integers(1, 50), st.integers(1, 50))
def test_take_crop_mirrors_small_pictures(height: int, width: int) -> None:
    lr = torch.rand(3, height, width)
    reference = np.pad(lr.numpy(), ((0, 0), (0, max(0, 32 - height)), (0, max(0, 32 - width))), mode="reflect")

    piece = take_crop(lr, 0, 0, 32)

    assert np.array_equal(piece.numpy(), reference[:, :32, :32])


def test_take_crop_inside_is_a_slice() -> None:
    lr = torch.rand(3, 60, 70)

    assert torch.equal(take_crop(lr, 28, 38, 32), lr[:, 28:60, 38:70])


@pytest.mark.parametrize(
    ("probabilities", "tags"),
    [
        ((0.9, 0.1, 0.2, 0.3, 0.0, 0.0, 0.0), ("clean",)),
        ((0.4, 0.1, 0.2, 0.3, 0.0, 0.0, 0.0), ()),
        ((0.9, 0.6, 0.2, 0.3, 0.4, 0.9, 0.9), ("blur:weak",)),
        ((0.1, 0.6, 0.5, 0.8, 0.5, 0.1, 0.9), ("jpeg", "blur", "noise:weak")),
    ],
)
def test_decide_tags_names_what_is_sure(probabilities: tuple[float, ...], tags: tuple[str, ...]) -> None:
    assert decide_tags(probabilities, DEGRADATIONS, HALF) == tags


def test_decide_tags_never_names_what_has_no_threshold() -> None:
    silent = TagThresholds(clean=NEVER, presence=dict.fromkeys(DEGRADATIONS, NEVER), strong=HALF.strong)

    assert decide_tags((1.0,) * 7, DEGRADATIONS, silent) == ()


def test_tag_kinds_are_the_bare_names() -> None:
    assert tag_kinds(COMPACT_VOCABULARY) == DEGRADATIONS


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (33, 2), (32, 32), (700, 900)])
def test_tagger_takes_any_size_and_looks_at_few_pieces(size: tuple[int, int]) -> None:
    network, seen = _network(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    tagger = CompactTagger(network, HALF)
    lr = torch.rand(3, *size)

    found = tagger.probabilities(lr)

    assert isinstance(tagger, Tagger)
    assert found.shape == (7,)
    assert bool(((found > 0) & (found < 1)).all())
    assert len(seen) == 1
    assert seen[0][0] <= 12
    assert seen[0][1:] == (3, 32, 32)
    assert tagger.tag(lr) == decide_tags(found.tolist(), DEGRADATIONS, HALF)


def test_tagger_averages_the_logits_of_its_pieces() -> None:
    network = _network()
    lr = torch.rand(3, 32, 64)
    with torch.no_grad():
        logits = network(torch.stack((lr[:, :, :32], lr[:, :, 32:])))

    found = CompactTagger(network, HALF).probabilities(lr)

    assert torch.allclose(found, torch.sigmoid(logits.mean(0)), atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (1, 3, 32, 32), (4, 32, 32), (3, 0, 32)])
def test_tagger_refuses_what_is_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected"):
        CompactTagger(_network(), HALF).tag(torch.zeros(shape))


def test_spectrum_shows_jpeg_blocks_whatever_their_phase() -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.random((160, 160, 3)).astype(np.float32), (0, 0), 4.0)
    levels = ((smooth - smooth.mean()) / smooth.std() * 8 + 128).clip(0, 255).astype(np.uint8)
    blocky = cv2.imdecode(cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    spectrum = TaggerNetwork(TaggerModelConfig(crop=96, widths=(4,), hidden=4), 3).spectrum

    def at_period_8(picture: np.ndarray, top: int, left: int) -> Tensor:
        piece = torch.from_numpy(picture[top : top + 96, left : left + 96].transpose(2, 0, 1).copy()).float()
        bins = spectrum(piece[None])[0].view(4, 48)[1]
        return bins[12] - torch.cat((bins[8:11], bins[14:17])).mean()

    peaks = torch.stack([at_period_8(blocky, phase, 2 * phase) for phase in range(8)])
    assert float(peaks.min()) > float(at_period_8(levels, 3, 5)) + 1
    assert float(peaks.max() - peaks.min()) < 0.2


def test_file_gives_back_the_same_tagger(tagger_file: Path) -> None:
    lr = torch.rand(3, 50, 90)

    loaded = load_tagger(tagger_file)

    assert torch.equal(loaded.probabilities(lr), CompactTagger(_network(), HALF).probabilities(lr))
    assert loaded.thresholds == HALF
    assert loaded.network.config == SHAPE


def test_saving_refuses_a_file_above_one_megabyte(tmp_path: Path) -> None:
    big = TaggerNetwork(TaggerModelConfig(crop=32, widths=(8, 512), hidden=512), 3)

    with pytest.raises(WeightsError, match=f"expected at most {MAX_BYTES}"):
        save_tagger(tmp_path / TAGGER_NAME, big, HALF)
    assert not (tmp_path / TAGGER_NAME).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, c: t.pop("head.3.bias"), "head.3.bias"),
        (lambda t, c: t.update(extra=torch.zeros(2)), "extra"),
        (lambda t, c: t.update({"head.3.bias": torch.zeros(3)}), "head.3.bias"),
        (lambda t, c: t["head.3.bias"].fill_(float("nan")), "not finite"),
        (lambda t, c: c.update(vocabulary=["clean", "rain"]), "knows the tags clean, rain"),
        (lambda t, c: c.update(version=2), "version 2"),
        (lambda t, c: c.pop("thresholds"), "thresholds"),
        (lambda t, c: c["thresholds"]["presence"].pop("noise"), "presence"),
        (lambda t, c: c["model"].update(hiden=3), "hiden"),
        (lambda t, c: c["model"].update(crop=33), "crop is 33"),
    ],
)
def test_loading_refuses_what_does_not_fit(tagger_file: Path, change: Callable, words: str) -> None:
    _rewrite(tagger_file, change)

    with pytest.raises(WeightsError, match=words):
        load_tagger(tagger_file)


def test_loading_refuses_a_missing_cut_or_foreign_file(tagger_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        load_tagger(tmp_path / "none.safetensors")
    tagger_file.write_bytes(tagger_file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a tagger"):
        load_tagger(tagger_file)
    save_file({"x": torch.zeros(1)}, tagger_file)
    with pytest.raises(WeightsError, match="not a tagger"):
        load_tagger(tagger_file)


@pytest.mark.parametrize("changes", [{"crop": 31}, {"crop": 16}, {"widths": ()}, {"hidden": 0}, {"widths": (4,) * 5}])
def test_shape_refuses_what_cannot_be_built(changes: dict) -> None:
    with pytest.raises(ConfigError, match="tagger crop is"):
        TaggerModelConfig(**{"crop": 32, "widths": (4,), "hidden": 4, **changes})
