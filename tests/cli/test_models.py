"""`linearsr models list`, `info` and `path` on real files and a real cache layout, and the group itself."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


# -- list ---------------------------------------------------------------------------------------------------------


def test_list_knows_the_bundled_model_and_what_is_cached(run, put, four_experts: Path) -> None:
    put(four_experts, without="expert-2.safetensors")
    bundled, cached = (line for line in run("models", "list", "--json").lines if line["kind"] != "preset")
    assert (bundled["model"], bundled["kind"], bundled["experts"]) == ("compact", "bundled", [0, 1, 2, 3])
    size = sum(path.stat().st_size for path in four_experts.iterdir())
    assert cached["bytes"] == size - (four_experts / "expert-2.safetensors").stat().st_size
    assert {key: cached[key] for key in ("model", "revision", "refs", "experts", "num_experts", "licence")} == {
        "model": "owner/name",
        "revision": COMMIT,
        "refs": ["main"],
        "experts": [0, 1, 3],
        "num_experts": 4,
        "licence": "CC0-1.0",
    }


def test_list_in_a_pipe_is_one_line_a_model_with_tabs(run, put, tiny_checkpoint: Path) -> None:
    put(tiny_checkpoint)
    size = sum(path.stat().st_size for path in tiny_checkpoint.iterdir())
    rows = [line.split("\t") for line in run("models", "list").out.splitlines()]
    assert rows[1] == ["owner/name", "cached", COMMIT, str(size), "0/1", "CC0-1.0", ""]


def test_list_quiet_gives_names_that_other_commands_take(run, put, tiny_checkpoint: Path) -> None:
    put(tiny_checkpoint)
    result = run("models", "list", "-q")
    assert (result.out.splitlines(), result.err) == (["compact", f"owner/name@{COMMIT}"], "")
    for name in result.out.splitlines():
        assert run("models", "path", name).code == 0


def test_list_leaves_out_repositories_of_other_programs(run, put, cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"_class_name": "AutoencoderDC"}')
    put(other, "mit/ae")
    assert run("models", "list", "-q").out == "compact\n"


def test_list_warns_of_a_cached_model_that_cannot_be_read(run, put, tiny_checkpoint: Path) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    (tiny_checkpoint / "config.json").write_text(json.dumps({**config, "schema_version": 99}))
    put(tiny_checkpoint)
    result = run("models", "list", "-q")
    assert (result.code, result.out, result.err) == (0, "compact\n", "")
    told = run("models", "list").err
    assert told.startswith(f"warning: owner/name@{COMMIT[:12]} cannot be read: ")
    assert "schema_version is 99, expected at most 1" in told


def test_list_is_a_table_on_a_terminal(tmp_path: Path) -> None:
    main, side = pty.openpty()
    environment = {**os.environ, "HF_HOME": str(tmp_path)}
    code = "import sys; from linearsr_cli.app import main; sys.exit(main(['models', 'list']))"
    subprocess.run([sys.executable, "-c", code], stdout=side, env=environment, check=True)
    os.close(side)
    heading, bundled = os.read(main, 1 << 16).decode().splitlines()[:2]
    os.close(main)
    assert heading.split() == ["model", "kind", "revision", "size", "experts", "licence", "made", "of"]
    assert bundled.split() == ["compact", "bundled", "-", "13.5", "MB", "all", "4", "CC-BY-SA-4.0", "-"]
    assert heading.index("size") == bundled.index("13.5 MB")


def test_presets_are_listed_with_what_they_are_made_of(run, cache: Path) -> None:
    from linearsr.presets import PRESETS

    presets = {line["model"]: line for line in run("models", "list", "--json").lines if line["kind"] == "preset"}
    assert presets.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        assert presets[name]["sources"] == [preset.repository, preset.autoencoder.source, preset.tags.encoder]
        assert (presets[name]["licence"], presets[name]["bytes"]) == (preset.licence, 0)
    told = run("models", "info", "sana-0.6b")
    assert (told.code, told.out) == (2, "")
    assert "models convert --from-sana Efficient-Large-Model/Sana_600M_1024px_diffusers" in told.err


def test_download_bar_adds_up_all_files_and_is_silent_in_a_pipe(tmp_path: Path) -> None:
    code = """
