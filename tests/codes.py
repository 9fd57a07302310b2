"""How tests ask what an error is about: by its code, never by its sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from imputome.errors import ImputomeError


def has_code(code: str) -> Callable[[ImputomeError], bool]:
    """For ``pytest.raises(InputError, check=has_code("..."))``."""

    def check(error: ImputomeError) -> bool:
        assert error.code == code, f"the code is {error.code!r}, not {code!r}: {error}"
        return True

    return check


@contextmanager
def warns(code: str, category: type[Warning] = UserWarning) -> Iterator[pytest.WarningsRecorder]:
    """The block gives a warning with this code."""
    with pytest.warns(category) as caught:
        yield caught
    codes = [getattr(warning.message.args[0], "code", None) for warning in caught]
    assert code in codes, f"the codes are {codes}"


def refused(capsys: pytest.CaptureFixture[str], status: int, code: str, *values: str) -> str:
    """A command failed: exit code 1, nothing on stdout, one error line that ends in ``[code]`` and holds ``values``.

    Returns what it printed on stderr.
    """
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert (status, printed.out, len(lines)) == (1, "", 1), printed
    assert lines[0].endswith(f" [{code}]"), lines[0]
    assert [value for value in values if value not in lines[0]] == [], lines[0]
    assert "Traceback" not in printed.err
    return printed.err
