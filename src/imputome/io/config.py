"""Options in a file: TOML, as ``imputome tune`` writes it, or JSON, such as the record of a result.

TOML has no None: the text "none" is written for it, as on the command line.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from imputome.core.atomic import atomic_path
from imputome.errors import InputError
from imputome.result.record import options_of

MARK = "# written by imputome tune"  # first line of the files that may be overwritten


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """A registered method and some of its parameters."""

    method: str
    params: dict[str, Any] = field(default_factory=dict)


def read_options(path: str | Path) -> dict[str, Any]:
    """Options by name, with those of the method in ``params``; of a record in JSON, those to do the same again."""
    path = Path(path)
    if path.suffix.lower() != ".json":
        content = read_toml(path, "config file", code="config", parameter="config")
        convert = from_toml
    else:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError as error:
            text = f"there is no config file {path}"
            raise InputError(text, code="config-missing", parameter="config") from error
        except (OSError, ValueError) as error:
            text = f"the config file {path} is not valid JSON: {error}"
            raise InputError(text, code="config-unreadable", parameter="config") from error
        if isinstance(content, dict) and "schema" in content:
            if content.get("model") is not None:
                text = f"{path} is the record of a saved model that was applied: use imputome apply with that model"
                raise InputError(text, code="config-field", parameter="config")
            content = options_of(content)
        convert = as_tuples
    if not isinstance(content, dict) or not isinstance(content.get("params", {}), dict):
        text = f"the config file {path} must hold options by name, those of the method in a table params"
        raise InputError(text, code="config-field", parameter="config")
    params = {name: convert(value) for name, value in content.get("params", {}).items()}
    return {**content, "params": params} if "params" in content else content


def read_config(path: str | Path) -> Config:
    """Read a method and its parameters only, which is all that a file may hold, unless it is a record."""
    content = read_options(path)
    if "random_state" in content:  # of a record
        content = {"method": content["method"], "params": content["params"]}
    try:
        config = TypeAdapter(Config).validate_python(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(
            f'the config file {path} takes only method = "name" and a table [params] with the parameters of the '
            f"method: {'.'.join(map(str, fault['loc']))}: {fault['msg']}",
            code="config-field",
            parameter="config",
        ) from error
    return config


def read_toml(path: Path, what: str, *, code: str, parameter: str | None = None) -> dict[str, Any]:
    """The content of a TOML file; the codes of errors are ``<code>-missing`` and ``<code>-unreadable``."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"there is no {what} {path}", code=f"{code}-missing", parameter=parameter) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"the {what} {path} is not valid TOML: {error}", code=f"{code}-unreadable", parameter=parameter
        ) from error


def from_toml(value: Any) -> Any:
    """The value of a parameter: the text "none" is None, and lists are tuples."""
    if isinstance(value, list):
        return tuple(from_toml(part) for part in value)
    return None if isinstance(value, str) and value.lower() == "none" else value


def as_tuples(value: Any) -> Any:
    """The value of a parameter in JSON: lists are tuples."""
    return tuple(as_tuples(part) for part in value) if isinstance(value, list) else value


def check_config_path(path: Path) -> None:
    """Check, before any computation, that a config can be written to ``path``; it replaces only files of its kind."""
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        text = f"the folder {folder} does not exist or cannot be written to"
        raise InputError(text, code="folder-not-writable", parameter="output")
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


def _toml(value: Any) -> str:
    """A plain value in TOML, whose notation for texts, numbers, truth values and lists of them is that of JSON."""
    return json.dumps("none" if value is None else value, allow_nan=False)
