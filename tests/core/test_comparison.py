"""Places, difference maps, drawing and sheets: pixels where they belong, on made-up pictures."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from skimage.data import astronaut

from linearsr.comparison import drawing, sheet
from linearsr.comparison.drawing import DARK, LIGHT
from linearsr.comparison.lettering import fit_text, lacking, text_length, write_text, written
from linearsr.comparison.places import (
    FULL_LEVELS,
    Window,
    difference_colors,
    difference_map,
    find_detail,
    find_flat,
    find_places,
)
from linearsr.comparison.report import MetricColumn, Report, ReportImage, write_report
from linearsr.comparison.sizes import belongs, bring_to, common_size, enlargement
from linearsr.errors import ConfigError, ShapeError
from linearsr.metrics import quantise
from linearsr.resize import resize


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (height, width, 3), dtype=np.uint8)


def changed(picture: np.ndarray, window: Window, levels: int) -> np.ndarray:
    out = picture.copy()
    out[window.top : window.top + window.height, window.left : window.left + window.width] += np.uint8(levels)
    return out


def luma_levels(picture: np.ndarray) -> np.ndarray:
    """Luma in whole 1/256 levels, by which places were found before they saw colour."""
    return picture.astype(np.int64) @ np.array([77, 150, 29])


def greatest(energy: np.ndarray, side: int, count: int) -> tuple[Window, ...]:
    """The windows of the largest sums, each a window's side away from those before it."""
    corner = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = corner[side:, side:] - corner[:-side, side:] - corner[side:, :-side] + corner[:-side, :-side]
    found = []
    for _ in range(count):
        top, left = (int(index) for index in np.unravel_index(sums.argmax(), sums.shape))
        found.append(Window(left, top, side, side))
        sums[max(0, top - 2 * side + 1) : top + 2 * side, max(0, left - 2 * side + 1) : left + 2 * side] = 0
    return tuple(found)


def overlap(a: Window, b: Window) -> bool:
    return abs(a.left - b.left) < a.width and abs(a.top - b.top) < a.height


# -- places -----------------------------------------------------------------------------------------------------------


def test_places_are_where_the_pictures_differ_the_most_telling_first() -> None:
    weak, strong = Window(5, 40, 16, 16), Window(60, 7, 16, 16)
    base = noise(90, 120)
    other = changed(changed(base, weak, 6), strong, 20)

    assert find_places([base, other], 16, 2) == (strong, weak)
    assert find_places([base, other], 16, 1) == (strong,)


def test_places_compare_all_pairs_and_do_not_depend_on_their_order() -> None:
    base, window = noise(60, 60), Window(22, 31, 12, 12)
    pictures = [base, changed(base, Window(0, 0, 12, 12), 3), changed(base, window, 9)]

    found = {find_places(order, 12, 2) for order in itertools.permutations(pictures)}

    assert found == {(window, Window(0, 0, 12, 12))}


def test_equal_pictures_have_no_places_and_few_differences_have_few() -> None:
    base = noise(50, 70)

    assert find_places([base, base.copy()], 16, 3) == ()
    assert find_places([base, changed(base, Window(20, 20, 1, 1), 1)], 16, 3) == (Window(5, 5, 16, 16),)


def test_windows_that_tie_are_taken_from_the_top_left() -> None:
    base = np.zeros((24, 36, 3), np.uint8)

    found = find_places([base, base + np.uint8(7)], 12, 6)

    assert found[0] == (0, 0, 12, 12)
    assert found[1] == (24, 0, 12, 12)  # the first that keeps a window's distance
    assert sorted((w.top, w.left) for w in found) == [(y, x) for y in (0, 12) for x in (0, 12, 24)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 6), st.integers(0, 5), st.booleans())
def test_places_lie_inside_and_do_not_overlap(
    height: int, width: int, side: int, count: int, seed: int, is_tensor: bool
) -> None:
    pictures = [noise(height, width, seed), noise(height, width, seed + 1)]
    given_ = [torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures] if is_tensor else pictures

    found = find_places(given_, side, count)

    assert 1 <= len(found) <= count
    for window in found:
        assert (window.width, window.height) == (min(side, width), min(side, height))
        assert 0 <= window.left <= width - window.width
        assert 0 <= window.top <= height - window.height
    assert not any(overlap(a, b) for a, b in itertools.combinations(found, 2))
    assert found == find_places(pictures, side, count)


