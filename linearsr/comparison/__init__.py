"""Comparison for the eye: places where pictures differ, labelled sheets, and a report for the browser."""

__all__ = ["MAX_ZOOM"]

MAX_ZOOM = 8
"""Largest factor by which the places on a sheet are zoomed."""
