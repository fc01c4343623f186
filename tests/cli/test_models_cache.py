"""`linearsr models verify` and `rm` on real files and a real cache layout."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "89abcdef0123456789abcdef0123456789abcdef"
WEIGHTS = "expert-0.safetensors"


# -- verify -------------------------------------------------------------------------------------------------------


def test_verify_says_ok_for_every_file_of_the_bundled_model(run) -> None:
    result = run("models", "verify", "compact")
    names = [*(f"expert-{index}.safetensors" for index in range(4)), "tagger.safetensors"]
    assert (result.code, result.out.splitlines()) == (0, [f"ok       {name}" for name in names])


def test_verify_finds_one_flipped_bit_and_a_short_file(run, damage, four_experts: Path) -> None:
    damage(four_experts / "expert-1.safetensors")
    short = four_experts / "expert-3.safetensors"
    short.write_bytes(short.read_bytes()[:-1])
    result = run("models", "verify", four_experts, "--json")
    assert result.code == 5
    assert [line["status"] for line in result.lines] == ["ok", "damaged", "ok", "damaged"]
    assert result.lines[1]["problem"].startswith("sha256 ")
    assert "bytes, expected" in result.lines[3]["problem"]
    assert "2 of the files" in result.err
    assert "expert-1.safetensors, expert-3.safetensors" in result.err


def test_verify_counts_a_missing_file_only_with_all(run, put, four_experts: Path) -> None:
    put(four_experts, without="expert-2.safetensors")
    result = run("models", "verify", "owner/name")
    assert (result.code, result.out.splitlines()[2]) == (0, "missing  expert-2.safetensors")
    assert run("models", "verify", "owner/name", "--all").code == 5


def test_repair_of_a_folder_is_refused(run, damage, tiny_checkpoint: Path) -> None:
    damage(tiny_checkpoint / WEIGHTS)
    before = (tiny_checkpoint / WEIGHTS).read_bytes()
    result = run("models", "verify", tiny_checkpoint, "--repair")
    assert result.code == 2
    assert "is not in the Hub cache, so it cannot be fetched again" in result.err
    assert (tiny_checkpoint / WEIGHTS).read_bytes() == before


# -- rm -----------------------------------------------------------------------------------------------------------


def test_rm_frees_what_it_says(run, put, cache: Path, four_experts: Path, tiny_checkpoint: Path) -> None:
    put(four_experts)
    put(tiny_checkpoint, "owner/kept")
    size = sum(path.stat().st_size for path in four_experts.iterdir())
    told = run("models", "rm", "owner/name", "--dry-run")
    assert (told.code, told.out) == (0, f"owner/name@{COMMIT}\n")
    assert told.err == f"would free {size / 1e3:.0f} kB\n"
    assert (cache / "models--owner--name").is_dir()
    assert run("models", "rm", "owner/name", "--yes").code == 0
    assert not (cache / "models--owner--name").exists()
    assert run("models", "path", "owner/kept").code == 0


def test_rm_of_one_revision_keeps_what_another_shares(run, damage, put, four_experts: Path) -> None:
    put(four_experts)
    damage(four_experts / "expert-0.safetensors")
    rest = put(four_experts, commit=OTHER, ref="v1")
    told = run("models", "rm", "owner/name@main", "--yes")
    assert (told.code, told.out) == (0, f"owner/name@{COMMIT}\n")
    assert sorted(path.name for path in rest.iterdir() if path.is_file()) == sorted(
        path.name for path in four_experts.iterdir()
    )
    assert len(list((rest.parents[1] / "blobs").iterdir())) == len(list(four_experts.iterdir()))


def test_rm_needs_yes_without_a_terminal(run, put, cache: Path, tiny_checkpoint: Path) -> None:
    put(tiny_checkpoint)
    result = run("models", "rm", "owner/name")
    assert (result.code, result.out) == (2, "")
    assert "hint: add --yes" in result.err
    assert (cache / "models--owner--name").is_dir()


@pytest.mark.parametrize(("answer", "code", "is_there"), [(b"n\n", 4, True), (b"y\n", 0, False)])
def test_rm_asks_on_a_terminal(
    put, cache: Path, tiny_checkpoint: Path, answer: bytes, code: int, is_there: bool
) -> None:
    put(tiny_checkpoint)
    main, side = pty.openpty()
    program = "import sys; from linearsr_cli.app import main; sys.exit(main(['models', 'rm', 'owner/name']))"
    os.write(main, answer)
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=side,
        stderr=side,
        stdout=subprocess.PIPE,
        env={**os.environ, "HF_HUB_CACHE": str(cache)},
        timeout=120,
    )
    os.close(side)
    os.close(main)
    assert done.returncode == code
    assert (cache / "models--owner--name").exists() == is_there


def test_rm_touches_no_folder_no_bundled_model_and_no_other_program(run, put, tiny_checkpoint: Path, tmp_path) -> None:
    for model, words in ((tiny_checkpoint, "is a folder"), ("compact", "comes with the package")):
        result = run("models", "rm", model, "--yes")
        assert (result.code, words in result.err) == (2, True)
    assert run("models", "verify", tiny_checkpoint).code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"_class_name": "AutoencoderDC"}')
    kept = put(other, "mit/ae")
    result = run("models", "rm", "mit/ae", "--yes")
    assert (result.code, "another program may need it" in result.err) == (5, True)
    assert (kept / "config.json").is_file()
