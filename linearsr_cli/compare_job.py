"""The work of `linearsr compare`: one scene after another, read, scored, and put on sheets or a page."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.errors import ImageError, LinearSRError, ShapeError
from linearsr_cli.compare_plan import BICUBIC, HR, LR, NAMED, ComparePlan, Scene
from linearsr_cli.compare_scores import make_scoring, scores_text
from linearsr_cli.compare_settings import ROWS, CompareOptions, check_output_files, further_sheets, paths_of
from linearsr_cli.errors import ExitCode, describe, exit_code_of, exit_code_of_files
from linearsr_cli.output import Output, clean
from linearsr_cli.progress import Progress, open_progress
from linearsr_cli.signals import Stopped, hold

if TYPE_CHECKING:
    from torch import Tensor

    from linearsr.comparison.embedding import Encoding, OnPicture
    from linearsr.comparison.scenes import MetricColumn, ReportImage
    from linearsr.metrics import Scorer

    Columns = tuple[MetricColumn, ...]

__all__ = ["check_output_files", "run_comparison"]

MAX_BYTES = 6_000_000
DOT = " \N{MIDDLE DOT} "
"""Between labels, which may hold commas."""


@dataclass(kw_only=True, slots=True)
class Run:
    """One run: what it compares and how far it is."""

    plan: ComparePlan
    options: CompareOptions
    out: Output
    scorers: Mapping[str, Scorer]
    read: int = 0
    done: int = 0
    """Scenes in files that are written."""
    failures: list[LinearSRError] = field(default_factory=list)

    def images(self, progress: Progress) -> Iterator[ReportImage]:
        """Every scene that can be read, one in memory at a time."""
        for scene in self.plan.scenes:
            progress.begin(scene.name, scene.pixels)
            try:
                image = self.image(scene)
            except (LinearSRError, MemoryError) as error:
                progress.end(f"{clean(scene.name)} failed")
                self.fail(scene.name, error if isinstance(error, LinearSRError) else ImageError("out of memory"))
                continue
            self.read += 1
            progress.end(f"{clean(scene.name)} {scene.size[0]}x{scene.size[1]}")
            yield image

    def image(self, scene: Scene) -> ReportImage:
        """Read, score and search one scene.

        Raises:
            ImageError: a picture of it cannot be read.
        """
        from linearsr.comparison.places import find_places
        from linearsr.comparison.scenes import ReportImage
        from linearsr.comparison.sizes import bring_to
        from linearsr.evaluation.pictures import notes_of, read_picture
        from linearsr.image_encode import quantised

        pictures, whole, lr = {}, {}, None
        for column, path in scene.files.items():
            picture = read_picture(path)
            lr = picture if column == LR else lr
            pictures[column] = bring_to(picture, scene.size)
            whole[column] = pictures[column] if scene.enlarged(column) > 1.0 else picture
        notes = notes_of(scene.infos.values())
        scores = self.scores(scene, pictures, whole, lr, notes)
        columns = self.plan.inputs if len(self.plan.inputs) > 1 else tuple(pictures)
        count = self.options.places
        places = find_places([pictures[c] for c in columns], self.options.crop, count) if count else ()
        labels = self.plan.labels
        factors = {c: scene.enlarged(c) for c in pictures if c != LR or labels[c] != BICUBIC}
        return ReportImage(
            name=scene.name,
            width=scene.size[0],
            height=scene.size[1],
            pictures={
                labels[column]: quantised(picture.permute(1, 2, 0).contiguous().numpy(), 8)
                for column, picture in pictures.items()
            },
            scores={labels[column]: values for column, values in scores.items()},
            places=places,
            notes=tuple(notes),
            enlarged={labels[column]: factor for column, factor in factors.items() if factor > 1.0},
            cut_from={labels[c]: size for c in pictures if (size := scene.cut_from(c)) is not None},
        )

    def scores(
        self,
        scene: Scene,
        pictures: Mapping[str, Tensor],
        whole: Mapping[str, Tensor],
        lr: Tensor | None,
        notes: list[str],
    ) -> dict[str, dict[str, float]]:
        """Scores of every column but the clean picture; what has none is said in `notes`, once.

        Against the input a column counts as it is in `whole`, before the cut: a part is not the input enlarged.
        """
        from linearsr.metrics import METRICS, Sample

        hr = pictures[HR] if scene.has_clean else None
        if HR in scene.files and hr is None:
            notes.append("the reference is smaller: nothing is scored against it")
        found: dict[str, dict[str, float]] = {column: {} for column in pictures if column != HR}
        for name, scorer in self.scorers.items():
            needs = METRICS[name].needs
            if needs == "reference" and hr is None:
                continue
            shown = whole if needs == "input" else pictures
            try:
                for column, values in found.items():
                    value = scorer(Sample(sr=shown[column], hr=hr if shown is pictures else None, lr=lr))
                    if value is not None:
                        values[name] = value
            except (ShapeError, ImageError) as error:
                notes.append(f"not scored: {error.message}")
            else:
                if not any(name in values for values in found.values()):
                    notes.append(f"too small for {METRICS[name].title}")
        return found

    def fail(self, name: str, error: LinearSRError) -> None:
        """Count and report a scene that is left out."""
        self.failures.append(error)
        self.out.failure(name, error)
        message, hint = describe(error)
        self.out.event({"event": "picture", "image": name, "status": "failed", "error": message, "hint": hint})

    def summarise(self, code: ExitCode) -> None:
        """Say how many scenes are in files that are there."""
        nothing = "" if self.done else "; nothing was written"
        self.out.info(f"{self.done} done, {len(self.failures)} failed{nothing}")
        self.out.event({"event": "summary", "done": self.done, "failed": len(self.failures), "exit_code": int(code)})


def run_comparison(plan: ComparePlan, options: CompareOptions, out: Output) -> ExitCode:
    """Make the comparison and report it.

    Raises:
        WeightsError, ConfigError: a metric that was asked for cannot be computed; nothing has been done.
        Stopped, LinearSRError: a signal, or the page does not fit or cannot be written; sheets made so far are whole
            and the summary is out.
    """
    scorers, metrics = make_scoring(options, out, plan.border)
    run = Run(plan=plan, options=options, out=out, scorers=scorers)
    for name, error in plan.failures:
        run.fail(name, error)
    pixels = sum(scene.pixels for scene in plan.scenes)
    progress = open_progress(options.progress, out, files=len(plan.scenes), pixels=pixels)
    progress.begin("reading", 0)  # a bar that has begun nothing says that it loads a model
    with progress:
        images = run.images(progress)
        try:
            first = next(images, None)
            if first is not None:
                write = _write_page if options.is_page else _write_sheets
                write(run, itertools.chain([first], images), metrics, progress)
        except (Stopped, LinearSRError) as error:
            run.summarise(ExitCode(error.exit_code) if isinstance(error, Stopped) else exit_code_of(error))
            raise
    code = exit_code_of_files(run.failures, has_good=run.done > 0)
    run.summarise(code)
    return code


def _write_sheets(run: Run, images: Iterator[ReportImage], metrics: Columns, progress: Progress) -> None:
    """One sheet after another, each announced when it is whole."""
    from linearsr.atomic import write_bytes
    from linearsr.comparison.sheet import compare_sheet, page_path
    from linearsr.image_io import Picture, encode_picture, format_of
    from linearsr_cli.stdio import send_to_stdout

    options, labels = run.options, tuple(run.plan.labels.values())
    rows = ROWS if options.rows is None else options.rows
    foot = f"Scores: {scores_text(run.plan.border, metrics)}" if metrics else None
    _warn_of_letters(run)
    for page in itertools.count(1):
        scenes = list(itertools.islice(images, rows))
        if not scenes:
            break
        progress.begin(f"drawing sheet {page}", 0)
        title = options.title if page == 1 else None
        canvas = compare_sheet(scenes, labels, metrics=metrics, zoom=options.zoom, title=title, foot=foot)
        path = page_path(Path(options.output), page)
        kind = "PNG" if options.output == "-" else format_of(path)
        data, _ = encode_picture(Picture.from_array(canvas), format="PNG" if kind is None else kind, quality=95)
        event = {"event": "sheet", "output": str(path), "bytes": len(data), "images": len(scenes)}
        if options.output == "-":
            with tempfile.TemporaryDirectory(prefix="linearsr-") as folder:
                spooled = Path(folder) / "sheet.png"
                spooled.write_bytes(data)
                send_to_stdout(spooled)
            run.out.event({**event, "output": None})
            run.done += len(scenes)
        else:
            with hold():
                write_bytes(path, data)
                run.done += len(scenes)
                run.out.result(path, event)
    if options.on_exists == "overwrite" and options.output != "-":
        for path in further_sheets(options.output, page, paths_of(run.plan)):
            run.out.warn(f"{clean(str(path))} was there before and is no sheet of this comparison")


def _warn_of_letters(run: Run) -> None:
    """Say once which letters of names and title stand on the sheets as escapes."""
    from linearsr.comparison.lettering import lacking, written

    names = (scene.name for scene in run.plan.scenes)
    letters = lacking("".join((run.options.title or "", *run.plan.labels.values(), *names)))
    if letters:
        shown, more = " ".join(letters[:NAMED]), f" and {len(letters) - NAMED} more" * (len(letters) > NAMED)
        run.out.warn(
            f"the font of sheets lacks {clean(shown)}{more}, written there as {written(shown)}; "
            "a page shows them (`-o report.html`)"
        )


def _write_page(run: Run, images: Iterator[ReportImage], metrics: Columns, progress: Progress) -> None:
    """The HTML page."""
    from linearsr.comparison.report import Report, write_report

    path, labels = Path(run.options.output), tuple(run.plan.labels.values())
    shown = [run.plan.labels[column] for column in run.plan.inputs]
    usual = DOT.join(shown if len(shown) > 1 else labels)
    title = usual if run.options.title is None else run.options.title
    start = (shown[0], shown[1]) if len(shown) > 1 else None
    report = Report(title=title, labels=labels, metrics=metrics, images=images, facts=_facts(run, metrics), start=start)
    max_bytes = MAX_BYTES if run.options.max_bytes is None else run.options.max_bytes
    size = write_report(path, report, max_bytes=max_bytes, on_picture=_encoding_shown(run, progress))
    run.done = run.read
    said = f"pictures are stored as {size.encoding}"
    if size.is_coarse:
        run.out.warn(f"{said}, which shows; raise --max-size, or take fewer pictures with --limit")
    else:
        run.out.info(said)
    event = {"event": "report", "output": str(path), "bytes": size.bytes, "images": run.done}
    run.out.result(path, {**event, "encoding": size.encoding})


def _encoding_shown(run: Run, progress: Progress) -> OnPicture:
    """Show how far the encoding is: a line for every hundred pictures at each setting that is tried, each on a bar."""

    def show(encoding: Encoding, number: int, count: int) -> None:
        if number % 100 == 1 and run.options.progress != "none":
            run.out.info(f"encoding as {encoding}, {number} of {count}")
        progress.begin(f"encoding {number} of {count}", 0)

    return show


def _facts(run: Run, metrics: Columns) -> tuple[tuple[str, str], ...]:
    """How the page was made, for its foot."""
    from linearsr import __version__

    options = run.options
    facts = [("Made by", f"linearsr compare, version {__version__}")]
    facts.append(("Pairing", "One picture each" if options.inputs[0].is_file() else f"By {options.pair_by}"))
    if metrics:
        facts.append(("Scores", scores_text(run.plan.border, metrics)))
    if options.places:
        among = "the columns" if len(run.plan.inputs) < 2 else DOT.join(run.plan.labels[c] for c in run.plan.inputs)
        facts.append(("Places", f"{options.crop} pixels a side, where Y, Cb or Cr (BT.601) differs most among {among}"))
    return tuple(facts)