def test_the_first_place_has_the_largest_sum_of_all_windows() -> None:
    a, b = noise(70, 34, 1), noise(70, 34, 2)
    planes = np.array([[77, 150, 29], [-43, -85, 128], [128, -107, -21]])
    energy = np.abs((a.astype(np.int64) - b) @ planes.T).max(axis=2) ** 2
    sums = np.lib.stride_tricks.sliding_window_view(energy, (9, 9)).sum(axis=(2, 3))

    window = find_places([a, b], 9, 1)[0]

    assert (window.top, window.left) == np.unravel_index(sums.argmax(), sums.shape)


EQUAL_LUMA = np.array([1, 2, -13])
"""A shift to yellow: 77 R + 150 G + 29 B stays exactly what it is."""


def test_a_shift_of_colour_alone_has_its_place_and_stands_in_the_map() -> None:
    base, window = noise(60, 90), Window(40, 20, 16, 16)
    other = base.copy()
    other[20:36, 40:56] = base[20:36, 40:56] + EQUAL_LUMA

    assert (luma_levels(base) == luma_levels(other)).all()
    assert find_places([base, other], 16, 3) == (window,)
    expected = np.zeros((60, 90))
    expected[20:36, 40:56] = 1877 / 256  # of Cb: 43 + 2 * 85 + 13 * 128
    assert (difference_map(base, other) == difference_colors(expected)).all()


def test_gray_beside_colour_differs_by_its_chroma() -> None:
    red = np.full((4, 4, 3), (200, 60, 60), np.uint8)
    gray = np.full((4, 4, 3), 102, np.uint8)  # luma 102.1

    assert (difference_map(red, gray) == difference_colors(140 * 128 / 256)).all()


def test_differences_of_brightness_rank_as_those_of_luma_on_a_photograph() -> None:
    photo = astronaut().clip(40, 215)
    change = np.random.default_rng(3).integers(-6, 7, (512, 512))
    change += np.round(30 * np.outer(np.hanning(512), np.sin(np.arange(512) / 40))).astype(int)
    other = (photo + change[..., None]).astype(np.uint8)

    found = find_places([photo, other], 96, 3)

    assert found == greatest((luma_levels(photo) - luma_levels(other)) ** 2, 96, 3)
    assert (difference_map(photo, other) == difference_colors(np.abs(change))).all()


def test_interpolations_of_a_photograph_differ_where_their_luma_does() -> None:
    small = Image.fromarray(astronaut()).resize((128, 128), Image.Resampling.BICUBIC)
    a, b = (np.asarray(small.resize((512, 512), how)) for how in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS))

    assert find_places([a, b], 96, 3) == greatest((luma_levels(a) - luma_levels(b)) ** 2, 96, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 8), st.integers(0, 9))
