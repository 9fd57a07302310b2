"""HDF5 files on a disk that can be full, and signals that arrive while HDF5 writes."""

from __future__ import annotations

import errno
import io
import signal
import time

import h5py
import numpy as np
import pytest

from imputome.io import hdf5
from imputome.io.hdf5 import hdf5_for_writing, raise_kept

NOISE = np.random.default_rng(0).random((60, 50))


def fill(root):
    for k in range(4):
        group = root.require_group(f"g{k}")
        made = group.create_dataset("noise", shape=NOISE.shape, chunks=(10, 50), dtype="f8", compression="gzip")
        for start in range(0, 60, 10):
            made[start : start + 10] = NOISE[start : start + 10]
        group["names"] = [f"name{j}" for j in range(50)]
        group.attrs["order"] = "x" * 500


def test_what_is_written_is_what_hdf5_writes(tmp_path):
    with h5py.File(tmp_path / "plain.h5", "w") as root:
        fill(root)
    with hdf5_for_writing(tmp_path / "new.h5", "w") as root:
        fill(root)
    with hdf5_for_writing(tmp_path / "new.h5", "r+") as root:
        del root["g0"]
        root["g1/noise"][3] = 7.0
        root["more"] = NOISE
    with h5py.File(tmp_path / "new.h5") as root:
        assert set(root) == {"g1", "g2", "g3", "more"}
        assert (root["g1/noise"][3] == 7).all()
        np.testing.assert_array_equal(root["g1/noise"][4:], NOISE[4:])
        np.testing.assert_array_equal(root["g2/noise"], NOISE)
        np.testing.assert_array_equal(root["more"], NOISE)
        assert root["g3/names"].asstr()[49] == "name49"


class Failing(io.FileIO):
    """A file of which one operation, and all later ones, fail."""

    left = 10**9

    def _count(self):
        Failing.left -= 1
        if Failing.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, content):
        self._count()
        return super().write(content)

    def truncate(self, size=None):
        self._count()
        return super().truncate(size)


@pytest.mark.parametrize("mode", ["w", "r+"])
def test_each_write_can_be_the_first_that_fails(tmp_path, monkeypatch, mode):
    """The process goes on, and the error is the one of the disk; it ended in a segmentation fault in HDF5."""
    path = tmp_path / "a.h5"

    class Sink(hdf5.Sink):
        def __init__(self, raw):
            super().__init__(Failing(raw.fileno(), "r+b", closefd=False))

    monkeypatch.setattr(hdf5, "Sink", Sink)

    def write(left):
        if mode == "r+":
            with h5py.File(path, "w") as root:
                root["old"] = NOISE
        Failing.left = left
        with hdf5_for_writing(path, mode) as root:
            fill(root)

    write(10**9)
    needed = 10**9 - Failing.left
    assert needed > 30
    for left in range(0, needed, 3):
        with pytest.raises(OSError, match="No space left") as error:
            write(left)
        assert error.value.errno == errno.ENOSPC


def test_no_more_is_computed_for_a_full_disk(tmp_path, monkeypatch):
    done = []

    def write():
        with hdf5_for_writing(tmp_path / "a.h5", "w") as root:
            root.sink.error = OSError(errno.ENOSPC, "full")
            raise_kept(root)
            done.append("more")

    with pytest.raises(OSError, match="full"):
        write()
    assert not done


class AlarmError(Exception):
    """What a handler of a signal raises, as those of Ctrl-C and SIGTERM do."""


@pytest.mark.parametrize("within", ["seek", "write"])
def test_a_signal_does_not_strike_within_hdf5(tmp_path, monkeypatch, within):
    """Its handler runs a moment later: an exception while HDF5 waits for the file would be a failure of the file."""

    class Sink(hdf5.Sink):
        pass

    def interrupted(self, *given):
        if armed:
            armed.clear()
            signal.raise_signal(signal.SIGALRM)
        return getattr(hdf5_sink, within)(self, *given)

    def ring(number, frame):
        raise AlarmError

    def write():
        with hdf5_for_writing(tmp_path / "a.h5", "w") as root:
            root["before"] = NOISE
            armed.append(True)
            fill(root)
            root.flush()
            assert not armed
            time.sleep(5)

    hdf5_sink, armed = hdf5.Sink, []
    setattr(Sink, within, interrupted)
    monkeypatch.setattr(hdf5, "Sink", Sink)
    previous = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(AlarmError):
            write()
        assert signal.getsignal(signal.SIGALRM) is ring
    finally:
        signal.signal(signal.SIGALRM, previous)
    with h5py.File(tmp_path / "a.h5") as root:  # closed as if nothing had happened
        assert set(root) == {"before", "g0", "g1", "g2", "g3"}
