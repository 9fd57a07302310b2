"""The two states of a case, without a fault: what is in its folder before its command, and what after it."""

from __future__ import annotations

import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cases import UNREADABLE, Case, State, copy_input, names_in
from programs import Run, Server

# of everything that is drawn at random here; set for the other processes of pytest, too
SEED = int(os.environ.setdefault("FAULTS_SEED", str(random.SystemRandom().randrange(10**6))))


@dataclass(frozen=True)
class Ready:
    """A case that has been run without a fault."""

    case: Case
    place: Path  # its folders ``before`` and ``after``
    old: State
    new: State
    seconds: float
    writing: float  # seconds from the first change in the folder to the end
    changes: list[str]

    def copy(self, place: Path) -> Path:
        """A fresh copy of the folder as it is before the command."""
        shutil.rmtree(place, ignore_errors=True)
        return Path(shutil.copytree(self.place / "before", place))

    @property
    def names_before(self) -> set[str]:
        return names_in(self.place / "before")

    @property
    def names_after(self) -> set[str]:
        return names_in(self.place / "after")


def make_ready(case: Case, server: Server, inputs: Path, place: Path) -> Ready:
    """Run the commands of a case in ``place``."""
    before = place / "before"
    before.mkdir(parents=True)
    for name in case.inputs:
        copy_input(inputs / name, before)
    for name, content in case.files.items():
        (before / name).parent.mkdir(exist_ok=True)
        (before / name).write_text(content, encoding="utf-8")
    for command in case.before:
        finished(server.run(command, before))
    old = case.state(before)
    after = Path(shutil.copytree(before, place / "after"))
    changed = Changed(after)
    run = server.start(case.command, after, trace=True)
    run.wait(changed)
    run.wait()
    finished(run)
    new = case.state(after)
    contents = [*old.values(), *new.values()]
    unreadable = [content for content in contents if content and UNREADABLE in content.texts]
    assert not unreadable, unreadable
    assert new != old, f"{case}: the command changes nothing, so nothing could be told of a kill"
    writing = run.seconds - (changed.since or run.seconds)
    return Ready(case, place, old, new, run.seconds, writing, run.changes)


class Changed:
    """Whether anything in a folder has changed since this was made; to be asked often while a run goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, time.monotonic()
        self.before = self._look()
        self.since = 0.0  # seconds from when this was made to when the change was seen

    def _look(self) -> list[tuple[str, int, int]]:
        found = []
        for place in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
            try:
                with os.scandir(place) as entries:
                    found += [(each.name, each.inode(), each.stat().st_mtime_ns) for each in entries]
            except OSError:  # it has just been moved
                continue
        return sorted(found)

    def __call__(self) -> bool:
        if not self.since and self._look() != self.before:
            self.since = time.monotonic() - self.made
        return bool(self.since)


def finished(run: Run) -> None:
    """A run that had no fault: done, and without a word that something went wrong."""
    assert run.code == 0, (run.code, run.errors)
    assert "error: " not in run.errors, run.errors
