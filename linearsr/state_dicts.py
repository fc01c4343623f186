"""Comparing the tensors of a file with those of a module, and saying in one line what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["some", "tensor_problems"]

Shape = tuple[int, ...]


def some(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def tensor_problems(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> str:
    """What is missing, extra or of another shape, in words; empty where nothing is."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{key} is {found[key]}, expected {expected[key]}"
        for key in sorted(expected.keys() & found.keys())
        if found[key] != expected[key]
    ]
    parts = [f"missing {some(missing)}"] * bool(missing) + [f"extra {some(extra)}"] * bool(extra)
    return "; ".join([*parts, *[some(wrong)] * bool(wrong)])
