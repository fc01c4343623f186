"""Every kind of file in and out again: size, mode, depth, profile, orientation and metadata, by independent readers."""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from linearsr.image_io import choose_format, extension, probe, read, write


def _load_helpers():
    spec = importlib.util.spec_from_file_location("picture_files", Path(__file__).with_name("picture_files.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


files = _load_helpers()
by_pillow, by_tifffile, pnm, png16, pixels, P3 = (
    files.by_pillow,
    files.by_tifffile,
    files.pnm,
    files.png16,
    files.pixels,
    files.P3,
)


@dataclass(frozen=True)
class Row:
    name: str
    suffix: str
    build: Callable[[], bytes]
    mode: str
    """What `probe` says of the source."""
    out_format: str
    out_mode: str
    """What Pillow says of the output, with ;16 behind it for 16 bits."""
    lossy: bool = False
    rich: bool = False
    """The source carries EXIF with orientation 6, files.XMP, P3 and 300 dpi, where its format can."""
    icc: bytes | None = None
    note: str | None = None
    """A part of a note that must be there."""
    needs: bool = True


def _avif_gray() -> str:
    """Pillow before 12 reads a gray AVIF as RGB."""
    return Image.open(io.BytesIO(by_pillow("AVIF", "L")())).mode


AVIF_GRAY = _avif_gray()
ROWS = [
    Row("png-1", ".png", by_pillow("PNG", "1"), "1", "PNG", "L"),
    Row("png-L", ".png", by_pillow("PNG", "L"), "L", "PNG", "L"),
    Row("png-L-profile", ".png", by_pillow("PNG", "L", icc_profile=files.GRAY18), "L", "PNG", "L", icc=files.GRAY18),
    Row("png-L-transparent", ".png", by_pillow("PNG", "L", transparency=120), "L", "PNG", "LA"),
    Row("png-LA", ".png", by_pillow("PNG", "LA"), "LA", "PNG", "LA"),
    Row("png-P", ".png", by_pillow("PNG", "P"), "P", "PNG", "RGB"),
    Row("png-P-alpha", ".png", by_pillow("PNG", "PA"), "P", "PNG", "RGBA"),
    Row("png-RGB", ".png", by_pillow("PNG", "RGB", **files.PNG), "RGB", "PNG", "RGB", rich=True, icc=P3),
    Row("png-RGB-sRGB", ".png", by_pillow("PNG", "RGB", icc_profile=files.SRGB), "RGB", "PNG", "RGB", icc=files.SRGB),
    Row("png-RGBA", ".png", by_pillow("PNG", "RGBA", **files.PNG), "RGBA", "PNG", "RGBA", rich=True, icc=P3),
    Row("png-I16", ".png", lambda: png16(pixels(1, 16)), "I;16", "PNG", "I;16"),
    Row("png-I16-transparent", ".png", lambda: png16(pixels(1, 16), files.chunk(b"tRNS", struct.pack(">H", 30000))),
        "I;16", "PNG", "LA;16"),
    Row("png-LA16", ".png", lambda: png16(pixels(2, 16)), "LA;16", "PNG", "LA;16"),
    Row("png-RGB16", ".png", lambda: png16(pixels(3, 16)), "RGB;16", "PNG", "RGB;16"),
    Row("png-RGB16-rich", ".png", lambda: png16(pixels(3, 16), files.png16_metadata()), "RGB;16", "PNG", "RGB;16",
        rich=True, icc=P3, note=None if files.HAS_CODECS else "16-bit colours stay in their own space (Test P3)"),
    Row("png-RGBA16", ".png", lambda: png16(pixels(4, 16)), "RGBA;16", "PNG", "RGBA;16"),
    Row("jpeg-L", ".jpg", by_pillow("JPEG", "L", quality=97), "L", "JPEG", "L", lossy=True),
    Row("jpeg-RGB", ".jpeg", by_pillow("JPEG", "RGB", **files.JPEG), "RGB", "JPEG", "RGB", lossy=True,
        rich=True, icc=P3),
    Row("jpeg-progressive", ".jpg", by_pillow("JPEG", "RGB", quality=97, progressive=True), "RGB", "JPEG", "RGB",
        lossy=True),
    Row("jpeg-CMYK", ".jpg", by_pillow("JPEG", "CMYK", quality=97), "CMYK", "JPEG", "RGB", lossy=True, note="CMYK"),
    Row("webp-RGB", ".webp", by_pillow("WEBP", "RGB", lossless=True, **files.EXIF), "RGB", "WEBP", "RGB", lossy=True,
        rich=True, icc=P3),
    Row("webp-RGBA", ".webp", by_pillow("WEBP", "RGBA", lossless=True, exact=True), "RGBA", "WEBP", "RGBA", lossy=True),
    Row("tiff-1", ".tif", by_pillow("TIFF", "1"), "1", "TIFF", "L"),
    Row("tiff-L", ".tif", by_pillow("TIFF", "L"), "L", "TIFF", "L"),
    Row("tiff-LA", ".tif", by_pillow("TIFF", "LA"), "LA", "TIFF", "LA"),
    Row("tiff-P", ".tif", by_pillow("TIFF", "P"), "P", "TIFF", "RGB"),
    Row("tiff-RGB", ".tiff", by_pillow("TIFF", "RGB", compression="tiff_lzw", icc_profile=P3), "RGB", "TIFF", "RGB",
        icc=P3),
    Row("tiff-RGBA", ".tif", by_pillow("TIFF", "RGBA", compression="tiff_adobe_deflate"), "RGBA", "TIFF", "RGBA"),
    Row("tiff-CMYK", ".tif", by_pillow("TIFF", "CMYK"), "CMYK", "TIFF", "RGB", note="CMYK"),
    Row("tiff-I16", ".tif", by_tifffile(1), "I;16", "TIFF", "I;16"),
    Row("tiff-I16-bigendian", ".tif", by_tifffile(1, byteorder=">"), "I;16", "TIFF", "I;16"),
    Row("tiff-RGB16", ".tif", by_tifffile(3), "RGB;16", "TIFF", "RGB;16"),
    Row("tiff-RGB16-bigendian", ".tif", by_tifffile(3, byteorder=">"), "RGB;16", "TIFF", "RGB;16"),
    Row("tiff-RGB16-deflate", ".tif", by_tifffile(3, compression="zlib"), "RGB;16", "TIFF", "RGB;16"),
    Row("tiff-RGB16-big", ".tif", by_tifffile(3, bigtiff=True), "RGB;16", "TIFF", "RGB;16"),
    Row("tiff-RGB-planes", ".tif", files.tiff_planes, "RGB", "TIFF", "RGB"),
    Row("tiff-RGB16-planes", ".tif", by_tifffile(3, planarconfig="separate"), "RGB;16", "TIFF", "RGB;16"),
    Row("tiff-RGBA16", ".tif", by_tifffile(4), "RGBA;16", "TIFF", "RGBA;16"),
    Row("avif-L", ".avif", by_pillow("AVIF", "L", quality=98), AVIF_GRAY, "AVIF", AVIF_GRAY, lossy=True),
    Row("avif-RGB", ".avif", by_pillow("AVIF", "RGB", quality=98, **files.EXIF), "RGB", "AVIF", "RGB", lossy=True,
        rich=True, icc=P3),
    Row("avif-RGBA", ".avif", by_pillow("AVIF", "RGBA", quality=98), "RGBA", "AVIF", "RGBA", lossy=True),
    Row("bmp-1", ".bmp", by_pillow("BMP", "1"), "1", "BMP", "L"),
    Row("bmp-L", ".bmp", by_pillow("BMP", "L"), "L", "BMP", "L"),
    Row("bmp-P", ".bmp", by_pillow("BMP", "P"), "P", "BMP", "RGB"),
    Row("bmp-RGB", ".bmp", by_pillow("BMP", "RGB"), "RGB", "BMP", "RGB"),
    Row("bmp-RGBA", ".bmp", files.bmp32, "RGBA", "PNG", "RGBA"),
    Row("pbm", ".pbm", by_pillow("PPM", "1"), "1", "PPM", "L"),
    Row("pgm", ".pgm", pnm("P5", 255, 1), "L", "PPM", "L"),
    Row("ppm", ".ppm", pnm("P6", 255, 3), "RGB", "PPM", "RGB"),
    Row("pgm-16", ".pgm", pnm("P5", 65535, 1), "I;16", "PPM", "I;16"),
    Row("pgm-10", ".pgm", pnm("P5", 1023, 1), "I;16", "PPM", "I;16"),
    Row("pgm-16-text", ".pgm", pnm("P2", 65535, 1), "I;16", "PPM", "I;16"),
    Row("ppm-16", ".ppm", pnm("P6", 65535, 3), "RGB;16", "PPM", "RGB;16"),
    Row("ppm-16-text", ".ppm", pnm("P3", 65535, 3), "RGB;16", "PPM", "RGB;16"),
    Row("gif", ".gif", by_pillow("GIF", "P"), "P", "PNG", "RGB"),
    Row("heif", ".heic", by_pillow("HEIF", "RGB", quality=98), "RGB", "HEIF", "RGB", lossy=True, needs=files.HAS_HEIF),
]  # fmt: skip


def decoded(data: bytes, mode: str) -> np.ndarray:
    """Pixels of a file as it stores them, upright, (H, W, C) in [0, 1], by a reader that is not under test."""
    image = Image.open(io.BytesIO(data))
    if mode.endswith(";16"):
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
            array = tifffile.imread(io.BytesIO(data))
            array = np.moveaxis(array, 0, -1) if array.ndim == 3 and array.shape[0] == 3 else array
        elif data[:1] == b"P":
            top = int(data.split(b"\n")[-2 if data[1:2] in b"23" else 3].split()[0]) if data[2:4] == b"\n#" else 65535
            array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            array = array if array.ndim == 2 else array[..., ::-1]
            array = array / (top if data[1:2] not in b"23" else 65535) * 65535
        else:
            array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            array = array if array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[2]]]
            array = array[..., [0, 3]] if data[25] == 4 else array
        array = array[..., None] if array.ndim == 2 else array
        orientation = image.getexif().get(274, 1)
        assert orientation in (1, 6), orientation
        array = np.rot90(array, -1) if orientation == 6 else array
        return array.astype(np.float64) / 65535
    image = ImageOps.exif_transpose(image)
    gray = image.mode in ("1", "L", "LA")
    alpha = image.has_transparency_data
    image = image.convert(("LA" if alpha else "L") if gray else ("RGBA" if alpha else "RGB"))
    array = np.asarray(image, dtype=np.float64) / 255
    return array[..., None] if array.ndim == 2 else array


