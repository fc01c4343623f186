"""What a run says at its end: a JSON line, or a line on stderr when there was more than one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linearsr_cli.errors import ExitCode, describe
from linearsr_cli.output import clean

if TYPE_CHECKING:
    from linearsr_cli.job import Job

__all__ = ["summarise"]

LIST_AGAIN = 10
"""From so many files on, failures are listed once more at the end, since they have scrolled away."""


def summarise(job: Job, code: ExitCode, seconds: float) -> None:
    """Write the summary of a run.

    Args:
        job: that has come to its end.
        code: its exit code.
        seconds: it took.
    """
    tally, out = job.tally, job.out
    megapixels = tally.pixels / 1e6
    out.event(
        {
            "event": "summary",
            "done": tally.done,
            "skipped": tally.skipped,
            "failed": len(tally.failures),
            "seconds": round(seconds, 3),
            "megapixels": round(megapixels, 3),
            "exit_code": int(code),
        }
    )
    if len(job.plan.items) >= LIST_AGAIN:
        for name, error in tally.failures:
            out.info(f"failed: {clean(name)}: {describe(error)[0]}")
    left = len(job.plan.items) - tally.done - tally.skipped - len(tally.failures)
    parts = [f"{tally.done} done", f"{tally.skipped} skipped", f"{len(tally.failures)} failed"]
    parts += [f"{left} left"] if left > 0 else []
    out.info(f"{', '.join(parts)}; {megapixels:.1f} MP in {seconds:.1f} s")
