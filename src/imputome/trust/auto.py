"""``method="auto"``: a race of methods and controls on a sample, a check of the winner, and who is to impute."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.errors import ControlsWinError, InputError
from imputome.evaluation.splits import seed_for
from imputome.methods import DEFAULT, controls, info
from imputome.result.adapt import chosen_link, inspect_layer, to_data
from imputome.trust.check import check, label_columns
from imputome.trust.evidence import MAX_CELLS, N_SPLITS
from imputome.trust.race import CANDIDATES, Race, make, run_race
from imputome.trust.verdict import DO_NOT, Verdict

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.core.data import Data
    from imputome.core.imputer import Imputer
    from imputome.core.scales import Scale
    from imputome.inspection.state import InputReport
    from imputome.result.run import Progress

BUDGET = 5.0  # minutes
CLEAR = 0.002  # share by which a method must be better to be said to be
RACE = 0.3  # share of the budget that the race may take
RESERVE = 0.25  # share left for reading, writing, a report, and fits that take longer than the race says


@dataclass(frozen=True)
class Chosen:
    """Who is to impute, and why.

    Attributes
    ----------
    estimator : unfitted, its link set.
    race : how the race went.
    verdict : of the race's winner; None where a control won, or no check was asked for.
    record : ``race`` and ``verdict`` for ``uns["imputome"][key]``. Where a control is to be written although it did not
        win, there is no verdict, and the race says why in ``instead``.
    """

    estimator: Imputer
    race: Race
    verdict: Verdict | None
    record: dict[str, Any]


def choose(
    adata: AnnData,
    *,
    layer: str | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    report: InputReport | None = None,
    budget: float = BUDGET,
    accept_control: bool = False,
    checked: bool = True,
    labels: str | Iterable[str] = (),
    keep_observed: bool | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Chosen:
    """Find the method to impute with by held-out molecules, or values, in a bounded time.

    The race takes at most three tenths of the budget; only what can be fitted on all data in the time left after it can
    win; and the check is made on as many splits, or cells, as the rest allows. Fits that do not say how far they are
    cannot be ended, so the bound holds to one such fit of the sample.

    Parameters
    ----------
    budget : minutes for the race, the check and the fit on everything together.
    accept_control : take the best control where nothing beats the controls.
    checked : judge the winner on other splits than those it won on.
    labels : columns of ``obs`` for the check.
    keep_observed : whether observed values are put back in what will be written; None: the method's habit.

    Raises
    ------
    ControlsWinError
        No method is better than the controls, or the verdict on the winner is not to impute; unless
        ``accept_control``.
    InputError
        The input cannot be imputed, nothing of it can be held out, or the budget is no positive number.
    """
    if not (isinstance(budget, int | float) and 0 < budget < np.inf):
        raise InputError(f"budget={budget!r} must be a positive number of minutes")
    begun = time.perf_counter()
    report = report or inspect_layer(adata, layer)
    if report.errors:
        raise InputError(report.errors[0])
    method = info(DEFAULT[report.kind])
    data, report, _ = to_data(adata, method, layer=layer, scale=scale, report=report)
    link, _ = chosen_link(data, method, transform)
    columns = label_columns(adata, labels)

    def part(first: float, last: float) -> Progress | None:
        return None if progress is None else lambda share, text: progress(first + share * (last - first), text)

    race = run_race(
        data,
        seconds=60 * budget * RACE,
        seconds_after=60 * budget * (1 - RACE - RESERVE),
        rng=np.random.default_rng(seed_for("auto", base=seed)),
        seed=seed,
        link=link,
        progress=part(0.0, RACE),
    )
    record: dict[str, Any] = {"race": {**race.record(), "budget_minutes": float(budget), "seed": seed}}
    won = race.winner != race.control
    estimator = make(race.winner, seed, link)
    verdict = None
    if won and checked:
        left = 60 * budget * (1 - RESERVE) - (time.perf_counter() - begun) - race.seconds_for_all
        splits, cells = affordable(left, data, race)
        verdict, record["verdict"] = check(
            data,
            estimator,
            labels=columns,
            seed=seed,
            n_splits=splits,
            max_cells=cells,
            keep_observed=keep_observed,
            progress=part(RACE, 1.0),
        )
    if won and (verdict is None or verdict.verdict != DO_NOT):
        return Chosen(estimator, race, verdict, record)
    why = _why(race, record)
    if not accept_control:
        how = f"nothing was written; --accept-control (accept_control=True) writes the output of {race.control.name}"
        raise ControlsWinError(f"{why}: {how} instead", record)
    if won:  # the verdict is on another method than the one that is written
        del record["verdict"]
        record["race"]["instead"] = f"the control {race.control.name} was written instead: {why}"
    return Chosen(make(race.control, seed), race, verdict, record)


def affordable(seconds: float, data: Data, race: Race) -> tuple[int, int]:
    """Splits and cells of a check that takes about that long, by the times of the race; at least 1 x 200."""
    n = data.shape[0]
    cells = min(MAX_CELLS[data.kind], n)

    def per_cell(splits: int) -> float:
        return ((splits + 2) * race.seconds_for_all + splits * race.seconds_for_controls) / n

    for splits in range(N_SPLITS, 0, -1):
        if per_cell(splits) * cells <= seconds:
            return splits, cells
    return 1, int(np.clip(seconds / per_cell(1), min(200, n), cells))


def budget_line(report: InputReport, budget: float) -> str:
    """What is going to be done, and for how long at most, in a sentence for a person."""
    n, n_controls = len(CANDIDATES[report.kind]), len(controls(report.kind))
    return (
        f"auto: {n} candidates and {n_controls} controls race on a sample, the winner is checked and fitted on "
        f"everything; at most about {budget:g} minutes (--budget)"
    )


def _why(race: Race, record: dict[str, Any]) -> str:
    """Why no candidate is to impute, in a sentence."""
    if "verdict" in record:
        found = record["verdict"]
        on = f"on {found['cells']:,} {'cells' if found['kind'] == 'counts' else 'samples'}, {found['fits']} fits"
        return f"the verdict on {race.winner.name}, the best method, is not to impute ({on}): {found['reasons'][0]}"
    tried = race.table[~race.table["control"]]
    if not tried["splits"].any():
        return "no candidate was done in the time there was, give a larger --budget (budget=...)"
    best = float(race.table.loc[race.table["name"] == race.control.name, "score"].iloc[0])
    better = tried[tried["score"] < best * (1 - CLEAR)]
    if len(better):  # the race is in the order of the scores
        return (
            f"{better['name'].iloc[0]} beats the controls, but cannot be fitted on everything in the time there is: "
            "give a larger --budget (budget=...)"
        )
    return f"no method beats the controls on held-out values, {race.control.name} being the best"
