r"""Doing a plan: load the model once, then file after file; one bad file does not end the run.

With `--json`, stdout holds one object a line. For every input, as soon as it is finished:

    {"event": "file", "input": "a.jpg", "output": "out/a.jpg", "status": "done", "width": 2560, "height": 1920,
     "scale": 4.0, "seconds": 5.1, "tags": ["jpeg"], "tags_from": "tagger", "notes": []}

`status` is `done`, `skipped` (a complete result was there) or `failed`, which adds `error` and mostly `hint`;
`--dry-run` has `planned` instead of `done`. `output` is null for stdout and where an input failed before it had a
name; width and height are output pixels, 0 if unknown; `scale` is the geometric mean of the two side ratios; `tags`
are what the model was told and `tags_from` is where they come from: `user` (`--tags`), `csv` (`--tags-from`), `tagger`
or `none`, both null unless done; `notes` say what could not be kept. Last comes

    {"event": "summary", "done": 1, "skipped": 0, "failed": 0, "seconds": 6.0, "megapixels": 4.92, "exit_code": 0}

with the megapixels written. A run that is interrupted, or ends because weights or device fail, has a summary too; a
usage error (exit code 2) found before the first file has none.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.errors import DeviceError, ImageError, LinearSRError, OutOfMemoryError, WeightsError
from linearsr_cli.calls import find_tags, given_tags, load_upscaler, picture_settings, shows_through, write_settings
from linearsr_cli.errors import ExitCode, debug_wanted, describe, exit_code_of, exit_code_of_files
from linearsr_cli.items import Plan, PlanItem
from linearsr_cli.output import Output, clean
from linearsr_cli.progress import Progress, open_progress
from linearsr_cli.settings import UpscaleOptions
from linearsr_cli.signals import Stopped, hold
from linearsr_cli.summary import summarise
from linearsr_cli.tags import UsedTags, write_tags

if TYPE_CHECKING:
    from linearsr.image_io import Picture
    from linearsr.pipeline import Upscaler

__all__ = ["UnexpectedError", "run_job"]


class UnexpectedError(LinearSRError):
    """A fault of LinearSR itself while it worked on one file."""


class StopOnError(Exception):  # noqa: N818 - not an error of its own
    """`--on-error stop` ends the run after a failure."""


@dataclass
class Tally:
    """What became of the files so far."""

    done: int = 0
    skipped: int = 0
    pixels: int = 0
    failures: list[tuple[str, BaseException]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    """Of the pictures that were done, by name."""

    def exit_code(self) -> ExitCode:
        """Code of a run that came to its end."""
        return exit_code_of_files([error for _, error in self.failures], self.done > 0 or self.skipped > 0)


class Job:
    """One run: its options, its output and its tally."""

    def __init__(self, plan: Plan, options: UpscaleOptions, out: Output) -> None:
        self.plan = plan
        self.options = options
        self.out = out
        self.tally = Tally()
        self.compared = False
        self.ahead: dict[str, UsedTags] = {}
        """Tags that were found before the first picture was sampled, by input."""

    def settle(self, item: PlanItem) -> None:
        """Report an item that the plan has decided already."""
        if item.action == "skip":
            self.tally.skipped += 1
            self.out.detail(f"skipped: {clean(item.source.name)}: {clean(str(item.output))} exists")
            if item.output is not None:
                self.out.result(item.output, item.event("skipped"))
        elif item.error is not None:
            self.fail(item, item.error)

    def fail(self, item: PlanItem, error: BaseException, seconds: float = 0.0) -> None:
        """Report a failed item.

        Raises:
            StopOnError: with `--on-error stop`.
        """
        if debug_wanted():
            self.out.info("".join(traceback.format_exception(error)).rstrip())
        if not isinstance(error, LinearSRError):
            message, hint = describe(error)
            memory = isinstance(error, MemoryError)
            error = OutOfMemoryError(message, hint=hint) if memory else UnexpectedError(message, hint=hint)
        failed = item.failed(error)
        self.tally.failures.append((item.source.name, error))
        self.out.failure(item.source.name, error if failed.error is None else failed.error)
        self.out.event(failed.event("failed", seconds=seconds))
        if self.options.on_error == "stop":
            raise StopOnError

    def work(self) -> None:
        """Load the model and upscale every item that is to be done."""
        todo = self.plan.todo
        if not todo:
            return
        pixels = sum(item.pixels for item in todo)
        with open_progress(self.options.progress, self.out, files=len(todo), pixels=pixels) as progress:
            upscaler = load_upscaler(self.options, self.plan.table, progress, self.out)
            if upscaler.tags_ahead:
                upscaler.check_parts()
                self.tag_ahead(todo, upscaler, progress)
            for item in todo:
                self.one(item, upscaler, progress)

    def tag_ahead(self, todo: Sequence[PlanItem], upscaler: Upscaler, progress: Progress) -> None:
        """Find the tags of every picture, then let go of tagger and text encoder before anything is sampled.

        A picture that cannot be read is left for its own turn, when the failure is reported.
        """
        from linearsr.image_io import read

        for number, item in enumerate(todo, start=1):
            picture = None
            if given_tags(item, self.options) is None and upscaler.tagger is not None:
                progress.tagging(number, len(todo))
                try:
                    picture = read(item.source.path)
                except (ImageError, OSError):
                    continue
            self.ahead[item.source.name] = find_tags(item, picture, upscaler, self.options)
        del picture
        upscaler.prepare([tags.names for tags in self.ahead.values()], self.options.negative_tags)

    def one(self, item: PlanItem, upscaler: Upscaler, progress: Progress) -> None:
        """Upscale one item and report it.

        Raises:
            WeightsError, DeviceError, BrokenPipeError: the next file would fail the same way.
        """
        started = time.perf_counter()
        progress.begin(item.source.name, item.pixels)
        try:
            picture, result, tags = self.upscale(item, upscaler, progress)
            with hold():  # a file that is written is also reported
                notes = self.save_all(item, picture, result)
                self.succeed(item, notes, tags, time.perf_counter() - started, progress)
            return
        except OutOfMemoryError as error:
            failure: BaseException = error
        except (WeightsError, DeviceError, BrokenPipeError):
            raise
        except Exception as error:
            failure = error
        progress.end(f"{clean(item.source.name)} failed")
        self.fail(item, failure, time.perf_counter() - started)

    def succeed(
        self, item: PlanItem, notes: tuple[str, ...], tags: UsedTags, seconds: float, progress: Progress
    ) -> None:
        """Count and report a finished item."""
        self.tally.done += 1
        self.tally.pixels += item.pixels
        self.tally.tags[item.source.name] = tags.text
        self.out.detail(f"tags: {clean(item.source.name)}: {tags.text if tags.names else 'none'} ({tags.origin})")
        for note in notes:
            self.out.info(f"note: {clean(item.source.name)}: {note}")
        where = "stdout" if item.output is None else clean(item.output)
        progress.end(f"{clean(item.source.name)} -> {where} {item.width}x{item.height} in {seconds:.1f} s")
        event = item.event("done", seconds=seconds, notes=notes, tags=tags)
        if item.output is None:
            self.out.event(event)
        else:
            self.out.result(item.output, event)

    def upscale(self, item: PlanItem, upscaler: Upscaler, progress: Progress) -> tuple[Picture, Picture, UsedTags]:
        """Read and upscale one picture; gives the input, the result and the tags."""
        from linearsr.image_io import check_writable, read

        picture = read(item.source.path)
        check_writable(item.format, item.width, item.height, has_alpha=shows_through(picture, self.options))
        known = self.ahead.get(item.source.name)
        tags = find_tags(item, picture, upscaler, self.options) if known is None else known
        settings = picture_settings(item, self.options)
        result = upscaler.upscale_picture(picture, tags=tags.names, progress=progress.fraction, **settings)
        return picture, result, tags

    def save_all(self, item: PlanItem, picture: Picture, result: Picture) -> tuple[str, ...]:
        """Write the result and its comparison.

        Returns:
            What could not be kept, in plain words.
        """
        written = self.save(item, result)
        self.compare(item, picture, result)
        return tuple(dict.fromkeys((*item.notes, *result.notes, *written)))

    def save(self, item: PlanItem, result: Picture) -> list[str]:
        """Write the result to its file, or through a temporary file to stdout."""
        from linearsr.atomic import make_folder
        from linearsr.image_io import write
        from linearsr_cli.stdio import send_to_stdout

        settings = write_settings(item, self.options)
        if item.output is not None:
            make_folder(item.output.parent)
            return write(result, item.output, **settings)
        with tempfile.TemporaryDirectory(prefix="linearsr-") as folder:
            path = Path(folder) / "stdout"
            notes = write(result, path, **settings)
            send_to_stdout(path)
        return notes

    def compare(self, item: PlanItem, picture: Picture, result: Picture) -> None:
        """Write the side-by-side picture where one is asked for."""
        from linearsr_cli.upscale_comparison import comparison_path, write_comparison

        path = comparison_path(self.options.compare, item.source.relative, self.compared)
        if path is None:
            return
        self.compared = True
        try:
            write_comparison(path, picture, result, f"LinearSR {self.options.model} x{item.scale:.3g}")
        except (LinearSRError, OSError) as error:  # the result itself is saved
            self.out.warn(f"no comparison of {clean(item.source.name)}: {describe(error)[0]}")
            return
        self.out.detail(f"compared: {clean(path)}")


def run_job(plan: Plan, options: UpscaleOptions, out: Output) -> ExitCode:
    """Do a plan and report it, file by file and as a whole.

    Raises:
        WeightsError, DeviceError, ConfigError: found while loading; the run ends, the summary is out.
        Stopped: a signal; files finished so far are complete, the summary is out.
    """
    job = Job(plan, options, out)
    started = time.perf_counter()
    try:
        for item in plan.items:
            job.settle(item)
        job.work()
    except StopOnError:
        code = job.tally.exit_code()
    except (Stopped, LinearSRError) as error:
        code = ExitCode(error.exit_code) if isinstance(error, Stopped) else exit_code_of(error)
        save_tags(job)
        summarise(job, code, time.perf_counter() - started)
        raise
    else:
        code = job.tally.exit_code()
    if not save_tags(job) and code is ExitCode.DONE:
        code = ExitCode.SOME_FAILED
    summarise(job, code, time.perf_counter() - started)
    return code


def save_tags(job: Job) -> bool:
    """Write the table of `--save-tags`, if one is asked for; without a picture done, what is there stays.

    Returns:
        False if it could not be written; the pictures themselves are saved.
    """
    path = job.options.save_tags
    failed = {name for name, _ in job.tally.failures}
    # Tags found ahead are not lost if the run is interrupted.
    ahead = {name: tags.text for name, tags in job.ahead.items() if name not in failed}
    if path is None or (not job.tally.tags and not ahead and Path(path).exists()):
        return True
    try:
        with hold():
            write_tags(Path(path), {**job.plan.saved_tags, **ahead, **job.tally.tags})
    except LinearSRError as error:
        job.out.failure(path, error)
        return False
    job.out.detail(f"tags saved: {clean(path)}")
    return True
