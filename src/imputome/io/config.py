"""A method and its parameters as TOML: ``imputome tune`` writes it, ``imputome fit --config`` reads it.

TOML has no word for None: the text "none" stands for it, as on the command line.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from imputome.core.atomic import atomic_path
from imputome.errors import InputError

MARK = "# written by imputome tune"  # first line of the files that may be overwritten


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """A method and some of its parameters.

    Attributes
    ----------
    method : str
        A registered name.
    params : dict, optional
        Parameters by name.
    """

    method: str
    params: dict[str, Any] = field(default_factory=dict)


def read_config(path: str | Path) -> Config:
    """Read ``method = "name"`` and the table ``[params]``; lists become tuples.

    Parameters
    ----------
    path : str or Path
        TOML file.

    Returns
    -------
    Config

    Raises
    ------
    InputError
        The file does not exist, is not valid TOML, or holds something else.
    """
    path = Path(path)
    try:
        config = TypeAdapter(Config).validate_python(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except FileNotFoundError as error:
        raise InputError(f"there is no config file {path}", code="config-missing", parameter="config") from error
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(
            f'the config file {path} takes only method = "name" and a table [params] with the parameters of the '
            f"method: {'.'.join(map(str, fault['loc']))}: {fault['msg']}",
            code="config-field",
            parameter="config",
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"the config file {path} is not valid TOML: {error}", code="config-unreadable", parameter="config"
        ) from error
    return replace(config, params={name: _parameter(value) for name, value in config.params.items()})


def check_config_path(path: Path) -> None:
    """Check, before any computation, that a config can be written to ``path``.

    Raises
    ------
    InputError
        The folder does not exist or cannot be written to, or a file that `write_config` did not write is in the way.
    """
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"the folder {folder} does not exist or cannot be written to",
            code="folder-not-writable",
            parameter="output",
        )
    if path.is_dir() or (path.exists() and not path.read_bytes().startswith(MARK.encode())):
        raise InputError(
            f"{path} exists and was not written by imputome tune: pass another {{output}}",
            code="output-exists",
            output=...,
        )


def write_config(path: Path, config: Config, *, notes: str = "") -> None:
    """Write a config, with ``notes`` in its first line."""
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
    """A plain value in TOML, whose notation for texts, numbers, truth values and lists of them is that of JSON."""
    return json.dumps("none" if value is None else value, allow_nan=False)
