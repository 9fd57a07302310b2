"""Runs that are killed or told to stop at random moments: what they were to replace is old or new, as a whole."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, Case, names_in
from programs import RAW, Run, Server
from states import SEED, Changed, Ready

pytestmark = [pytest.mark.faults, pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")]

KILLS = 220  # of all cases together
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}  # and the exit code that each must end with
LATER = 1.2  # moments up to this multiple of the time, so that some come when all is written
NOTHING_WRITTEN = "interrupted"  # codes of what is said after SIGTERM and SIGINT
SOME_KEPT = "interrupted-partly-done"


@dataclass(frozen=True)
class Kill:
    """When a run gets which signal: some time after its start or its first change, or before one of its changes."""

    number: signal.Signals
    moment: str
    share: float

    def __str__(self) -> str:
        return f"{self.number.name} at {self.share:.3f} of its {self.moment}"

    def carry_out(self, ready: Ready, folder: Path, server: Server) -> Run:
        if self.moment == "changes":
            at = 1 + int(self.share * len(ready.changes))
            run = server.start(ready.case.command, folder, at=at, number=self.number, to_the_end=True)
        else:
            changed = Changed(folder)
            run = server.start(ready.case.command, folder, to_the_end=True)
            delay = self.share * ready.seconds * LATER
            if self.moment == "writing":
                run.wait(changed)
                delay = changed.since + self.share * ready.writing
            run.wait(seconds=delay)
            run.send(self.number)
        run.wait()
        return run


def kills_of(case: Case, number: int) -> list[Kill]:
    """Signals and moments in turn, the place of each drawn at random."""
    rng = np.random.default_rng([SEED, *case.name.encode()])
    numbers = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    moments = ["changes", "seconds", "writing"]
    return [Kill(numbers[k % 4], moments[k % 3], rng.random()) for k in range(number)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_old_or_new_never_neither_never_mixed(case, ready, server, tmp_path):
    """After each kill, each output is as before or as after; the same command then ends well and leaves nothing."""
    prepared = ready(case)
    faults = []
    for place, kill in enumerate(kills_of(case, -(-KILLS // len(CASES)))):
        folder = prepared.copy(tmp_path / str(place))
        run = kill.carry_out(prepared, folder, server)
        found = [*faults_after(kill, run, prepared, folder), *faults_of_next_run(prepared, folder, server)]
        faults += [f"{kill} (number {place}): {fault}" for fault in found]
    assert not faults, f"FAULTS_SEED={SEED}\n" + "\n".join(faults)


def faults_after(kill: Kill, run: Run, ready: Ready, folder: Path) -> list[str]:
    """What is wrong after a kill."""
    faults = []
    state, names = ready.case.state(folder), names_in(folder)
    is_old = {name: state[name] == ready.old[name] for name in state}
    is_new = {name: state[name] == ready.new[name] for name in state}
    for name, found in state.items():
        if not (is_old[name] or is_new[name]):
            faults.append(f"{name} is neither old nor new: {found}")
    if run.code == 0:
        if not all(is_new.values()):
            faults.append(f"exit code 0, and not all outputs are new: {state}")
        return faults
    if run.code != SIGNALS[kill.number]:
        faults.append(f"exit code {run.code}, not {SIGNALS[kill.number]}: {run.errors.strip()[-300:]!r}")
    if kill.number == signal.SIGKILL:
        return faults
    if RAW.search(run.errors) or len(run.codes) != 1 or not run.codes[0].startswith(NOTHING_WRITTEN):
        faults.append(f"not one sentence on the interruption: {run.errors.strip()[-300:]!r}")
    elif run.codes[0] == NOTHING_WRITTEN and not all(is_old.values()):
        faults.append(f"it says that nothing was written, and this is new: {is_new}")
    elif run.codes[0] not in (NOTHING_WRITTEN, SOME_KEPT) and not any(is_new.values()):
        faults.append(f"it says {run.errors.strip()!r}, and nothing is new")
    known = ready.names_before | ready.names_after
    left = sorted(name for name in names - known if not re.fullmatch(ready.case.kept, name))
    if left:
        faults.append(f"a signal that can be caught left {left}")
    return faults


def faults_of_next_run(ready: Ready, folder: Path, server: Server) -> list[str]:
    """What is wrong after the same command once more, without a fault."""
    run = server.run(ready.case.command, folder)
    done = ready.case.state(folder) == ready.new
    if run.code != 0 and not (done and run.code == 1 and run.codes == [*ready.case.again]):
        return [f"the next run fails with {run.code}: {run.errors.strip()[-300:]!r}"]
    faults = []
    if not done and (state := ready.case.state(folder)) != ready.new:
        faults.append(f"after the next run the outputs are not new: {state} instead of {ready.new}")
    if run.code:  # nothing was to be done, so what was left is for the next that writes there
        server.run(ready.case.before[0], folder)
    if (names := names_in(folder)) != ready.names_after:
        faults.append(
            f"the next run leaves {sorted(names - ready.names_after)}, without {sorted(ready.names_after - names)}"
        )
    temporary = names_in(folder.with_name(f"{folder.name}.tmp"))
    if left := {name for name in temporary if not name.startswith("torchinductor_")}:  # a cache of torch's own
        faults.append(f"the next run leaves temporary files: {sorted(left)}")
    try:
        ready.case.complete(folder)
    except AssertionError as error:
        faults.append(f"the next run is not complete: {error}")
    return faults
