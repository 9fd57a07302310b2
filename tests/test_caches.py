"""Caches of other libraries where the user's own cannot be written: private, temporary, or none."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from imputome import caches
from users import STRANGER, as_user

KERNEL = """
from imputome.core.compiled import compiled

@compiled()
def double(x):
    return 2 * x
"""


@pytest.fixture
def bare():
    """A folder that can be written to, beside a module that cannot; and the environment of a user without a home."""
    folder = Path(tempfile.mkdtemp())  # not below that of pytest, which other users may not look into
    folder.chmod(0o755)
    (folder / "module").mkdir()
    (folder / "module" / "kernel.py").write_text(KERNEL, encoding="utf-8")
    (folder / "module").chmod(0o555)
    for name in ("work", "temporary"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)  # whatever the umask
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "NUMBA_", "MPL"))}
    environment |= {"TMPDIR": str(folder / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}
    if os.getuid() == 0:
        environment.pop("HOME", None)
    else:
        environment["HOME"] = "/nonexistent"
    yield folder, environment
    (folder / "module").chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def called(bare, code):
    folder, environment = bare
    command = as_user(STRANGER, sys.executable, "-c", f"import sys; sys.path.append('{folder}/module')\n{code}")
    done = subprocess.run(command, env=environment, cwd=folder / "work", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_compiled_functions_are_kept_in_a_private_temporary_folder(bare):
    code = "import kernel; print(kernel.double(21), *kernel.double.stats.cache_hits.values())"
    assert called(bare, code) == ["42"]
    (private,) = (bare[0] / "temporary").iterdir()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert called(bare, code) == ["42", "1"]  # from the cache
    assert list((bare[0] / "temporary").iterdir()) == [private]
    assert list((bare[0] / "work").iterdir()) == []


def test_functions_are_compiled_without_a_cache_where_nothing_can_be_written(bare):
    code = (
        "import tempfile\n"
        "def none():\n"
        "    raise FileNotFoundError('no usable temporary directory')\n"
        "tempfile.gettempdir = none\n"
        "import kernel; print(kernel.double(21))"
    )
    (bare[0] / "work").chmod(0o555)
    assert called(bare, code) == ["42"]


@pytest.mark.parametrize("planted", ["of another user", "for everyone", "a link", "a file"])
def test_a_planted_folder_is_not_taken(tmp_path, monkeypatch, planted):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"imputome-{os.getuid()}"
    (tmp_path / "target").mkdir(mode=0o700)
    if planted == "a link":
        folder.symlink_to(tmp_path / "target")
    elif planted == "a file":
        folder.touch(mode=0o700)
    else:
        folder.mkdir(mode=0o700)
    if planted == "for everyone":
        folder.chmod(0o770)
    if planted == "of another user":
        if os.getuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(folder, STRANGER, STRANGER)
    taken = caches.private_folder.__wrapped__()
    assert taken not in (None, folder)
    assert stat.S_IMODE(taken.stat().st_mode) == 0o700
    assert not (tmp_path / "target").samefile(taken)
    taken.rmdir()
    shutil.rmtree(folder, ignore_errors=True)
    folder.unlink(missing_ok=True)
    assert caches.private_folder.__wrapped__() == folder
    assert caches.private_folder.__wrapped__() == folder


def test_the_users_own_folders_are_left_alone(tmp_path, monkeypatch):
    for name in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    caches.use_writable_caches()
    assert "XDG_CACHE_HOME" not in os.environ
    assert "MPLCONFIGDIR" not in os.environ
    assert list(tmp_path.iterdir()) == []
