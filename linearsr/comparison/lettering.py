"""Lines of text for sheets: the one font there is, what it can draw, and how names are cut to a width.

The font is the one that comes with Pillow. Beside ASCII it has a few signs and no accents. What it lacks is written as
an escape, for names that differ must be shown as different ones.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

__all__ = ["fit_text", "font", "lacking", "text_length", "write_text", "written"]

Color = tuple[int, int, int]

_ELLIPSIS = "..."
_BETWEEN = " ,;_-"
"""Signs between the parts of a name; a dot is none, for it may be that of a number."""
_PROBE_PX = 20.0
_NO_LETTER = "\uffff"
"""What no font has a letter for."""


@lru_cache(maxsize=32)
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font in a size in pixels."""
    return ImageFont.load_default(size)


def text_length(text: str, size: float) -> float:
    """Width of a text in pixels as `write_text` draws it."""
    words = text.split(" ")
    return sum(font(size).getlength(word) for word in words) + (len(words) - 1) * _space(size)


def _space(size: float) -> int:
    """Width between words; the font's own is rounded and kerned to nothing at small sizes."""
    return max(2, round(size * 0.31))


def write_text(draw: ImageDraw.ImageDraw, text: str, left: float, middle: float, size: float, color: Color) -> None:
    """Draw one line of text from `left`, around the height `middle`."""
    for word in text.split(" "):
        draw.text((round(left), middle), word, fill=color, font=font(size), anchor="lm")
        left += font(size).getlength(word) + _space(size)


@lru_cache(maxsize=4096)
def _has(letter: str) -> bool:
    """Whether the font draws a letter, and not as others that it has: no ligature, no dots in one."""
    if " " <= letter <= "~":
        return True
    if not letter.isprintable() or unicodedata.normalize("NFKC", letter) != letter:
        return False
    drawn, missing = (_drawn(some) for some in (letter, _NO_LETTER))
    return drawn != missing and drawn.getbbox() is not None


def _drawn(letter: str) -> Image.Image:
    image = Image.new("L", (64, 48))
    ImageDraw.Draw(image).text((16, 32), letter, fill=255, font=font(_PROBE_PX), anchor="ls")
    return image


def lacking(text: str) -> str:
    """Letters of a text that the font lacks, in order, each once."""
    return "".join(dict.fromkeys(letter for letter in text if not _has(letter)))


def written(text: str) -> str:
    r"""A text as it is drawn, on one line: what the font lacks as an escape, such as `\u00fc` or `\U0001f600`.

    A backslash before a `u` is escaped too, for it would read as the start of one. So different texts stay different.
    """
    return "".join(_parts(text))


def _parts(text: str) -> list[str]:
    """What each letter of a text is drawn as."""
    following = (*text[1:], "")
    return [
        letter if _has(letter) and not (letter == "\\" and after in ("u", "U")) else _escape(letter)
        for letter, after in zip(text, following, strict=False)
    ]


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def fit_text(text: str, width: float, size: float) -> str:
    r"""Cut text in its middle, where names differ least, so that it is no wider than `width` pixels.

    Args:
        text: any; what the font lacks is written as an escape, such as `\u00fc`.
        width: pixels to fit into.
        size: of the font, in pixels.

    Returns:
        The text, or its two ends around an ellipsis, or nothing where not even that fits.
    """
    parts = _parts(text)
    whole = "".join(parts)
    if text_length(whole, size) <= width:
        return whole
    for kept in range(len(parts) - 1, 0, -1):
        short = _ends(parts, kept)
        if text_length(short, size) <= width:
            return short
    return _ELLIPSIS if text_length(_ELLIPSIS, size) <= width else ""


def _ends(parts: list[str], kept: int) -> str:
    """Two ends of together at most `kept` parts; words and numbers are not cut where half of an end is left so."""
    start, end = kept - kept // 2, len(parts) - kept // 2
    head, tail = "".join(parts[:start]), "".join(parts[end:])
    if parts[start] not in _BETWEEN:
        cut = max(head.rfind(sign) for sign in _BETWEEN)
        head = head[:cut] if 2 * cut >= len(head) else head
    if parts[end - 1] not in _BETWEEN:
        cut = min((tail.find(sign) for sign in _BETWEEN if sign in tail), default=len(tail)) + 1
        tail = tail[cut:] if 2 * cut <= len(tail) else tail
    ends = _BETWEEN + "."
    return f"{head.rstrip(ends)}{_ELLIPSIS}{tail.lstrip(ends)}"
