"""Checks of single values that configs, commands and checkpoints share. Standard library only."""

from __future__ import annotations

from linearsr.errors import ConfigError

__all__ = ["at_least", "check_cfg_scale", "check_file_name", "check_source"]

MAX_CFG_SCALE = 20.0


def at_least(config: object, section: str, least: int, names: str) -> None:
    """Refuse fields of a config section below a number.

    Args:
        config: the section.
        section: its name, for the message.
        least: smallest value allowed.
        names: of the fields, separated by spaces.

    Raises:
        ConfigError: a field is smaller.
    """
    for name in names.split():
        if getattr(config, name) < least:
            raise ConfigError(f"{section}.{name} is {getattr(config, name)}, expected at least {least}")


def check_file_name(name: str) -> str:
    """Refuse a file name that leads out of the checkpoint's folder, or means something else on another system.

    Args:
        name: as config.json lists it, sub-folders separated by `/`.

    Raises:
        ConfigError: absolute, with `..`, a backslash, a drive or an empty part.
    """
    parts = name.split("/")
    if "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ConfigError(
            f"file name {name!r} leaves the model's folder, expected a path inside it", hint="do not use this model"
        )
    return name


def check_source(source: str, setting: str) -> str:
    """Refuse what is no place of a component: `./folder` inside the checkpoint, or a Hub id `owner/name[@revision]`.

    A path on one machine's disk is allowed too, so that a run can use what lies there; a published model should not.

    Raises:
        ConfigError: empty, or a folder that leads out of the checkpoint.
    """
    if not source:
        raise ConfigError(f"{setting} is empty, expected './folder' of the checkpoint or a Hub id such as owner/name")
    if source.startswith("./"):
        check_file_name(source[2:])
    return source


def check_cfg_scale(value: float, name: str = "cfg_scale") -> None:
    """Refuse a guidance weight out of range; beyond the upper end every published one has long been too much.

    Raises:
        ConfigError: not 0 to `MAX_CFG_SCALE`, or not a number.
    """
    if not 0.0 <= value <= MAX_CFG_SCALE:
        raise ConfigError(f"{name} is {value:g}, expected 0 to {MAX_CFG_SCALE:g}", hint="1 is off")
