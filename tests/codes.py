"""How tests ask what an error is about: by its code, never by its sentence."""

from __future__ import annotations

from collections.abc import Callable

from imputome.errors import ImputomeError


def has_code(code: str) -> Callable[[ImputomeError], bool]:
    """For ``pytest.raises(InputError, check=has_code("..."))``."""

    def check(error: ImputomeError) -> bool:
        assert error.code == code, f"the code is {error.code!r}, not {code!r}: {error}"
        return True

    return check