def stored_mode(data: bytes) -> str:
    """Mode and depth that the output really has."""
    image = Image.open(io.BytesIO(data))
    if image.format == "PNG" and data[24] == 16:
        return {0: "I;16", 2: "RGB;16", 4: "LA;16", 6: "RGBA;16"}[data[25]]
    if image.format == "TIFF" and max(image.tag_v2[258]) == 16:
        return "I;16" if image.mode == "I;16" else f"{image.mode};16"
    if image.format == "PPM" and data.split(b"\n")[2] == b"65535":
        return "I;16" if data[:2] == b"P5" else "RGB;16"
    return image.mode


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_round_trip_keeps_what_the_file_holds(row: Row, tmp_path: Path):
    if not row.needs:
        pytest.skip("pillow-heif is not installed")
    source = tmp_path / f"Größe {row.name}{row.suffix}"
    if row.name == "heif":
        __import__("pillow_heif").register_heif_opener()
    source.write_bytes(row.build())
    before = source.read_bytes()

    info = probe(source)
    turned = row.rich
    assert (info.width, info.height) == ((files.HEIGHT, files.WIDTH) if turned else (files.WIDTH, files.HEIGHT))
    assert info.mode == row.mode
    assert info.bit_depth == (16 if ";16" in row.mode else 1 if row.mode == "1" else 8)
    assert info.is_gray == (row.out_mode in ("L", "LA", "I;16", "LA;16"))
    assert info.has_alpha == (row.out_mode.removesuffix(";16") in ("LA", "RGBA"))

    picture = read(source)
    assert picture.info == info
    assert picture.rgb.dtype == np.float32 and picture.rgb.shape == (info.height, info.width, 3)
    larger = replace(
        picture,
        rgb=picture.rgb.repeat(2, axis=0).repeat(2, axis=1),
        alpha=None if picture.alpha is None else picture.alpha.repeat(2, axis=0).repeat(2, axis=1),
    )
    kind = choose_format(info, "auto")
    assert kind == row.out_format
    target = tmp_path / f"out{extension(kind)}"
    notes = write(larger, target, format=kind)
    after = target.read_bytes()

    assert stored_mode(after) == row.out_mode
    image = Image.open(target)
    assert image.size == (2 * info.width, 2 * info.height)
    assert image.info.get("icc_profile") == row.icc
    if row.mode != "CMYK":
        deep = row.mode if ";16" in row.mode else ""
        wanted = decoded(before, deep).repeat(2, axis=0).repeat(2, axis=1)
        got = decoded(after, row.out_mode)
        if row.name == "png-I16-transparent":
            wanted = np.concatenate([wanted, wanted * 65535 != 30000], axis=2)
        shown = got[..., -1:] > 0 if got.shape[2] in (2, 4) else np.ones_like(got[..., :1], dtype=bool)
        error = np.abs(got - wanted) * np.where(
            np.arange(got.shape[2]) < got.shape[2] - (got.shape[2] in (2, 4)), shown, 1
        )
        exact = 1e-9 if row.icc in (None, files.SRGB) and ";16" not in row.mode else 1.01 / 65535
        limit = 12 / 255 if row.lossy else exact if row.icc in (None, files.SRGB) or ";16" in row.mode else 2.01 / 255
        if row.icc is not None and ";16" in row.mode and files.HAS_CODECS:
            limit = 64 / 65535
        assert error.max() <= limit, f"{error.max() * 255:.3f} levels of 255"
        assert error.mean() <= (2 / 255 if row.lossy else 1 / 255)
    if row.rich:
        check_metadata(image, row.out_format, larger.rgb.shape[1], larger.rgb.shape[0])
    said = picture.notes + notes
    if row.note is None:
        assert said == []
    else:
        assert any(row.note in text for text in said), said


