"""A whole evaluation over real files: scores as the metrics say, failures left out, and nothing done twice."""

from __future__ import annotations

import gc
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from linearsr.errors import ConfigError, DeviceError, ImageError, OutOfMemoryError, WeightsError
from linearsr.evaluation.cache import ScoreCache
from linearsr.evaluation.checks import result_folder
from linearsr.evaluation.making import Input, Made
from linearsr.evaluation.methods import folder_method, interpolation, model_methods
from linearsr.evaluation.pairing import PairedSet, pair_folders
from linearsr.evaluation.pictures import eight_bits, read_picture
from linearsr.evaluation.results import Evaluation, MethodInfo
from linearsr.evaluation.run import evaluate
from linearsr.metrics import METRICS as METRICS_TABLE
from linearsr.metrics import ScoreSettings, mod_crop, psnr, ssim
from linearsr.resize import resize
from linearsr.tiling import plan_tiles

METRICS = ("psnr_y", "ssim_y")


class Degraded:
    """As the training pipeline's: an input and what was done to it."""

    def __init__(self, lr: torch.Tensor, tags: tuple[str, ...] = ("clean",)) -> None:
        self.lr, self.tags = lr, tags


class Counting:
    """A method that counts its calls, and fails where it is told to."""

    def __init__(self, name: str = "counting", wrong: dict[str, Exception] | None = None, gain: float = 1.0) -> None:
        self.info = MethodInfo(name=name, kind="model", steps=1, settings={"gain": gain})
        self.reads = "input"
        self.calls: Counter[str] = Counter()
        self._wrong, self._gain = {} if wrong is None else wrong, gain

    def __call__(self, sample: Input) -> Made:
        self.calls[sample.image] += 1
        if sample.image in self._wrong:
            raise self._wrong[sample.image]
        sr = resize(sample.lr, (sample.size[1], sample.size[0])) * self._gain
        return Made(sr=sr, seconds=0.25, tiles=plan_tiles(sr.shape[1], sr.shape[2], 64, 16))


