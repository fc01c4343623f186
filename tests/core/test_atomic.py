from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading

import pytest

from linearsr import atomic
from linearsr.atomic import atomic_file, write_bytes
from linearsr.errors import ImageError


@pytest.fixture
def work(tmp_path):
    """An empty folder; other fixtures may have put something into `tmp_path`."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def umask():
    """Set the umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def small_disk(work):
    """Mount a file system of 64 KiB; gives its folder and a function that remounts it read-only."""
    folder = work / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True).returncode != 0:
        pytest.skip("this machine refuses to mount a tmpfs")

    def make_read_only() -> None:
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True, capture_output=True)

    yield folder, make_read_only
    subprocess.run(["umount", folder], check=True, capture_output=True)


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_write_bytes_writes_all_and_leaves_nothing_else(work):
    write_bytes(work / "Größe 大.bin", b"x" * 100_000)
    assert (work / "Größe 大.bin").read_bytes() == b"x" * 100_000
    assert names(work) == ["Größe 大.bin"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o000, 0o666)])
def test_new_file_has_the_permissions_of_the_umask(work, umask, mask, mode):
    umask(mask)
    write_bytes(work / "a", b"1")
    assert stat.S_IMODE(os.stat(work / "a").st_mode) == mode


def test_replaced_file_keeps_its_permissions(work, umask):
    (work / "a").write_bytes(b"old")
    os.chmod(work / "a", 0o640)
    write_bytes(work / "a", b"new")
    assert (work / "a").read_bytes() == b"new"
    assert stat.S_IMODE(os.stat(work / "a").st_mode) == 0o640


def test_symbolic_link_is_written_through(work):
    (work / "real").write_bytes(b"old")
    (work / "link").symlink_to("real")
    write_bytes(work / "link", b"new")
    assert (work / "link").is_symlink() and (work / "real").read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_failure_inside_leaves_the_old_file_and_no_temporary_one(work, error):
    (work / "a").write_bytes(b"old")
    with pytest.raises(type(error)), atomic_file(work / "a") as stream:
        stream.write(b"half of it")
        stream.flush()
        assert len(names(work)) == 2
        assert (work / "a").read_bytes() == b"old"
        assert all(name == "a" or name.startswith(".") for name in names(work))
        raise error
    assert names(work) == ["a"] and (work / "a").read_bytes() == b"old"


def test_full_disk_is_an_error_with_a_hint(small_disk):
    folder, _ = small_disk
    write_bytes(folder / "a", b"old")
    with pytest.raises(ImageError, match="disk is full") as caught:
        write_bytes(folder / "a", bytes(200_000))
    assert "free some space" in caught.value.hint
    assert names(folder) == ["a"] and (folder / "a").read_bytes() == b"old"


def test_read_only_disk_is_an_error_with_a_hint(small_disk):
    folder, make_read_only = small_disk
    (folder / "a").write_bytes(b"old")
    make_read_only()
    for name in ("a", "b"):
        with pytest.raises(ImageError, match="read-only|permission denied") as caught:
            write_bytes(folder / name, b"new")
        assert "folder" in caught.value.hint
    assert names(folder) == ["a"] and (folder / "a").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_refusal_of_the_system_is_an_image_error(work, monkeypatch, number, words, call):
    (work / "a").write_bytes(b"old")

    def refuse(*_args, **_settings):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, call, refuse)
    with pytest.raises(ImageError) as caught:
        write_bytes(work / "a", b"new")
    monkeypatch.undo()
    assert words in caught.value.message and str(work / "a") in caught.value.message
    assert caught.value.hint is not None
    assert names(work) == ["a"] and (work / "a").read_bytes() == b"old"


def test_file_that_may_not_be_written_is_not_replaced(work, monkeypatch):
    (work / "a").write_bytes(b"old")
    monkeypatch.setattr(atomic.os, "access", lambda *_: False)  # root may write anything, so the answer is set
    with pytest.raises(ImageError, match="permission denied"):
        write_bytes(work / "a", b"new")
    assert (work / "a").read_bytes() == b"old"


def test_bad_targets_name_the_path_and_the_next_step(work):
    (work / "folder").mkdir()
    (work / "file").write_bytes(b"")
    cases = {
        work / "none" / "a": "does not exist",
        work / "folder": "folder of that name",
        work / "file" / "a": "not a folder",
        work / ("n" * 300): "too long",
    }
    for path, words in cases.items():
        with pytest.raises(ImageError, match=words) as caught:
            write_bytes(path, b"x")
        assert str(path) in caught.value.message and caught.value.hint is not None
    assert names(work) == ["file", "folder"]


def test_longest_file_name_that_the_disk_takes_is_written(work):
    write_bytes(work / ("n" * 255), b"x")
    assert names(work) == ["n" * 255]


def test_writers_of_one_name_never_mix(work):
    target = work / "a"
    bodies = [bytes([i]) * 50_000 for i in range(8)]
    threads = [threading.Thread(target=write_bytes, args=(target, body)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in bodies and names(work) == ["a"]
