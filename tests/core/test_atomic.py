"""`atomic_path` under real kills: in a forked process, at every operation that it does to the disk."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from codes import has_code
from imputome.core import atomic
from imputome.core.atomic import atomic_path, check_file, destination, restore
from imputome.errors import InputError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork and locks")


def write(path: Path, text: str, *, folder: bool) -> None:
    with atomic_path(path) as partial:
        if folder:
            partial.mkdir()
        for name in "ab":
            (partial / name if folder else partial).write_text(text)


def content(path: Path) -> set[str]:
    """The texts of all files of an output; one text if it is whole."""
    return {file.read_text() for file in (sorted(path.iterdir()) if path.is_dir() else [path])}


def forked(act, stop=lambda event: None) -> int:
    """Do something in a forked process, where ``stop`` is called at each thing that Python tells its auditors."""
    pid = os.fork()
    if not pid:
        code = 1
        with suppress(BaseException):
            sys.addaudithook(lambda event, _: stop(event))
            act()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# what a process does to the disk
CHANGES = {"os.mkdir", "open", "os.rename", "os.remove", "os.rmdir", "ctypes.dlsym"}


def stopping(place: int, stop):
    """Call ``stop`` at operation number ``place`` of a process."""
    seen = count()

    def hook(event):
        if event in CHANGES and next(seen) == place:
            stop()

    return hook


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    raise SystemExit(143)


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


# -- old or new, never neither -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("folder", "exchange"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("stop", [kill, leave])
def test_a_process_that_ends_anywhere_leaves_the_old_output_or_the_new_one(
    tmp_path, monkeypatch, stop, folder, exchange
):
    """After SIGKILL the next reader finds one of them, after a signal that is handled it is there at once."""
    if not exchange:
        monkeypatch.setattr(atomic, "_renamed", lambda first, second, flag: False)
    path, found, missing = tmp_path / "out.x", set(), 0
    for place in count():
        write(path, "old", folder=folder)
        ended = forked(lambda: write(path, "new", folder=folder), stopping(place, stop))
        missing += not path.exists()
        if stop is kill:
            restore(path)
        assert content(path) in ({"old"}, {"new"})
        found |= content(path)
        if ended == 0:
            break
    assert found == {"old", "new"}
    # only two renames have a moment between them
    assert bool(missing) == (folder and not exchange and stop is kill)
    write(path, "last", folder=folder)
    assert content(path) == {"last"}
    assert hidden(tmp_path) == []


def test_exchange_leaves_no_moment_without_the_output(tmp_path):
    path = tmp_path / "out"
    write(path, "old", folder=True)
    if not atomic._renamed(tmp_path, tmp_path, atomic._RENAME_EXCHANGE):
        pytest.skip("this disk cannot exchange names")
    seen = []
    forked(lambda: write(path, "new", folder=True), lambda event: seen.append(1) if path.exists() else kill())
    assert content(path) == {"new"}


@pytest.mark.parametrize("step", [True, False], ids=["in one step", "in two"])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_what_came_meanwhile_is_not_replaced_without_overwrite(tmp_path, monkeypatch, folder, step):
    if not step:
        monkeypatch.setattr(atomic, "_renamed", lambda first, second, flag: False)
    path = tmp_path / "out"

    def late() -> None:
        with atomic_path(path, overwrite=False) as partial:
            partial.mkdir() if folder else partial.write_text("late")
            write(path, "first", folder=folder)

    with pytest.raises(InputError, check=has_code("output-exists")):
        late()
    assert content(path) == {"first"}
    assert hidden(tmp_path) == []
    with atomic_path(tmp_path / "free", overwrite=False) as partial:
        partial.mkdir() if folder else partial.write_text("new")
    assert (tmp_path / "free").exists()


# -- the living and the dead -------------------------------------------------------------------------------------------
def test_what_a_living_process_writes_is_left_alone(tmp_path):
    path = tmp_path / "out"
    ready, go = os.pipe(), os.pipe()

    def slow():
        with atomic_path(path) as partial:
            partial.write_text("slow")
            os.write(ready[1], b"x")
            os.read(go[0], 1)

    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            slow()
        os._exit(0)
    os.read(ready[0], 1)
    write(path, "fast", folder=False)
    assert len(hidden(tmp_path)) == 1
    assert content(path) == {"fast"}
    os.write(go[1], b"x")
    os.waitpid(pid, 0)
    assert content(path) == {"slow"}
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("machine", "age", "stays"),
    [("here", 0, False), ("elsewhere", 0, True), ("elsewhere", 2 * atomic.DAY, False), ("", 0, True)],
)
def test_what_another_machine_may_be_writing_is_left_alone(tmp_path, machine, age, stays):
    """Locks of other machines are not seen on every disk; a lock without a name was just made."""
    path = tmp_path / "out"
    work = tmp_path / ".out.0123abcd.partial"
    work.mkdir()
    (work / "lock").write_text(os.uname().nodename if machine == "here" else machine)
    (work / "out").write_text("half")
    os.utime(work, (time.time() - age,) * 2)
    write(path, "new", folder=False)
    assert work.exists() == stays


def test_only_what_was_made_for_this_output_is_removed(tmp_path):
    names = [".other.0123abcd.partial", ".out.x.0123abcd.partial", ".out.partial", ".out.0123abcd.partial2"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").write_text(os.uname().nodename)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "lock").write_text(os.uname().nodename)
    (tmp_path / ".out.0123abcd.partial").symlink_to(mine)
    write(tmp_path / "out", "new", folder=False)
    assert hidden(tmp_path) == sorted([*names, ".out.0123abcd.partial"])
    assert (mine / "lock").exists()


# -- what is replaced --------------------------------------------------------------------------------------------------
def test_the_partial_has_the_name_and_is_hidden(tmp_path):
    for name in ("a.h5ad", "a.b.csv.gz", "a.zarr", "plain"):
        with atomic_path(tmp_path / name) as partial:
            assert partial.name == name
            partial.write_text("new")
            assert len(hidden(tmp_path)) == 1
            assert not (tmp_path / name).exists()
        assert (tmp_path / name).read_text() == "new"
        (tmp_path / name).unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_the_old_output(tmp_path, error, folder):
    path = tmp_path / "out"
    write(path, "old", folder=folder)

    def fail():
        with atomic_path(path) as partial:
            if folder:
                partial.mkdir()
            (partial / "part" if folder else partial).write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert content(path) == {"old"}
    assert hidden(tmp_path) == []


def test_a_file_never_replaces_a_folder_nor_a_folder_a_file(tmp_path):
    for folder in (True, False):
        path = tmp_path / f"out{folder}"
        write(path, "old", folder=folder)
        with pytest.raises(OSError):  # noqa: PT011
            write(path, "new", folder=not folder)
        assert content(path) == {"old"}
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, folder):
    (tmp_path / "other").mkdir()
    target, link = tmp_path / "other" / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("first", "second"):  # to nothing, then to something
        write(link, text, folder=folder)
        assert link.readlink() == target
        assert content(target) == {text}
    assert hidden(tmp_path) == hidden(tmp_path / "other") == []


def test_what_is_neither_file_nor_folder_is_refused_before_any_work(tmp_path):
    os.mkfifo(tmp_path / "fifo.html")
    (tmp_path / "circle.html").symlink_to(tmp_path / "circle.html")
    (tmp_path / "link.html").symlink_to(tmp_path / "fifo.html")
    (tmp_path / "null.html").symlink_to("/dev/null")
    for name in ("fifo.html", "circle.html", "link.html", "null.html"):
        for act in (destination, atomic_path, lambda path: check_file(path, (".html",), "page", overwrite=True)):
            with pytest.raises(InputError, check=has_code("special-file")):  # noqa: PT012
                opened = act(tmp_path / name)
                opened.__enter__()


def test_the_folder_must_be_there(tmp_path):
    with pytest.raises(InputError, check=has_code("no-folder")), atomic_path(tmp_path / "no" / "a.h5ad"):
        pass
