"""Locks: one holder at a time among processes, freed by the kernel, and nothing of somebody else touched."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time

import pytest

from codes import has_code
from imputome.core import locks
from imputome.core.locks import is_locked, lock_of, locked
from imputome.errors import InputError

FORK = multiprocessing.get_context("fork")  # starts fast


def add_one(path, times, start):
    start.wait(10)
    for _ in range(times):
        with locked(path):
            number = int(path.read_text())
            time.sleep(0.0005)  # others would read the same number now
            path.write_text(str(number + 1))


def test_one_holder_at_a_time(tmp_path):
    """Each of 4 processes reads, adds and writes 50 times; the lock file goes and comes between them all the time."""
    path = tmp_path / "number"
    path.write_text("0")
    start = FORK.Event()
    processes = [FORK.Process(target=add_one, args=(path, 50, start), daemon=True) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(30)
    assert path.read_text() == "200"
    assert list(tmp_path.iterdir()) == [path]


def hold(path, held):
    with locked(path):
        held.set()
        time.sleep(60)


def test_a_killed_holder_holds_nothing(tmp_path):
    path, held = tmp_path / "a.csv", FORK.Event()
    process = FORK.Process(target=hold, args=(path, held), daemon=True)
    process.start()
    assert held.wait(10)
    assert is_locked(path)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert lock_of(path).exists()
    assert not is_locked(path)
    assert list(tmp_path.iterdir()) == []  # what the dead one left is removed
    with locked(path):
        assert is_locked(path)


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "a.csv"
    lock_of(path).symlink_to(victim)
    with pytest.raises(InputError, check=has_code("lock-unusable")), locked(path):
        pass
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("plant", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_lock(tmp_path, plant):
    path = tmp_path / "a.csv"
    plant(lock_of(path))
    with pytest.raises(InputError, check=has_code("lock-unusable")), locked(path):
        pass
    assert lock_of(path).exists()


def test_a_file_with_content_is_kept(tmp_path):
    path = tmp_path / "a.csv"
    lock_of(path).write_text("of another program")
    with locked(path):
        pass
    assert lock_of(path).read_text() == "of another program"


def test_a_link_and_its_target_have_one_lock(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    with locked(tmp_path / "a.csv"):
        assert is_locked(tmp_path / "link.csv")


def test_an_error_in_the_block_frees_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "a.csv"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch, recwarn):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    for _ in range(2):
        with locked(tmp_path / "a.csv"):
            assert is_locked(tmp_path / "a.csv")  # as far as anybody can tell
    assert [warning.message.args[0].code for warning in recwarn] == ["no-file-locks"]
    assert list(tmp_path.iterdir()) == []