def test_only_equal_pixels_are_neutral_in_a_map(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(20, 236, (height, width, 3))
    changes = np.array([(0, 0, 0), (1, 0, 0), (0, 0, -1), EQUAL_LUMA, (0, 0, 0)])
    b = (a + changes[rng.integers(0, 5, (height, width))]).astype(np.uint8)
    a = a.astype(np.uint8)

    shown = (difference_map(a, b) != difference_colors(0)).any(axis=2)

    assert (shown == (a != b).any(axis=2)).all()
    assert (find_places([a, b], 4, 1) == ()) == (a == b).all()


def test_detail_and_flat_are_found_in_one_picture() -> None:
    picture = np.full((40, 60, 3), 128, np.uint8)
    picture[20:32, 30:42] = noise(12, 12)

    detail, flat = find_detail(picture, 12), find_flat(picture, 12)

    assert abs(detail.left - 30) <= 1
    assert abs(detail.top - 20) <= 1
    assert picture[flat.top : flat.top + 12, flat.left : flat.left + 12].std() == 0.0


def test_places_refuse_other_shapes_and_sizes() -> None:
    with pytest.raises(ShapeError, match="two or more of one size"):
        find_places([noise(8, 8)], 4, 1)
    with pytest.raises(ShapeError, match="of one size"):
        find_places([noise(8, 8), noise(8, 9)], 4, 1)
    with pytest.raises(ShapeError, match="uint8"):
        find_places([np.zeros((8, 8, 3)), np.zeros((8, 8, 3))], 4, 1)
    with pytest.raises(ShapeError, match="expected \\(3, H, W\\)"):
        find_places([torch.zeros(8, 8)] * 2, 4, 1)
    with pytest.raises(ConfigError, match="at least 1"):
        find_places([noise(8, 8)] * 2, 0, 1)


# -- difference maps --------------------------------------------------------------------------------------------------


def test_difference_map_is_neutral_exactly_where_pixels_are_equal() -> None:
    base = noise(20, 30)
    window = Window(4, 6, 5, 3)
    neutral = difference_colors(0)

    shown = (difference_map(base, changed(base, window, 1)) != neutral).any(axis=2)

    expected = np.zeros((20, 30), bool)
    expected[6:9, 4:9] = True
    assert (shown == expected).all()
    assert neutral[0] == neutral[1] == neutral[2]


def test_difference_map_has_no_sign_and_is_full_from_its_full_level_on() -> None:
    dark = np.full((1, 3, 3), 100, np.uint8)
    light = dark + np.array([FULL_LEVELS - 1, FULL_LEVELS, 90], np.uint8)[None, :, None]

    shown = difference_map(dark, light)

    assert (shown == difference_map(light, dark)).all()
    assert (shown[0, 1] == shown[0, 2]).all()
    assert (shown[0, 0] != shown[0, 1]).any()


def test_difference_colors_darken_evenly() -> None:
    # CIE lightness, an other scale than the one they are made by.
    linear = (difference_colors(np.arange(FULL_LEVELS + 1)) / 255.0) ** 2.2
    lightness = 116 * np.cbrt(linear @ np.array([0.2126, 0.7152, 0.0722])) - 16

    steps = -np.diff(lightness)

    assert steps.min() > 0
    assert steps.max() < 4 * steps.mean()
    assert lightness[0] > 90
    assert lightness[-1] < 30


def test_a_small_difference_map_shows_means() -> None:
    base = np.zeros((4, 4, 3), np.uint8)
    other = base.copy()
    other[:2, :2] = 8
    other[3, 3] = 16

    shown = difference_map(base, other, size=(2, 2))

    assert (shown == difference_colors(np.array([[8, 0], [0, 4]]))).all()
    assert difference_map(base, other, size=(3, 1)).shape == (3, 1, 3)
    with pytest.raises(ShapeError, match="at most that"):
        difference_map(base, other, size=(5, 4))
    with pytest.raises(ShapeError, match="of one size"):
        difference_map(base, noise(4, 5))


# -- drawing ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60), st.integers(1, 200), st.integers(8, 30))
def test_labels_of_any_length_stay_in_their_line(text: str, width: int, height: int) -> None:
    line = drawing.text_line(text, width, height, theme=LIGHT)

    assert line.shape == (height, width, 3)
    assert (line[:, -2:] == 255).all()  # glyphs may lean one pixel over


def test_long_labels_keep_their_ends() -> None:
    text = "a-run-with-a-name-that-goes-on-and-on-steps-4"

    short = fit_text(text, 120, 14)

    assert short == "a-run-with...steps-4"
    assert fit_text("bicubic", 120, 14) == "bicubic"
    assert fit_text("bicubic", 3, 14) == ""


def test_a_label_is_cut_between_words_and_never_inside_a_number() -> None:
    label = "a very long label that goes on, sigma 0.5, seed 3"

    cut = {fit_text(label, width, 18) for width in range(130, 300)}

    assert "a very long...seed 3" in cut
    assert {text.count(".") - text.count("0.5") for text in cut} == {3}
    assert all(text.partition("...")[2] in ("seed 3", "0.5, seed 3", "sigma 0.5, seed 3") for text in cut)


@settings(max_examples=60, deadline=None)
@given(st.text(" .-_,abc0\u00fc", min_size=1, max_size=40), st.integers(0, 300))
def test_a_cut_text_is_no_wider_than_asked_and_made_of_its_ends(text: str, width: int) -> None:
    short = fit_text(text, width, 14)

    assert text_length(short, 14) <= width or short == ""
    if short not in ("", written(text)):
        ends = [
            (written(text[:head]), written(text[tail:]))
            for head in range(len(text))
            for tail in range(1, len(text) + 1)
        ]
        assert short in {f"{head.rstrip(' ,;_-.')}...{tail.lstrip(' ,;_-.')}" for head, tail in ends}


def test_what_the_font_lacks_is_an_escape_and_never_breaks_the_line() -> None:
    assert fit_text("Gr\u00fc\u00dfe \u00d74", 500, 14) == r"Gr\u00fc\u00dfe \u00d74"
    assert fit_text("a\nb\u4e2d\U0001f600\udce9", 500, 14) == r"a\u000ab\u4e2d\U0001f600\udce9"
    assert fit_text("\u00a9 \u00b1 20\u00b0", 500, 14) == "\u00a9 \u00b1 20\u00b0"  # the font has these
    assert lacking("M\u00fcller, \u00fcber 20\u00b0 \u2026") == "\u00fc\u2026"
    assert lacking("".join(map(chr, range(32, 127)))) == ""


def test_what_counts_as_a_letter_of_the_font_leaves_ink_of_its_own() -> None:
    drawn = {}
    for letter in map(chr, range(33, 0x3000)):
        if not lacking(letter):
            drawn[drawing.text_line(letter, 40, 40, theme=LIGHT, size=30).tobytes()] = letter

    blank, missing = (drawing.text_line("", 40, 40, theme=LIGHT).tobytes(), _box(30))
    assert len(drawn) >= 94 == sum(letter < "\x7f" for letter in drawn.values())  # no two look alike
    assert blank not in drawn
    assert missing not in drawn


def _box(size: int) -> bytes:
    """A line with the sign that the font draws for what it lacks."""
    image = Image.new("RGB", (40, 40), LIGHT.paper)
    write_text(ImageDraw.Draw(image), "\uffff", 3, 20, size, LIGHT.ink)
    return np.asarray(image).tobytes()


@settings(max_examples=300, deadline=None)
@given(*[st.text(st.sampled_from("\\uU0fc\u00fc\u0308u\u00df\udcfc\n"), max_size=8)] * 2)
def test_different_texts_are_written_differently(one: str, two: str) -> None:
    assert (written(one) == written(two)) == (one == two)


def test_beside_and_below_put_pixels_where_they_belong_and_keep_their_kind() -> None:
    a, b = noise(4, 6, 1), noise(3, 2, 2)

    row, column = drawing.beside([a, b], theme=DARK, gap=2), drawing.below([a, b], theme=DARK, gap=1)

    assert row.dtype == np.uint8
    assert (row[:, :6] == a).all()
    assert (row[:3, 8:] == b).all()
    assert (row[:, 6:8] == 32).all()
    assert (row[3:, 8:] == 32).all()
    assert (column[5:, :2] == b).all()
    mixed = drawing.beside([a, b.astype(np.float32) / 255], theme=LIGHT)
    assert mixed.dtype == np.float32
    assert (mixed[:, :6] == a.astype(np.float32) / np.float32(255)).all()
    with pytest.raises(ShapeError, match="expected \\(H, W, 3\\)"):
        drawing.beside([np.zeros((3, 3))], theme=LIGHT)


def test_fit_inside_zooms_by_whole_factors_and_shrinks_by_any() -> None:
    small, large = noise(4, 5), noise(90, 60)

    zoomed, up = drawing.fit_inside(small, 17, 100)
    shrunk, down = drawing.fit_inside(large, 40, 45)

    assert up == 3.0
    assert (zoomed == small.repeat(3, 0).repeat(3, 1)).all()
    assert shrunk.shape == (45, 30, 3)
    assert down == 0.5


def test_boxes_change_nothing_away_from_their_lines() -> None:
    picture, windows = noise(120, 160), [Window(40, 20, 64, 64), Window(120, 90, 32, 24)]

    boxed = drawing.draw_boxes(picture, windows, 1.0)

    same = (boxed == picture).all(axis=2)
    assert same[40:82, 56:100].all()
    assert same[:18].all()
    assert (boxed[50, 40] == drawing.PLACE_COLORS[0]).all()
    assert (boxed[110, 151] == drawing.PLACE_COLORS[1]).all()
    assert not same[20, 40:104].any()


# -- sizes ------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.integers(16, 3000),
    st.integers(16, 3000),
    st.floats(1.0, 8.0),
    st.sampled_from((math.floor, math.ceil, round)),
)
def test_shrunk_pictures_belong_whatever_the_rounding(width: int, height: int, scale: float, whole) -> None:
    small = (max(1, whole(width / scale)), max(1, whole(height / scale)))

    assert belongs(small, (width, height))


