"""The report as a file: what it holds, how it is kept small, and that no name can become markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr.comparison.embedding import MIN_LONG_SIDE, QUALITIES
from linearsr.comparison.report import MetricColumn, Report, ReportImage, ReportSize, write_report
from linearsr.errors import ConfigError, ShapeError

_DATA = os.environ.get("LINEARSR_DATA")
needs_data = pytest.mark.skipif(_DATA is None, reason="set LINEARSR_DATA to the folder with bench/")
PSNR = MetricColumn(name="psnr_y", title="PSNR-Y", unit="dB", digits=2, lower_better=False, definition="Of luma.")
NASTY = "</script><script>alert(1)</script><!-- & \"quoted\" 'single' \u05e9\u05dc\u05d5\u05dd \u202e \u2028 @@DATA@@"


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Photograph-like: coarse shapes and some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return (np.asarray(smooth) + rng.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)


def scene(name: str = "one", labels=("a", "b"), size=(48, 64), **changes) -> ReportImage:
    pictures = {label: textured(*size, seed=index) for index, label in enumerate(labels)}
    fields = {"name": name, "width": size[1], "height": size[0], "pictures": pictures, "scores": {}}
    return ReportImage(**{**fields, **changes})


def report(*images: ReportImage, **changes) -> Report:
    fields = {"title": "Two methods", "labels": ("a", "b"), "metrics": (PSNR,), "images": images}
    return Report(**{**fields, **changes})


class Blocks(HTMLParser):
    """Text of each element that holds no markup, as (tag, attributes, text), read as a browser reads it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.found: list[tuple[str, dict, str]] = []
        self.csp = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.csp = attributes["content"]
        if tag in {"script", "style", "title", "h1"}:
            self.found.append((tag, attributes, ""))

    def handle_data(self, data):
        if self.found and self.lasttag == self.found[-1][0] and not self.found[-1][2]:
            self.found[-1] = (*self.found[-1][:2], data)

    def texts(self, tag: str) -> list[str]:
        return [text for name, _, text in self.found if name == tag]


def read(path: Path) -> tuple[Blocks, dict]:
    blocks = Blocks(path.read_text("utf-8"))
    (data,) = (text for tag, attributes, text in blocks.found if attributes.get("id") == "report-data")
    return blocks, json.loads(data)


def decode(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text, validate=True))).convert("RGB"))


def test_small_pictures_are_stored_exactly(tmp_path):
    images = [scene("one"), scene("two", size=(50, 31))]
    size = write_report(tmp_path / "r.html", report(*images))
    _, data = read(tmp_path / "r.html")
    assert size == ReportSize(bytes=(tmp_path / "r.html").stat().st_size, encoding="WebP lossless")
    assert data["exact"] is True
    for image, entry in zip(images, data["images"], strict=True):
        for label, text in zip(("a", "b"), entry["pictures"], strict=True):
            assert np.array_equal(decode(text), image.pictures[label])


def test_a_smaller_budget_lowers_quality_then_size_and_the_page_says_so(tmp_path):
    image = scene(size=(336, 448))
    path = tmp_path / "r.html"
    empty = write_report(path, report(scene(size=(8, 8)))).bytes
    encodings = []
    for room in (1_000_000, 200_000, 130_000, 80_000, 45_000, 35_000):
        budget = empty + room
        size = write_report(path, report(image), max_bytes=budget)
        page = path.read_text("utf-8")
        picture = decode(read(path)[1]["images"][0]["pictures"][0])
        quality = re.fullmatch(r"WebP (\d+|lossless)(?:, long side (\d+))?", size.encoding)
        assert size.bytes == path.stat().st_size <= budget
        assert max(picture.shape) == int(quality[2] or 448)
        if quality[1] != "lossless":
            assert f"WebP at quality {quality[1]}" in page
            assert "Scores are of the files, not of what is shown here" in page
        assert (f"at most {quality[2]} pixels" in page) == (quality[2] is not None)
        encodings.append((0 if quality[1] == "lossless" else 100 - int(quality[1]), -int(quality[2] or 448)))
    assert encodings == sorted(encodings)
    assert encodings[0] == (0, -448)
    assert len({quality for quality, _ in encodings}) >= 4
    assert encodings[-1][1] > -448


