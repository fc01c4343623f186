"""Pairing by name, by known endings and by order; every mismatch told; sizes from headers."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from linearsr.errors import ConfigError
from linearsr.evaluation.matching import NAMED, Problems, by_name
from linearsr.evaluation.pairing import PairedSet, check_sizes, distinct_names, pair_folders

NAMES = st.text("abX4_x1HRGT.", min_size=1, max_size=8).filter(lambda name: name.strip(".") == name)


def touch(folder: Path, *names: str) -> Path:
    """A folder with empty files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def paint(folder: Path, **sizes: tuple[int, int]) -> Path:
    """A folder of pictures of these sizes, (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (width, height) in sizes.items():
        Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def names_of(paired: PairedSet, label: str = "m") -> dict[str, str]:
    return {pair.image: pair.srs[label].name for pair in paired.pairs}


def pair(hr: Path, sr: Path, **options) -> PairedSet:
    return pair_folders(hr, **{"lr": None, "srs": {"m": sr}, "by": "name", **options})


# ---- by name


def test_equal_stems_pair_whatever_their_endings(tmp_path: Path) -> None:
    hr = touch(tmp_path / "Set5", "baby.png", "bird.PNG", ".hidden.png", "Thumbs.db", "notes.txt")
    sr = touch(tmp_path / "out", "bird.webp", "baby.jpg", "desktop.ini")

    paired = pair(hr, sr, lr=touch(tmp_path / "lr", "baby.bmp", "bird.tif"))

    assert paired.name == "Set5"
    assert names_of(paired) == {"baby": "baby.jpg", "bird": "bird.webp"}
    assert [pair.lr.name for pair in paired.pairs] == ["baby.bmp", "bird.tif"]


@pytest.mark.parametrize("tail", ["_upscayl_4x_standard", "-gigapixel", ".supir", " (SwinIR)"])
def test_an_ending_that_all_results_have_is_left_off(tmp_path: Path, tail: str) -> None:
    hr = touch(tmp_path / "hr", "img.png", "img_1.png", "sub/b.png")
    sr = touch(tmp_path / "sr", f"img{tail}.png", f"img_1{tail}.jpg", f"sub/b{tail}.png")
    assert names_of(pair(hr, sr, recursive=True)) == {
        "img": f"img{tail}.png",
        "img_1": f"img_1{tail}.jpg",
        "sub/b": f"b{tail}.png",
    }
    (sr / f"img{tail}.png").unlink()
    with pytest.raises(ConfigError, match=r"not in \S+: img$"):
        pair(hr, sr, recursive=True)


@pytest.mark.parametrize("odd", ["b.png", "extra_up.png", "c_x.png"])
def test_of_a_folder_with_one_ending_only_the_odd_file_is_named(tmp_path: Path, odd: str) -> None:
    hr = touch(tmp_path / "hr", *(f"{name}.png" for name in "abcde"))
    sr = touch(tmp_path / "sr", *(f"{name}_up.png" for name in "acde"), odd)
    with pytest.raises(ConfigError) as caught:
        pair(hr, sr)
    text = caught.value.message
    assert f"in {sr}, where other names end in _up: {odd}" in text
    assert f"only in {hr}, not in {sr}: b;" in text


@pytest.mark.parametrize("twice", [("a.png",), ("a.png", "b.png")])
def test_a_file_without_the_ending_is_told_of_beside_one_that_has_it(tmp_path: Path, twice: tuple[str, ...]) -> None:
    hr = touch(tmp_path / "hr", *(f"{name}.png" for name in "abcde"))
    sr = touch(tmp_path / "sr", *(f"{name}_up.png" for name in "abcde"), *twice)
    with pytest.raises(ConfigError, match="where other names end in _up: " + ", ".join(twice)):
        pair(hr, sr)


def test_many_names_pair_in_time(tmp_path: Path) -> None:
    clean = {f"img_{index}": [tmp_path / f"img_{index}.png"] for index in range(20_000)}
    made = {f"img_{index}_up": [tmp_path / f"img_{index}_up.png"] for index in range(20_000)}
    problems, start = Problems(), time.process_time()
    found = by_name(clean, list(clean), made, (tmp_path, tmp_path), problems)
    problems.check("", "")
    assert found == {name: made[f"{name}_up"][0] for name in clean}
    assert time.process_time() - start < 5  # with every name against every other it is minutes


@pytest.mark.parametrize(
    "made",
    [
        ("a_up", "b_down"),  # not one ending
        ("a_2", "b_2"),  # a number is another picture
        ("aup", "bup"),  # no separator
        ("a", "b_up"),  # one pairs as it is, so the other is left over
        ("a_up", "b_up", "c_up"),  # one has no clean picture
    ],
)
def test_other_endings_are_no_ending_of_all(tmp_path: Path, made: tuple[str, ...]) -> None:
    hr = touch(tmp_path / "hr", "a.png", "b.png")
    with pytest.raises(ConfigError, match="do not pair"):
        pair(hr, touch(tmp_path / "sr", *(f"{name}.png" for name in made)))


@pytest.mark.parametrize(
    ("clean", "made"),
    [
        ("0801", "0801x4"),
        ("0801", "0801x8m"),
        ("baby", "baby_x2"),
        ("baby", "baby_x2.5"),
        ("baby", "baby_LRBI_x4"),
        ("baby", "baby_SR"),
        ("baby", "baby_out"),
        ("baby", "baby_1920x1080"),
        ("baby", "baby_2048px"),
        ("baby_HR", "baby"),
        ("baby_GT", "baby_SR"),
        ("img_001_SRF_4_HR", "img_001_SRF_4_LR"),
        ("a.b_HR_x4", "a.b_LR_x4"),
        ("baby_SR", "baby_x4"),
        ("baby_x2", "baby_x4"),
    ],
)
def test_one_known_ending_may_differ(tmp_path: Path, clean: str, made: str) -> None:
    paired = pair(touch(tmp_path / "hr", f"{clean}.png"), touch(tmp_path / "sr", f"{made}.png"))

    assert names_of(paired) == {clean: f"{made}.png"}
    assert names_of(pair(tmp_path / "sr", tmp_path / "hr")) == {made: f"{clean}.png"}


def test_an_exact_name_wins_over_a_shortened_one(tmp_path: Path) -> None:
    paired = pair(touch(tmp_path / "hr", "a.png", "a_x4.png"), touch(tmp_path / "sr", "a_x4.png", "a_SR.png"))

    assert names_of(paired) == {"a": "a_SR.png", "a_x4": "a_x4.png"}


def test_a_nearer_name_wins_over_a_farther_one(tmp_path: Path) -> None:
    a, b = touch(tmp_path / "a", "a.png", "a_x2.png"), touch(tmp_path / "b", "a_SR.png", "a_x2_SR.png")

    assert names_of(pair(a, b)) == {"a": "a_SR.png", "a_x2": "a_x2_SR.png"}
    assert names_of(pair(b, a)) == {"a_SR": "a.png", "a_x2_SR": "a_x2.png"}


@pytest.mark.parametrize("turned", [False, True])
def test_two_that_fit_are_ambiguous_whichever_folder_is_first(tmp_path: Path, turned: bool) -> None:
    folders = touch(tmp_path / "one", "a_x4.png"), touch(tmp_path / "two", "a_SR.png", "a_out.png")

    with pytest.raises(ConfigError, match="ambiguous in"):
        pair(*(folders[::-1] if turned else folders))


def test_upper_and_lower_case_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only in .*hr, not in .*sr: Baby; only in .*sr: baby\.png"):
        pair(touch(tmp_path / "hr", "Baby.png"), touch(tmp_path / "sr", "baby.png"))


def test_one_error_names_every_mismatch_of_every_folder(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "a.png", "b.png", "c.png", "d.png", "d.jpg", "e.png", "e_HR.png")
    sr = touch(tmp_path / "sr", "a.png", "c_x2.png", "c_x4.png", "d.png", "e_SR.png", "zz.png")
    lr = touch(tmp_path / "lr", "a.png", "b.png", "d.png", "e.png", "e_HR.png")

    with pytest.raises(ConfigError) as caught:
        pair(hr, sr, lr=lr)

    message = caught.value.message
    assert message.removeprefix("the pictures do not pair: ").split("; ") == [
        f"ambiguous in {hr}: d (d.jpg or d.png)",
        f"only in {hr}, not in {sr}: b",
        f"only in {sr}: zz.png",
        f"ambiguous in {sr}: c (c_x2.png or c_x4.png), e_SR (to e or e_HR)",
        f"only in {hr}, not in {lr}: c",
    ]


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "z.png", *(f"{i:02}.png" for i in range(NAMED + 5)))

    with pytest.raises(ConfigError, match=rf"0{NAMED // 10 - 1}, .*{NAMED - 1} and 5 more"):
        pair(hr, touch(tmp_path / "sr", "z.png"))


@settings(max_examples=40, deadline=None)
@given(names=st.sets(NAMES, min_size=1, max_size=8), data=st.data())
def test_any_names_pair_with_their_own_permutation_and_every_missing_one_is_named(names, data) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hr = touch(Path(folder, "hr"), *(f"{name}.png" for name in names))
        sr = touch(Path(folder, "sr"), *(f"{name}.jpg" for name in data.draw(st.permutations(sorted(names)))))
        assert names_of(pair(hr, sr)) == {name: f"{name}.jpg" for name in sorted(names)}

        gone = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
        for name in gone:
            (sr / f"{name}.jpg").unlink()
        touch(sr, "unrelated.png")
        with pytest.raises(ConfigError) as caught:
            pair(hr, sr)
        listed = caught.value.message.partition(f"not in {sr}: ")[2].partition(";")[0].split(", ")
        assert set(listed) == gone
        assert "unrelated.png" in caught.value.message


# ---- folders, files, order


def test_sub_folders_count_as_part_of_the_name(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", "a.png", "in/a.png", ".cache/b.png")
    sr = touch(tmp_path / "sr", "a_x4.png", "in/a_x4.png")

    assert [p.image for p in pair(hr, sr, recursive=True).pairs] == ["a", "in/a"]
    assert [p.image for p in pair(hr, sr).pairs] == ["a"]


def test_order_pairs_by_place_and_refuses_other_counts(tmp_path: Path) -> None:
    hr, sr = touch(tmp_path / "hr", "b.png", "a.png"), touch(tmp_path / "sr", "2.png", "1.png")

    assert names_of(pair(hr, sr, by="order")) == {"a": "1.png", "b": "2.png"}
    touch(sr, "3.png")
    with pytest.raises(ConfigError, match=r"wrong count: 3 in .*sr, 2 in .*hr"):
        pair(hr, sr, by="order")


def test_order_reads_digits_as_numbers(tmp_path: Path) -> None:
    hr = touch(tmp_path / "hr", *(f"img{i}.png" for i in range(1, 13)))
    sr = touch(tmp_path / "sr", *(f"{i:04}.png" for i in range(1, 13)))

    assert names_of(pair(hr, sr, by="order")) == {f"img{i}": f"{i:04}.png" for i in range(1, 13)}
    assert names_of(pair(sr, hr, by="order")) == {f"{i:04}": f"img{i}.png" for i in range(1, 13)}


def test_two_files_pair_whatever_they_are_called(tmp_path: Path) -> None:
    hr, sr = touch(tmp_path / "hr", "left.png") / "left.png", touch(tmp_path / "sr", "right.jpg") / "right.jpg"

    paired = pair(hr, sr)

    assert (paired.name, names_of(paired)) == ("hr", {"left": "right.jpg"})
    with pytest.raises(ConfigError, match="a file and a folder"):
        pair(hr, sr.parent)


def test_a_limit_takes_the_first_and_forgives_the_rest(tmp_path: Path) -> None:
    hr, sr = touch(tmp_path / "hr", "a.png", "b.png", "c.png"), touch(tmp_path / "sr", "a.png", "c.png")

    assert names_of(pair(hr, sr, limit=1)) == {"a": "a.png"}
    with pytest.raises(ConfigError, match="only in .*hr, .*: b$"):
        pair(hr, sr, limit=2)
    with pytest.raises(ConfigError, match="limit is 0"):
        pair(hr, sr, limit=0)


@pytest.mark.parametrize(
    ("hr", "sr", "named"), [("empty", "full", "empty"), ("full", "empty", "empty"), ("full", "gone", "gone")]
)
def test_an_empty_or_missing_folder_is_named(tmp_path: Path, hr: str, sr: str, named: str) -> None:
    touch(tmp_path / "full", "a.png")
    touch(tmp_path / "empty", "notes.txt", "in/a.png")

    with pytest.raises(ConfigError, match=f"is '.*{named}'"):
        pair(tmp_path / hr, tmp_path / sr)


def test_sets_of_one_name_are_told_apart_by_the_folder_above(tmp_path: Path) -> None:
    sets = [pair_folders(touch(tmp_path / s / "HR", "in/a.png"), lr=None, srs={}, by="name", recursive=True)
            for s in ("Set5", "Set14")]  # fmt: skip

    assert [s.name for s in distinct_names(sets)] == ["Set5/HR", "Set14/HR"]
    assert distinct_names(sets[:1]) == tuple(sets[:1])
    with pytest.raises(ConfigError, match="'Set5/HR'"):
        distinct_names([sets[0], sets[0]])


def test_a_set_has_the_name_that_was_given_not_that_of_a_links_target(tmp_path: Path) -> None:
    touch(tmp_path / "store" / "3f2a" / "HR", "a.png")
    for name in ("Set5", "Set14"):
        (tmp_path / name).symlink_to(tmp_path / "store" / "3f2a")
    (tmp_path / "Urban100").symlink_to(tmp_path / "store" / "3f2a" / "HR")
    sets = [pair_folders(tmp_path / name, lr=None, srs={}, by="name") for name in ("Set5/HR", "Set14/HR", "Urban100")]

    assert [paired.name for paired in distinct_names(sets)] == ["Set5/HR", "Set14/HR", "Urban100"]
    assert pair_folders(tmp_path / "Urban100" / "a.png", lr=None, srs={}, by="name").name == "Urban100"


# ---- sizes


def sized(
    folder: Path, hr: tuple[int, int], sr: tuple[int, int] | None, lr: tuple[int, int] | None = None
) -> PairedSet:
    clean = paint(folder / "hr", a=hr)
    srs = {} if sr is None else {"m": paint(folder / "sr", a=sr)}
    return pair_folders(clean, lr=None if lr is None else paint(folder / "lr", a=lr), srs=srs, by="name")


@pytest.mark.parametrize(
    ("hr", "lr", "scale"),
    [
        ((64, 48), (16, 12), 4.0),
        ((67, 51), (16, 12), 4.0),
        ((50, 35), (20, 14), 2.5),
        ((13, 9), (13, 9), 1.0),
        ((100, 70), (67, 47), 1.5),
    ],
)
def test_scale_follows_from_the_inputs(tmp_path: Path, hr, lr, scale: float) -> None:
    assert check_sizes(sized(tmp_path, hr, None, lr), None, degraded=False) == scale


def test_without_inputs_the_scale_is_one_or_as_given(tmp_path: Path) -> None:
    paired = sized(tmp_path, (13, 9), (13, 9))

    assert check_sizes(paired, None, degraded=False) == 1.0
    assert check_sizes(paired, 3.0, degraded=False) == 3.0


def test_a_result_may_have_the_size_of_the_cropped_original(tmp_path: Path) -> None:
    paired = sized(tmp_path, (13, 9), (12, 8))

    assert check_sizes(paired, 4.0, degraded=True) == 4.0
    with pytest.raises(ConfigError, match=r"a\.png is 12x8, expected 13x9"):
        check_sizes(paired, None, degraded=False)


def test_every_wrong_size_is_named_at_once(tmp_path: Path) -> None:
    hr = paint(tmp_path / "hr", a=(64, 48), b=(32, 32), c=(64, 64), tiny=(3, 9))
    lr = paint(tmp_path / "lr", a=(16, 12), b=(9, 8), c=(16, 16), tiny=(1, 2))
    sr = paint(tmp_path / "sr", a=(60, 48), b=(32, 32), c=(16, 16), tiny=(3, 9))
    (tmp_path / "hr" / "c.png").write_bytes(b"no picture")
    paired = pair_folders(hr, lr=lr, srs={"m": sr}, by="name")

    with pytest.raises(ConfigError) as caught:
        check_sizes(paired, 4.0, degraded=False)

    message = caught.value.message
    assert f"{sr / 'a.png'} is 60x48, expected 64x48" in message
    assert f"{lr / 'b.png'} is 9x8, expected 8x8" in message
    assert f"smaller than the scale, 4: {hr / 'tiny.png'} (3x9)" in message
    assert "c.png" not in message  # unreadable: a failure of its own


def test_scales_that_differ_are_told_by_the_odd_one_out(tmp_path: Path) -> None:
    hr = paint(tmp_path / "hr", a=(64, 48), b=(32, 32), c=(64, 64))
    lr = paint(tmp_path / "lr", a=(16, 12), b=(16, 16), c=(16, 16))

    with pytest.raises(ConfigError, match=r"at scale 4: inputs: \S*b\.png is 16x16, expected 8x8$"):
        check_sizes(pair_folders(hr, lr=lr, srs={}, by="name"), None, degraded=False)


def test_degraded_sets_do_not_look_at_given_inputs(tmp_path: Path) -> None:
    assert check_sizes(sized(tmp_path, (64, 48), None, (5, 5)), 2.0, degraded=True) == 2.0
