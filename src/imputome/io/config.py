"""Options in a file: TOML, as ``imputome tune`` writes it, or JSON, such as the record of a result.

TOML has no None: the text "none" is written for it, as on the command line.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from imputome.core.atomic import atomic_path
from imputome.core.small_files import open_regular, read_small_text
from imputome.errors import InputError, printable
from imputome.result.record import options_of

MARK = "# written by imputome tune"  # first line of the files that may be overwritten
MAX_TOML_BYTES = 2**20  # a study has some kilobytes, a list of all genes half of this
MAX_DEPTH = 32  # of tables and lists in each other
# a name of more parts: tomllib takes memory with the square of their number, 68 GB for 256 KiB of "a.a.a"
LONG_NAME = re.compile(rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MAX_DEPTH}}}""")


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
        content = _options_of_json(path)
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
        content = {name: content[name] for name in ("method", "params") if name in content}
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
    text = read_small_text(path, what, code=code, parameter=parameter, max_bytes=MAX_TOML_BYTES)
    return _parsed(text, _loads_toml, f"the {what} {path} is not valid TOML", code=code, parameter=parameter)


def _loads_toml(text: str) -> dict[str, Any]:
    if LONG_NAME.search(text):
        raise RecursionError
    return tomllib.loads(text)


def _options_of_json(path: Path) -> Any:
    text = read_small_text(path, "config file", code="config", parameter="config")
    content = _parsed(text, json.loads, f"the config file {path} is not valid JSON", code="config", parameter="config")
    if not isinstance(content, dict) or "schema" not in content:
        return content
    if content.get("model") is not None:
        text = f"{path} is the record of a saved model that was applied: use imputome apply with that model"
        raise InputError(text, code="config-field", parameter="config")
    try:
        return options_of(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"{path} is a damaged record, or one of another program: pass a record as imputome wrote it"
        raise InputError(text, code="config-unreadable", parameter="config") from error


def _parsed(text: str, parse: Callable[[str], Any], wrong: str, *, code: str, parameter: str | None) -> Any:
    """A parsed text; ``wrong`` begins the error."""
    try:
        content = parse(text)
        if not _is_deeper(content, MAX_DEPTH):
            return content
        reason = f"it has more than {MAX_DEPTH} brackets in each other"
    except RecursionError:
        reason = "it has too many brackets in each other, or too many dots in a name"
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        reason = str(error)
    except ValueError:
        reason = "a number in it has too many digits"
    raise InputError(f"{wrong} ({reason}): correct it there", code=f"{code}-unreadable", parameter=parameter)


def _is_deeper(content: Any, depth: int) -> bool:
    level = [content]
    for _ in range(depth):
        level = [part for each in level if isinstance(each, dict | list) for part in _parts(each)]
    return any(isinstance(each, dict | list) for each in level)


def _parts(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


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
    if not _is_free(path):
        raise InputError(
            f"{path} exists and was not written by imputome tune: pass another {{output}}",
            code="output-exists",
            output=...,
        )


def _is_free(path: Path) -> bool:
    try:
        with os.fdopen(open_regular(path), "rb") as stream:
            return stream.read(len(MARK)) == MARK.encode()
    except FileNotFoundError:
        return True
    except OSError:  # a folder, a device, or a file of somebody else
        return False


def write_config(path: Path, config: Config, *, notes: str = "") -> None:
    """Write a config, with ``notes`` in its first line."""
    check_config_path(path)
    lines = [f"{MARK}{': ' if notes else ''}{printable(notes)}", f"method = {_toml(config.method)}", "", "[params]"]
    lines += [f"{name} = {_toml(value)}" for name, value in config.params.items()]
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: Any) -> str:
    """A plain value in TOML, whose notation for texts, numbers, truth values and lists of them is that of JSON."""
    text = json.dumps("none" if value is None else value, allow_nan=False, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # which JSON allows
