"""Pairs of pictures: equal to the training pipeline's own, reproducible one by one, and written down completely."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut

from linearsr.errors import ConfigError, ImageError, ShapeError
from linearsr.metrics import mod_crop
from linearsr_train.config import read_toml, recipe_names
from linearsr_train.data import degradation as deg
from linearsr_train.data import pairs
from linearsr_train.data.pair_files import PairFiles, is_finished, make_pairs
from linearsr_train.data.pair_table import FACTS, TABLE, PairFolder, PairSettings, read_pairs

BICUBIC, REAL = pairs.load_recipe("bicubic"), pairs.load_recipe("real")
HARD = {"jpeg_quality": [20, 40], "noise_sigma": [3.0, 25.0], "second_blur_prob": 0.9, "kernel_size": [7, 13]}
TRAINING = Path(deg.__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.ascontiguousarray(astronaut()[30:126, 150:262]).astype(np.float32) / 255


def assert_same(made: pairs.MadePair, expected: deg.Degraded) -> None:
    np.testing.assert_array_equal(made.lr, expected.lr)
    assert made.tags == expected.tags


def toml(table: dict, name: str = "") -> str:
    """Plain data as TOML: numbers, texts, lists of numbers and one level of tables."""
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    inner = (toml(value, f"{name}.{key}" if name else key) for key, value in table.items() if isinstance(value, dict))
    return "\n".join([*lines, *inner]) + "\n"


# ---- one picture


@pytest.mark.parametrize("scale", [1, 2, 2.5, 4])
@pytest.mark.parametrize("name", ["0001.png", "street.webp", "caf\u00e9.jpg"])
def test_make_lr_with_seed_0_is_the_fixed_picture_of_the_benchmarks(photo: np.ndarray, scale: float, name: str) -> None:
    made = pairs.make_lr(photo, REAL, scale=scale, name=name)

    assert_same(made, deg.degrade_real_fixed(photo, scale, name))
    assert made.parameters["size"] == list(made.lr.shape[:2])


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 1.7])
def test_make_lr_bicubic_is_the_training_codes(photo: np.ndarray, scale: float) -> None:
    made = pairs.make_lr(photo, BICUBIC, scale=scale, name="a.png")

    size = round(made.hr.shape[0] / scale), round(made.hr.shape[1] / scale)
    assert_same(made, deg.degrade_bicubic(made.hr, size))
    assert made.parameters == {"size": list(size)}


def test_other_seeds_draw_otherwise_and_equal_ones_alike(photo: np.ndarray) -> None:
    made = [pairs.make_lr(photo, REAL, scale=4, name="a.png", seed=seed) for seed in (0, 1, 2, 2**40, 2)]

    digests = [hashlib.sha256(one.lr.tobytes()).hexdigest() for one in made]
    assert len(set(digests)) == 4
    assert digests[2] == digests[4]
    assert made[2].parameters == made[4].parameters != made[1].parameters
    plain = [pairs.make_lr(photo, BICUBIC, scale=4, name="a.png", seed=seed).lr for seed in (0, 1)]
    np.testing.assert_array_equal(*plain)


def test_parameters_are_those_that_were_applied(photo: np.ndarray) -> None:
    config = deg.DegradationConfig(
        jpeg_stage_prob=1, jpeg_quality=(41, 41), jpeg_quality2=(73, 73), noise_stage_prob=1, gaussian_prob=1,
        gaussian_prob2=0, noise_sigma=(9, 9), poisson_scale2=(0.7, 0.7), blur_stage_prob=0,
    )  # fmt: skip
    made = pairs.make_lr(photo, pairs.Recipe(name="x", kind="real", config=config), scale=4, name="b.png", seed=3)

    told = made.parameters
    assert json.loads(json.dumps(told)) == told
    assert (told["active"], told["blur"]) == (["noise", "jpeg"], None)
    assert (told["jpeg"]["quality1"], told["jpeg"]["quality2"]) == (41, 73)
    assert told["noise"]["noise1"]["kind"] == "gaussian"
    assert told["noise"]["noise1"]["sigma"] == pytest.approx(9, rel=1e-12)
    assert (told["noise"]["noise2"]["kind"], told["noise"]["noise2"]["scale"]) == ("poisson", 0.7)
    assert told["modes"] == ["bicubic"] * 3
    key = int.from_bytes(hashlib.sha256(b"b.png").digest())
    plan = deg.draw_plan((96, 112), (24, 28), config, np.random.default_rng([deg.REAL_SEED, key, 3]))
    np.testing.assert_array_equal(deg.apply_plan(plan, photo), made.lr)
    assert (told["size1"], told["size2"]) == (list(plan.size1), list(plan.size2))
    assert told["noise"]["noise2"]["seed"] == plan.noise2.seed


def test_blur_is_told_by_the_kernels(photo: np.ndarray) -> None:
    config = deg.DegradationConfig(noise_stage_prob=0, jpeg_stage_prob=0, second_blur_prob=0, final_sinc_prob=1)
    told = pairs.make_lr(photo, pairs.Recipe(name="x", kind="real", config=config), scale=4, name="c.png").parameters

    key = int.from_bytes(hashlib.sha256(b"c.png").digest())
    plan = deg.draw_plan((96, 112), (24, 28), config, np.random.default_rng([deg.REAL_SEED, key]))
    expected = hashlib.sha256(plan.kernel1.astype("<f4").tobytes()).hexdigest()
    assert told["blur"]["kernel1"] == {"side": plan.kernel1.shape[0], "sha256": expected[:16]}
    assert told["blur"]["kernel2"] is None
    assert told["blur"]["final"]["side"] == plan.final_kernel.shape[0]
    assert (told["noise"], told["jpeg"]) == (None, None)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 9))
def test_whole_scales_fit_exactly(height: int, width: int, scale: int) -> None:
    if min(height, width) < scale:
        with pytest.raises(ShapeError, match=f"{width}x{height}, expected at least {scale}"):
            pairs.pair_sizes(height, width, scale)
        return
    high, low = pairs.pair_sizes(height, width, float(scale))

    assert high == (low[0] * scale, low[1] * scale)
    assert 0 <= height - high[0] < scale
    assert 0 <= width - high[1] < scale


def test_crop_is_that_of_the_metrics_and_not_repeated(photo: np.ndarray) -> None:
    odd = photo[:93, :110]
    made = pairs.make_lr(odd, REAL, scale=4, name="a.png")

    expected = mod_crop(torch.from_numpy(odd).permute(2, 0, 1), 4).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(made.hr, expected)
    np.testing.assert_array_equal(pairs.crop_hr(made.hr, 4), expected)
    assert_same(made, deg.degrade_real_fixed(np.ascontiguousarray(expected), 4, "a.png"))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"scale": 0.5}, ConfigError, "scale is 0.5"),
        ({"scale": float("nan")}, ConfigError, "scale is nan"),
        ({"seed": -1}, ConfigError, "seed is -1"),
        ({"hr": np.zeros((8, 8), np.float32)}, ShapeError, r"\(8, 8\)"),
        ({"hr": np.zeros((8, 8, 3))}, ShapeError, "float64"),
        ({"hr": np.zeros((3, 8, 3), np.float32)}, ShapeError, "8x3"),
    ],
)
def test_make_lr_refuses(photo: np.ndarray, changes: dict, error: type, text: str) -> None:
    given = {"hr": photo, "recipe": REAL, "scale": 4, "name": "a.png", **changes}
    with pytest.raises(error, match=text):
        pairs.make_lr(given.pop("hr"), given.pop("recipe"), **given)


def test_degrader_is_make_lr_for_tensors(photo: np.ndarray) -> None:
    made = pairs.degrader(REAL, scale=2, seed=5)(torch.from_numpy(photo).permute(2, 0, 1), "a.png")

    expected = pairs.make_lr(photo, REAL, scale=2, name="a.png", seed=5)
    np.testing.assert_array_equal(made.lr.permute(1, 2, 0).numpy(), expected.lr)
    assert made.tags == expected.tags


# ---- recipes


def test_real_is_the_published_recipe() -> None:
    assert REAL.config == deg.REAL_V1
    assert (BICUBIC.kind, BICUBIC.config) == ("bicubic", None)
    assert REAL.digest != BICUBIC.digest


def test_a_recipe_reads_back_from_every_form(tmp_path: Path, photo: np.ndarray) -> None:
    recipe = pairs.Recipe(name="hard", kind="real", config=deg.DegradationConfig.from_dict(HARD))
    whole = read_toml("compact_cpu")
    whole["data"]["degradation"] = HARD
    forms = {
        "a.json": json.dumps(recipe.as_dict()),
        "a.toml": toml(recipe.as_dict()),
        "facts.json": json.dumps(PairSettings(recipe=recipe).as_dict()),
        "top.toml": toml(HARD),
        "top.json": json.dumps(HARD),
        "table.toml": toml({"degradation": HARD}),
        "data.toml": toml({"data": {"degradation": HARD}}),
        "training.json": json.dumps(whole),
    }
    expected = pairs.make_lr(photo, recipe, scale=4, name="a.png")
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        found = pairs.load_recipe(str(tmp_path / name))
        assert (found.config, found.digest) == (recipe.config, recipe.digest), name
        assert found.name == ("hard" if name in ("a.json", "a.toml", "facts.json") else name.partition(".")[0])
        assert_same(pairs.make_lr(photo, found, scale=4, name="a.png"), deg.Degraded(expected.lr, expected.tags))
    (tmp_path / "b.json").write_text(json.dumps(BICUBIC.as_dict()))
    assert pairs.load_recipe(str(tmp_path / "b.json")) == BICUBIC


def test_every_training_recipe_is_one() -> None:
    for name in recipe_names():
        settings = read_toml(name).get("data", {}).get("degradation", {})
        found = pairs.load_recipe(str(TRAINING / f"{name}.toml"))
        assert found.config == deg.DegradationConfig.from_dict(settings)


def test_digest_tells_settings_apart_and_no_names_or_types() -> None:
    same = pairs.Recipe(name="mine", kind="real", config=deg.DegradationConfig(jpeg_quality=(60, 95)))
    other = pairs.Recipe(name="mine", kind="real", config=deg.DegradationConfig(jpeg_quality=(60, 96)))

    assert same.digest == REAL.digest != other.digest


@pytest.mark.parametrize(
    ("name", "text", "said", "hint"),
    [
        ("a.toml", "jpg_quality = [30, 60]", "no setting `jpg_quality`", "did you mean `jpeg_quality`?"),
        ("a.toml", "jpeg_quality = [60, 30]", "jpeg_quality is (60, 30), expected numbers from 1 to 100", None),
        ("a.toml", "[degradation]\nsinc_prob = 2", "sinc_prob is 2, expected one number from 0 to 1", None),
        ("a.toml", "[data.degradation]\nsinc_probb = 0", "no setting `sinc_probb`", "did you mean `sinc_prob`?"),
        ("a.toml", "[data]\ncrop = 3", "setting 'data.real_probability' is missing", None),
        ("a.toml", "[degradation]\n[degredation]", "unknown setting `degredation`", "did you mean `degradation`?"),
        ("a.toml", "degradation = 3", "degradation is 3, expected a table", None),
        ("a.toml", "kind = 'foggy'", "kind is 'foggy', expected bicubic or real", None),
        ("a.toml", "kind = 'bicubic'\n[degradation]", "kind is 'bicubic', expected with it no config", None),
        ("a.toml", "name = 3\n[degradation]", "name is 3, expected a text", None),
        ("a.toml", "digest = 'ab'\n[degradation]", "digest is 'ab', expected", "drop the line `digest`"),
        ("a.toml", "x = [", "not valid TOML", None),
        ("a.json", "{", "not valid JSON", None),
        ("a.json", "[1]", "holds no settings", None),
        ("a.toml", "", "holds no settings", None),
        ("a.toml", "[modle]\n[data.degradation]", "unknown setting `modle`", "did you mean `model`?"),
    ],
)
def test_a_wrong_recipe_is_named_with_what_is_expected(
    tmp_path: Path, name: str, text: str, said: str, hint: str | None
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        pairs.load_recipe(str(tmp_path / name))
    assert caught.value.message.startswith(f"recipe {tmp_path / name}: ")
    assert said in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_a_missing_recipe_lists_the_names() -> None:
    with pytest.raises(ConfigError, match="recipe rael: no such file, expected bicubic, real or the path"):
        pairs.load_recipe("rael")


# ---- folders


def plan_pairs(folder: Path, lr: Path, hr: Path | None = None) -> list[PairFiles]:
    return [
        PairFiles(source=path, name=f"{path.stem}.png", lr=lr / f"{path.stem}.png", hr=hr and hr / f"{path.stem}.png")
        for path in sorted(folder.iterdir())
    ]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_do_not_depend_on_order_or_company(photos: Path, tmp_path: Path) -> None:
    settings = PairSettings(recipe=REAL, seed=2)
    for name, pick in (("a", slice(None)), ("b", slice(None, None, -1)), ("c", slice(3, 4))):
        make_pairs(plan_pairs(photos, tmp_path / name)[pick], PairFolder.open(tmp_path / name, settings))
    first, backwards, alone = (
        {row["name"]: {**row, "path": ""} for row in rows_of(tmp_path / name)} for name in ("a", "b", "c")
    )
    assert len(first) == 6
    assert first == backwards
    assert list(first) == list(backwards) == sorted(first)
    assert alone.items() <= first.items() and len(alone) == 1


def test_files_are_what_make_lr_made_and_the_table_tells_it(photos: Path, tmp_path: Path) -> None:
    settings = PairSettings(recipe=REAL, scale=4, seed=7, command="test")
    make_pairs(plan_pairs(photos, tmp_path / "lr", tmp_path / "hr"), PairFolder.open(tmp_path / "lr", settings))

    rows = rows_of(tmp_path / "lr")
    assert sorted(p.name for p in (tmp_path / "lr").iterdir()) == sorted([*(r["name"] for r in rows), FACTS, TABLE])
    for row in rows:
        source = pixels(photos / row["name"])
        made = pairs.make_lr(source.astype(np.float32) / 255, REAL, scale=4, name=row["name"], seed=7)
        lr, hr = pixels(tmp_path / "lr" / row["name"]), pixels(tmp_path / "hr" / row["name"])
        np.testing.assert_array_equal(lr, np.rint(made.lr * 255))
        np.testing.assert_array_equal(hr, source[: lr.shape[0] * 4, : lr.shape[1] * 4])
        assert (row["lr_sha256"], row["hr_sha256"]) == tuple(hashlib.sha256(x.tobytes()).hexdigest() for x in (lr, hr))
        assert [int(row[k]) for k in ("height", "width", "hr_height", "hr_width")] == [*lr.shape[:2], *hr.shape[:2]]
        assert row["tags"] == ", ".join(made.tags)
        assert json.loads(row["parameters"]) == made.parameters
    facts = json.loads((tmp_path / "lr" / FACTS).read_text())
    assert (facts["scale"], facts["seed"], facts["command"], facts["pictures"]) == (4.0, 7, "test", 6)
    assert facts["recipe"] == REAL.as_dict()
    assert set(facts["versions"]) == {"linearsr", "numpy", "opencv"}


def test_gray_alpha_and_16_bits(tmp_path: Path) -> None:
    folder, values = tmp_path / "in", np.random.default_rng(0).integers(0, 65536, (16, 16), dtype=np.uint16)
    folder.mkdir()
    Image.fromarray(values).save(folder / "deep.png")
    Image.fromarray((values >> 8).astype(np.uint8)).save(folder / "gray.png")
    clear = np.dstack([np.full((16, 16, 3), 90, np.uint8), (values >> 8).astype(np.uint8)])
    Image.fromarray(clear).save(folder / "clear.png")
    opaque = np.dstack([clear[..., :3], np.full((16, 16), 255, np.uint8)])
    Image.fromarray(opaque).save(folder / "opaque.png")
    notes: dict[str, tuple[str, ...]] = {}

    def note(pair: PairFiles, row: object, found: tuple[str, ...]) -> None:
        notes[pair.source.stem] = found

    todo = plan_pairs(folder, tmp_path / "lr", tmp_path / "hr")
    make_pairs(todo, PairFolder.open(tmp_path / "lr", PairSettings(recipe=BICUBIC)), on_made=note)
    modes = {}
    for side in ("lr", "hr"):
        for path in (tmp_path / side).glob("*.png"):
            with Image.open(path) as image:
                modes[side, path.stem] = image.mode
    assert modes == {
        **{(side, name): "L" for side in ("lr", "hr") for name in ("deep", "gray")},
        **{(side, name): "RGB" for side in ("lr", "hr") for name in ("clear", "opaque")},
    }
    assert notes == {
        "deep": ("16 bits per channel were rounded to 8",),
        "gray": (),
        "clear": ("the transparency was dropped",),
        "opaque": (),
    }
    assert (pixels(tmp_path / "hr" / "clear.png") == 90).all()
    np.testing.assert_array_equal(pixels(tmp_path / "hr" / "deep.png")[..., 0], np.rint(values / 257))
    noisy = deg.DegradationConfig(blur_stage_prob=0, jpeg_stage_prob=0, gray_noise_prob=0, gray_noise_prob2=0)
    settings = PairSettings(recipe=pairs.Recipe(name="noisy", kind="real", config=noisy))
    make_pairs(plan_pairs(folder, tmp_path / "n")[2:3], PairFolder.open(tmp_path / "n", settings))
    with Image.open(tmp_path / "n" / "gray.png") as image:
        assert image.mode == "RGB"


def test_a_failure_ends_the_work_or_is_told_and_nothing_is_left_over(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("lamp", "roofs"):
        (folder / f"{name}.png").write_bytes((photos / f"{name}.png").read_bytes())
    (folder / "mist.png").write_bytes((photos / "lamp.png").read_bytes()[:3000])
    failed: list[tuple[str, str]] = []
    tables = PairFolder.open(tmp_path / "lr", PairSettings(recipe=REAL))
    make_pairs(plan_pairs(folder, tmp_path / "lr"), tables, on_failed=lambda p, e: failed.append((p.name, str(e))))
    assert [name for name, _ in failed] == ["mist.png"]
    assert {p.name for p in (tmp_path / "lr").iterdir()} == {"lamp.png", "roofs.png", FACTS, TABLE}
    with pytest.raises(ImageError, match=r"mist\.png"):
        make_pairs(plan_pairs(folder, tmp_path / "lr2"), PairFolder.open(tmp_path / "lr2", tables.settings))
    assert [row["name"] for row in rows_of(tmp_path / "lr2")] == ["lamp.png"]


def test_what_is_there_is_kept_or_refused_and_replaced_on_request(photos: Path, tmp_path: Path) -> None:
    settings, todo = PairSettings(recipe=REAL), plan_pairs(photos, tmp_path / "lr")[:2]
    make_pairs(todo, PairFolder.open(tmp_path / "lr", settings))
    tables = PairFolder.open(tmp_path / "lr", settings)
    assert [is_finished(pair, tables.rows.get(pair.name)) for pair in todo] == [True, True]
    moved = dataclasses.replace(todo[0], source=tmp_path / todo[0].source.name)
    assert not is_finished(moved, tables.rows[todo[0].name])
    assert not is_finished(dataclasses.replace(todo[0], hr=tmp_path / "hr.png"), tables.rows[todo[0].name])
    good, time = todo[0].lr.read_bytes(), todo[0].lr.stat().st_mtime_ns
    todo[1].lr.write_bytes(good)
    tables = PairFolder.open(tmp_path / "lr", settings)
    assert [is_finished(pair, tables.rows[pair.name]) for pair in todo] == [True, False]
    failed: list[str] = []
    make_pairs(todo, tables, on_failed=lambda pair, error: failed.append(str(error)))
    assert failed == [f"{todo[1].lr} exists and is not this picture"]
    assert (todo[0].lr.stat().st_mtime_ns, todo[1].lr.read_bytes()) == (time, good)
    assert [row["name"] for row in rows_of(tmp_path / "lr")] == [todo[0].name]
    make_pairs(todo, PairFolder.open(tmp_path / "lr", settings), overwrite=True)
    tables = PairFolder.open(tmp_path / "lr", settings)
    assert [is_finished(pair, tables.rows[pair.name]) for pair in todo] == [True, True]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_loses_no_row_of_a_picture_that_stays(photos: Path, tmp_path: Path, overwrite: bool) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    settings, todo = PairSettings(recipe=REAL), plan_pairs(tmp_path / "photos", tmp_path / "lr")[:3]
    make_pairs(todo, PairFolder.open(tmp_path / "lr", settings))
    rows, first = rows_of(tmp_path / "lr"), todo[0].source
    if overwrite:
        first.write_bytes(first.read_bytes()[:200])
    else:
        Image.fromarray(255 - np.asarray(Image.open(first).convert("RGB"))).save(first, format="png")
    with pytest.raises(ImageError):  # it ends the work, so the others are not begun
        make_pairs(todo, PairFolder.open(tmp_path / "lr", settings), overwrite=overwrite)
    assert rows_of(tmp_path / "lr") == rows
    failed: list[str] = []
    tables = PairFolder.open(tmp_path / "lr", settings)
    make_pairs(todo, tables, overwrite=overwrite, on_failed=lambda pair, error: failed.append(pair.name))
    assert (failed, rows_of(tmp_path / "lr")) == ([todo[0].name], rows)


@pytest.mark.parametrize("stop", [ImageError, KeyboardInterrupt])
def test_another_recipe_is_claimed_of_no_picture_that_it_did_not_make(
    photos: Path, tmp_path: Path, stop: type[BaseException]
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    todo = plan_pairs(tmp_path / "photos", tmp_path / "lr")[:3]
    make_pairs(todo, PairFolder.open(tmp_path / "lr", PairSettings(recipe=BICUBIC)))
    settings = PairSettings(recipe=REAL)

    def start(pair: PairFiles) -> None:
        if pair is todo[1]:
            pair.source.write_bytes(b"")  # a picture that fails
            if stop is KeyboardInterrupt:
                raise KeyboardInterrupt

    with pytest.raises(stop):
        make_pairs(todo, PairFolder.open(tmp_path / "lr", settings), overwrite=True, on_start=start)
    assert [row["name"] for row in rows_of(tmp_path / "lr")] == [todo[0].name]
    tables = PairFolder.open(tmp_path / "lr", settings)
    assert [is_finished(pair, tables.rows.get(pair.name)) for pair in todo] == [True, False, False]


def test_tables_are_read_as_a_spreadsheet_saves_them_and_never_by_half(photos: Path, tmp_path: Path) -> None:
    make_pairs(plan_pairs(photos, tmp_path / "lr")[:2], PairFolder.open(tmp_path / "lr", PairSettings(recipe=REAL)))
    found, table = read_pairs(tmp_path / "lr"), tmp_path / "lr" / TABLE
    assert found is not None
    assert (found.settings.recipe, found.settings.seed, len(found.rows)) == (REAL, 0, 2)
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert read_pairs(tmp_path / "lr") == found
    (tmp_path / "lr" / FACTS).unlink()
    with pytest.raises(ConfigError, match=f"expected {FACTS} beside it"):
        read_pairs(tmp_path / "lr")
    table.unlink()
    assert read_pairs(tmp_path / "lr") is None


def test_a_folder_holds_one_recipe_scale_and_seed(photos: Path, tmp_path: Path) -> None:
    todo, lr = plan_pairs(photos, tmp_path / "lr")[:2], tmp_path / "lr"
    make_pairs(todo, PairFolder.open(lr, PairSettings(recipe=REAL)))
    for other, said in (
        (PairSettings(recipe=REAL, seed=1), "seed 0, expected 1"),
        (PairSettings(recipe=REAL, scale=2), "scale 4, expected 2"),
        (PairSettings(recipe=BICUBIC), "recipe with the digest"),
    ):
        with pytest.raises(ConfigError, match=f"holds 2 pictures made with {said}"):
            PairFolder.open(lr, other).refuse_mixture(frozenset())
        with pytest.raises(ConfigError, match="holds 1 pictures"):
            PairFolder.open(lr, other).refuse_mixture(frozenset([todo[0].name]))
        PairFolder.open(lr, other).refuse_mixture(frozenset(pair.name for pair in todo))
    PairFolder.open(lr, PairSettings(recipe=REAL, command="other")).refuse_mixture(frozenset())
    todo[1].lr.unlink()
    assert list(PairFolder.open(lr, PairSettings(recipe=REAL)).rows) == [todo[0].name]


def test_a_killed_rerun_leaves_no_row_of_what_it_was_to_replace(photos: Path, tmp_path: Path) -> None:
    todo, lr = plan_pairs(photos, tmp_path / "lr")[:3], tmp_path / "lr"
    make_pairs(todo, PairFolder.open(lr, PairSettings(recipe=REAL)))
    seen: list[list[str]] = []

    def look(pair: PairFiles) -> None:
        seen.append([row["name"] for row in rows_of(lr)])

    tables = PairFolder.open(lr, PairSettings(recipe=REAL, seed=1))
    make_pairs(todo, tables, overwrite=True, on_start=look)
    assert seen == [[], [], []]
    assert json.loads((lr / FACTS).read_text())["seed"] == 1
    assert len(rows_of(lr)) == 3


@pytest.mark.parametrize(("name", "text"), [(TABLE, "a,b\n1,2\n"), (FACTS, '{"mine": 1}'), (FACTS, "no json")])
def test_files_of_somebody_else_are_left_alone(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        PairFolder.open(tmp_path, PairSettings(recipe=REAL))
    assert (tmp_path / name).read_text() == text
