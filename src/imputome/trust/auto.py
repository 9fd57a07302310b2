"""``method="auto"``: methods and controls compete on a sample, the winner is checked, and one is chosen to impute."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Kind
from imputome.errors import ControlsWinError, Message
from imputome.evaluation.splits import seed_for
from imputome.methods import controls
from imputome.result.layout import default_key
from imputome.result.record import Race, Verdict
from imputome.trust.check import check
from imputome.trust.evidence import MAX_CELLS, N_SPLITS
from imputome.trust.race import CANDIDATES, Candidate, make, run_race
from imputome.trust.verdict import DO_NOT, WITHHELD

if TYPE_CHECKING:
    from imputome.core.data import Data
    from imputome.core.imputer import Imputer
    from imputome.result.run import Progress

BUDGET = 5.0  # minutes
CLEAR_GAIN = 0.002  # share by which an error must be lower to be called lower
RACE_SHARE = 0.45  # of the budget
RESERVE_SHARE = 0.1  # of the budget: left for reading, writing and a report
LEAST_CELLS = 200  # of a check


@dataclass(frozen=True)
class Chosen:
    """The chosen method and the reason."""

    estimator: Imputer  # unfitted, its link set
    race: Race  # if a control is written although it did not win, ``race.instead`` says why
    verdict: Verdict | None  # on the chosen method; None for a control, or without a check
    messages: tuple[Message, ...] = ()  # what the user should know

    @property
    def record(self) -> dict[str, Any]:
        """Fields of the result's `Record`."""
        return _parts(self.race, self.verdict)


def _parts(race: Race, verdict: Verdict | None) -> dict[str, Any]:
    return {"race": race} if verdict is None else {"race": race, "verdict": verdict}


