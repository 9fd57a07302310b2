"""What can be wrong in the file of a study, each as one sentence that says where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from imputome.errors import InputError, printable

MAX_TEXT = 1000  # characters
# what TOML calls the types that pydantic names in Python's words
EXPECTED = {
    "tuple_type": "Input should be a list",
    "dict_type": "Input should be a table",
    "dataclass_type": "Input should be a table",
    "too_short": "Input should have at least one entry",
}


def wrong(text: str, code: str = "study-field") -> InputError:
    """The error for a study that says something wrong."""
    return InputError(text, code=code)


def within(where: str, error: InputError) -> InputError:
    """The same error, with where in a study it is."""
    message = error.message
    return InputError(f"{where}: {message.template}", code=message.code, parameter=message.parameter, **message.options)


def check_known(what: str, given: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Check that given names are known; ``what`` they are names of."""
    for name in given:
        if name not in known:
            choices = ", ".join(dict.fromkeys(known))
            raise wrong(f"{where}there is no {what} {name!r}: choose from {choices}", code=f"{what}-unknown")


def first_fault(error: ValidationError, tables: Mapping[str, Any], study: type) -> InputError:
    """The first fault that pydantic found, as one sentence: table, field, value, and what the field takes.

    ``tables`` are the classes of the tables of a file, by name, and ``study`` is that of the file itself.
    """
    fault = error.errors(include_url=False)[0]
    place = [str(part) for part in fault["loc"]]  # as in ("splits", "0", "options", "top")
    where, table = "", ""
    if len(place) > 1:
        table = place.pop(0)
        where = f"[[{table}]] number {int(place.pop(0)) + 1}: " if place[0].isdecimal() else f"[{table}]: "
    reason = fault.get("ctx", {}).get("error")
    if isinstance(reason, InputError):
        return within(where.removesuffix(": "), reason) if where else reason
    name = ".".join(place)
    if fault["type"] == "missing":
        return wrong(f"{where}{name} is missing")
    if fault["type"] == "unexpected_keyword_argument":
        known = ", ".join(entry.name for entry in fields(tables.get(table, study)))
        return wrong(f"{where}{name} is not known here: choose from {known}")
    given, expected = printable(repr(fault["input"]), 200), EXPECTED.get(fault["type"], fault["msg"])
    return wrong(f"{where}{name}={given} is not valid: {expected}")


def check_texts(content: Any, where: str = "") -> None:
    """Check that names and texts are not long, and have no control characters, which a terminal would obey."""
    if isinstance(content, dict):
        for name, value in content.items():
            check_texts(name, "a name")
            check_texts(value, name)
    elif isinstance(content, list):
        for value in content:
            check_texts(value, where)
    elif isinstance(content, str):
        if len(content) > MAX_TEXT:
            raise wrong(f"{where}={printable(content, 200)} is longer than {MAX_TEXT} characters: give a shorter text")
        if not "".join(content.split()).isprintable():
            raise wrong(f"{where}={printable(content, 200)} has a character that cannot be printed: leave it out")
