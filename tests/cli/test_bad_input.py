"""The list of bad inputs: one line with the value and what was expected, a next step, an exit code, no traceback."""

from __future__ import annotations

import os
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from PIL import Image


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def make_bad_files(picture) -> None:
    whole = picture("whole.png", 64, 64).read_bytes()
    Path("truncated.png").write_bytes(whole[: len(whole) // 2])
    picture("cut.jpg", 64, 64)
    Path("cut.jpg").write_bytes(Path("cut.jpg").read_bytes()[:900])
    Path("empty.png").touch()
    Path("zeros.png").write_bytes(bytes(5000))
    Path("text.png").write_text("This is a letter, not a picture.\n" * 30)
    Path("raw.cr2").write_bytes(b"II*\0" + bytes(4) + b"CR\x02\0" + bytes(500))
    Path("huge.png").write_bytes(png_header(20_000, 20_000))
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save("moving.webp", save_all=True, append_images=frames[1:])
    frames[0].save("moving.png", save_all=True, append_images=frames[1:])


BAD = {
    "missing.png": "does not exist",
    "truncated.png": "damaged or cut short",
    "cut.jpg": "damaged or cut short",
    "empty.png": "is empty (0 bytes)",
    "zeros.png": "holds only zero bytes",
    "text.png": "is a text file",
    "raw.cr2": "is a camera raw file",
    "huge.png": "20000x20000",
    "moving.gif": "animation",
    "moving.webp": "animation",
    "moving.png": "animation",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_with_a_hint_and_the_other_is_done(linearsr, picture, name):
    make_bad_files(picture)
    picture("good.png")
    alone = linearsr("upscale", name, "-o", "out")
    assert alone.code == 4
    errors = [line for line in alone.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert name in errors[0]
    assert BAD[name] in errors[0]
    assert sum(line.startswith("hint: ") for line in alone.err.splitlines()) == 1
    assert "Traceback" not in alone.err
    assert alone.out == ""
    assert not list(Path("out").glob("*"))
    both = linearsr("upscale", name, "good.png", "-o", "out")
    assert both.code == 3
    assert both.out == "out/good.png\n"


def test_a_folder_of_bad_files_still_yields_the_good_ones(linearsr, picture):
    picture("in/good.png")
    os.chdir("in")
    make_bad_files(lambda name, *size: picture(f"in/{name}", *size))
    os.chdir("..")
    result = linearsr("upscale", "in", "-o", "out", "--json")
    assert result.code == 3
    done = {line["input"] for line in result.lines if line.get("status") == "done"}
    assert done == {"in/good.png", "in/whole.png"}
    assert result.lines[-1]["failed"] == len(BAD) - 1  # all but the missing one
    assert all(line["hint"] for line in result.lines if line.get("status") == "failed")


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_the_smallest_and_thinnest_pictures_work(linearsr, picture, size_of, size):
    picture("a.png", *size)
    assert linearsr("upscale", "a.png", "-s", "2").code == 0
    assert size_of("a_x2.png") == (2 * size[0], 2 * size[1])


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--scale", "0"], "scale is 0"),
        (["--scale", "-1"], "scale is -1"),
        (["--scale", "nan"], "scale is nan"),
        (["--scale", "big"], "'big' is not a number"),
        (["--steps", "1.5"], "'1.5' is not a whole number"),
        (["--tile", "0"], "tile is '0'"),
        (["--tile", "7"], "tile is 7"),
        (["--tags", "blury"], "unknown tag 'blury'"),
        (["--tags", "clean,jpeg"], "clean"),
        (["--size", "10by10"], "size is '10by10'"),
        (["--size", "5x5"], "output would be 5x5, smaller than the 12x8 input"),
        (["--format", "gif"], "'gif' is not one of 'auto', 'png'"),
        (["--on-exists", "ask"], "'ask' is not one of"),
        (["--quality", "0"], "quality is 0"),
        (["-o", ""], "output is ''"),
        (["-o", "b.xyz"], "b.xyz"),
        (["-o", "a.png"], "replace the input"),
        (["--files-from", "none.txt"], "none.txt"),
        (["--lossless", "-f", "jpg"], "JPEG cannot be lossless"),
        (["--bit-depth", "16", "-o", "b.jpg"], "JPEG cannot hold 16 bits"),
    ],
)
def test_a_bad_setting_is_a_usage_error_of_one_line(linearsr, picture, arguments, value):
    picture("a.png", 12, 8)
    before = sorted(Path().rglob("*"))
    result = linearsr("upscale", "a.png", *arguments)
    assert result.code == 2
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.err
    assert value in errors[0]
    assert sum(line.startswith("hint: ") for line in result.err.splitlines()) == 1
    assert "Traceback" not in result.err
    assert result.out == ""
    assert sorted(Path().rglob("*")) == before


def test_no_input_is_a_usage_error(linearsr):
    result = linearsr("upscale")
    assert result.code == 2
    assert result.err.startswith("error: no input given")


def test_a_webp_that_would_be_too_large_is_refused_in_the_plan(linearsr, fake, picture):
    picture("a.webp", 5000, 2)
    result = linearsr("upscale", "a.webp")
    assert result.code == 4
    assert "20000x8, but WEBP holds at most 16383" in result.err
    assert "hint: use `-f png`" in result.err
    assert fake.calls == []


def test_a_result_larger_than_memory_is_refused_in_the_plan(linearsr, fake, picture, monkeypatch):
    monkeypatch.setattr("linearsr_cli.plan_checks.memory_bytes", lambda: {"total": 50_000, "available": 40_000})
    picture("large.png", 20, 20)
    picture("small.png", 4, 4)
    alone = linearsr("upscale", "large.png", "-o", "out")
    assert alone.code == 6
    assert "80x80 and need at least 154 kB of memory, this machine has 50 kB" in alone.err
    assert fake.calls == []
    assert linearsr("upscale", "large.png", "small.png", "-o", "out").code == 3


def test_transparency_that_jpeg_cannot_hold_is_refused_before_the_work(linearsr, fake, picture):
    picture("a.png", mode="RGBA")
    result = linearsr("upscale", "a.png", "-f", "jpg")
    assert result.code == 4
    assert "`--alpha drop`" in result.err
    assert [name for name, _ in fake.calls] == ["from_pretrained", "validate"]
    assert linearsr("upscale", "a.png", "-f", "jpg", "--alpha", "drop").code == 0


def test_an_opaque_alpha_channel_is_no_obstacle_to_jpeg(linearsr, tmp_path):
    Image.new("RGBA", (8, 8), (9, 9, 9, 255)).save("a.png")
    assert linearsr("upscale", "a.png", "-f", "jpg").out == "a_x4.jpg\n"


def test_an_output_folder_that_is_a_file_is_refused(linearsr, fake, picture):
    picture("a.png")
    Path("file").touch()
    result = linearsr("upscale", "a.png", "-o", "file/out")
    assert result.code == 2
    assert "file is a file, expected a folder" in result.err
    assert fake.calls == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder_is_refused(linearsr, fake, picture):
    picture("a.png")
    Path("out").mkdir(mode=0o555)
    result = linearsr("upscale", "a.png", "-o", "out/new")
    assert result.code == 2
    assert "is not writable" in result.err
    assert fake.calls == []


def test_a_read_only_file_system_is_refused(linearsr, fake, picture, monkeypatch):
    picture("a.png")
    real = os.statvfs

    class ReadOnly:
        f_flag = os.ST_RDONLY

    monkeypatch.setattr(os, "statvfs", lambda path: ReadOnly if str(path).endswith("out") else real(path))
    Path("out").mkdir()
    result = linearsr("upscale", "a.png", "-o", "out")
    assert result.code == 2
    assert "out is on a read-only file system" in result.err
    assert fake.calls == []


def test_beside_the_source_only_the_unwritable_folder_fails(linearsr, picture, monkeypatch):
    picture("locked/a.png")
    picture("open/b.png")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode))
    result = linearsr("upscale", "locked/a.png", "open/b.png")
    assert result.code == 3
    assert result.out == "open/b_x4.png\n"
    assert "error: locked/a.png: the output folder" in result.err


def test_a_folder_in_the_way_of_an_output_fails_that_file(linearsr, picture):
    picture("a.png")
    picture("b.png")
    Path("out/a.png").mkdir(parents=True)
    result = linearsr("upscale", "a.png", "b.png", "-o", "out")
    assert result.code == 3
    assert "error: a.png: " in result.err
    assert result.out == "out/b.png\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a read-only disk")
def test_a_disk_mounted_read_only_is_refused(linearsr, fake, picture, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        picture("a.png")
        result = linearsr("upscale", "a.png", "-o", disk)
        assert result.code == 2
        assert "is not writable" in result.err
        assert fake.calls == []
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small disk")
def test_a_full_disk_fails_the_file_and_leaves_nothing_behind(linearsr, picture, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        picture("large.png", 300, 300)
        picture("small.png", 4, 4)
        result = linearsr("upscale", "large.png", "small.png", "-o", disk)
        assert result.code == 3
        assert "error: large.png: " in result.err
        assert "the disk is full" in result.err
        assert [path.name for path in disk.iterdir()] == ["small.png"]
    finally:
        subprocess.run(["umount", disk], check=True)