from linearsr_cli.models_fetch import DownloadBar
from linearsr_cli.output import Output
with DownloadBar(Output()) as bar:
    bar.expect({"o/n/a": 3_000_000, "o/n/b": 5_000_000})
    bar.update("o/n/a", 3_000_000, 3_000_000)
    bar.update("o/n/b", 2_000_000, 5_000_000)
    bar.update("o/m/c", 1_000_000, 2_000_000)
"""
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stderr=side, env=environment, check=True)
    os.close(side)
    shown = os.read(main, 1 << 16).decode()
    os.close(main)
    assert "6.0/10.0 MB" in shown
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (piped.stdout, piped.stderr) == (b"", b"")


# -- info and path ------------------------------------------------------------------------------------------------


def test_info_tells_experts_parameters_and_files(run, put, four_experts: Path, tiny_network, tiny_model) -> None:
    put(four_experts, without="expert-1.safetensors")
    (about,) = run("models", "info", "owner/name", "--json").lines
    assert about["parameters"] == sum(p.numel() for p in tiny_network(tiny_model()).parameters())
    assert [expert["present"] for expert in about["experts"]] == [True, False, True, True]
    assert [expert["t"] for expert in about["experts"]] == [
        [0.0, pytest.approx(0.223, abs=1e-6)],
        [pytest.approx(0.223, abs=1e-6), pytest.approx(0.875, abs=1e-6)],
        [pytest.approx(0.875, abs=1e-6), pytest.approx(0.939, abs=1e-6)],
        [pytest.approx(0.939, abs=1e-6), 1.0],
    ]
    assert {file["name"]: file["bytes"] for file in about["files"]} == {
        path.name: path.stat().st_size for path in four_experts.glob("*.safetensors")
    }
    lines = run("models", "info", "owner/name").out.splitlines()
    assert "expert 1      t 0.223 to 0.875, expert-1.safetensors, not here" in lines
    assert f"revision      {COMMIT}" in lines
    assert "steps         4 (euler), guidance 1" in lines


def test_path_is_where_the_files_are(run, put, tiny_checkpoint: Path) -> None:
    snapshot = put(tiny_checkpoint)
    assert run("models", "path", "owner/name").out == f"{snapshot}\n"
    assert run("models", "path", f"owner/name@{COMMIT}").out == f"{snapshot}\n"
    assert run("models", "path", tiny_checkpoint).out == f"{tiny_checkpoint}\n"
    assert Path(run("models", "path", "compact").out.strip(), "config.json").is_file()


@pytest.mark.parametrize("command", ["path", "verify", "rm"])
def test_what_is_not_cached_is_exit_code_5_and_asks_no_network(run, cache: Path, command: str) -> None:
    result = run("models", command, "owner/absent")
    assert (result.code, result.out) == (5, "")
    assert f"model 'owner/absent' is not in the Hub cache {str(cache)!r}" in result.err


def test_an_id_that_the_hub_would_refuse_is_exit_code_5(run, cache: Path) -> None:
    result = run("models", "path", "owner/--bad--")
    assert (result.code, result.out) == (5, "")
    assert "'owner/--bad--' is no valid Hub id" in result.err


# -- the group ----------------------------------------------------------------------------------------------------


def test_group_without_a_command_shows_help_on_stderr(run) -> None:
    result = run("models")
    assert (result.code, result.out) == (2, "")
    assert "download" in result.err


def test_options_of_the_group_have_the_long_environment_name_only(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEARSR_QUIET", "1")
    monkeypatch.setenv("LINEARSR_JSON", "1")
    assert not run("models", "list").out.startswith("{")
    monkeypatch.setenv("LINEARSR_MODELS_LIST_JSON", "1")
    assert run("models", "list").lines[0]["model"] == "compact"


def test_group_help_imports_nothing_heavy() -> None:
    code = """
import sys
from linearsr_cli.app import main
for arguments in (["models", "-h"], ["models", "verify", "-h"], ["models", "convert", "-h"]):
    assert main(arguments) == 0
print([name for name in ("torch", "numpy", "PIL", "huggingface_hub") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
