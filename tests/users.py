"""Commands run by another user than root."""

from __future__ import annotations

import os
import shutil

import pytest

NOBODY = 65534
STRANGER = 54321  # a user without a name and a home, as containers have them
_READ = "-all,+dac_read_search"  # the interpreter can lie below /root


def as_user(number: int, *command: str) -> list[str]:
    """The command line for user ``number``, who may read everything, and write only where the user could.

    Whoever is not root stays the same user.
    """
    if os.getuid() != 0:
        return list(command)
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv to become another user with")
    rights = [f"--inh-caps={_READ}", "--ambient-caps=+dac_read_search", f"--bounding-set={_READ}"]
    return ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", *rights, *command]
