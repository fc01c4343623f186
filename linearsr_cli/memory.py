"""Main memory of this machine, from the operating system."""

from __future__ import annotations

import contextlib
import os
import sys

__all__ = ["memory_bytes"]


def memory_bytes() -> dict[str, int]:
    """Main memory in bytes by `total` and `available`; what the system does not say is left out."""
    found: dict[str, int] = {}
    for key, name in (("total", "SC_PHYS_PAGES"), ("available", "SC_AVPHYS_PAGES")):
        try:
            found[key] = os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            continue
    if sys.platform == "linux":  # free pages leave out the cache, which the system gives back
        with contextlib.suppress(OSError, KeyError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
            found["available"] = int(lines["MemAvailable"].split()[0]) * 1024
    return found
