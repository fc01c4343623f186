"""Curves read back from tables, run folders and logs, and drawn."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from PIL import Image

from linearsr.errors import ConfigError
from linearsr_train.curves import read_curves, read_esgf_config, read_table, replay
from linearsr_train.esgf import EsgfConfig, Evaluation
from linearsr_train.plots import draw_curve, draw_run
from linearsr_train.runlog import RunLog

HEADER = "step,psnr,perceptual\n"


def table(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def rising(count: int, start: float = 25.0) -> str:
    return HEADER + "".join(f"{500 * i},{start + 0.1 * i},{0.4 - 0.005 * i}\n" for i in range(1, count + 1))


def test_read_table_takes_its_columns_by_name(tmp_path: Path) -> None:
    text = "\ufeffloss, Step ,LPIPS,psnr,status\r\n1,500,0.3,25.5,running\r\n\r\n2,1000,,nan,\r\n3,1500.0,2e-1,26\r\n"
    curve = read_table(table(tmp_path / "a.csv", text))
    assert (curve.name, curve.perceptual_name) == ("a.csv", "LPIPS")
    assert curve.evaluations[0] == Evaluation(500, 25.5, 0.3)
    assert (curve.evaluations[1].step, curve.evaluations[2]) == (1000, Evaluation(1500, 26.0, 0.2))
    assert math.isnan(curve.evaluations[1].psnr) and math.isnan(curve.evaluations[1].perceptual)


def test_read_table_prefers_the_column_that_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "step,psnr,perceptual,gmsd,psnr_y\n1,1,2,3,4\n")
    assert read_table(path).evaluations == (Evaluation(1, 1.0, 2.0),)
    assert read_table(path, psnr_column="psnr_y", perceptual_column="gmsd").evaluations == (Evaluation(1, 4.0, 3.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (HEADER, "no row, expected at least one evaluation"),
        ("psnr,lpips\n1,2\n", "no column 'step', it has 'psnr', 'lpips'"),
        ("step,lpips\n1,2\n", "no column 'psnr'"),
        ("step,psnr\n1,2\n", "no column one of 'perceptual', 'lpips', 'gmsd', 'dists'"),
        (HEADER + "1,25,0.3\n2,25,o.3\n", "line 3, column 'perceptual' is 'o.3', expected a number"),
        (HEADER + "1,25,0.3\n2,25 dB,0.3\n", "line 3, column 'psnr' is '25 dB', expected a number"),
        (HEADER + "1,25,0.3\n\n1.5,25,0.3\n", "line 4, column 'step' is '1.5', expected a whole number"),
        (HEADER + ",25,0.3\n", "line 2, column 'step' is '', expected a whole number"),
        (HEADER + "-1,25,0.3\n", "line 2, column 'step' is '-1'"),
        (HEADER + "500,25,0.3\n500,25,0.3\n", "line 3, column 'step' is 500 after 500, expected steps to rise"),
        (HEADER + "1,2,3,4\n", "line 2: 4 cells, expected 3"),
        (HEADER + '1,"2,3\n', "is no table"),
    ],
)
def test_read_table_names_what_is_wrong_and_where(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_table(table(tmp_path / "a.csv", text))
    assert message in caught.value.message
    assert "a.csv" in caught.value.message


def test_read_table_refuses_what_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(ConfigError, match="is no table"):
        read_table(path)


def test_read_curves_of_a_run_are_in_the_order_of_training(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for stage in ("pretrain", "expert-3", "expert-0"):
        table(tmp_path / "stages" / stage / "curve.csv", rising(3))
        log.write("validation", stage=stage, step=500)
    log.close()
    table(tmp_path / "stages" / "zzz" / "curve.csv", rising(1))
    assert [curve.name for curve in read_curves(tmp_path)] == ["pretrain", "expert-3", "expert-0", "zzz"]


def test_a_loss_that_is_not_finite_ends_a_curve_unless_the_stage_went_on(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for stage in ("a", "b"):
        table(tmp_path / "stages" / stage / "curve.csv", rising(3))
        log.write("validation", stage=stage, step=1500)
        log.write("nonfinite", stage=stage, step=1500)
    log.write("validation", stage="b", step=500)
    log.close()
    a, b = (replay(curve) for curve in read_curves(tmp_path))
    assert (a.verdict.status, a.verdict.onset) == ("collapse", 1500)
    assert b.verdict.status == "running"


def test_the_log_of_a_run_without_stages_is_a_curve_and_later_lines_count(tmp_path: Path) -> None:
    lines = [{"event": "step", "step": 1, "loss": 0.1}]
    for step, psnr in ((500, 25.0), (1000, 26.0), (1500, 99.0), (1000, 26.5), (1500, None)):
        lines.append({"event": "validation", "step": step, "x4/psnr_1": psnr, "x4/perceptual_4": 0.3, "x2/psnr_1": 30})
    path = table(tmp_path / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines) + '{"event": "vali')
    (curve,) = read_curves(tmp_path)
    assert [e.step for e in curve.evaluations] == [500, 1000, 1500]
    assert curve.evaluations[1].psnr == 26.5
    assert math.isnan(curve.evaluations[2].psnr)
    (other,) = read_curves(tmp_path, psnr_column="x2/psnr_1")
    assert {e.psnr for e in other.evaluations} == {30.0}
    with pytest.raises(ConfigError, match="a validation has no 'x3/psnr'"):
        read_curves(tmp_path, psnr_column="x3/psnr")
    path.write_text('{"event": "start"}\n')
    with pytest.raises(ConfigError, match="holds no validation"):
        read_curves(tmp_path)
    path.write_text("{broken\n{}\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_curves(tmp_path)


def test_read_curves_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_curves(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"holds neither stages/\*/curve\.csv nor log\.jsonl"):
        read_curves(tmp_path)


def test_read_esgf_config_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    assert read_esgf_config(tmp_path) == EsgfConfig()
    (tmp_path / "config.json").write_text('{"esgf": {"patience": 20}, "loop": {}}')
    assert read_esgf_config(tmp_path) == EsgfConfig(patience=20)
    (tmp_path / "config.json").write_text('{"loop": {}}')
    assert read_esgf_config(tmp_path) == EsgfConfig()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        read_esgf_config(tmp_path)


def swinging() -> str:
    """A rise of 16 evaluations, then alternating dips of 2 dB."""
    rows = []
    for i in range(30):
        share, dip = 1 - math.exp(-i / 4), 2.0 * (i % 2) if i >= 18 else 0.01 * (i % 3)
        rows.append(f"{500 * i},{25 + 2 * share - dip},{0.4 - 0.1 * share + dip / 20}\n")
    return HEADER + "".join(rows)


def test_draw_run_shows_every_stage_with_its_marks(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for stage, text in (("a", swinging()), ("b", rising(1)), ("c", HEADER + "1,,\n"), ("d", rising(5))):
        table(tmp_path / "stages" / stage / "curve.csv", text)
    assert draw_run(tmp_path) == tmp_path / "curves.png"
    with Image.open(tmp_path / "curves.png") as image:
        whole = image.convert("RGB")
    assert whole.width > 1.2 * whole.height
    (curve, *_) = read_curves(tmp_path)
    assert replay(curve).verdict.status == "knee"
    draw_curve(tmp_path / "a.png", [(curve, replay(curve))])
    with Image.open(tmp_path / "a.png") as image:
        alone = image.convert("RGB")
    assert 3 * alone.width == pytest.approx(whole.width, abs=3)
    colors = {color for _, color in alone.getcolors(maxcolors=1 << 20)}
    assert {(0x2A, 0x7F, 0x3F), (0xB3, 0x20, 0x2C), (0x1F, 0x5F, 0xA8), (0xB5, 0x54, 0x1C)} <= colors


def test_draw_curve_without_matplotlib_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = read_table(table(tmp_path / "a.csv", rising(3)))
    for name in [*(n for n in sys.modules if n.split(".")[0] == "matplotlib"), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="needs matplotlib") as caught:
        draw_curve(tmp_path / "a.png", [(curve, replay(curve))])
    assert caught.value.hint == 'run `pip install "linearsr[train]"`'
    assert not (tmp_path / "a.png").exists()
