"""Content tags beside the photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr.errors import TrainingError
from linearsr_train.data.sidecar import read_content, read_sidecar
from linearsr_train.data.sources import PhotoSet

ALLOWED = ("fur", "night street", "facade", "water", "leaves", "text")


def _tagged(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "photo.txt").write_text(text, encoding="utf-8")
    return folder / "photo.jpg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("water, fur", ("fur", "water")),
        ("water\nfur\r\n", ("fur", "water")),
        ("Night Street,,water,\n\nwater\n", ("night street", "water")),
        ("\ufefffacade", ("facade",)),
        (" \n", ()),
    ],
)
def test_read_sidecar_gives_tags_in_the_order_of_the_recipe(
    tmp_path: Path, text: str, expected: tuple[str, ...]
) -> None:
    assert read_sidecar(_tagged(tmp_path, text), ALLOWED) == expected


def test_a_photograph_without_a_sidecar_has_no_tags(tmp_path: Path) -> None:
    assert read_sidecar(tmp_path / "photo.jpg", ALLOWED) == ()


def test_an_unknown_tag_is_an_error_with_file_tag_and_closest_match(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="photo.txt has the unknown tag 'facades'") as caught:
        read_sidecar(_tagged(tmp_path, "water, facades"), ALLOWED)
    assert caught.value.hint == "did you mean 'facade'?"
    with pytest.raises(TrainingError, match=r"unknown tag 'a photograph of a very long and winding \.\.\.'") as caught:
        read_sidecar(_tagged(tmp_path, "a photograph of a very long and winding road through the hills"), ALLOWED)
    assert caught.value.hint == f"it lists {', '.join(ALLOWED)}"
    with pytest.raises(TrainingError, match="unknown tag 'water'") as caught:
        read_sidecar(_tagged(tmp_path, "water"), ())
    assert caught.value.hint == "it lists none"


def test_too_many_tags_and_files_that_are_no_text_are_errors(tmp_path: Path) -> None:
    assert len(read_sidecar(_tagged(tmp_path, ",".join(ALLOWED[1:])), ALLOWED)) == 5
    with pytest.raises(TrainingError, match="photo.txt has 6 tags, expected at most 5"):
        read_sidecar(_tagged(tmp_path, ",".join(ALLOWED)), ALLOWED)
    (tmp_path / "photo.txt").write_bytes(b"\xff\xfe\x00w")
    with pytest.raises(TrainingError, match="photo.txt cannot be read: not UTF-8 text"):
        read_sidecar(tmp_path / "photo.jpg", ALLOWED)
    (tmp_path / "other.txt").mkdir()
    with pytest.raises(TrainingError, match="other.txt cannot be read"):
        read_sidecar(tmp_path / "other.jpg", ALLOWED)


def test_read_content_collects_by_file_name_and_refuses_a_name_with_two_meanings(tmp_path: Path) -> None:
    paths = [_tagged(tmp_path / "a", "fur"), tmp_path / "a" / "plain.jpg", _tagged(tmp_path / "b", "fur")]
    for path in paths:
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(path)
    photos = PhotoSet(paths, 32, 1.0)
    assert read_content(photos, ALLOWED) == {"photo.jpg": ("fur",)}
    _tagged(tmp_path / "b", "water")
    with pytest.raises(TrainingError, match=r"a.photo\.jpg and .*b.photo\.jpg have the same name but different tags"):
        read_content(photos, ALLOWED)
    (tmp_path / "b" / "photo.txt").unlink()
    with pytest.raises(TrainingError, match="same name but different tags"):
        read_content(photos, ALLOWED)