def test_next_better_quality_would_not_have_fitted(tmp_path):
    image = scene(size=(336, 448))
    budget = 150_000
    size = write_report(tmp_path / "r.html", report(image), max_bytes=budget)
    better = QUALITIES[QUALITIES.index(int(size.encoding.removeprefix("WebP "))) - 1]
    extra = 0
    for text, label in zip(read(tmp_path / "r.html")[1]["images"][0]["pictures"], ("a", "b"), strict=True):
        stream = io.BytesIO()
        Image.fromarray(image.pictures[label]).save(stream, "WEBP", quality=better)
        extra += len(base64.b64encode(stream.getvalue())) - len(text)
    assert size.bytes <= budget < size.bytes + extra + 1024


def test_large_pictures_are_shrunk_before_small_ones(tmp_path):
    images = [scene("large", size=(400, 600)), scene("small", size=(240, MIN_LONG_SIDE))]
    write_report(tmp_path / "r.html", report(*images), max_bytes=125_000)
    _, data = read(tmp_path / "r.html")
    large, small = (decode(entry["pictures"][0]).shape for entry in data["images"])
    assert large[1] < 600
    assert large[0] == round(400 * large[1] / 600)
    assert small == (240, MIN_LONG_SIDE, 3)
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (600, 400)


def test_what_does_not_fit_is_an_error_that_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(ConfigError, match="1 picture by 2 methods cannot fit into --max-size 60500B, even") as caught:
        write_report(path, report(scene(size=(336, 448))), max_bytes=60_500)
    assert "--max-size" in caught.value.hint
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["r.html"]


def test_a_bound_below_the_page_itself_is_told_before_a_picture_is_read(tmp_path):
    def unread():
        raise AssertionError("a picture was read")
        yield

    empty = write_report(tmp_path / "r.html", report(scene(size=(8, 8)))).bytes
    for asked, said in ((10_000, "10kB"), (999, "999B")):
        words = rf"--max-size {said} is less than the page without pictures, about (\d+) kB"
        with pytest.raises(ConfigError, match=words) as caught:
            write_report(tmp_path / "r.html", report(images=unread()), max_bytes=asked)
        needed = int(re.search(words, caught.value.message)[1]) * 1000
        assert 0.9 * empty < needed < empty + 2500


def test_a_bound_below_the_page_with_its_lists_names_what_it_needs(tmp_path):
    image = scene(size=(8, 8), notes=("n" * 20_000,))
    empty = write_report(tmp_path / "r.html", report(image)).bytes
    with pytest.raises(ConfigError, match=r"--max-size 60kB is less than the page .*, about \d+ kB") as caught:
        write_report(tmp_path / "r.html", report(image), max_bytes=60_000)
    assert abs(int(re.search(r"(\d+) kB$", caught.value.message)[1]) * 1000 - empty) < 3000


def test_an_encoding_that_is_seen_is_told(tmp_path):
    coarse = {}
    for room in (1_000_000, 200_000, 130_000, 80_000, 45_000, 35_000):
        size = write_report(tmp_path / "r.html", report(scene(size=(336, 448))), max_bytes=55_000 + room)
        coarse[size.encoding] = size.is_coarse
    for encoding, is_coarse in coarse.items():
        quality = re.match(r"WebP (\d+)", encoding)
        assert is_coarse == (quality is not None and int(quality[1]) < 85)
        assert is_coarse or "long side" not in encoding
    assert set(coarse.values()) == {True, False}


def test_a_page_starts_with_the_labels_it_is_told(tmp_path):
    starts = []
    for start in (None, ("b", "c"), ("c", "a")):
        image = scene(labels=("a", "b", "c"))
        write_report(tmp_path / "r.html", report(image, labels=("a", "b", "c"), start=start))
        starts.append(read(tmp_path / "r.html")[1]["start"])
    assert starts == [[0, 2], [1, 2], [2, 0]]


def test_names_never_become_markup(tmp_path):
    labels = (NASTY, "b & <i>")
    metric = MetricColumn(
        name="m", title="<b>M</b>", unit="<u>", digits=1, lower_better=True, definition="</dd><script>x</script>"
    )
    image = scene(NASTY, labels, notes=(NASTY,), scores={NASTY: {"m": 1.0}})
    path = tmp_path / "r.html"
    write_report(path, report(image, title=NASTY, labels=labels, metrics=(metric,), facts=((NASTY, NASTY),)))
    plain = tmp_path / "plain.html"
    write_report(plain, report(scene(), facts=(("Name", "Text"),)))
    (nasty_blocks, data), (plain_blocks, _) = read(path), read(plain)
    assert nasty_blocks.tags == plain_blocks.tags
    assert nasty_blocks.texts("title") == nasty_blocks.texts("h1") == [NASTY]
    assert data["labels"] == list(labels)
    assert data["images"][0]["name"] == NASTY
    block = path.read_text("utf-8").split('id="report-data">')[1].split("</script>")[0]
    assert block.isascii()
    assert not set("<>&") & set(block)


