"""Upscale from Python: a PIL image, an array, and a file with everything that belongs to it.

python examples/library.py PHOTO OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from linearsr import LinearSRError, Upscaler
from linearsr.image_io import read, write


def main(source: Path, target: Path) -> int:
    """Show the three ways; the last one writes TARGET."""
    upscaler = Upscaler.from_pretrained("compact")

    # PIL in, PIL out. Metadata and colour profile are not part of this way.
    with Image.open(source) as image:
        larger = upscaler(image, scale=2, steps=1)
    print("PIL:", image.size, "->", larger.size)

    # Arrays keep their type: uint8 in, uint8 out. Scale 1 restores without enlarging.
    pixels = np.asarray(larger.convert("RGB"))[:64, :64]
    restored = upscaler(pixels, scale=1, tags="jpeg")
    print("array:", pixels.shape, pixels.dtype, "->", restored.shape, restored.dtype)

    # Files: orientation, profile, EXIF, alpha and bit depth come back.
    try:
        picture = read(source)
        notes = write(upscaler(picture, scale=4), target)
    except LinearSRError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return 1
    print("file:", target, *notes, sep="\n  ")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {Path(sys.argv[0]).name} PHOTO OUTPUT")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
