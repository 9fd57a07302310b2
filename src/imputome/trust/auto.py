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
from imputome.trust.verdict import DO_NOT

if TYPE_CHECKING:
    from imputome.core.data import Data
    from imputome.core.imputer import Imputer
    from imputome.result.run import Progress

BUDGET = 5.0  # minutes
CLEAR = 0.002  # share by which an error must be lower to be called lower
RACE_SHARE = 0.3  # of the budget
RESERVE = 0.25  # share left for reading, writing, a report, and fits that take longer than expected


@dataclass(frozen=True)
class Chosen:
    """The chosen method and the reason.

    Attributes
    ----------
    estimator : Imputer
        Unfitted, its link set.
    race : Race
        How it was chosen. Where a control is written although it did not win, ``race.instead`` says why.
    verdict : Verdict or None
        On the chosen method; None where a control was chosen, or no check was asked for.
    """

    estimator: Imputer
    race: Race
    verdict: Verdict | None

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
    """Find the method to impute with by held-out molecules (counts) or values (real values), in limited time.

    The race takes at most three tenths of the budget. Only a method that can be fitted to all data in the time left
    can win. The check takes as many splits, or cells, as the rest of the time allows. A fit that does not report its
    progress cannot be stopped, so the budget may be exceeded by one such fit of the sample.

    Parameters
    ----------
    data : Data
        n cells x G genes.
    labels : Mapping of str to array of shape (n,), optional
        Types or batches of the cells, for the check.
    link : str, default="identity"
        On which real values are imputed and errors are measured.
    budget : float, default=5.0
        Minutes for the race, the check and the fit to all data together.
    accept_control : bool, default=False
        Choose the best control where no method beats the controls.
    checked : bool, default=True
        Check the winner, on other splits than those of the race.
    keep_observed : bool, optional
        Whether observed values are put back in what will be written; None means the method's default.
    seed : int, default=0
    progress : callable, optional
        Called with the share of work done (0 to 1) and a short text.

    Returns
    -------
    Chosen

    Raises
    ------
    ControlsWinError
        No method beats the controls (``controls-win``), none was finished or could be fitted in time
        (``budget-too-small``), or the verdict on the winner is not to impute (``verdict-do-not-impute``); unless
        ``accept_control``.
    InputError
        Nothing of the data can be held out.
    """
    begun = time.perf_counter()

    def part(first: float, last: float) -> Progress | None:
        return None if progress is None else lambda share, text: progress(first + share * (last - first), text)

    race = run_race(
        data,
        seconds=60 * budget * RACE_SHARE,
        seconds_after=60 * budget * (1 - RACE_SHARE - RESERVE),
        rng=np.random.default_rng(seed_for("auto", base=seed)),
        seed=seed,
        link=link,
        progress=part(0.0, RACE_SHARE),
    )
    race = replace(race, budget_minutes=float(budget))
    method_won = race.winner != race.control
    verdict = None
    if method_won:
        winner = next(candidate for candidate in CANDIDATES[data.kind] if candidate.name == race.winner)
        estimator = make(winner, seed, link)
        if checked:
            left = 60 * budget * (1 - RESERVE) - (time.perf_counter() - begun) - race.seconds_for_all
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
        if verdict is None or verdict.verdict != DO_NOT:
            return Chosen(estimator, race, verdict)
    reason = _why_no_method(race, verdict)
    if not accept_control:
        raise ControlsWinError(
            f"{reason.template}: nothing was written; {{accept_control}} writes the output of {race.control} instead",
            _parts(race, verdict),
            code=reason.code,
            accept_control=True,
            **reason.options,
        )
    if method_won:  # the verdict is on another method than the one that is written
        race = replace(race, instead=f"the control {race.control} was written instead: {reason}")
    return Chosen(make(Candidate(race.control, race.control), seed), race, None)


def affordable(seconds: float, data: Data, race: Race) -> tuple[int, int]:
    """Splits and cells of a check that takes about that long, from the times of the race.

    Parameters
    ----------
    seconds : float
    data : Data
        All n cells.
    race : Race

    Returns
    -------
    n_splits, n_cells : int
        At least 1 and 200 (or n).
    """
    n = data.shape[0]
    cells = min(MAX_CELLS[data.kind], n)

    def per_cell(splits: int) -> float:
        return ((splits + 2) * race.seconds_for_all + splits * race.seconds_for_controls) / n

    for splits in range(N_SPLITS, 0, -1):
        if per_cell(splits) * cells <= seconds:
            return splits, cells
    return 1, int(np.clip(seconds / per_cell(1), min(200, n), cells))


def candidate_keys(kind: Kind) -> list[str]:
    """Names that a result may get where the user names none."""
    return list(dict.fromkeys(default_key(make(candidate, 0)) for candidate in CANDIDATES[kind]))


def budget_sentence(kind: Kind, budget: float) -> str:
    """What will be computed, and for how long at most."""
    return (
        f"auto: {len(CANDIDATES[kind])} methods and {len(controls(kind))} controls compete on a sample, then the "
        f"winner is checked and fitted to all data; at most about {budget:g} minutes"
    )


def _why_no_method(race: Race, verdict: Verdict | None) -> Message:
    """Why no method is chosen, in a sentence."""
    if verdict is not None:
        sample = f"{verdict.cells:,} {'cells' if verdict.kind == 'counts' else 'samples'}, {verdict.fits} fits"
        return Message(
            f"the verdict on {race.winner}, the best method, is not to impute ({sample}): {verdict.reasons[0]}",
            code="verdict-do-not-impute",
        )
    methods = race.candidates[~race.candidates["control"]]
    if not methods["splits"].any():
        return Message(
            "no method was finished in the time available, pass a larger {budget}",
            code="budget-too-small",
            budget=...,
        )
    best = float(race.candidates.loc[race.candidates["name"] == race.control, "score"].iloc[0])
    better = methods[methods["score"] < best * (1 - CLEAR)]
    if len(better):  # the table is in the order of the scores
        return Message(
            f"{better['name'].iloc[0]} beats the controls, but cannot be fitted to all data in the time available, "
            "pass a larger {budget}",
            code="budget-too-small",
            budget=...,
        )
    return Message(
        f"no method beats the controls on held-out values; the best control is {race.control}", code="controls-win"
    )