def test_only_the_packaged_script_and_style_may_run(tmp_path):
    write_report(tmp_path / "r.html", report(scene()))
    blocks, _ = read(tmp_path / "r.html")
    policy = dict(part.strip().split(" ", 1) for part in blocks.csp.split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data: blob:"
    for tag in ("style", "script"):
        text = blocks.texts(tag)[-1]
        digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    page = (tmp_path / "r.html").read_text("utf-8")
    assert not re.search(r"(?i)(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z0-9-]+\.", page.split("report-data")[0])
    assert not re.search(r"\son\w+=|\sstyle=", page.split("report-data")[0])


def test_scores_without_a_number_survive(tmp_path):
    scores = {"a": {"psnr_y": float("inf")}, "b": {"psnr_y": float("nan"), "unknown": 3.0}}
    write_report(
        tmp_path / "r.html", report(scene(scores=scores), scene("two", scores={"b": {"psnr_y": 30.123456789}}))
    )
    _, data = read(tmp_path / "r.html")
    assert [entry["scores"] for entry in data["images"]] == [[["Infinity"], [None]], [[None], [30.123457]]]


def test_pictures_are_taken_one_at_a_time(tmp_path, monkeypatch):
    taken = []

    def images():
        for name in ("one", "two", "three"):
            taken.append(name)
            assert len(list(Path(tmp_path, "spool").rglob("*.png"))) == 2 * (len(taken) - 1)
            yield scene(name)

    (tmp_path / "spool").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spool"))
    write_report(tmp_path / "r.html", report(images=images()))
    assert taken == ["one", "two", "three"]
    assert list(Path(tmp_path, "spool").iterdir()) == []


def test_a_name_that_is_no_text_does_not_stop_the_report(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_report(tmp_path / "r.html", report(scene(name), title=name))
    _, data = read(tmp_path / "r.html")
    assert data["images"][0]["name"] == name


@pytest.mark.parametrize(
    ("made", "error", "words"),
    [
        (lambda: report(scene(), labels=("a",)), ConfigError, "at least two methods, got 1"),
        (lambda: report(scene(), labels=("a", "b", "a")), ConfigError, "two methods are called 'a'"),
        (lambda: report(scene(), scene()), ConfigError, "two pictures are called 'one'"),
        (lambda: report(scene(labels=("a", "c"))), ConfigError, "'one' has no picture by 'b'"),
        (lambda: report(), ConfigError, "no pictures"),
        (lambda: report(scene(), start=("a", "c")), ConfigError, "starts with 'c', which is no method"),
        (lambda: report(scene(pictures={"a": textured(8, 8), "b": textured(8, 9)})), ShapeError, r"\(8, 9, 3\)"),
        (lambda: report(scene(pictures={"a": textured(8, 8) / 255, "b": textured(8, 8)})), ShapeError, "float64"),
        (lambda: report(scene(pictures={"a": textured(8, 8)[..., 0], "b": textured(8, 8)})), ShapeError, r"\(8, 8\)"),
    ],
)
def test_bad_reports_are_refused(tmp_path, made, error, words):
    with pytest.raises(error, match=words):
        write_report(tmp_path / "r.html", made())
    assert not (tmp_path / "r.html").exists()


@needs_data
@pytest.mark.slow
def test_twelve_photographs_by_three_methods_fit_at_good_quality(tmp_path):
    def images():
        for path in sorted(Path(_DATA, "bench", "Kodak24").glob("*.png"))[:12]:
            clean = Image.open(path).convert("RGB")
            small = clean.resize((clean.width // 4, clean.height // 4), Image.Resampling.BICUBIC)
            grown = {
                name: np.asarray(small.resize(clean.size, method))
                for name, method in (("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS))
            }
            pictures = {"original": np.asarray(clean), **grown}
            yield ReportImage(name=path.stem, width=clean.width, height=clean.height, pictures=pictures, scores={})

    size = write_report(tmp_path / "r.html", report(labels=("original", "bicubic", "lanczos"), images=images()))
    assert size.bytes <= 6_000_000
    assert int(size.encoding.removeprefix("WebP ")) >= 90
