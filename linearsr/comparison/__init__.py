"""Comparison for the eye: places where pictures differ, labelled sheets, and a report for the browser."""
