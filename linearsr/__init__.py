"""LinearSR: photorealistic super-resolution at linear cost (arXiv:2510.08771)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LinearSRError", "Picture", "Upscaler", "__version__"]

if TYPE_CHECKING:
    from linearsr.errors import LinearSRError
    from linearsr.image_io import Picture
    from linearsr.pipeline import Upscaler

_LAZY = {
    "LinearSRError": "linearsr.errors",
    "Picture": "linearsr.image_io",
    "Upscaler": "linearsr.pipeline",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import public names on first use (PEP 562), so that `linearsr --help` never loads torch."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'linearsr' has no attribute {name!r}")
