"""Users' processes: each carries out what it is told, one JSON line at a time, with a huggingface_hub of its own.

They are forked from one process that has imported torch and LinearSR but not huggingface_hub, since that takes most of
the time. What huggingface_hub reads at import (address, cache, offline) is the same for all that one process does; the
token and the limit on files are set for one step.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import socket
import sys
import time

import torch

import linearsr.image_io  # noqa: F401 - for all processes at once
import linearsr.pipeline  # noqa: F401
import linearsr_cli.commands.upscale  # noqa: F401
from linearsr.errors import LinearSRError
from linearsr.hub import open_model
from linearsr_cli.app import main

MODELS = {}
EVENTS = []


def cli(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return {"code": int(code), "out": out.getvalue(), "err": err.getvalue()}


def version():
    before = "huggingface_hub" in sys.modules
    import huggingface_hub

    return {"version": huggingface_hub.__version__, "file": huggingface_hub.__file__, "before": before}


def open_named(model, stop_at=None):
    def on_download(name, done, total):
        EVENTS.append(["download", name, done, total])
        if stop_at is not None and name.endswith(stop_at):
            raise KeyboardInterrupt

    def on_licence(name, licence):
        EVENTS.append(["licence", name, licence])

    MODELS[model] = open_model(model, on_download=on_download, on_licence=on_licence)
    return {"revision": MODELS[model].source.revision}


def file(model, name):
    return {"path": str(MODELS[model].file(name))}


def component(model, source):
    folder = MODELS[model].component(source, what="autoencoder")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {"path": str(folder), "files": files}


def upload(folder, repo):
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo, private=True, exist_ok=True)
    commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload")
    return {"url": str(url), "commit": commit.oid, "files": sorted(api.list_repo_files(repo))}


STEPS = {"cli": cli, "version": version, "open": open_named, "file": file, "component": component, "upload": upload}


def carry_out(step, *arguments, token=None, limit=None):
    """One step, and what it came to; `limit` is the largest file in bytes that may be written."""
    EVENTS.clear()
    if token is not None:
        os.environ["HF_TOKEN"] = token
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    begin = time.monotonic()
    try:
        answer = STEPS[step](*arguments)
    except LinearSRError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except KeyboardInterrupt:
        answer = {"error": "KeyboardInterrupt"}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        os.environ.pop("HF_TOKEN", None)
    return {**answer, "seconds": time.monotonic() - begin, "events": list(EVENTS)}


def serve(port):
    """Be a user until the other end hangs up."""
    with socket.create_connection(("127.0.0.1", port)) as link, link.makefile("rw") as lines:
        for line in lines:
            told = json.loads(line)
            lines.write(json.dumps(carry_out(*told["step"], **told["settings"])) + "\n")
            lines.flush()


if __name__ == "__main__":
    with torch.device("meta"):
        torch.randn(2) / 2.0  # the first one makes torch import 800 modules more
    for line in sys.stdin:
        user = json.loads(line)
        if os.fork() == 0:
            os.environ.update(user["environment"])
            sys.path[:0] = user["path"]
            serve(user["port"])
            os._exit(0)  # not the parent's way out: that would wait for the other users
    os._exit(0)
