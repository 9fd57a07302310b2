"""A small race: candidate methods and the controls on a sample of cells and genes, by what they say of held-out values.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.data import Data, Kind
from imputome.core.imputer import Imputer
from imputome.errors import ImputomeError, InputError, MissingExtraError
from imputome.methods import REFERENCE, Method, controls, create, info
from imputome.trust.evidence import LOSS, check_possible, hold_out, sample_cells, scores

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[float, str], None]

# cells and genes of the sample, at most; some methods for real values cost the cube of the number of samples
SAMPLE: dict[Kind, tuple[int, int]] = {"counts": (1000, 3000), "real": (400, 1000)}
SPLITS = 2
NEAR = 0.02  # of the best score of the first split: who is further off is not run again
MARGIN = 1.5  # for what grows faster than the sample's size says
FINAL = 0.75  # share of the time left that the winner's fit on everything may take


class _OutOfTimeError(Exception):
    """A fit went on past its time."""


@dataclass(frozen=True)
class Candidate:
    """A method with parameters.

    Parameters
    ----------
    name : str
        Name in the table of the race.
    method : str, class or estimator
        See `imputome.methods.create`.
    params : dict, optional
        Parameters by name.
    """

    name: str
    method: Method
    params: dict[str, Any] = field(default_factory=dict)


def _candidate(method: str, **params: Any) -> Candidate:
    told = {name: value for name, value in params.items() if name != "posterior"}
    inside = ", ".join(f"{name}={value}" for name, value in told.items())
    name = f"{method}{'+posterior' if params.get('posterior') else ''}"
    return Candidate(f"{name} ({inside})" if inside else name, method, params)


def as_candidate(method: Method | Candidate) -> Candidate:
    """A candidate named after its method and, of an estimator, the parameters that differ from their defaults."""
    if isinstance(method, Candidate):
        return method
    params = method.changed_params() if isinstance(method, Imputer) else {}
    return replace(_candidate(info(method).name, **params), method=method)


# in the order in which they are run, the quick first: when time is short, those at the end are left out
CANDIDATES: dict[Kind, tuple[Candidate, ...]] = {
    "counts": (
        _candidate("poisson_nmf", n_components=16, posterior=True),
        _candidate("poisson_nmf", n_components=8, posterior=True),
        _candidate("poisson_nmf", n_components=32, posterior=True),
        _candidate("count_autoencoder"),
        _candidate("count_autoencoder", n_latent=64, n_factors=32),
        _candidate("ialm", posterior=True),
        _candidate("zipo", encoder="128", distribution="poisson", posterior=True),
        _candidate("zipo", encoder="128", alpha_z=0.1, posterior=True),
        _candidate("zipo", encoder="128", alpha_z=1e4, posterior=True),
    ),
    "real": (
        _candidate("knn"),
        _candidate("svd"),
        _candidate("soft_impute"),
        _candidate("gaussian_copula"),
        _candidate("beta_vae"),
        _candidate("beta_vae", beta=0),
        _candidate("beta_vae", beta=4),
    ),
}


@dataclass
class _Entry:
    candidate: Candidate
    control: bool
    scores: list[float] = field(default_factory=list)  # each over the reference's on the same split
    seconds: float = float("nan")  # of one fit
    outcome: str = ""

    @property
    def score(self) -> float:
        return float(np.mean(self.scores)) if self.scores else float("inf")


@dataclass(frozen=True)
class Race:
    """How a race went.

    Attributes
    ----------
    winner : the best candidate that can be fitted on all data in the time there is; a control if none is better.
    control : the best control.
    gain : share by which the winner's error is below the best control's; 0 if a control won.
    seconds_for_all, seconds_for_controls : what the winner's fit on all data is expected to take, and those of all
        controls together.
    table : a row for each candidate: ``name``, ``method``, ``parameters`` (JSON), ``control``, ``score``, ``sd``,
        ``splits``, ``seconds``, ``outcome``; the best first. Scores are means of the error over that of the reference
        control on the same split, times the latter's mean: who was run on one split only is compared fairly.
    metric, cells, genes, seconds : what was measured, on how much, and how long that took.
    """

    winner: Candidate
    control: Candidate
    gain: float
    seconds_for_all: float
    seconds_for_controls: float
    table: pd.DataFrame
    metric: str
    cells: int
    genes: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """For ``uns["imputome"][key]["race"]``."""
        kept = {name: getattr(self, name) for name in ("metric", "cells", "genes", "seconds")}
        return {"candidates": self.table, "winner": self.winner.name, **kept}


def run_race(
    data: Data,
    *,
    seconds: float,
    seconds_after: float,
    rng: np.random.Generator,
    seed: int = 0,
    link: str = "identity",
    candidates: Iterable[Candidate | Method] | None = None,
    n_splits: int = SPLITS,
    max_cells: int | None = None,
    max_genes: int | None = None,
    progress: Progress | None = None,
) -> Race:
    """Run candidates and controls on held-out molecules, or entries, of a sample.

    All are run on a first split; those within 2 % of the best, and the controls, on the others. A candidate is left out
    when it would not be done in time by what the ones before took, and is ended where its fit says how far it is.

    Parameters
    ----------
    data : all data. The sample are cells drawn at random, and the genes with most molecules (of real values: drawn at
        random too); their numbers, if not given, from `SAMPLE`.
    seconds : what there is for the race. Controls are always run.
    seconds_after : what there is for the fit on all data and for the check.
    link : what real values are imputed on, by candidates and controls alike, and what errors are measured on.

    Raises
    ------
    InputError
        Nothing of the data can be held out.
    """
    check_possible(data)
    begun = time.perf_counter()
    # errors of the first control, in which all others are told: splits differ by more than methods do
    reference: list[float] = []
    sample = sample_of(data, rng, max_cells, max_genes)
    metric = LOSS[data.kind]
    names = sorted(controls(data.kind), key=lambda name: name != REFERENCE[data.kind])  # the reference first
    entries = [_Entry(Candidate(name, name), True) for name in names]
    chosen = CANDIDATES[data.kind] if candidates is None else candidates
    entries += [_Entry(as_candidate(candidate), False) for candidate in chosen]
    for number in range(n_splits):
        split = hold_out(sample, rng)
        best = min(entry.score for entry in entries)
        for place, entry in enumerate(entries):
            near = number == 0 or entry.score <= best * (1 + NEAR)
            if entry.outcome or not (entry.control or near):
                continue
            if progress is not None:
                share = (number + place / len(entries)) / n_splits
                progress(share, f"{entry.candidate.name}, split {number + 1} of {n_splits}")
            left = seconds - (time.perf_counter() - begun)
            try:
                estimator = make(entry.candidate, seed, link)
                if not entry.control:
                    if left <= 0 or entry.seconds > left:
                        if number == 0:
                            entry.outcome = "left out: no time left (a larger --budget runs it)"
                        continue
                    estimator.progress = _stop_after(left)
                started = time.perf_counter()
                result = estimator.fit_transform(split.train)
                error = scores(result, split, link=link)[metric]
                if len(reference) == number:
                    reference.append(error)
                entry.scores.append(error / reference[number])
                entry.seconds = time.perf_counter() - started
            except _OutOfTimeError:
                if number == 0:
                    entry.outcome = "left out: not done in the time there was (a larger --budget runs it)"
            except (ImputomeError, FloatingPointError, np.linalg.LinAlgError) as error:
                if entry.control and not isinstance(error, MissingExtraError):
                    raise
                entry.outcome = f"left out: {error}"
                entry.scores.clear()
    size = _times_larger(data, sample)
    taken = time.perf_counter() - begun
    longest = FINAL * (seconds + seconds_after - taken)
    return _finish(entries, float(np.mean(reference)), size, longest, data, sample, taken)


def sample_of(data: Data, rng: np.random.Generator, max_cells: int | None = None, max_genes: int | None = None) -> Data:
    """Some cells, and the genes with most molecules; of real values, some samples and features."""
    most_cells, most_genes = SAMPLE[data.kind]
    cells = sample_cells(data, max_cells or most_cells, rng)
    G, max_genes = data.shape[1], max_genes or most_genes
    if max_genes >= G:
        return data.subset(rows=cells)
    if data.kind == "real":
        return data.subset(rows=cells, columns=np.sort(rng.choice(G, max_genes, replace=False)))
    genes = np.sort(np.argsort(-data.gene_totals, kind="stable")[:max_genes])
    return data.subset(rows=cells, columns=genes)


def make(candidate: Candidate, seed: int, link: str = "identity") -> Imputer:
    """The unfitted estimator of a candidate."""
    estimator = create(candidate.method, candidate.params, random_state=seed)
    estimator.link = link
    return estimator


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _stop_after(seconds: float) -> Progress:
    begun = time.perf_counter()

    def look(share: float, text: str) -> None:
        if time.perf_counter() - begun > seconds:
            raise _OutOfTimeError

    return look


def _times_larger(data: Data, sample: Data) -> float:
    """How many times longer a fit on all data takes.

    Methods for counts pass over the nonzeros above all, and networks make every rate besides: told by three parts of
    the one and one of the other. Those for real values compare rows, or solve a system of them.
    """
    (n, G), (few, some) = data.shape, sample.shape
    if data.kind == "counts":
        nonzeros = data.X.nnz / max(1, sample.X.nnz)
        rates = n * np.count_nonzero(data.gene_totals) / (few * some)
        return MARGIN * float(nonzeros**0.75 * rates**0.25)
    return MARGIN * (n / few) ** 2 * G / some


def _finish(
    entries: list[_Entry], unit: float, size: float, longest: float, data: Data, sample: Data, taken: float
) -> Race:
    import pandas as pd

    order = sorted(entries, key=lambda entry: entry.score)
    control = min((entry for entry in entries if entry.control), key=lambda entry: entry.score)
    winner = None
    for entry in order:
        if not entry.scores or entry.outcome:
            continue
        if winner is not None:
            entry.outcome = "lost"
        elif entry.control or entry.seconds * size <= longest:
            winner, entry.outcome = entry, "won"
        else:
            entry.outcome = (
                f"left out: on all data it would take about {_time(entry.seconds * size)}, too long for the budget"
            )
    if winner is None:
        raise InputError("no control could be run on these data")
    rows = [
        {
            "name": entry.candidate.name,
            "method": info(entry.candidate.method).name,
            "parameters": json.dumps(entry.candidate.params, default=str),
            "control": entry.control,
            "score": unit * entry.score if entry.scores else float("nan"),
            "sd": unit * float(np.std(entry.scores, ddof=1)) if len(entry.scores) > 1 else float("nan"),
            "splits": len(entry.scores),
            "seconds": entry.seconds,
            "outcome": entry.outcome,
        }
        for entry in order
    ]
    return Race(
        winner=winner.candidate,
        control=control.candidate,
        gain=0.0 if winner.control else 1 - winner.score / control.score,
        seconds_for_all=winner.seconds * size,
        seconds_for_controls=size * sum(entry.seconds for entry in entries if entry.control),
        table=pd.DataFrame(rows),
        metric=LOSS[data.kind],
        cells=sample.shape[0],
        genes=sample.shape[1],
        seconds=taken,
    )
