"""How models and their files look: a table on a terminal, tab-separated lines in a pipe, JSON lines when asked."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from linearsr_cli.output import Output, clean
from linearsr_cli.plan_checks import size_text

if TYPE_CHECKING:
    from linearsr.catalogue import ListedModel
    from linearsr.integrity import FileCheck

__all__ = ["check_event", "check_line", "describe_lines", "model_event", "show_models"]

HEADING = ("model", "kind", "revision", "size", "experts", "licence", "made of")


def _experts(model: ListedModel) -> str:
    if model.kind == "preset":
        return "-"
    present = ",".join(str(index) for index in model.experts)
    if len(model.experts) == model.num_experts:
        return f"all {model.num_experts}" if model.num_experts > 1 else "1"
    return f"{len(model.experts)} of {model.num_experts} ({present})" if present else f"0 of {model.num_experts}"


def _revision(model: ListedModel, short: bool) -> str:
    if model.revision is None:
        return "-"
    commit = model.revision[:12] if short else model.revision
    return f"{commit} ({', '.join(model.refs)})" if short and model.refs else commit


def model_event(model: ListedModel) -> dict[str, Any]:
    """One model as a JSON line."""
    return {
        "event": "model",
        "model": model.name,
        "kind": model.kind,
        "family": model.family,
        "revision": model.revision,
        "refs": list(model.refs),
        "bytes": model.bytes,
        "experts": list(model.experts),
        "num_experts": model.num_experts,
        "licence": model.licence,
        "sources": list(model.sources),
        "folder": None if model.folder is None else str(model.folder),
    }


def show_models(models: Iterable[ListedModel], out: Output) -> None:
    """List models on stdout: bare names when quiet, else a table for people or lines for programs."""
    if out.quiet and not out.json:
        for model in models:
            if model.kind != "preset":  # no name that other commands take
                out.data(model.name if model.revision is None else f"{model.name}@{model.revision}")
        return
    if out.json:
        for model in models:
            out.event(model_event(model))
        return
    if not sys.stdout.isatty():
        for m in models:
            experts = ",".join(str(index) for index in m.experts)
            sizes = (str(m.bytes), f"{experts}/{m.num_experts}")
            cells = (m.name, m.kind, _revision(m, short=False), *sizes, m.licence, ",".join(m.sources))
            out.data("\t".join(clean(cell) for cell in cells))
        return
    rows = [HEADING]
    rows += [
        (
            m.name,
            m.kind,
            _revision(m, short=True),
            "-" if m.kind == "preset" else size_text(m.bytes),
            _experts(m),
            m.licence,
            m.sources[0] if m.sources else "-",
        )
        for m in models
    ]
    for line in _aligned([tuple(clean(cell) for cell in row) for row in rows]):
        out.data(line)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def describe_lines(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of one model, for people; `about` is from `describe_model`."""
    experts, tags, coder = about["experts"], about["tags"], about["autoencoder"]
    lines = [("model", about["model"])]
    if about["revision"] is not None:
        lines.append(("revision", about["revision"]))
    lines += [("family", about["family"]), ("licence", about["licence"])]
    networks = f"{about['parameters']:,} in each of {len(experts)} experts, one in use at any step"
    lines.append(("parameters", networks if len(experts) > 1 else f"{about['parameters']:,}"))
    for expert in experts:
        state = "here" if expert["present"] else "not here"
        low, high = expert["t"]
        lines.append((f"expert {expert['expert']}", f"t {low:.3f} to {high:.3f}, {expert['file']}, {state}"))
    source = f" from {coder['source']}" if coder["source"] else ""
    lighter = f", decoder of {coder['decoder']}" if coder["decoder"] else ""
    lines.append(("autoencoder", f"{coder['kind']}, {coder['factor']}x down{source}{lighter}"))
    lines.append(("tags", ", ".join(tags["vocabulary"]) if tags["kind"] == "closed" else tags["kind"]))
    lines += [(name, tags[key]) for name, key in (("text encoder", "encoder"), ("tagger", "tagger")) if tags[key]]
    lines.append(("steps", f"{about['steps']} ({about['sampler']}), guidance {about['cfg_scale']:g}"))
    if about["folder"] is not None:
        lines.append(("folder", about["folder"]))
    here = sum(file["bytes"] for file in about["files"] if file["present"])
    lines.append(("size", f"{size_text(about['bytes'])}, of which here {size_text(here)}"))
    for file in about["files"]:
        lines.append(("file", f"{file['name']}, {file['bytes']} bytes, {'here' if file['present'] else 'not here'}"))
    return lines


def check_event(check: FileCheck) -> dict[str, Any]:
    """What was found of one file, as a JSON line."""
    about = {"name": check.name, "component": check.part, "bytes": check.bytes}
    return {"event": "file", **about, "status": check.status, "problem": check.problem}


def check_line(check: FileCheck) -> str:
    """What was found of one file, for people."""
    return f"{check.status:8} {clean(check.title)}{f': {clean(check.problem)}' if check.problem else ''}"
