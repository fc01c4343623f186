"""A comparison as one HTML file: before/after slider, zoom, places that differ, scores. NumPy and Pillow only.

The page needs no network and refuses to use one: pictures are data URIs, and its Content-Security-Policy allows no
script and no style but the two in it, by their hashes. The parts lie beside this module as `report*.html/css/js`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from linearsr.atomic import write_bytes
from linearsr.comparison.embedding import SMALLEST, Encoding, OnPicture, PictureSpool, encode_thumbnail, fit_pictures
from linearsr.comparison.scenes import MetricColumn, ReportImage
from linearsr.errors import ConfigError, ShapeError

__all__ = ["MetricColumn", "Report", "ReportImage", "ReportSize", "check_max_bytes", "write_report"]

_SCRIPTS = ("report_stage.js", "report_table.js", "report.js")
_SLACK = 1024
"""Bytes kept free for the words that depend on the encoding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All of a page."""

    title: str
    labels: tuple[str, ...]
    """Methods, at least two."""
    metrics: tuple[MetricColumn, ...]
    images: Iterable[ReportImage]
    """Read once, one at a time."""
    facts: tuple[tuple[str, str], ...] = ()
    """(name, text) for the foot of the page: versions, the command, how pictures were made."""
    start: tuple[str, str] | None = None
    """Labels that face each other when the page opens, left and right; None for the first and the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSize:
    """What was written."""

    bytes: int
    encoding: str
    """Such as `WebP 90`."""
    is_coarse: bool = False
    """Whether the encoding is seen: WebP below quality 85, or shrunk to fit."""


def write_report(
    path: Path, report: Report, *, max_bytes: int = 6_000_000, on_picture: OnPicture | None = None
) -> ReportSize:
    """Write `report` to `path` as one HTML file of at most `max_bytes`.

    Pictures are stored without loss where they fit, else as WebP of the highest quality that does, from 95 to 60, at
    last smaller; the page says which. One scene at a time is in memory, beside the file to be. `on_picture` is called
    before each picture is encoded, once for each setting that is tried.

    Raises:
        ConfigError: the pictures do not fit; there is no scene, or fewer than two methods; a name occurs twice; a scene
            lacks a method; the page is to start with a method that is not there.
        ShapeError: the pictures of a scene are not (H, W, 3) uint8 of one size.
        ImageError: the file cannot be written.
    """
    _check_labels(report.labels, report.start)
    check_max_bytes(max_bytes)
    with tempfile.TemporaryDirectory(prefix="linearsr-report-") as folder:
        spool = PictureSpool(Path(folder))
        images: list[dict[str, Any]] = []
        for image in report.images:
            _check_image(image, report.labels, {entry["name"] for entry in images})
            for label in report.labels:
                spool.add(image.pictures[label])
            images.append(_image_entry(image, report))
        if not images:
            raise ConfigError("there are no pictures to report on", hint="name at least one picture of each method")
        rest = len(_page(report, images, [], Encoding(quality=None)))
        commas = 3 * spool.count
        check_max_bytes(max_bytes, rest + commas)
        fitting = fit_pictures(spool, max_bytes - rest - commas - _SLACK, on_picture)
    if fitting is None:
        pictures = f"{len(images)} picture{'s' * (len(images) > 1)} by {len(report.labels)} methods"
        raise ConfigError(
            f"{pictures} cannot fit into --max-size {_size_text(max_bytes)}, even at {SMALLEST}",
            hint="allow a larger page with `--max-size`, or fewer pictures with `--limit`",
        )
    encoding, texts = fitting
    page = _page(report, images, texts, encoding)
    write_bytes(path, page)
    return ReportSize(bytes=len(page), encoding=str(encoding), is_coarse=encoding.is_coarse)


def check_max_bytes(max_bytes: int, page_bytes: int | None = None) -> None:
    """Refuse a bound that no page keeps.

    Args:
        max_bytes: of the whole page.
        page_bytes: what it takes without pictures; None for what every page takes.

    Raises:
        ConfigError: it is less than the page without pictures.
    """
    if page_bytes is None:
        page_bytes = sum(len(_part(name).encode("utf-8")) for name in ("report.html", "report.css", *_SCRIPTS))
    least = page_bytes + _SLACK
    if max_bytes < least:
        raise ConfigError(
            f"--max-size {_size_text(max_bytes)} is less than the page without pictures, about {-(-least // 1000)} kB",
            hint="`--max-size 6MB`, or leave it out",
        )


def _size_text(count: int) -> str:
    """As `--max-size` takes it, exact."""
    for unit, factor in (("MB", 10**6), ("kB", 10**3)):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return f"{count}B"


