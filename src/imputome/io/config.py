"""A method and its parameters as TOML: what `imputome tune` writes and `imputome fit --config` reads.

TOML has no word for None: the text "none" stands for it, as on the command line.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imputome.core.atomic import atomic_path
from imputome.errors import InputError

MARK = "# written by imputome tune"


@dataclass(frozen=True)
class Config:
    """A method by name, and some of its parameters."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)


def read_config(path: str | Path) -> Config:
    """Read ``method = "name"`` and the table ``[params]``; lists become tuples.

    Raises
    ------
    InputError
        The file is missing, no TOML, or holds anything else.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"there is no config file {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the config file {path} cannot be read as TOML: {error}") from error
    unknown = [name for name in content if name not in ("method", "params")]
    if unknown:
        raise InputError(
            f"the config file {path} has the key {unknown[0]!r}: it takes method and the table [params], which holds "
            "the method's parameters"
        )
    method, params = content.get("method"), content.get("params", {})
    if not isinstance(method, str) or not isinstance(params, dict):
        raise InputError(f'the config file {path} must name a method, as in method = "zipo", and hold a table [params]')
    return Config(method, {name: _parameter(value) for name, value in params.items()})


def check_config_path(path: Path) -> None:
    """Refuse a path that cannot be written, or where something stands that `write_config` did not write."""
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise InputError(f"the folder {path.absolute().parent} does not exist or cannot be written to")
    if path.is_dir() or (path.exists() and not path.read_bytes().startswith(MARK.encode())):
        raise InputError(f"{path} exists and was not written by imputome tune: choose another output")


def write_config(path: Path, config: Config, *, notes: str = "") -> None:
    """Write ``config`` with a line of ``notes``."""
    check_config_path(path)
    lines = [f"{MARK}{': ' if notes else ''}{notes}", f"method = {_toml(config.method)}", "", "[params]"]
    lines += [f"{name} = {_toml(value)}" for name, value in config.params.items()]
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parameter(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_parameter(part) for part in value)
    return None if isinstance(value, str) and value.lower() == "none" else value


def _toml(value: Any) -> str:
    """A plain value in TOML: for texts, numbers, truth values and lists of them JSON's notation is the same."""
    return json.dumps("none" if value is None else value, allow_nan=False)