@pytest.mark.parametrize("size", [(100, 100), (120, 160), (160, 112), (149, 120), (40, 32)])
def test_other_proportions_do_not_belong(size: tuple[int, int]) -> None:
    assert not belongs(size, (160, 120))


def test_what_a_scale_leaves_over_is_cut_and_the_rest_enlarged() -> None:
    sizes = {"hr": (481, 323), "sr": (480, 320), "lr": (120, 80)}

    common = common_size(sizes.values())

    assert common == (480, 320)
    assert {name: enlargement(size, common) for name, size in sizes.items()} == {"hr": 1.0, "sr": 1.0, "lr": 4.0}
    assert all(belongs(size, sizes["hr"]) for size in sizes.values())
    assert common_size([(12, 12), (8, 8)]) == (12, 12)  # a third of a small picture is not a rest


def test_bring_to_cuts_or_enlarges_by_matlab_bicubic() -> None:
    picture = quantise(torch.rand(3, 10, 12, generator=torch.Generator().manual_seed(0)))

    assert torch.equal(bring_to(picture, (11, 9)), picture[:, :9, :11])
    assert torch.equal(bring_to(picture, (24, 20)), quantise(resize(picture, (20, 24))))


# -- encodings of a report ----------------------------------------------------------------------------------------


def test_every_picture_of_every_setting_that_is_tried_is_told(tmp_path: Path) -> None:
    pictures = {label: noise(200, 240, seed) for seed, label in enumerate(("one", "two"))}
    images = [scene(name, width=240, height=200, pictures=pictures, scores={}) for name in "pq"]
    report = Report(title="T", labels=("one", "two"), metrics=(), images=images)
    told: list[tuple[str, int, int]] = []

    size = write_report(
        tmp_path / "r.html",
        report,
        max_bytes=220_000,
        on_picture=lambda setting, number, count: told.append((str(setting), number, count)),
    )

    tried = list(dict.fromkeys(setting for setting, _, _ in told))
    assert len(tried) > 2
    for setting in tried:
        numbers = [number for name, number, _ in told if name == setting]
        assert numbers == list(range(1, len(numbers) + 1))
    assert {count for _, _, count in told} == {4}
    assert (size.encoding, 4, 4) in told


