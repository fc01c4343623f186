"""Optional packages: imported where they are first needed, with an error that names what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from linearsr.errors import ConfigError

__all__ = ["require"]


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: to import, such as `diffusers`.
        extra: of LinearSR that brings it.
        purpose: what needs it, as the subject of a sentence: `the DC-AE autoencoder`.

    Raises:
        ConfigError: it is not installed, or its own import fails.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package
        problem = "which is not installed" if missing else f"which does not import: {error}"
        raise ConfigError(
            f"{purpose} needs {package}, {problem}", hint=f'run `pip install "linearsr[{extra}]"`'
        ) from error
