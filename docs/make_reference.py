"""Write docs/reference/cli.md from the command line itself, or check that it is up to date.

`python docs/make_reference.py` writes the page; with `--check` it writes nothing and ends with 1 if the page differs.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from linearsr_cli.app import COMMANDS, app
from linearsr_cli.errors import ExitCode

PAGE = Path(__file__).resolve().parent / "reference" / "cli.md"

MEANINGS = {
    ExitCode.DONE: "all done, or rightly skipped",
    ExitCode.UNEXPECTED: "an unexpected error; please report it with what `LINEARSR_DEBUG=1` prints",
    ExitCode.USAGE: "a wrong option or value, found before any picture is touched",
    ExitCode.SOME_FAILED: "finished, but some files failed, a finetuned model got worse, or `--fail-under` was missed",
    ExitCode.NOTHING_DONE: "nothing was done: no input matched, or every file failed",
    ExitCode.WEIGHTS: "weights are missing, damaged or do not fit",
    ExitCode.DEVICE: "the device or precision is not available, or memory is too small",
    ExitCode.INTERRUPTED: "interrupted (Ctrl+C); every file that was finished is complete",
    ExitCode.TERMINATED: "ended by a signal (SIGTERM); every file that was finished is complete",
}

HEAD = """# Command line

<!-- Made by docs/make_reference.py (`make docs`); do not edit. -->

What each command takes. Results (paths, JSON lines, picture bytes) go to stdout and everything else to stderr, so a
pipeline reads stdout and the exit code and nothing else.
"""

ENVIRONMENT = """## Environment

Every option that is not repeatable can be set in the environment: `--tile-overlap` of `upscale` as
`LINEARSR_UPSCALE_TILE_OVERLAP` or, for all commands, `LINEARSR_TILE_OVERLAP`. What is given on the command line wins.
Options of `models` and `eval --format` have the long name only, such as `LINEARSR_MODELS_VERIFY_REPAIR`, since theirs
mean other things.

| variable | meaning |
|---|---|
| `LINEARSR_DEBUG=1` | show tracebacks |
| `LINEARSR_CACHE` | folder of what can be made again: scores, embeddings of tags (default: `~/.cache/linearsr`) |
| `LINEARSR_LPIPS_WEIGHTS` | a file of weights for LPIPS, for `eval`, `compare`, `train` and `finetune` |
| `NO_COLOR` | no colours |
| `TERM=dumb` | no progress bar |
| `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` | for models from the Hub, as huggingface_hub reads them |
| `CUDA_VISIBLE_DEVICES` | the GPUs that may be used |
| `OMP_NUM_THREADS` | processor threads |
| `OMP_WAIT_POLICY=PASSIVE` | waiting threads sleep; set it when anything else runs beside |
"""


JSON_LINES = """## JSON lines

With `--json`, stdout of `linearsr upscale` holds one object a line: one for every input as soon as it is finished, then
a summary. They are shown broken here.

```json
{"event": "file", "input": "a.jpg", "output": "out/a.jpg", "status": "done", "width": 2560, "height": 1920,
 "scale": 4.0, "seconds": 5.1, "tags": ["jpeg"], "tags_from": "tagger", "notes": []}
{"event": "summary", "done": 1, "skipped": 0, "failed": 0, "seconds": 6.0, "megapixels": 4.915, "exit_code": 0}
```

- `status` is `done`, `skipped` (a complete result was there) or `failed`, which adds `error` and mostly `hint`;
  `--dry-run` has `planned` instead of `done`.
- `output` is null for stdout, and where an input failed before it had a name.
- `width` and `height` are output pixels, 0 if unknown; `scale` is the geometric mean of the two side ratios;
  `megapixels` are those written.
- `tags` are what the model was told, `tags_from` where they come from: `user`, `csv`, `tagger` or `none`; both are null
  unless the picture was done.
- `notes` say in plain words what could not be kept of a file.
- A run that is interrupted, or ends because weights or device fail, has a summary too; a usage error found before the
  first file has none. With `-o -` the lines go to stderr, since stdout is the picture.

`linearsr degrade` has the same lines; `output` is the input that was made, `hr_output` the clean picture beside it, and
the summary names the table. `linearsr compare` has `sheet` (`output`, `bytes`, `images`) or `report` (and `encoding`)
for each file it writes, `picture` (`image`, `status`, `error`, `hint`) for each that failed, and a summary. `linearsr
eval` writes one JSON object in all, with `-f json`, which stands for itself: it holds its definitions.
"""


def cell(text: str) -> str:
    """Text for a Markdown table, on one line."""
    return " ".join(text.split()).replace("|", "\\|")


def default_of(param: Any) -> str:  # noqa: ANN401 - Typer's classes are private
    """The default as a user would type it; empty for flags and for what is left to the program."""
    if param.default is None or isinstance(param.default, bool) or param.count or param.multiple:
        return ""
    return f"`{param.default}`"


def name_of(param: Any, context: Any) -> str:  # noqa: ANN401
    """Names and value of an option, as in the help page."""
    shown = param.get_help_record(context)[0]
    return f"`{shown}`"


def option_tables(command: Any, context: Any) -> list[str]:  # noqa: ANN401
    """One table a section of the help page."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for param in command.params:
        if param.param_type_name == "argument":
            lines += [f"- `{param.metavar}`: {cell(param.help)}", ""]
            continue
        title = param.rich_help_panel if param.rich_help_panel is not None else "Options"
        row = f"| {cell(name_of(param, context))} | {cell(default_of(param))} | {cell(param.help)} |"
        sections.setdefault(title, []).append(row)
    for title, rows in sections.items():
        lines += [f"### {title}", "", "| option | default | |", "|---|---|---|", *rows, ""]
    return lines


def command_page(name: str, parent: Any, command: Any) -> list[str]:  # noqa: ANN401
    """Heading, what it does, examples and options of one command; then those of its own commands, if it has any."""
    context = type(parent)(command, info_name=name, parent=parent)
    about, _, examples = command.help.partition("Examples:")
    lines = [f"## {context.command_path.partition('[')[0].strip()}", "", " ".join(about.split()), ""]
    shown = [line.removeprefix("  ") for line in examples.replace("\b", "").splitlines() if line.strip()]
    lines += ["```text", *shown, "```", ""]
    lines += option_tables(command, context)
    for child in command.list_commands(context) if hasattr(command, "list_commands") else ():
        lines += command_page(child, context, command.get_command(context, child))
    return lines


def render() -> str:
    """The whole page."""
    group: Any = get_command(app)
    context = group.make_context("linearsr", [], resilient_parsing=True)
    lines = [HEAD]
    for name in COMMANDS:
        command = group.get_command(context, name)
        if command is not None:
            lines += command_page(name, context, command)
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {int(code)} | {MEANINGS[code]} |" for code in ExitCode]
    return "\n".join([*lines, "", JSON_LINES, ENVIRONMENT])


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page differs")
    wanted = render()
    if not parser.parse_args().check:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    found = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if found == wanted:
        return 0
    sys.stderr.writelines(difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), "is", "should be"))
    sys.stderr.write("error: docs/reference/cli.md differs from the command line\nhint: make docs\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