def check_metadata(image: Image.Image, kind: str, width: int, height: int) -> None:
    """Orientation reset, sizes corrected, thumbnail gone, the rest as it was."""
    image.load()
    exif = image.getexif()
    assert exif.get(0x010F) == "Maker"
    assert exif.get(0x0112, 1) == 1
    inner, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    assert (inner[0xA002], inner[0xA003]) == (width, height)
    assert inner[0x9003] == "2026:01:02 03:04:05" and inner[0x927C] == b"maker note \x01\x02"
    assert place[1] == "N" and [float(v) for v in place[4]] == [16.0, 22.0, 1.25]
    assert b"THUMBNAIL" not in image.info["exif"]
    if kind in ("PNG", "JPEG"):
        assert [round(side) for side in image.info["dpi"]] == [300, 300]
    xmp = image.info.get("xmp", b"")
    if xmp:
        assert b'tiff:Orientation="1"' in xmp and b'tiff:ImageWidth="%d"' % width in xmp
        assert b"<tiff:ImageLength>%d</tiff:ImageLength>" % height in xmp and b"by hand" in xmp
    else:
        assert kind == "PNG" and "Author" not in getattr(image, "text", {})


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("JPEG", set()),
        ("PNG", {"iptc"}),
        ("TIFF", {"comment"}),
        ("WEBP", {"iptc", "dpi", "comment"}),
        ("AVIF", {"iptc", "dpi", "comment"}),
    ],
)
def test_jpeg_metadata_moves_to_other_formats_and_the_rest_is_said(kind, lost, tmp_path):
    picture = read(io.BytesIO(files.jpeg_with_everything()))
    target = tmp_path / f"x{extension(kind)}"
    notes = write(picture, target)
    found = files.everything_of(target.read_bytes())
    missing = {key for key in ("icc", "gps", "xmp", "iptc", "dpi", "comment") if not found[key]}
    assert missing == lost
    assert found["maker"] == "Maker" and found["size"] == (files.HEIGHT, files.WIDTH) and found["orientation"] == 1
    words = {"iptc": "IPTC", "dpi": "DPI", "comment": "comment"}
    assert sorted(notes) == sorted(text for text in notes if any(words[key] in text for key in lost))
    assert len(notes) == len(lost)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_tiff_metadata_moves_to_other_formats(kind, tmp_path):
    first = tmp_path / "first.tif"
    write(read(io.BytesIO(files.jpeg_with_everything())), first, bit_depth="16")
    assert max(Image.open(first).tag_v2[258]) == 16
    second = tmp_path / f"second{extension(kind)}"
    write(read(first), second)
    found = files.everything_of(second.read_bytes())
    assert found["maker"] == "Maker" and found["gps"] and found["xmp"] and found["size"] == (files.HEIGHT, files.WIDTH)
    assert found["iptc"] == (kind in ("JPEG", "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_strip_keeps_the_profile_and_nothing_else(kind, tmp_path):
    target = tmp_path / f"x{extension(kind)}"
    notes = write(read(io.BytesIO(files.jpeg_with_everything())), target, metadata="strip")
    found = files.everything_of(target.read_bytes())
    assert notes == []
    assert found == {"maker": None, "size": (None, None), "gps": False, "icc": True, "orientation": 1,
                     "xmp": False, "iptc": False, "dpi": False, "comment": False}  # fmt: skip
    assert b"THUMBNAIL" not in target.read_bytes() and b"Maker" not in target.read_bytes()


def test_text_fields_of_png_are_kept(tmp_path):
    image = Image.fromarray(pixels(3))
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Author", "Zoë")
    text.add_itxt("Title", "日本")
    image.save(tmp_path / "a.png", pnginfo=text)
    picture = read(tmp_path / "a.png")
    assert write(picture, tmp_path / "b.png") == []
    after = Image.open(tmp_path / "b.png")
    after.load()
    assert after.text == {"Author": "Zoë", "Title": "日本"}
    assert write(picture, tmp_path / "b.jpg") == ["text fields cannot be kept in JPEG"]
