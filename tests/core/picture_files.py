"""Picture files of every kind made for tests, by hand or by libraries that are not under test."""

from __future__ import annotations

import importlib.util
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import tifffile
from PIL import Image, ImageCms

WIDTH, HEIGHT = 46, 34
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
HAS_CODECS = importlib.util.find_spec("imagecodecs") is not None
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:Orientation="6" tiff:ImageWidth="46" dc:source="by hand"><tiff:ImageLength>34</tiff:ImageLength>'
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x00\x00\x02\x00\x02" + b"\x1c\x02\x78\x00\x0bA good dogg"


def s15(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))


def make_profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC 4 display profile."""
    table, body = b"", b""
    at = 128 + 4 + 12 * len(tags)
    for name, payload in tags.items():
        payload += b"\0" * (-len(payload) % 4)
        table += name + struct.pack(">II", at + len(body), len(payload))
        body += payload
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"\0" * 4, 0x04200000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + s15(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def text(words: str) -> bytes:
    raw = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(raw), 28) + raw


_CURVE = b"para\0\0\0\0\0\x03\0\0" + s15(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
COMMON = {b"cprt": text("none"), b"wtpt": b"XYZ \0\0\0\0" + s15(0.9642, 1.0, 0.8249)}
P3 = make_profile(
    b"RGB ",
    {
        b"desc": text("Test P3"),
        **COMMON,
        b"rXYZ": b"XYZ \0\0\0\0" + s15(0.51512, 0.2412, -0.00105),
        b"gXYZ": b"XYZ \0\0\0\0" + s15(0.29198, 0.69225, 0.04189),
        b"bXYZ": b"XYZ \0\0\0\0" + s15(0.1571, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _CURVE),
    },
)
GRAY18 = make_profile(b"GRAY", {b"desc": text("Gray 1.8"), **COMMON, b"kTRC": b"para\0\0\0\0\0\0\0\0" + s15(1.8)})


def pixels(channels: int, bits: int = 8) -> np.ndarray:
    """Smooth, muted (inside sRGB for any profile here), different at every corner and in every channel."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [
        0.35 + 0.3 * x / WIDTH,
        0.4 + 0.25 * y / HEIGHT,
        0.45 + 0.2 * (x + y) / (WIDTH + HEIGHT),
        1.0 - 0.9 * x / WIDTH,
    ]
    chosen = {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    out = np.stack([planes[i] for i in chosen], axis=-1)
    whole = np.round(out * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    if channels in (2, 4):
        whole[:4, :4, -1] = 0
    return whole[..., 0] if channels == 1 else whole


def make_exif() -> bytes:
    """Orientation 6, sizes, GPS, a maker note and a thumbnail that gives itself away."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05", 0xA002: WIDTH, 0xA003: HEIGHT, 0x927C: b"maker note \x01\x02"}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.5), 3: "E", 4: (16.0, 22.0, 1.25)}
    blob = bytearray(exif.tobytes()[6:])
    order = "<" if blob[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", blob, 4)
    (count,) = struct.unpack_from(order + "H", blob, first)
    blob += b"\0" * (len(blob) % 2)
    second, thumbnail = len(blob), b"\xff\xd8THUMBNAIL\xff\xd9"
    struct.pack_into(order + "I", blob, first + 2 + 12 * count, second)
    blob += struct.pack(order + "H", 2)
    blob += struct.pack(order + "HHII", 0x0201, 4, 1, second + 30)
    blob += struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail))
    return bytes(blob + struct.pack(order + "I", 0) + thumbnail)


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png16(array: np.ndarray, extra: bytes = b"") -> bytes:
    """A 16-bit PNG by hand: unfiltered rows, so that it shares nothing with the encoder under test."""
    array = array[..., None] if array.ndim == 2 else array
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def png16_metadata() -> bytes:
    return (
        chunk(b"iCCP", b"P3\0\0" + zlib.compress(P3))
        + chunk(b"eXIf", make_exif())
        + chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))
        + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        + chunk(b"tEXt", b"Author\0Somebody")
    )


def by_pillow(kind: str, mode: str, **options) -> Callable[[], bytes]:
    def build() -> bytes:
        channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "1": 1, "P": 3, "PA": 4, "CMYK": 3}[mode]
        image = Image.fromarray(pixels(channels))
        if mode == "P":
            image = image.quantize(64)
        elif mode == "PA":
            image = image.quantize(64, method=Image.Quantize.FASTOCTREE)
        elif mode in ("1", "CMYK"):
            image = image.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return build


def by_tifffile(channels: int, **options) -> Callable[[], bytes]:
    def build() -> bytes:
        array = pixels(channels, 16)
        if options.get("planarconfig") == "separate":
            array = np.moveaxis(array, -1, 0)
        if channels == 4:
            options["extrasamples"] = ["unassalpha"]
        buffer = io.BytesIO()
        photometric = "minisblack" if channels == 1 else "rgb"
        tifffile.imwrite(buffer, array, **{"photometric": photometric, "metadata": None, **options})
        return buffer.getvalue()

    return build


def tiff_planes() -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.moveaxis(pixels(3), -1, 0), photometric="rgb", planarconfig="separate", metadata=None)
    return buffer.getvalue()


def bmp32() -> bytes:
    """A 32-bit BMP with an alpha mask (BITMAPV4HEADER), which Pillow reads but does not write."""
    bgra = pixels(4)[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, len(bgra), 2835, 2835, 0, 0) + masks
    info = info.ljust(108, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(bgra), 0, 0, 14 + len(info)) + info + bgra


def pnm(kind: str, maximum: int, channels: int) -> Callable[[], bytes]:
    def build() -> bytes:
        values = (pixels(channels, 16).astype(np.uint32) * maximum // 65535).astype(">u2")
        head = f"{kind}\n# a comment\n{WIDTH} {HEIGHT}\n{maximum}\n".encode()
        if kind in ("P2", "P3"):
            return head + " ".join(map(str, values.ravel())).encode() + b"\n"
        return head + (values if maximum > 255 else values.astype(np.uint8)).tobytes()

    return build


EXIF = {"exif": make_exif(), "icc_profile": P3, "xmp": XMP}
JPEG = {
    "exif": b"Exif\0\0" + make_exif(),
    "icc_profile": P3,
    "xmp": XMP,
    "quality": 97,
    "subsampling": 0,
    "dpi": (300, 300),
}
PNG = {"exif": make_exif(), "icc_profile": P3, "dpi": (300, 300)}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def jpeg_with_everything() -> bytes:
    data = by_pillow("JPEG", "RGB", **JPEG, comment=b"a comment")()
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
    return data[:2] + b"\xff\xed" + struct.pack(">H", 2 + len(block)) + block + data[2:]


def everything_of(data: bytes) -> dict[str, object]:
    image = Image.open(io.BytesIO(data))
    exif = image.getexif()
    inner = exif.get_ifd(0x8769)
    found = {
        "maker": exif.get(0x010F),
        "size": (inner.get(0xA002), inner.get(0xA003)),
        "gps": bool(exif.get_ifd(0x8825)),
        "icc": image.info.get("icc_profile") == P3,
        "orientation": exif.get(0x0112, 1),
    }
    image.load()
    xmp = image.info.get("xmp", b"")
    photoshop = image.info.get("photoshop", {})
    iptc = photoshop.get(0x0404) or (image.tag_v2.get(33723) if image.format == "TIFF" else None)
    dpi = image.info.get("dpi")
    comment = image.info.get("comment") or getattr(image, "text", {}).get("Comment", "").encode()
    return found | {
        "xmp": b'tiff:Orientation="1"' in xmp and b"by hand" in xmp,
        "iptc": iptc == IPTC,
        "dpi": dpi is not None and [round(float(side)) for side in dpi] == [300, 300],
        "comment": comment == b"a comment",
    }
