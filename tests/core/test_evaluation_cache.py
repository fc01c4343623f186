"""The cache of scores: what is stored comes back, what is damaged does not, keys follow what decides a value."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.atomic import write_bytes
from linearsr.errors import ImageError
from linearsr.evaluation import cache as module
from linearsr.evaluation.cache import ScoreCache, default_eval_cache, file_digest, key_of, metric_keys, source_digest
from linearsr.metrics import METRICS, ScoreSettings

VALUES = st.recursive(
    st.none()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False)
    | st.text().filter(lambda text: text not in ("inf", "-inf")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(entry=st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_entries_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, entry: dict) -> None:
    cache = ScoreCache(tmp_path_factory.getbasetemp() / "scores")
    key = key_of({"of": str(entry)})

    assert cache.put(key, entry)
    assert ScoreCache(cache.folder).get(key) == entry


def test_infinity_is_a_word_in_the_file(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path)
    cache.put("ab" * 32, {"psnr_y": math.inf, "low": -math.inf, "none": None, "psnr": 27.5})

    text = cache.path("ab" * 32).read_text()

    assert '"inf"' in text and '"-inf"' in text and "Infinity" not in text
    assert cache.get("ab" * 32) == {"psnr_y": math.inf, "low": -math.inf, "none": None, "psnr": 27.5}


def test_what_is_not_a_number_is_never_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        ScoreCache(tmp_path).put("ab" * 32, {"niqe": math.nan})

    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"entry": {"a": 1}}', '{"entry": {"a": 1}, "sha256": "0"}', "\xff"])
def test_damaged_entries_count_as_not_there(tmp_path: Path, damage: str) -> None:
    cache, key = ScoreCache(tmp_path), "cd" * 32
    cache.put(key, {"a": 1})
    cache.path(key).write_bytes(damage.encode("latin-1"))

    assert cache.get(key) is None
    assert cache.put(key, {"a": 2}) and cache.get(key) == {"a": 2}


def test_storing_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)

    assert ScoreCache(tmp_path).put("ab" * 32, {"a": 1}) and not synced
    write_bytes(tmp_path / "other", b"1")
    assert synced  # of the file, and of its folder


def test_an_entry_of_another_key_is_refused(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path)
    cache.put("ab" * 32, {"a": 1})
    cache.path("cd" * 32).parent.mkdir()
    cache.path("ab" * 32).rename(cache.path("cd" * 32))

    assert cache.get("cd" * 32) is None


def test_a_folder_that_refuses_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cache = ScoreCache(tmp_path / "file")

    assert cache.get("ab" * 32) is None
    assert not cache.put("ab" * 32, {"a": 1})
    assert not cache.put("ab" * 32, {"a": 1})
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_keys_know_names_and_values_but_no_order() -> None:
    one = key_of({"a": 1, "b": ["x", None]})

    assert one == key_of({"b": ("x", None), "a": 1})
    assert len({one, key_of({"a": 1.5, "b": ["x", None]}), key_of({"a": 1, "b": ["x", "None"]}), key_of({"a": 1})}) == 4


def test_keys_are_the_same_in_every_process() -> None:
    assert key_of({"b": ("x", None), "a": {"d": 4.0}}) == hashlib.sha256(b'{"a":{"d":4.0},"b":["x",null]}').hexdigest()


def test_source_digest_follows_code_and_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "code.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "PACKAGE", tmp_path)

    def digest(*patterns: str) -> str:
        source_digest.cache_clear()
        return source_digest(*patterns)

    try:
        before = digest()
        assert digest() == before == digest("in/*.py")
        (tmp_path / "notes.txt").write_text("no code")
        assert digest() == before
        (tmp_path / "in" / "code.py").write_text("x = 2\n")
        changed = digest()
        assert changed != before
        (tmp_path / "tags").mkdir()
        (tmp_path / "tags" / "words.txt").write_text("cat\n")
        words = digest()
        monkeypatch.setattr(torch, "__version__", "0.0")
        other_torch = digest()
        assert len({before, changed, words, other_torch}) == 4
        for package in module.PACKAGES:
            with monkeypatch.context() as patch:
                patch.setattr(module, "_version", lambda name, package=package: "0.0" if name == package else "1.0")
                changed_package = digest()
                patch.setattr(module, "_version", lambda name: "1.0")
                assert changed_package != digest(), package
    finally:
        source_digest.cache_clear()


def test_metric_keys_follow_what_decides_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    names = ("psnr_y", "lpips")
    plain = metric_keys(names, ScoreSettings())
    border = metric_keys(names, ScoreSettings(crop_border=4))
    weights = metric_keys(names, ScoreSettings(lpips_weights=tmp_path / "w"))
    (tmp_path / "w").write_bytes(b"others")
    others = metric_keys(names, ScoreSettings(lpips_weights=tmp_path / "w"))
    monkeypatch.setenv("LINEARSR_LPIPS_WEIGHTS", str(tmp_path / "w"))

    assert len({plain["psnr_y"], plain["lpips"], border["psnr_y"], border["lpips"]}) == 4
    assert plain["psnr_y"] == weights["psnr_y"] == others["psnr_y"]
    assert len({plain["lpips"], weights["lpips"], others["lpips"]}) == 3
    assert metric_keys(names, ScoreSettings())["lpips"] == others["lpips"]


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metrics_key_follows_every_part_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(settings: ScoreSettings | None = None) -> str:
        return metric_keys((name,), ScoreSettings() if settings is None else settings)[name]

    metric, keys = METRICS[name], {key()}
    keys |= {key(ScoreSettings(crop_border=1)), key(ScoreSettings(y_range="full"))}
    for attribute, value in (
        ("METRICS", {**METRICS, name: replace(metric, definition="another")}),
        ("source_digest", lambda *patterns: "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, attribute, value)
            keys.add(key())
    of_package = {key(), key(ScoreSettings(device="cuda"))}
    with monkeypatch.context() as patch:
        patch.setattr(module, "source_digest", lambda *patterns: "one")
        patch.setattr(module, "_version", lambda package: "another")
        with_version = key()
        patch.setattr(module, "_version", lambda package: "one more")
        of_package_version = {with_version, key()}

    assert len(keys) == 5
    assert len(of_package) == len(of_package_version) == (2 if metric.package else 1)
    monkeypatch.setattr(module, "METRICS", {"one": metric, "two": metric})
    assert len({*metric_keys(("one", "two"), ScoreSettings()).values()}) == 2


def test_the_default_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_eval_cache() == tmp_path / "xdg" / "linearsr" / "eval"
    monkeypatch.setenv("LINEARSR_CACHE", str(tmp_path / "own"))
    assert default_eval_cache() == tmp_path / "own" / "eval"


def test_a_file_that_is_gone_is_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png' cannot be read"):
        file_digest(tmp_path / "gone.png")
