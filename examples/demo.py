"""Degrade four sample photographs, upscale them with `linearsr upscale`, and show the result beside bicubic.

Run by `make demo`. The photographs are scikit-image's own (astronaut, cat, coffee, rocket), so nothing is downloaded.
Each is cut to a multiple of 4, shrunk by 4 with bicubic and saved as JPEG, as a small picture from the web would be,
and upscaled at one step (faithful) and at four (detailed). The tag says what is true of the inputs: lightly compressed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage.data import astronaut, cat, coffee, rocket

from linearsr.metrics import psnr
from linearsr.resize import resize

SCALE = 4
JPEG_QUALITY = 85
PHOTOS = {"astronaut": astronaut, "cat": cat, "coffee": coffee, "rocket": rocket}
CROPS = {"astronaut": (56, 168), "cat": (56, 128), "coffee": (216, 304), "rocket": (304, 256)}
"""Top and left corner of the detail that is shown enlarged, in pixels of the original."""
CROP_SIZE = (96, 128)
"""Height and width of that detail."""
ZOOM = 3
CELL_WIDTH = CROP_SIZE[1] * ZOOM
TAGS = "jpeg:weak"
STEPS = (1, 4)
TITLES = ("input, pixels repeated", "bicubic", "LinearSR, 1 step", "LinearSR, 4 steps", "original")
LABEL = 24
GAP = 4


def original(name: str) -> Image.Image:
    """A sample photograph, cut at the right and the bottom to a multiple of the scale."""
    pixels = PHOTOS[name]()
    height, width = (side // SCALE * SCALE for side in pixels.shape[:2])
    return Image.fromarray(pixels[:height, :width])


def to_tensor(image: Image.Image) -> torch.Tensor:
    """(3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255.0)


def to_image(tensor: torch.Tensor) -> Image.Image:
    """Inverse of `to_tensor`, clamped and rounded."""
    levels = (tensor.clamp(0, 1) * 255.0).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def upscale(inputs: Path, outputs: Path, model: str, steps: int) -> None:
    """Run the command line as a user would, on the whole folder."""
    command = ["upscale", str(inputs), "-o", str(outputs), "-f", "png", "--steps", str(steps), "--tags", TAGS]
    command += ["--on-exists", "overwrite", "--model", model]
    print("$ linearsr", *command, flush=True)
    subprocess.run([sys.executable, "-m", "linearsr_cli.app", *command], check=True)


def variants(name: str, inputs: Path, outputs: Path) -> list[Image.Image]:
    """Input with repeated pixels, bicubic, LinearSR by steps and original, all of the original's size."""
    hr = original(name)
    lr = Image.open(inputs / f"{name}.jpg")
    bicubic = to_image(resize(to_tensor(lr), (hr.height, hr.width)))
    results = [Image.open(outputs / f"steps-{steps}" / f"{name}.png") for steps in STEPS]
    return [lr.resize(hr.size, Image.Resampling.NEAREST), bicubic, *results, hr]


def detail(image: Image.Image, name: str) -> Image.Image:
    """The picture's detail with its pixels repeated, so that no further filter blurs the comparison."""
    top, left = CROPS[name]
    crop = image.convert("RGB").crop((left, top, left + CROP_SIZE[1], top + CROP_SIZE[0]))
    return crop.resize((CELL_WIDTH, CROP_SIZE[0] * ZOOM), Image.Resampling.NEAREST)


def whole(image: Image.Image) -> Image.Image:
    """The whole picture, made as wide as a cell."""
    height = round(image.height * CELL_WIDTH / image.width)
    return image.convert("RGB").resize((CELL_WIDTH, height), Image.Resampling.LANCZOS)


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Rows of cells, one for each title, under one line of titles."""
    height = LABEL + sum(row[0].height + GAP for row in rows)
    canvas = Image.new("RGB", (len(TITLES) * (CELL_WIDTH + GAP) - GAP, height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(LABEL * 0.65)
    top = LABEL
    for column, title in enumerate(TITLES):
        draw.text((column * (CELL_WIDTH + GAP) + 3, LABEL / 2), title, fill="black", font=font, anchor="lm")
    for row in rows:
        for column, cell in enumerate(row):
            canvas.paste(cell, (column * (CELL_WIDTH + GAP), top))
        top += row[0].height + GAP
    return canvas


def main() -> None:
    """Make demo/input, demo/output, demo/side_by_side.png and demo/before_after.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("demo"), help="folder to write to")
    parser.add_argument("--model", default="compact", help="as `linearsr upscale --model`")
    options = parser.parse_args()
    inputs, outputs = options.output / "input", options.output / "output"
    inputs.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS:
        hr = original(name)
        small = resize(to_tensor(hr), (hr.height // SCALE, hr.width // SCALE))
        to_image(small).save(inputs / f"{name}.jpg", quality=JPEG_QUALITY)
    for steps in STEPS:
        upscale(inputs, outputs / f"steps-{steps}", options.model, steps)
    full, details = [], []
    print(
        f"{'photograph':12}{'bicubic':>10}{'1 step':>10}{'4 steps':>10}   PSNR-Y in dB; more steps trade it for detail"
    )
    for name in PHOTOS:
        images = variants(name, inputs, outputs)
        reference = to_tensor(images[-1])
        scores = [psnr(to_tensor(image), reference, border=SCALE) for image in images[1:-1]]
        print(f"{name:12}" + "".join(f"{score:10.2f}" for score in scores))
        details.append([detail(image, name) for image in images])
        full += [[whole(image) for image in images], details[-1]]
    sheet(full).save(options.output / "side_by_side.png", optimize=True)
    sheet(details).save(options.output / "before_after.png", optimize=True)
    print(f"wrote {options.output / 'side_by_side.png'} (and {options.output / 'before_after.png'}, details only)")


if __name__ == "__main__":
    main()
