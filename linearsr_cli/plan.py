"""The plan of a run, from headers only: what will be made where, what is done already, what cannot be done and why.

Everything that would spoil the run as a whole (two results of one name, an output over an input, a folder that cannot
be written) is an error here, before any weights load. What spoils one file only becomes an item with its reason.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from linearsr.errors import LinearSRError
from linearsr.sizing import resolve_size
from linearsr_cli.errors import ExitCode, NoInputError, exit_code_of_files
from linearsr_cli.inputs import Source, expand_inputs, read_tokens
from linearsr_cli.items import Plan, PlanItem
from linearsr_cli.naming import Place, format_and_ending, output_path, resolve_place
from linearsr_cli.output import Output, clean
from linearsr_cli.plan_checks import (
    refuse_clashes,
    refuse_too_large,
    size_text,
    warn_of_full_disk,
    with_existing,
    with_unwritable,
)
from linearsr_cli.plan_tags import check_save_tags, plan_tags
from linearsr_cli.settings import UpscaleOptions
from linearsr_cli.tags import TagRow, read_tags

__all__ = ["make_plan", "show_plan"]


def make_plan(options: UpscaleOptions, stdin_file: Path | None, out: Output) -> Plan:
    """Look at every input's header and decide what becomes of it.

    Args:
        options: checked by `check_options`.
        stdin_file: holds what came through stdin, for the input `-`.
        out: takes warnings.

    Raises:
        NoInputError: nothing matched.
        ConfigError: the run as a whole cannot work.
    """
    tokens = read_tokens(options)
    if not tokens:
        raise NoInputError("the list of files is empty", hint="check the command that makes it")
    place = resolve_place(options, tokens)
    leave_out = tuple(Path(p) for p in (place.path, options.compare) if p is not None)
    sources = expand_inputs(tokens, recursive=options.recursive, stdin_file=stdin_file, leave_out=leave_out)
    if not sources:
        raise NoInputError("no picture among the inputs", hint="system files such as Thumbs.db do not count")
    table = None if options.tags_from is None else read_tags(options.tags_from)
    rows = {} if table is None else plan_tags(table, sources, options, out)
    items = [_plan_one(source, place, options, rows.get(source.name)) for source in sources[: options.limit]]
    refuse_clashes(items, sources, options)
    saved_tags = check_save_tags(items, sources, options)
    items = list(with_existing(items, options))
    items = list(with_unwritable(items, place))
    plan = Plan(items=tuple(items), place=place, table=table, saved_tags=saved_tags)
    warn_of_full_disk(plan, out)
    return plan


def _plan_one(source: Source, place: Place, options: UpscaleOptions, row: TagRow | None) -> PlanItem:
    item = PlanItem(source=source, action="upscale", row=row)
    if source.error is not None:
        return item.failed(source.error)
    from linearsr.image_io import check_writable, probe

    try:
        info = probe(source.path)
        kind, ending = format_and_ending(info, source, place, options)
        size = resolve_size(
            info.width, info.height, scale=options.scale, size=options.target_size, long_side=options.long_side
        )
        item = replace(
            item,
            width=size.width,
            height=size.height,
            scale=size.scale,
            format=kind,
            bit_depth=info.bit_depth if options.bit_depth == "auto" else int(options.bit_depth),
            output=output_path(source, place, options, ending),
        )
        refuse_too_large(item)
        check_writable(kind, size.width, size.height, has_alpha=False)  # an opaque alpha is no obstacle: see the job
    except LinearSRError as error:
        return item.failed(error)
    return item


def show_plan(plan: Plan, out: Output) -> ExitCode:
    """Print the plan to stdout, as a table or as JSON lines.

    Returns:
        The exit code the run would end with if no file failed later.
    """
    status = {"upscale": "planned", "skip": "skipped", "fail": "failed"}
    for item in plan.items:
        if out.json:
            out.event(item.event(status[item.action]))
        elif item.error is not None:
            out.failure(item.source.name, item.error)
        else:
            where = "stdout" if item.output is None else clean(item.output)
            size = f"{item.width}x{item.height} {item.format.lower()}"
            out.data(f"{item.action:8} {clean(item.source.name)} -> {where}  {size}")
            for note in item.notes:
                out.info(f"note: {clean(item.source.name)}: {note}")
    failures = [item.error for item in plan.items if item.error is not None]
    failed = len(failures)
    skipped = sum(item.action == "skip" for item in plan.items)
    code = exit_code_of_files(failures, failed < len(plan.items))
    megapixels = sum(item.pixels for item in plan.todo) / 1e6
    counts = {"planned": len(plan.todo), "done": 0, "skipped": skipped, "failed": failed}
    out.event(
        {"event": "summary", **counts, "seconds": 0.0, "megapixels": round(megapixels, 3), "exit_code": int(code)}
    )
    if not out.json:
        out.data(
            f"{len(plan.todo)} to upscale, {skipped} skipped, {failed} failed; "
            f"{megapixels:.1f} MP, about {size_text(plan.bytes)}"
        )
    return code