def choose(
    data: Data,
    *,
    labels: Mapping[str, Any] | None = None,
    link: str = "identity",
    budget: float = BUDGET,
    accept_control: bool = False,
    checked: bool = True,
    keep_observed: bool | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Chosen:
    """Choose a method to impute with, by its error on held-out molecules (counts) or values (real values).

    The methods of `CANDIDATES` and the controls compete on a sample (`run_race`, in at most 45 % of the ``budget`` in
    minutes). Only a method that can be fitted to all data in the time left can win. The winner is checked on other
    splits, unless ``checked`` is False, with as many splits and cells as the rest of the time allows. A fit that does
    not report its progress cannot be stopped, so the budget may be exceeded by one such fit of the sample.

    The choice depends on the data and the seed alone, unless time is short: then the last candidates are left out, or
    run on fewer splits, and a message says so (``time-decided``).

    ``keep_observed`` says whether observed values are put back in what will be written (None: the method's default).
    Raises `ControlsWinError` if no method beats the controls (``controls-win``), none was finished or could be fitted
    in time (``budget-too-small``), or the verdict on the winner is not to impute (``verdict-do-not-impute``) or
    withheld (``verdict-withheld``). With ``accept_control`` the best control is chosen instead.
    """
    begun = time.perf_counter()

    def part(first: float, last: float) -> Progress | None:
        return None if progress is None else lambda share, text: progress(first + share * (last - first), text)

    race = run_race(
        data,
        seconds=60 * budget * RACE_SHARE,
        seconds_after=60 * budget * (1 - RACE_SHARE - RESERVE_SHARE),
        fits_after=1 + (3 * min(LEAST_CELLS, data.shape[0]) / data.shape[0] if checked else 0),  # see `affordable`
        rng=np.random.default_rng(seed_for("auto", base=seed)),
        seed=seed,
        link=link,
        progress=part(0.0, RACE_SHARE),
    )
    race = replace(race, budget_minutes=float(budget))
    verdict = None
    if race.winner != race.control:
        winner = next(candidate for candidate in CANDIDATES[data.kind] if candidate.name == race.winner)
        estimator = make(winner, seed, link)
        if checked:
            left = 60 * budget * (1 - RESERVE_SHARE) - (time.perf_counter() - begun) - race.seconds_for_all
            splits, cells = affordable(left, data, race)
            verdict = check(
                data,
                estimator,
                labels=labels,
                seed=seed,
                n_splits=splits,
                max_cells=cells,
                keep_observed=keep_observed,
                progress=part(RACE_SHARE, 1.0),
            )
        if verdict is None or verdict.verdict not in (WITHHELD, DO_NOT):
            return Chosen(estimator, race, verdict, _time_decided(race))
    reason = _why_no_method(race, verdict)
    if not accept_control:
        raise ControlsWinError(
            f"{reason.template}: nothing was written; {{accept_control}} writes the output of {race.control} instead",
            _parts(race, verdict),
            code=reason.code,
            accept_control=True,
            **reason.options,
        )
    if verdict is not None:  # the verdict is on a method that is not written
        race = replace(race, instead=f"the control {race.control} was written instead: {reason}")
    return Chosen(make(Candidate(race.control, race.control), seed), race, None, _time_decided(race))


def _time_decided(race: Race) -> tuple[Message, ...]:
    """A message if time was too short to compare all candidates."""
    if not race.out_of_time:
        return ()
    names = ", ".join(race.out_of_time)
    text = f"time was too short to compare all methods fully, and may have decided ({names}): pass a larger {{budget}}"
    return (Message(text, code="time-decided", budget=...),)


def affordable(seconds: float, data: Data, race: Race) -> tuple[int, int]:
    """Splits (at least 1) and cells (at least `LEAST_CELLS`, or all) of a check of ``seconds``, by the race's times."""
    n = data.shape[0]
    cells = min(MAX_CELLS[data.kind], n)

    def per_cell(splits: int) -> float:
        return ((splits + 2) * race.seconds_for_all + splits * race.seconds_for_controls) / n

    for splits in range(N_SPLITS, 0, -1):
        if per_cell(splits) * cells <= seconds:
            return splits, cells
    return 1, int(np.clip(seconds / per_cell(1), min(LEAST_CELLS, n), cells))


def candidate_keys(kind: Kind) -> list[str]:
    """Names that a result of ``method="auto"`` may get if the user gives none."""
    return list(dict.fromkeys(default_key(make(candidate, 0)) for candidate in CANDIDATES[kind]))


def budget_sentence(kind: Kind, budget: float) -> str:
    """What will be computed, and for how long at most."""
    return (
        f"auto compares {len(CANDIDATES[kind])} methods and {len(controls(kind))} controls on a sample, checks the "
        f"best one and fits it to all data, in at most about {budget:g} minutes"
    )


def _why_no_method(race: Race, verdict: Verdict | None) -> Message:
    """Why no method is chosen, in a sentence."""
    if verdict is not None:
        sample = f"{verdict.cells:,} {'cells' if verdict.kind == 'counts' else 'samples'}, {verdict.fits} fits"
        text = (
            f"the best method is {race.winner}, but its verdict is {verdict.verdict!r} ({sample}): {verdict.reasons[0]}"
        )
        return Message(text, code=f"verdict-{verdict.verdict.replace(' ', '-')}")
    methods = race.candidates[~race.candidates["control"]]
    if not methods["splits"].any():
        text = "no method finished in the time available, pass a larger {budget}"
        return Message(text, code="budget-too-small", budget=...)
    best = float(race.candidates.loc[race.candidates["name"] == race.control, "score"].iloc[0])
    better = methods[methods["score"] < best * (1 - CLEAR_GAIN)]
    if len(better):  # the table is in the order of the scores
        name = better["name"].iloc[0]
        text = f"{name} beats the controls, but a fit to all data would take too long, pass a larger {{budget}}"
        return Message(text, code="budget-too-small", budget=...)
    text = f"no method has a lower error on held-out values than the best control, {race.control}"
    return Message(text, code="controls-win")
