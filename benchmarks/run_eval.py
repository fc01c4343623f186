"""Run `linearsr eval` over whole sets for the tables of docs/benchmarks.md and the figures.

Example:
    OMP_WAIT_POLICY=PASSIVE python benchmarks/run_eval.py --data bench \
        --lpips-weights metrics/lpips-alex-v0.1.safetensors

Nothing is taken from the cache, so that all seconds are of this run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from _common import finish, program, run_facts, set_threads, without_folders
from _tables_pages import evaluation as evaluation_table

from linearsr.errors import ImageError
from linearsr.evaluation.records import to_json
from linearsr.evaluation.results import Evaluation
from linearsr.evaluation.statistics import summarise
from linearsr_cli.eval_run import score
from linearsr_cli.eval_settings import EvalOptions, check_eval_options, parse_steps, split_names
from linearsr_cli.output import Output

SETS = "Set5,Set14,BSD100,Kodak24"


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(), metavar="FOLDER", help="holds the sets (default: here)")
    parser.add_argument("--sets", default=SETS, help=f"folders of clean pictures in it (default: {SETS})")
    parser.add_argument("--inputs", default="", metavar="SETS", help="folders of their inputs in it, for real-x4")
    parser.add_argument("--protocol", default="classical-x4", help="of `linearsr eval` (default: classical-x4)")
    parser.add_argument("--model", default="compact", help="preset, checkpoint folder or Hub id (default: compact)")
    parser.add_argument("--steps", default="1,2,4,8", help="one row each (default: 1,2,4,8)")
    parser.add_argument("--tags", default="clean", help="as `linearsr eval --tags` (default: clean)")
    parser.add_argument("--baseline", default="bicubic,lanczos", help="default: bicubic,lanczos")
    parser.add_argument("--lpips-weights", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--limit", type=int, help="first N pictures of each set only")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: results/DATE-eval-PROTOCOL.json")
    return parser


def eval_options(options: argparse.Namespace) -> EvalOptions:
    """What `linearsr eval` would be told.

    Raises:
        ConfigError: a setting is out of range, or a folder is missing.
    """
    asked = EvalOptions(
        hr=tuple(options.data / name for name in split_names(options.sets)),
        lr=tuple(options.data / name for name in split_names(options.inputs)),
        model=(options.model,),
        steps=parse_steps(options.steps),
        tags=options.tags,
        baseline=split_names(options.baseline),
        protocol=options.protocol,
        lpips_weights=options.lpips_weights,
        limit=options.limit,
        device=options.device,
        cache=False,
    )
    check_eval_options(asked)
    return asked


def without_paths(evaluation: Evaluation, tags: str) -> Evaluation:
    """The evaluation with the tags in its protocol, and without the folders that a message may name."""
    skipped = tuple(
        replace(
            entry,
            reason=without_folders(entry.reason),
            hint=None if entry.hint is None else without_folders(entry.hint),
        )
        for entry in evaluation.skipped
    )
    return replace(evaluation, skipped=skipped, protocol={**evaluation.protocol, "tags": tags})


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    set_threads(options.threads)
    facts = run_facts("eval", arguments, options.device)
    _, found = score(eval_options(options), Output())
    if found.failures:
        raise ImageError(f"{len(found.failures)} results could not be scored, expected none", hint="see above")
    found = without_paths(found, options.tags)
    payload = {**facts, "evaluation": to_json(found, summarise(found))}
    finish(options.output, f"eval-{options.protocol}", payload, evaluation_table(payload))
    return 0


if __name__ == "__main__":
    sys.exit(main())