# -- sheets -----------------------------------------------------------------------------------------------------------

PSNR = MetricColumn(name="psnr_y", title="PSNR-Y", unit="dB", digits=2, lower_better=False, definition="")


def scene(name: str = "a", **changes) -> ReportImage:
    first = noise(100, 150)
    place = Window(20, 30, 40, 40)
    fields = {
        "name": name,
        "width": 150,
        "height": 100,
        "pictures": {"one": first, "two": changed(first, place, 25)},
        "scores": {"one": {"psnr_y": 20.0}, "two": {"psnr_y": 30.0}},
        "places": (place,),
    }
    return ReportImage(**{**fields, **changes})


def test_a_sheet_has_every_crop_zoomed_in_its_column_and_a_map_over_it() -> None:
    image = scene()

    drawn = sheet.compare_sheet([image], ("one", "two"), zoom=5)

    side, margin, gap = 200, 12, 6
    bottom, left = drawn.shape[0] - margin, margin + 22
    for column, label in enumerate(("one", "two")):
        x = left + column * (side + gap)
        expected = image.pictures[label][30:70, 20:60].repeat(5, 0).repeat(5, 1)
        assert (drawn[bottom - side : bottom, x : x + side] == expected).all()
    maps = drawn[bottom - side - gap - 100 : bottom - side - gap, left + side + gap : left + side + gap + 150]
    assert (maps == difference_map(image.pictures["one"], image.pictures["two"])).all()
    assert drawn.shape[1] == 2 * margin + 22 + 2 * side + gap


