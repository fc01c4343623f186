"""Tables and figures of all pages against their result files, and what the programs of the experiments compare."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.errors import ConfigError
from linearsr.evaluation.records import to_json
from linearsr.evaluation.results import Evaluation, ImageScores, MethodInfo
from linearsr.evaluation.statistics import summarise
from linearsr.model.experts import PAPER_BOUNDARIES
from linearsr.model.transformer import LinearDiT
from linearsr.tags.vocabulary import DEGRADATIONS, parse_tags
from linearsr_train.config import TrainConfig, load_recipe
from linearsr_train.data.sources import PhotoSet
from linearsr_train.distributed import build_accelerator
from linearsr_train.esgf import Esgf
from linearsr_train.experts import plan_stages
from linearsr_train.loop import LossTerms
from linearsr_train.losses import draw_times

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "experiments"
RESULT_OF_PAGE = {"esgf.md": "esgf", "experts.md": "experts", "tags.md": "tags", "steps.md": "steps"}
PROGRAM_OF_PAGE = {"steps.md": "run_quality"}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load_module(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load_module


def prose(page: str) -> str:
    """A page without its tables, comments, code and links."""
    page = re.sub(r"<!-- table:.*?<!-- end -->", "", page, flags=re.DOTALL)
    page = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|arXiv:[\d.]+", "", page)


def numbers_in(value: Any) -> set[float]:
    """Every number of a JSON value."""
    if isinstance(value, dict):
        return set().union(*(numbers_in(entry) for entry in value.values()))
    if isinstance(value, list):
        return set().union(*(numbers_in(entry) for entry in value))
    return {float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else set()


def unsupported(text: str, known: set[float]) -> list[str]:
    """Numbers with a decimal point in prose that no known number rounds to."""
    found = re.findall(r"(?<![\w.])-?\d+\.\d+(?![\w.])", text)
    return [f for f in found if not any(round(k, len(f.partition(".")[2])) == float(f) for k in known)]


def test_pages_and_figures_equal_their_result_files(load) -> None:
    program = load("make_all")

    assert set(RESULT_OF_PAGE) <= {page.name for page in program.pages()}
    assert program.stale_pages(write=False) == [], "run `python benchmarks/make_all.py`"
    assert program.stale_figures(draw=False) == [], "run `python benchmarks/make_all.py`"
    assert [
        p.name for p in program.IMAGES.glob("*.png") if p.name in program.FIGURES and p.stat().st_size > 150_000
    ] == []


@pytest.mark.parametrize("name", RESULT_OF_PAGE)
def test_page_names_its_command_and_says_what_is_not_measured(load, name: str) -> None:
    page, tables = (PAGES / name).read_text("utf-8"), load("make_all")
    path = tables.newest_result(RESULT_OF_PAGE[name])
    program = PROGRAM_OF_PAGE.get(name, f"run_{RESULT_OF_PAGE[name]}")

    assert f"python benchmarks/{program}.py" in page
    assert (ROOT / "benchmarks" / f"{program}.py").is_file()
    assert (tables.NOT_MEASURED in page) == (path is None)
    if path is not None:
        result = json.loads(path.read_text("utf-8"))
        assert result["command"] in page
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/", path.read_text("utf-8"))
        assert unsupported(prose(page), numbers_in(result)) == []
    else:
        assert unsupported(prose(page), set()) == []


def test_numbers_in_prose_without_a_source_are_found() -> None:
    known = numbers_in({"a": [30.126, 1], "b": {"c": 0.25}, "d": True})

    assert unsupported("30.13 dB and 0.25, but 30.2 and 1.5", known) == ["30.2", "1.5"]
    assert prose("x `0.5` 1.5\n```\n2.5\n```\n<!-- table:a -->\n3.5\n<!-- end -->\n").split() == ["x", "1.5"]


def test_every_table_of_the_pages_has_its_maker_and_every_maker_its_place(load) -> None:
    program = load("make_all")
    named = [
        name for page in program.pages() for name in re.findall(r"<!-- table:([\w-]+) -->", page.read_text("utf-8"))
    ]

    assert sorted(named) == sorted(program.TABLES)


def test_newest_result_goes_by_date_and_whole_name(load, tmp_path: Path) -> None:
    names = ("2026-11-21-steps", "2026-12-01-steps", "2026-12-05-steps-old", "2027-01-01-tags", "peers", "steps")
    for name in names:
        (tmp_path / f"{name}.json").write_text("{}")
    newest = load("make_all").newest_result

    assert newest("steps", tmp_path).stem == "2026-12-01-steps"
    assert newest("experts", tmp_path) is None
    assert newest("peers", tmp_path).stem == "peers"


def test_fill_makes_the_table_of_the_newest_result_and_leaves_the_rest(load, tmp_path: Path) -> None:
    tables = load("make_all")
    row = {"dataset": "Set5", "method": "compact", "steps": 4, "psnr_y": 30.126, "ssim_y": 0.5, "lpips": 0.12344}
    page = "# A\n<!-- table:steps-scores -->\nold\n<!-- end -->\nafter <!-- table:other -->\nkept\n<!-- end -->\n"

    assert tables.NOT_MEASURED in tables.fill(page, tmp_path)
    (tmp_path / "2026-11-21-steps.json").write_text(json.dumps({"rows": [row]}))
    filled = tables.fill(page, tmp_path)
    assert re.search(r"\| Set5 +\| compact +\| 4 +\| 30\.13 +\| 0\.5000 +\| 0\.1234 +\|", filled)
    assert filled.startswith("# A\n<!-- table:steps-scores -->\n\n| set ")
    assert filled.endswith("\nafter <!-- table:other -->\nkept\n<!-- end -->\n")
    assert "old" not in filled
    assert tables.fill(filled, tmp_path) == filled
    with pytest.raises(ConfigError, match="without `<!-- end -->`"):
        tables.fill("<!-- table:steps-scores -->\n", tmp_path)


def test_links_follow_to_the_newest_result_of_their_name(load, tmp_path: Path) -> None:
    for name in ("2026-11-21-speed", "2026-12-01-speed", "2026-12-02-speed-old"):
        (tmp_path / f"{name}.json").write_text("{}")
    page = "[a](../benchmarks/results/2026-11-21-{}.json)"

    assert load("make_all").fill(page.format("speed"), tmp_path) == page.format("speed").replace("11-21", "12-01")
    assert load("make_all").fill(page.format("nfe"), tmp_path) == page.format("nfe")


def test_readme_takes_its_numbers_from_results_of_the_same_case(load) -> None:
    def row(method: str, steps: int | None, scale: int) -> dict[str, Any]:
        scores = {"psnr_y": 30 + scale + (0 if steps is None else steps) / 100, "lpips": 0.1234 + scale / 10}
        return {"dataset": "Set5", "scale": scale, "method": method, "steps": steps, **scores}

    methods = (("lanczos", None), ("bicubic", None), ("compact", 4), ("compact", 1))
    quality = {"command": "", "rows": [row(*method, scale) for scale in (2, 4) for method in methods]}
    speed = {"side": 2048, "tile": "auto", "pil_bicubic_seconds_per_output_megapixel": 0.0056}
    cases = [{**speed, "steps": steps, "seconds_per_output_megapixel": steps / 4} for steps in (4, 1)]
    peers = {"rows": [{"name": "other", "psnr_y": 31.0, "lpips": 0.2, "seconds_per_output_megapixel": 1.0}]}
    table = load("_tables_pages").readme_set5(quality, {"rows": [{**cases[0], "side": 1024}, *cases]}, peers)
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]

    assert rows == [
        ["bicubic", "34.00", "0.523", "0.006"],
        ["LinearSR compact, 1 step", "34.01", "0.523", "0.25"],
        ["LinearSR compact, 4 steps", "34.04", "0.523", "1.00"],
        ["other", "31.00", "0.200", "1.00"],
    ]


def _evaluation(sets: int, *, shift: float = 0.0) -> dict[str, Any]:
    """A result file of `run_eval.py`: scores grow with the steps up to 2, LPIPS up to 4; pictures differ by 10 dB."""
    steps = {"bicubic": None, "lanczos": None, "compact, 1 step": 1, "compact, 2 steps": 2, "compact, 4 steps": 4}
    methods = tuple(
        MethodInfo(name=name, kind="baseline" if count is None else "model", steps=count)
        for name, count in steps.items()
    )
    gain = {"bicubic": 0.0, "lanczos": 0.1, "compact, 1 step": 1.0, "compact, 2 steps": 1.5, "compact, 4 steps": 0.5}
    images = tuple(
        ImageScores(
            dataset=f"Set{index}",
            image=f"{picture}",
            method=name,
            scores={
                "psnr_y": 20.0 + 10 * picture + gain[name] + 0.01 * picture * (count or 0) + shift,
                "lpips": 0.5 - 0.05 * (count or 0) - 0.001 * picture * (count or 0),
            },
            seconds=0.01 * rank + 0.01,
            megapixels=0.1,
        )
        for index in range(sets)
        for picture in range(3)
        for rank, (name, count) in enumerate(steps.items())
    )
    found = Evaluation(
        datasets=tuple(f"Set{index}" for index in range(sets)),
        methods=methods,
        metrics=("psnr_y", "lpips"),
        baseline="bicubic",
        images=images,
    )
    return {"evaluation": to_json(found, summarise(found))}


@pytest.mark.parametrize("sets", [1, 4])
def test_the_pareto_figure_shows_all_pictures_and_the_interval_of_the_difference(load, sets: int) -> None:
    figures = load("_figures")
    data = figures.pareto_numbers(_evaluation(sets))
    points = {point["method"]: point for point in data["points"]}

    assert data["num_images"] == 3 * sets
    assert points["bicubic"]["psnr_y"] == {"mean": 30.0, "below": 0.0, "above": 0.0}
    assert points["compact, 2 steps"]["psnr_y"]["mean"] == pytest.approx(31.52)
    assert points["compact, 2 steps"]["seconds"] == pytest.approx(0.4)
    assert 0 < points["compact, 2 steps"]["psnr_y"]["above"] < 0.05  # of the difference: means alone are apart by dB
    front = [point["method"] for point in figures._front(data["points"], "psnr_y", False)]
    assert front == ["bicubic", "lanczos", "compact, 1 step", "compact, 2 steps"]
    front = [point["steps"] for point in figures._front(data["points"], "lpips", True)]
    assert front == [None, 1, 2, 4]


def test_figures_are_stale_when_their_numbers_change_and_only_then(load, tmp_path: Path) -> None:
    program, results, images = load("make_all"), tmp_path / "results", tmp_path / "images"
    results.mkdir()

    assert program.stale_figures(results, images, draw=True) == []
    newest = results / "2026-11-21-eval-classical-x4.json"
    newest.write_text(json.dumps(_evaluation(4)))
    assert program.stale_figures(results, images, draw=True) == ["pareto.png", "perception-distortion.png"]
    assert program.stale_figures(results, images, draw=False) == []
    assert all(path.stat().st_size < 150_000 for path in images.iterdir())
    with Image.open(images / "pareto.png") as image:
        assert image.width == 1200
    newest.write_text(json.dumps(_evaluation(4, shift=0.01)))
    assert program.stale_figures(results, images, draw=False) == ["pareto.png", "perception-distortion.png"]


def test_wrong_tags_turn_every_presence_around(load) -> None:
    wrong = load("run_tags").wrong_tags
    for count in range(len(DEGRADATIONS) + 1):
        for tags in itertools.combinations(DEGRADATIONS, count):
            absent = set(DEGRADATIONS) - set(tags)
            for suffix in ("", ":weak"):
                true = parse_tags([tag + suffix for tag in tags] if tags else ["clean"])
                assert set(wrong(true)) == (absent if absent else {"clean"})


def test_gains_compare_picture_by_picture_and_recover_only_what_is_there(load) -> None:
    gains = load("run_tags").gains

    def picture(none: float, true: float, predicted: float) -> dict[str, Any]:
        modes = {"none": none, "true": true, "wrong": none - 1.0, "predicted": predicted}
        return {"modes": {mode: {"psnr_y_1": value} for mode, value in modes.items()}}

    found = gains([picture(20.0, 20.5, 20.25), picture(30.0, 30.3, 30.35)], "psnr_y_1")
    assert found["true"]["mean"] == pytest.approx(0.4)
    assert found["true"]["interval"] == pytest.approx((0.3, 0.5))
    assert found["wrong"]["mean"] == pytest.approx(-1.0)
    assert found["recovered"] == pytest.approx(0.75)
    assert gains([picture(20.0, 20.05, 20.05)] * 2, "psnr_y_1")["recovered"] is None


def test_candidates_are_cut_as_they_are_called(load) -> None:
    program = load("run_experts")
    config = program.config_for(
        program.build_parser().parse_args(["--data", "x", "--lpips-weights", "y", "--init", "z"]), (), 0
    )
    found = program.candidates(config.loss)
    used = {name: program.used_experts(cuts, config)["4"] for name, cuts in found.items()}
    mass = found["four, equal shares of the draws"]

    assert found["four, the paper's triple"] == PAPER_BOUNDARIES
    assert used["four, midpoints of the 4-step grid"] == [3, 2, 1, 0]
    assert used["four, the paper's triple"] == [3, 2, 1, 0]
    assert len(set(used["four, uniform in t"])) < 4
    assert used["one network"] == [0, 0, 0, 0]
    times = draw_times(40_000, config.loss, torch.Generator().manual_seed(0))
    below = times[times < 1.0]
    for cut, share in zip(mass, (0.25, 0.5, 0.75), strict=True):
        assert float((below < cut).float().mean()) == pytest.approx(share, abs=0.01)


def test_all_candidates_take_the_same_number_of_steps(load) -> None:
    program = load("run_experts")
    options = program.build_parser().parse_args(["--data", "x", "--lpips-weights", "y", "--init", "z", "--steps", "50"])
    for cuts in program.candidates(program.config_for(options, (), 0).loss).values():
        stages = plan_stages(program.config_for(options, cuts, 3))
        assert sum(stage.settings.max_steps for stage in stages) == 200
        assert (
            len({(s.settings.learning_rate, s.settings.decay_fraction, s.settings.warmup_steps) for s in stages}) == 1
        )
        assert stages[0].interval[1] == 1.0


def test_parts_are_made_once_and_refused_with_other_settings(load, tmp_path: Path) -> None:
    cell, made = load("_training").cell, []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"scores": {"a": 1.5}}

    first = cell(tmp_path, "one", {"steps": 3, "cuts": (0.5,)}, make)
    assert cell(tmp_path, "one", {"steps": 3, "cuts": (0.5,)}, make) == first == {"scores": {"a": 1.5}}
    assert len(made) == 1
    with pytest.raises(ConfigError, match=r"one\.json was made with another steps"):
        cell(tmp_path, "one", {"steps": 4, "cuts": (0.5,)}, make)


def test_over_seeds_and_over_tasks_average_in_the_right_order(load) -> None:
    rows = [{"x4/p": 1.0, "x2/p": 3.0}, {"x4/p": 2.0, "x2/p": 8.0}]
    scores = load("_training").over_seeds(rows)
    both = load("_tables_experiments").over_tasks(scores, ("x4", "x2"), "p")

    assert scores["x2/p"] == {"mean": 5.5, "std": statistics.stdev([3.0, 8.0]), "values": [3.0, 8.0]}
    assert both == {"mean": 3.5, "std": statistics.stdev([2.0, 5.0])}
    assert load("_training").over_seeds(rows[:1])["x4/p"]["std"] is None


@pytest.mark.parametrize(("late", "beyond"), [(4.0, 100), (9.0, 100), (1.0, 6000)])
def test_recorder_goes_on_beyond_the_verdict_until_it_is_late(load, tmp_path: Path, late: float, beyond: int) -> None:
    config = load_recipe("tiny_cpu")
    recorder = load("_training").Recorder(None, config, None, tmp_path, late=late, beyond=beyond)
    controller = Esgf(config.esgf)
    for step in range(0, 20_000, 50):
        rise = 1 - 2.0 ** -(step / 100)
        row = {"step": step, "psnr": 25 + 2 * rise, "perceptual": 0.4 - 0.1 * rise}
        recorder.note(row)
        if controller.verdict.status == "running" and controller.update(**row).status != "running":
            stopped_at = step
        if recorder.is_late():
            break
    verdict = recorder.esgf.verdict

    assert verdict == controller.verdict
    assert verdict.status == "plateau"
    assert recorder.stopped_at == stopped_at
    assert recorder.rows[-1]["step"] == max(stopped_at, late * verdict.knee, verdict.knee + beyond)


@pytest.fixture
def bench(load, tmp_path: Path):
    """A bench over two small pictures."""
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    config = load_recipe("tiny_cpu")
    return load("_training").Bench(
        photos=PhotoSet(sorted(tmp_path.glob("*.png")), config.data.crop, 1.0),
        held_back=None,
        terms=LossTerms(PixelAutoencoder(config.autoencoder)),
        lpips=None,
        accelerator=build_accelerator(mixed_precision="no", device="cpu"),
        workers=0,
    )


def _experts(steps: int, rate: float, cuts: str) -> TrainConfig:
    stage = f"stages.experts.max_steps={steps}", f"stages.experts.learning_rate={rate}"
    return load_recipe("tiny_cpu", ["init=x", "loop.batch_size=2", *stage, f"experts.boundaries={cuts}"])


def test_experts_are_trained_apart_from_the_same_start(load, bench) -> None:
    training, config = load("_training"), _experts(2, 1e-3, "[0.5]")
    torch.manual_seed(0)
    start = LinearDiT(config.model).state_dict()
    trained = training.train_experts(bench, config, start)
    again = training.train_experts(bench, config, start)
    bank, _ = training.make_bank(config, [part.weights for part in trained], torch.device("cpu"))

    assert [(part.ending, part.steps, part.nonfinite) for part in trained] == [("budget", 2, 0)] * 2
    for part, same in zip(trained, again, strict=True):
        assert all(torch.equal(part.weights[name], same.weights[name]) for name in start)
        assert any(not torch.equal(part.weights[name], start[name]) for name in start)
    assert any(not torch.equal(trained[0].weights[name], trained[1].weights[name]) for name in start)
    assert torch.equal(bank.at(0.9).conv_out.weight, trained[1].weights["conv_out.weight"])
    assert torch.equal(bank.at(0.1).conv_out.weight, trained[0].weights["conv_out.weight"])


def test_training_that_diverges_is_called_a_collapse(load, bench) -> None:
    config = _experts(20, 1e30, "[]")
    (trained,) = load("_training").train_experts(bench, config, LinearDiT(config.model).state_dict())

    assert trained.ending == "collapse"
    assert trained.steps < 20


def test_training_stops_when_it_is_asked_to(load, bench) -> None:
    config, seen = _experts(20, 1e-3, "[]"), []
    (stage,) = [stage for stage in plan_stages(config) if stage.kind == "expert"]
    trained = load("_training").train_stage(
        bench, config, stage, None, on_step=seen.append, should_stop=lambda: len(seen) == 3
    )

    assert (trained.ending, trained.steps) == ("stopped", 3)
    assert all(values["grad_norm"] > 0 for values in seen)
