"""`linearsr knee` from a table or a run to a verdict, JSON lines and a picture."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from PIL import Image

HEADER = "step,psnr,lpips\n"


def rows(dip: float, count: int = 30) -> str:
    """A rise, with alternating dips of so many dB from the 18th evaluation on."""
    text = ""
    for i in range(count):
        share, fall = 1 - math.exp(-i / 4), dip * (i % 2) if i >= 18 else 0.01 * (i % 3)
        text += f"{500 * i},{25 + 2 * share - fall:.5f},{0.4 - 0.1 * share + fall / 20:.5f}\n"
    return text


@pytest.fixture
def curve(tmp_path: Path) -> Path:
    path = tmp_path / "curve.csv"
    path.write_text(HEADER + rows(2.0))
    return path


def test_knee_prints_the_verdict_and_where_to_go_back_to(run, curve: Path) -> None:
    result = run("knee", curve)
    assert (result.code, result.err) == (0, "")
    lines = dict((line[:16].strip(), line[16:]) for line in result.out.splitlines())
    assert list(lines) == [
        "stage", "verdict", "reason", "evaluations", "stopped at", "onset", "elbow (k)", "knee (j)",
    ]  # fmt: skip
    assert lines["stage"] == "curve.csv"
    assert lines["verdict"] == "knee"
    assert lines["evaluations"] == "30, steps 0 to 14500"
    step = int(lines["knee (j)"].split()[1].rstrip(","))
    assert step < 9000
    index = step // 500
    psnr, lpips = (float(cell) for cell in curve.read_text().splitlines()[1 + index].split(",")[1:])
    assert lines["knee (j)"] == f"step {step}, PSNR {psnr:.3f} dB, lpips {lpips:.4f}"


def test_knee_gives_json_lines_for_every_stage_of_a_run(run, tmp_path: Path) -> None:
    for name, text in (("a", rows(2.0)), ("b", rows(0.0, 10)), ("c", rows(0.0, 10) + "5000,,\n5500,26,0.3\n")):
        (tmp_path / "run" / "stages" / name).mkdir(parents=True)
        (tmp_path / "run" / "stages" / name / "curve.csv").write_text(HEADER + text)
    result = run("knee", tmp_path / "run", "--json")
    assert result.code == 0
    a, b, c = result.lines
    assert [line["status"] for line in (a, b, c)] == ["knee", "running", "collapse"]
    assert [line["stage"] for line in (a, b, c)] == ["a", "b", "c"]
    assert a["elbow"] <= a["knee"] < a["onset"] <= a["stopped_at"] <= a["last_step"] == 14500
    assert {a["elbow"], a["knee"]} <= set(a["kept_steps"])
    assert (b["onset"], b["elbow"], b["knee"], b["stopped_at"]) == (None, None, None, None)
    assert (c["onset"], c["stopped_at"], c["judged"], c["evaluations"]) == (5000, 5000, 10, 12)
    plain = run("knee", tmp_path / "run")
    assert [line.split()[1] for line in plain.out.splitlines() if line.startswith("verdict")] == [
        "knee", "running", "collapse",
    ]  # fmt: skip


def test_knee_replays_with_the_settings_of_the_run(run, tmp_path: Path) -> None:
    (tmp_path / "run" / "stages" / "a").mkdir(parents=True)
    (tmp_path / "run" / "stages" / "a" / "curve.csv").write_text(HEADER + rows(2.0))
    (tmp_path / "run" / "config.json").write_text('{"esgf": {"least_evaluations": 40}}')
    assert run("knee", tmp_path / "run", "--json").lines[0]["status"] == "running"


def test_knee_takes_other_columns(run, curve: Path) -> None:
    curve.write_text(curve.read_text().replace("psnr,lpips", "psnr_y,mine"))
    named = run("knee", curve, "--psnr-column", "psnr_y", "--perceptual-column", "mine", "--json")
    assert named.lines[0]["status"] == "knee"


def test_knee_draws_a_plot(run, curve: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("knee", curve, "--plot", tmp_path / "knee.png")
    assert (result.code, result.err) == (0, f"wrote {tmp_path / 'knee.png'}\n")
    with Image.open(tmp_path / "knee.png") as image:
        assert image.format == "PNG"
        assert min(image.size) >= 400


def test_knee_says_that_the_plot_needs_matplotlib(run, curve: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(n for n in sys.modules if n.split(".")[0] == "matplotlib"), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    result = run("knee", curve, "--plot", "knee.png")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        "error: drawing a curve needs matplotlib, which is not installed",
        'hint: run `pip install "linearsr[train]"`',
    ]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, [], "curve.csv does not exist, expected a run's folder or a CSV file"),
        ("", [], "curve.csv is empty"),
        (HEADER + "1,x,0.3\n", [], "line 2, column 'psnr' is 'x', expected a number"),
        (HEADER + "2,25,0.3\n1,25,0.3\n", [], "column 'step' is 1 after 2, expected steps to rise"),
        (HEADER + "1,25,0.3\n", ["--psnr-column", "y"], "no column 'y', it has 'step', 'psnr', 'lpips'"),
        (HEADER + "1,25,0.3\n", ["--plot", "knee.pdf"], "--plot is 'knee.pdf', expected a name that ends in .png"),
    ],
)
def test_knee_explains_bad_input(run, tmp_path: Path, text: str | None, arguments: list[str], message: str) -> None:
    if text is not None:
        (tmp_path / "curve.csv").write_text(text)
    result = run("knee", "curve.csv", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


def test_knee_of_a_plot_that_cannot_be_written_fails_and_prints_nothing(run, curve: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("knee", curve, "--plot", "nowhere/knee.png")
    assert (result.code, result.out) == (4, "")
    assert "nowhere/knee.png cannot be written: the folder does not exist" in result.err


def test_knee_of_a_run_needs_no_torch(curve: Path) -> None:
    import subprocess

    code = "import sys; from linearsr_cli.app import main; main(['knee', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(curve)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