def test_the_best_score_is_darker() -> None:
    blank = scene(scores={})
    for worse in ("one", "two"):
        scores = {label: {"psnr_y": 20.0 if label == worse else 30.0} for label in ("one", "two")}
        drawn = sheet.compare_sheet([scene(scores=scores)], ("one", "two"), metrics=[PSNR], zoom=5)
        without = sheet.compare_sheet([blank], ("one", "two"), metrics=[PSNR], zoom=5)
        text = drawn[(drawn != without).any(axis=(1, 2))]
        middle = 12 + 22 + 200 + 3
        darkest = {"one": int(text[:, :middle].min()), "two": int(text[:, middle:].min())}
        assert darkest.pop(worse) >= LIGHT.muted[0]
        assert set(darkest.values()) == {0}


def test_sheets_of_the_same_scenes_are_the_same_and_scenes_stand_below_each_other() -> None:
    one, two = (sheet.compare_sheet([scene()] * count, ("one", "two"), title="T") for count in (1, 2))

    assert (sheet.compare_sheet([scene()], ("one", "two"), title="T") == one).all()
    assert two.shape[1] == one.shape[1]
    assert (two[: one.shape[0] - 12] == one[:-12]).all()


def test_a_sheet_without_places_or_with_one_column_is_drawn() -> None:
    assert sheet.compare_sheet([scene(places=())], ("one", "two")).shape[1] > 300
    assert sheet.compare_sheet([scene(scores={"one": {"psnr_y": math.inf}})], ("one",), metrics=[PSNR]).ndim == 3


def test_a_foot_stands_under_the_last_scene_and_moves_nothing() -> None:
    images, margin = [scene(), scene()], 12
    without = sheet.compare_sheet(images, ("one", "two"))

    drawn = sheet.compare_sheet(images, ("one", "two"), foot="Scores: border 4 px left out")

    height = drawn.shape[0] - without.shape[0]
    assert (drawn[: -height - margin] == without[:-margin]).all()
    assert (drawn[-height - margin : -margin] < 128).any()
    assert (drawn[-margin:] == 255).all()


def test_sheet_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="at least one of each"):
        sheet.compare_sheet([], ("one",))
    with pytest.raises(ConfigError, match="zoom is 9"):
        sheet.compare_sheet([scene()], ("one",), zoom=9)
    with pytest.raises(ShapeError, match="of one size"):
        sheet.compare_sheet([scene(pictures={"one": noise(100, 150), "two": noise(90, 150)})], ("one", "two"))


def test_a_scene_says_over_itself_which_of_its_pictures_were_enlarged_or_cut(monkeypatch) -> None:
    lines = []
    draw = sheet.text_line
    monkeypatch.setattr(sheet, "text_line", lambda text, *a, **kw: lines.append(text) or draw(text, *a, **kw))
    images = [
        scene("p", enlarged={"two": 2.0}, notes=("alpha ignored",)),
        scene("q"),
        scene("r", cut_from={"one": (152, 101)}, enlarged={"one": 1.5, "two": 10 / 3}),
    ]

    sheet.compare_sheet(images, ("one", "two"))

    assert lines == [
        *("one", "two (x2 bicubic)", "p   150 x 100, alpha ignored"),
        *("one", "two", "q   150 x 100"),
        *("one (x1.5 bicubic)", "two (x3.33 bicubic)", "r   152 x 101, cut to 150 x 100"),
    ]


def test_choose_zoom_keeps_sheets_to_a_usual_width() -> None:
    assert [sheet.choose_zoom(96, columns) for columns in (1, 2, 4, 5, 8, 20)] == [4, 4, 4, 3, 2, 1]
    assert sheet.choose_zoom(2000, 3) == 1


def test_page_path_numbers_from_the_second_sheet() -> None:
    names = [sheet.page_path(Path("out/a.b.png"), page).name for page in (1, 2, 3)]

    assert names == ["a.b.png", "a.b-2.png", "a.b-3.png"]