def quarter(hr: torch.Tensor, name: str) -> Degraded:
    return Degraded(resize(hr, (hr.shape[1] // 4, hr.shape[2] // 4)))


def paint(folder: Path, count: int = 3, side: int = 48) -> Path:
    """A folder of smooth pictures with some grain, of several sizes: a.png, b.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate("abcdefgh"[:count]):
        rng = np.random.default_rng(index)
        coarse = torch.from_numpy(rng.random((3, 6, 7), dtype=np.float32))
        fine = resize(coarse, (side, side + 8 * index)) + torch.from_numpy(
            rng.normal(0, 0.02, (3, side, side + 8 * index))
        )
        pixels = (eight_bits(fine) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def run(sets: PairedSet | list[PairedSet], methods: list, **options) -> Evaluation:
    defaults = {"metrics": METRICS, "explicit": True, "settings": ScoreSettings(crop_border=4), "scale": 4.0}
    return evaluate(sets if isinstance(sets, list) else [sets], methods, **{**defaults, "degrade": quarter, **options})


def hr_only(folder: Path, **options) -> PairedSet:
    return pair_folders(folder, **{"lr": None, "srs": {}, "by": "name", **options})


def table(found: Evaluation) -> dict[tuple[str, str], dict[str, float]]:
    return {(row.image, row.method): dict(row.scores) for row in found.images}


# ---- what is scored


def test_scores_are_those_of_the_metrics(tmp_path: Path) -> None:
    hr = paint(tmp_path / "hr")
    found = run(hr_only(hr), [interpolation("bicubic")], protocol={"scale": 4}, baseline="bicubic")

    for row in found.images:
        clean = mod_crop(read_picture(hr / f"{row.image}.png"), 4)
        size = clean.shape[1:]
        lr = eight_bits(resize(clean, (size[0] // 4, size[1] // 4)))
        sr = eight_bits(resize(lr, tuple(size)))
        expected = {"psnr_y": psnr(sr, clean, border=4), "ssim_y": ssim(sr, clean, border=4)}
        assert row.scores == pytest.approx(expected, abs=1e-9)
        assert row.megapixels == size[0] * size[1] / 1e6
        assert row.seconds is not None and row.seconds > 0 and not row.cached
    assert [row.image for row in found.images] == ["a", "b", "c"]
    assert (found.datasets, found.metrics, found.baseline) == (("hr",), METRICS, "bicubic")
    assert (found.protocol, found.failures, found.skipped, found.notes) == ({"scale": 4}, (), (), ())


def test_a_model_is_scored_as_its_saved_files_are(tmp_path: Path, tiny_checkpoint: Path) -> None:
    hr = paint(tmp_path / "hr", count=2, side=64)
    methods = list(model_methods(tiny_checkpoint, [1, 2], seed=2, device="cpu"))
    made = run(hr_only(hr), methods, save=tmp_path / "out")
    names = [method.info.name for method in methods]
    folders = {name: result_folder(tmp_path / "out", "hr", name) for name in names}

    again = run(hr_only(hr, srs=folders), [folder_method(name) for name in names], degrade=None)

    assert [folder.name for folder in folders.values()] == ["tiny-model-1-step", "tiny-model-2-steps"]
    assert sorted(path.name for path in folders[names[0]].iterdir()) == ["a.png", "b.png"]
    assert table(made) == table(again)
    assert all(row.seconds is None for row in again.images)


def test_baselines_come_first_and_sets_keep_their_order(tmp_path: Path) -> None:
    sets = [hr_only(paint(tmp_path / name / "HR", count=1)) for name in ("two", "one")]

    found = run(sets, [Counting(), interpolation("bicubic")])

    assert [info.name for info in found.methods] == ["bicubic", "counting"]
    assert found.datasets == ("two/HR", "one/HR")
    rows = [(row.dataset, row.image, row.method) for row in found.images]
    assert rows == [(d, "a", m) for d in found.datasets for m in ("bicubic", "counting")]


def test_given_inputs_are_used_and_gray_results_stay_gray(tmp_path: Path, tiny_checkpoint: Path) -> None:
    hr, lr = paint(tmp_path / "hr", count=1, side=64), tmp_path / "lr"
    lr.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16), dtype=np.uint8)).save(lr / "a.png")
    paired = hr_only(hr, lr=lr)

    run(paired, list(model_methods(tiny_checkpoint, [1], device="cpu")), degrade=None, save=tmp_path / "out")

    sr = read_picture(tmp_path / "out" / "hr" / "tiny-model-1-step" / "a.png")
    assert torch.equal(sr[0], sr[1]) and torch.equal(sr[0], sr[2])


@pytest.mark.parametrize("coloured", [False, True])
def test_inputs_made_here_and_the_same_inputs_as_files_score_alike(tmp_path: Path, coloured: bool) -> None:
    """A gray picture is enlarged as one, unless what was done to it brought colour."""
    hr, lr = paint(tmp_path / "hr", count=1, side=64), tmp_path / "lr"
    Image.open(hr / "a.png").convert("L").save(hr / "a.png")
    lr.mkdir()

    def degrade(clean: torch.Tensor, name: str) -> Degraded:
        made = eight_bits(quarter(clean, name).lr)
        return Degraded(made * torch.tensor([1.0, 0.9, 0.8]).view(3, 1, 1) if coloured else made)

    array = np.asarray(eight_bits(degrade(read_picture(hr / "a.png"), "a.png").lr) * 255).round().astype(np.uint8)
    Image.fromarray(array.transpose(1, 2, 0) if coloured else array[0]).save(lr / "a.png")
    options = {"metrics": ("psnr_y", "psnr_rgb", "lr_psnr")}

    def made(paired: PairedSet, place: str, degrade=None) -> tuple[Evaluation, torch.Tensor]:
        methods = list(model_methods("compact", [1], tags="none", device="cpu"))
        found = run(paired, methods, degrade=degrade, save=tmp_path / place, **options)
        return found, read_picture(tmp_path / place / "hr" / "compact-1-step" / "a.png")

    here, ours = made(hr_only(hr), "here", degrade)
    given, theirs = made(hr_only(hr, lr=lr), "given")

    assert torch.equal(ours, theirs) and table(here) == table(given)
    assert bool((ours == ours[:1]).all()) is not coloured


def test_unlike_files_are_scored_and_what_was_done_is_noted_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (34, 46), dtype=np.uint8)
    (tmp_path / "hr").mkdir()
    (tmp_path / "sr").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "hr" / f"{name}.png"), gray.astype(np.uint16) * 257)
        Image.fromarray(np.dstack([gray] * 3)).save(tmp_path / "sr" / f"{name}.png")
    Image.fromarray(np.dstack([gray[:32, :44]] * 4)).save(tmp_path / "sr" / "b.png")
    paired = hr_only(tmp_path / "hr", srs={"m": tmp_path / "sr"})

    found = run(paired, [folder_method("m")], degrade=None)

    assert all(scores == {"psnr_y": math.inf, "ssim_y": pytest.approx(1.0)} for scores in table(found).values())
    assert len(found.images) == 2
    assert found.notes == (
        "hr cropped to multiples of 4 (mod-crop)",
        "16-bit pictures rounded to 8 bits",
        "gray pictures repeated to three channels",
        "alpha ignored",
    )


def test_seams_have_a_value_only_where_there_are_tiles(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "cache")
    paired, methods = hr_only(paint(tmp_path / "hr", count=1, side=192)), [interpolation("bicubic"), Counting()]

    first, again = (run(paired, methods, metrics=("psnr_y", "seam"), cache=cache) for _ in range(2))

    assert [set(row.scores) for row in first.images] == [{"psnr_y"}, {"psnr_y", "seam"}]
    assert table(first) == table(again) and all(row.cached for row in again.images)
    assert methods[1].calls == {"a": 1}


# ---- failures


def test_a_corrupt_picture_is_left_out_for_all_methods_and_the_rest_is_scored(tmp_path: Path) -> None:
    hr, sr = paint(tmp_path / "hr", count=4), paint(tmp_path / "sr", count=4)
    data = (sr / "b.png").read_bytes()
    (sr / "b.png").write_bytes(data[: len(data) // 2])
    (hr / "c.png").write_bytes((hr / "c.png").read_bytes()[:-200])
    (hr / "d.png").write_bytes(b"no picture")
    told = []

    found = run(hr_only(hr, srs={"m": sr}), [interpolation("bicubic"), folder_method("m")], on_failure=told.append)

    assert {row.image for row in found.images} == {"a"} and len(found.images) == 2
    assert [(f.image, f.method) for f in found.failures] == [("b", "m"), ("c", None), ("d", None)]
    assert "b.png is damaged or cut short" in found.failures[0].message
    assert tuple(told) == found.failures


def test_a_corrupt_input_is_no_methods_fault(tmp_path: Path) -> None:
    hr, lr = paint(tmp_path / "hr", count=2), paint(tmp_path / "lr", count=2, side=12)
    (lr / "a.png").write_bytes(b"no picture")

    found = run(hr_only(hr, lr=lr), [interpolation("bicubic"), Counting()], degrade=None)

    assert [(f.image, f.method) for f in found.failures] == [("a", None)]
    assert {row.image for row in found.images} == {"b"}


@pytest.mark.parametrize(
    "error", [ImageError("not finite", hint="h"), OutOfMemoryError("no room", hint="h"), MemoryError()], ids=repr
)
def test_what_fails_for_one_picture_ends_nothing(tmp_path: Path, error: Exception) -> None:
    found = run(hr_only(paint(tmp_path / "hr")), [Counting(wrong={"b": error}), interpolation("bicubic")])

    assert [(f.image, f.method) for f in found.failures] == [("b", "counting")]
    assert found.failures[0].message and found.failures[0].hint
    assert {row.image for row in found.images} == {"a", "c"} and len(found.images) == 4


@pytest.mark.parametrize("error", [WeightsError("gone"), DeviceError("no device"), ConfigError("no"), KeyError("bug")])
def test_what_would_fail_for_every_picture_ends_the_run(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        run(hr_only(paint(tmp_path / "hr")), [Counting(wrong={"b": error})])


def test_values_that_are_not_finite_and_other_sizes_are_failures(tmp_path: Path) -> None:
    infinite, small = Counting("infinite", gain=math.inf), Counting("small")
    small.__class__ = type("Small", (Counting,), {"__call__": lambda self, s: Made(sr=torch.zeros(3, 4, 4))})

    found = run(hr_only(paint(tmp_path / "hr", count=1)), [infinite, small])

    assert [f.method for f in found.failures] == ["infinite", "small"]
    assert "not finite" in found.failures[0].message
    assert "(3, 4, 4), expected (3, 48, 48)" in found.failures[1].message


def test_a_picture_that_is_too_small_for_a_metric_is_a_failure(tmp_path: Path) -> None:
    hr = paint(tmp_path / "hr", count=1, side=48)
    Image.new("RGB", (9, 9)).save(hr / "tiny.png")

    found = run(hr_only(hr), [interpolation("bicubic")], settings=ScoreSettings())

    assert [(f.image, f.method) for f in found.failures] == [("tiny", "bicubic")]
    assert "SSIM" in found.failures[0].message


# ---- the cache


def test_a_rerun_makes_and_scores_nothing(tmp_path: Path) -> None:
    cache, method = ScoreCache(tmp_path / "cache"), Counting()
    paired = hr_only(paint(tmp_path / "hr"))
    first = run(paired, [method], cache=cache)
    kept = {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*.json")}

    again = run(paired, [method], cache=cache)

    assert method.calls == {"a": 1, "b": 1, "c": 1}
    assert table(again) == table(first)
    assert [(row.cached, row.seconds) for row in again.images] == [(True, 0.25)] * 3
    assert not any(row.cached for row in first.images)
    assert {path: path.stat().st_mtime_ns for path in cache.folder.rglob("*.json")} == kept and len(kept) == 6


def test_a_rerun_loads_no_model(tmp_path: Path, tiny_checkpoint: Path) -> None:
    cache, paired = ScoreCache(tmp_path / "cache"), hr_only(paint(tmp_path / "hr"))
    first = run(paired, list(model_methods(tiny_checkpoint, [1], device="cpu")), cache=cache)
    (tiny_checkpoint / "expert-0.safetensors").unlink()

    again = run(paired, list(model_methods(tiny_checkpoint, [1], device="cpu")), cache=cache)

    assert table(again) == table(first)
    with pytest.raises(WeightsError):
        run(paired, list(model_methods(tiny_checkpoint, [1], seed=1, device="cpu")), cache=cache)


def test_only_what_changed_is_done_again(tmp_path: Path) -> None:
    cache, method, hr = ScoreCache(tmp_path / "cache"), Counting(), paint(tmp_path / "hr")
    run(hr_only(hr), [method], cache=cache)

    Image.open(hr / "b.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(hr / "b.png")
    run(hr_only(hr), [method], cache=cache)
    assert method.calls == {"a": 1, "b": 2, "c": 1}

    run(hr_only(hr), [method], cache=cache, metrics=(*METRICS, "gmsd"))  # pixels are not kept
    assert method.calls == {"a": 2, "b": 3, "c": 2}

    run(hr_only(hr), [method], cache=cache, metrics=("gmsd",))
    run(hr_only(hr), [method], cache=cache, metrics=METRICS)
    assert method.calls == {"a": 2, "b": 3, "c": 2}

    run(hr_only(hr), [method], cache=cache, settings=ScoreSettings(crop_border=2))
    assert method.calls == {"a": 3, "b": 4, "c": 3}

    other = Counting(gain=0.9)
    run(hr_only(hr), [other], cache=cache)
    run(hr_only(hr), [other], cache=cache, degrade=lambda hr, name: replace_tags(quarter(hr, name)))
    assert other.calls == {"a": 2, "b": 2, "c": 2}


def replace_tags(made: Degraded) -> Degraded:
    return Degraded(made.lr, ("blur",))


A, B = {("a", "counting"), ("a", "m")}, {("b", "counting"), ("b", "m")}
COUNTING = {("a", "counting"), ("b", "counting")}


def repaint(folder: Path) -> None:
    """Turn picture b."""
    Image.open(folder / "b.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.png")


def regray(folder: Path) -> None:
    """The same pixels in a gray file."""
    Image.open(folder / "b.png").convert("L").save(folder / "b.png")


def redefine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "linearsr.evaluation.cache.METRICS",
        {**METRICS_TABLE, "ssim_y": replace(METRICS_TABLE["ssim_y"], definition="another")},
    )


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ("nothing", set()),
        ("clean picture", B),
        ("input", {("b", "counting")}),
        ("gray input", {("b", "counting")}),
        ("result", {("b", "m")}),
        ("crop", B),  # b is 48x56, which scale 3 cuts
        ("crop border", A | B),
        ("range of luma", A | B),
        ("definition", A | B),
        ("scoring code", A | B),
        ("code", COUNTING),
        ("seed", COUNTING),
        ("steps", COUNTING),
        ("tags", COUNTING),
    ],
)
def test_one_change_makes_what_it_decides_anew_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, anew: set[tuple[str, str]]
) -> None:
    hr, sr, lr = paint(tmp_path / "hr", 2), paint(tmp_path / "sr", 2), tmp_path / "lr"
    lr.mkdir()
    for name in "ab":
        ramp = np.arange(12 * (12 if name == "a" else 14), dtype=np.uint8).reshape(12, -1)
        Image.fromarray(np.dstack([ramp] * 3)).save(lr / f"{name}.png")
    cache, own = ScoreCache(tmp_path / "cache"), {"seed": 0, "steps": 1, "tags": "none"}

    def cached(**options) -> dict[tuple[str, str], bool]:
        method = Counting()
        method.info = replace(method.info, settings=own)
        paired = hr_only(hr, lr=lr, srs={"m": sr})
        found = run(paired, [method, folder_method("m")], cache=cache, degrade=None, **options)
        assert method.calls.keys() == {row.image for row in found.images if row.method == "counting" and not row.cached}
        return {(row.image, row.method): row.cached for row in found.images}

    assert not any(cached().values())
    options = {
        "crop": {"scale": 3.0},
        "crop border": {"settings": ScoreSettings(crop_border=3)},
        "range of luma": {"settings": ScoreSettings(crop_border=4, y_range="full")},
    }.get(change, {})
    {
        "clean picture": lambda: repaint(hr),
        "input": lambda: repaint(lr),
        "gray input": lambda: regray(lr),
        "result": lambda: repaint(sr),
        "definition": lambda: redefine(monkeypatch),
        "scoring code": lambda: monkeypatch.setattr("linearsr.evaluation.cache.source_digest", lambda *parts: "new"),
        "code": lambda: monkeypatch.setattr("linearsr.evaluation.ledger.source_digest", lambda *parts: "new"),
        "seed": lambda: own.update(seed=1),
        "steps": lambda: own.update(steps=2),
        "tags": lambda: own.update(tags="jpeg"),
    }.get(change, dict)()

    assert {key for key, is_cached in cached(**options).items() if not is_cached} == anew


def test_a_crop_decides_scores_that_need_no_clean_picture(tmp_path: Path) -> None:
    hr, sr, cache = paint(tmp_path / "hr", 2), paint(tmp_path / "sr", 2), ScoreCache(tmp_path / "cache")
    paired = hr_only(hr, lr=paint(tmp_path / "lr", 2, 12), srs={"m": sr})

    found = [
        run(paired, [folder_method("m")], metrics=("lr_psnr",), degrade=None, cache=cache, scale=scale)
        for scale in (4.0, 3.0)  # 48x48 and 48x56, of which 3 leaves 48x54
    ]

    assert [row.cached for row in found[1].images] == [True, False]


def test_results_that_were_saved_need_not_be_made_again(tmp_path: Path) -> None:
    cache, method = ScoreCache(tmp_path / "cache"), Counting()
    paired, save = hr_only(paint(tmp_path / "hr")), tmp_path / "out"
    run(paired, [method], cache=cache, save=save)

    more = run(paired, [method], cache=cache, save=save, metrics=(*METRICS, "gmsd"))
    assert method.calls == {"a": 1, "b": 1, "c": 1}
    assert table(more) == table(run(paired, [Counting()], metrics=(*METRICS, "gmsd")))

    place = result_folder(save, "hr", "counting")
    (place / "a.png").unlink()
    Image.new("RGB", (48, 48)).save(place / "b.png")
    again = run(paired, [method], cache=cache, save=save)
    assert method.calls == {"a": 2, "b": 1, "c": 1}
    assert [(row.image, row.cached) for row in again.images] == [("a", False), ("b", True), ("c", True)]
    assert sorted(path.name for path in place.iterdir()) == ["a.png", "b.png", "c.png"]
    assert [(failure.image, failure.method) for failure in again.unsaved] == [("b", "counting")]
    assert "is there and is another picture" in again.unsaved[0].message
    assert table(again) == table(run(paired, [Counting()])) and not again.failures
    assert run(paired, [method], save=save).unsaved == again.unsaved  # as it is without a cache
    assert not np.asarray(Image.open(place / "b.png")).any()  # nothing of the user's is replaced


def test_files_are_known_by_their_bytes_and_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hr, sr, cache = paint(tmp_path / "hr"), paint(tmp_path / "sr"), ScoreCache(tmp_path / "cache")
    first = run(hr_only(hr, srs={"m": sr}), [folder_method("m")], degrade=None, cache=cache)
    moved = sr.rename(tmp_path / "moved")
    decoded = []
    monkeypatch.setattr("linearsr.evaluation.pictures.read", lambda path: decoded.append(path))

    again = run(hr_only(hr, srs={"n": moved}), [folder_method("n")], degrade=None, cache=cache)

    assert decoded == []
    assert [row.scores for row in again.images] == [row.scores for row in first.images]


def test_damaged_entries_are_made_again(tmp_path: Path) -> None:
    cache, method, paired = ScoreCache(tmp_path / "cache"), Counting(), hr_only(paint(tmp_path / "hr", count=1))
    first = run(paired, [method], cache=cache)
    for path in cache.folder.rglob("*.json"):
        path.write_text("{")

    again = run(paired, [method], cache=cache)

    assert method.calls == {"a": 2}
    assert table(again) == table(first)


# ---- what is refused, and progress


def test_methods_that_do_not_fit_are_refused_before_any_picture(tmp_path: Path) -> None:
    paired, made = hr_only(paint(tmp_path / "hr")), Counting()
    for methods, options, message in (
        ([], {}, "no method"),
        ([made, Counting()], {}, "two methods are named 'counting'"),
        ([made], {"baseline": "countin"}, "baseline is 'countin'"),
        ([made], {"degrade": None}, "'counting' has no input for 'a'"),
        ([made, folder_method("m")], {}, "'m' has no result for 'a'"),
        ([made, Counting("count ing"), Counting("count, ing")], {}, "the same name for a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(paired, methods, **options)
    assert not made.calls


@pytest.mark.parametrize("side", ["hr", "lr", "sr"])
@pytest.mark.parametrize("linked", [False, True])
def test_no_result_replaces_a_picture_that_is_read(tmp_path: Path, side: str, linked: bool) -> None:
    save = tmp_path / "save"
    place = save / "hr" / "counting"
    folders = {"hr": tmp_path / "hr", "lr": tmp_path / "lr", "sr": tmp_path / "sr"}
    for name, folder in folders.items():
        paint(place if name == side and not linked else folder, 1, 12 if name == "lr" else 48)
    if linked:
        place.parent.mkdir(parents=True)
        place.symlink_to(folders[side])
    elif side == "hr":  # the set has the name of its folder
        folders["hr"] = place.rename(make(save / "counting") / "counting")
    else:
        folders[side] = place
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    paired, method = pair_folders(folders["hr"], lr=folders["lr"], srs={"m": folders["sr"]}, by="name"), Counting()

    with pytest.raises(ConfigError, match=r"counting/a\.png would replace an input") as caught:
        run(paired, [method, folder_method("m")], degrade=None, save=save)

    assert caught.value.hint == "use another folder for `--save`"
    assert not method.calls and {path: path.read_bytes() for path in before} == before
    assert run(paired, [method, folder_method("m")], degrade=None, save=tmp_path / "other").images


def test_metrics_that_cannot_be_computed_are_skipped_or_refused(tmp_path: Path) -> None:
    paired = hr_only(paint(tmp_path / "hr", count=1), srs={"m": paint(tmp_path / "sr", count=1)})

    found = run(paired, [folder_method("m")], degrade=None, metrics=("psnr_y", "lr_psnr", "seam"), explicit=False)

    assert found.metrics == ("psnr_y",)
    assert [skipped.name for skipped in found.skipped] == ["lr_psnr", "seam"]
    with pytest.raises(ConfigError):
        run(paired, [folder_method("m")], degrade=None, metrics=("lr_psnr",))


def test_progress_counts_every_result_and_ends_full(tmp_path: Path) -> None:
    hr, calls = paint(tmp_path / "hr"), []
    (hr / "b.png").write_bytes(b"no picture")

    run(hr_only(hr), [interpolation("bicubic"), Counting()], on_progress=lambda *call: calls.append(call))

    done = [call[0] for call in calls]
    assert done == sorted(done) and {call[1] for call in calls} == {6}
    assert calls[-1] == (6, 6, "")
    assert (1, 6, "hr/a, counting") in calls and (4, 6, "hr/c, bicubic") in calls


def test_one_picture_is_in_memory_at_a_time(tmp_path: Path) -> None:
    hr, held = paint(tmp_path / "hr", count=1, side=64), []
    for index in range(4):
        Image.open(hr / "a.png").rotate(index).save(hr / f"b{index}.png")

    def watch(done: int, total: int, label: str) -> None:
        if done % 2 == 0 and "," not in label:  # between two pictures
            held.append(sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor))

    run(hr_only(hr), [interpolation("bicubic"), Counting()], on_progress=watch)

    assert len(held) == 6
    assert max(held[2:]) - held[1] < 3 * 64 * 64  # not one picture more than after the first