def _check_labels(labels: tuple[str, ...], start: tuple[str, str] | None) -> None:
    if len(labels) < 2:
        raise ConfigError(f"a report compares at least two methods, got {len(labels)}", hint="name another method")
    double = [label for index, label in enumerate(labels) if label in labels[:index]]
    if double:
        raise ConfigError(f"two methods are called {double[0]!r}", hint="give each method a label of its own")
    for label in start or ():
        if label not in labels:
            raise ConfigError(f"the page starts with {label!r}, which is no method", hint=f"one of {', '.join(labels)}")


def _check_image(image: ReportImage, labels: tuple[str, ...], names: set[str]) -> None:
    if image.name in names:
        raise ConfigError(f"two pictures are called {image.name!r}", hint="give each picture a name of its own")
    missing = [label for label in labels if label not in image.pictures]
    if missing:
        raise ConfigError(
            f"{image.name!r} has no picture by {missing[0]!r}", hint="leave the scene or the method out of the report"
        )
    shapes = {label: image.pictures[label].shape for label in labels}
    first = shapes[labels[0]]
    for label, shape in shapes.items():
        dtype = image.pictures[label].dtype
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != np.uint8:
            raise ShapeError(f"{image.name!r} by {label!r} is {shape} {dtype}, expected (H, W, 3) uint8")
        if shape != first:
            raise ShapeError(f"{image.name!r} by {label!r} is {shape}, but by {labels[0]!r} it is {first}")


def _image_entry(image: ReportImage, report: Report) -> dict[str, Any]:
    """What the page needs beside the pixels."""
    return {
        "name": image.name,
        "width": image.width,
        "height": image.height,
        "thumbnail": encode_thumbnail(image.pictures[report.labels[0]]),
        "scores": [
            [_json_number(image.scores.get(label, {}).get(metric.name)) for metric in report.metrics]
            for label in report.labels
        ],
        "places": [list(place) for place in image.places],
        "notes": [*image.changes, *image.notes],
    }


def _json_number(value: float | None) -> float | str | None:
    """JSON has no infinity: it becomes text, which JavaScript's `Number` reads."""
    if value is None or math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(f"{value:.8g}")


def _page(report: Report, images: list[dict[str, Any]], texts: list[str], encoding: Encoding) -> bytes:
    count = len(report.labels)
    data = {
        "labels": list(report.labels),
        "start": [0, count - 1] if report.start is None else [report.labels.index(label) for label in report.start],
        "exact": encoding.exact,
        "metrics": [
            {"title": metric.title, "unit": metric.unit, "digits": metric.digits, "lower": metric.lower_better}
            for metric in report.metrics
        ],
        "images": [
            {**image, "pictures": texts[index * count : (index + 1) * count]} for index, image in enumerate(images)
        ],
    }
    style = _part("report.css")
    script = "\n".join(_part(name) for name in _SCRIPTS)
    parts = {
        "TITLE": html.escape(report.title),
        "STYLE": style,
        "STYLE_HASH": _csp_hash(style),
        "SCRIPT": script,
        "SCRIPT_HASH": _csp_hash(script),
        "DATA": _script_json(data),
        "METRICS": _section("Scores", [(_heading(metric), _sentence(metric.definition)) for metric in report.metrics]),
        "FACTS": _section("About this page", [("Pictures shown", _encoding_note(encoding)), *report.facts]),
    }
    # One pass, so that a title with a placeholder in it stays a title.
    page = re.sub(r"@@([A-Z_]+)@@", lambda match: parts[match[1]], _part("report.html"))
    # A file name that is no text (surrogates) must not stop the report.
    return page.encode("utf-8", "replace")


def _part(name: str) -> str:
    return files("linearsr.comparison").joinpath(name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _script_json(data: object) -> str:
    """JSON in ASCII that no parser of HTML can take for markup."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _heading(metric: MetricColumn) -> str:
    details = [metric.unit] if metric.unit else []
    details.append("lower is better" if metric.lower_better else "higher is better")
    return f"{metric.title} ({', '.join(details)})"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _section(heading: str, terms: list[tuple[str, str]]) -> str:
    """A section of the foot; nothing where there is nothing to say."""
    if not terms:
        return ""
    rows = "\n".join(
        f'<div><dt dir="auto">{html.escape(name)}</dt><dd dir="auto">{html.escape(text)}</dd></div>'
        for name, text in terms
    )
    return f"<section><h2>{heading}</h2><dl>\n{rows}\n</dl></section>"


def _encoding_note(encoding: Encoding) -> str:
    if encoding.exact:
        return "WebP without loss: every pixel is that of the file."
    size = "" if encoding.long_side is None else f", at most {encoding.long_side} pixels on the longer side"
    return (
        f"WebP at quality {encoding.quality}, colour at half the resolution{size}, so that they fit into one file. "
        "Scores are of the files, not of what is shown here, and the difference view also shows what this encoding "
        "changed."
    )
