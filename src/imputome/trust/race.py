"""A small race: methods and controls impute a sample of cells and genes, and are compared by held-out values.

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
from imputome.core.imputer import TRAINING_CELLS, Imputer
from imputome.errors import ImputomeError, InputError, MissingExtraError
from imputome.methods import REFERENCE, Method, controls, create, info
from imputome.result.record import Race
from imputome.trust.evidence import LOSS, check_possible, hold_out, sample_cells, scores
from imputome.trust.imitation import AT_RANDOM, imitation_of

if TYPE_CHECKING:
    import pandas as pd

    from imputome.result.run import Progress

# most cells and genes of the sample; the time of some methods for real values grows with the cube of the samples
MAX_SAMPLE: dict[Kind, tuple[int, int]] = {"counts": (1000, 3000), "real": (400, 1000)}
RACE_SPLITS = 2
RERUN_WITHIN = 0.02  # a candidate that is worse than the best by a larger share on the first split is not run again
TIME_MARGIN = 1.5  # for methods whose time grows faster with the data than estimated
FINAL_FIT_SHARE = 0.85  # share of the time left that the winner's fit to all data, and its check, may take
TRIAL_SHARE = 0.1  # of all time, for trial fits to all data that show how long an epoch takes there


class _OutOfTimeError(Exception):
    """A fit took longer than the time left."""


@dataclass(frozen=True)
class Candidate:
    """A method with parameters; ``name`` is its name in the table of the race."""

    name: str
    method: Method  # see `imputome.methods.create`
    params: dict[str, Any] = field(default_factory=dict)


def _candidate(method: str, **params: Any) -> Candidate:
    inside = ", ".join(f"{name}={value}" for name, value in params.items() if name != "posterior")
    name = f"{method}{'+posterior' if params.get('posterior') else ''}"
    return Candidate(f"{name} ({inside})" if inside else name, method, params)


def as_candidate(method: Method | Candidate) -> Candidate:
    """A candidate named after its method and, of an estimator, the parameters that differ from their defaults."""
    if isinstance(method, Candidate):
        return method
    params = method.changed_params() if isinstance(method, Imputer) else {}
    return replace(_candidate(info(method).name, **params), method=method)


# in the order in which they run, the most promising ones first: when time is short, the last are left out, and so the
# winner is hardly ever another one on a slow or busy machine
CANDIDATES: dict[Kind, tuple[Candidate, ...]] = {
    "counts": (
        _candidate("count_factors"),
        _candidate("poisson_nmf", n_components=16, posterior=True),
        _candidate("count_autoencoder"),
        _candidate("count_autoencoder", n_latent=64, n_factors=32),
        _candidate("poisson_nmf", n_components=8, posterior=True),
        _candidate("poisson_nmf", n_components=32, posterior=True),
        _candidate("ialm", posterior=True),
        _candidate("zipo", encoder="128", distribution="poisson", posterior=True),
        _candidate("zipo", encoder="128", alpha_z=0.1, posterior=True),
        _candidate("zipo", encoder="128", alpha_z=1e4, posterior=True),
    ),
    "real": (
        _candidate("gaussian_copula"),
        _candidate("soft_impute"),
        _candidate("svd"),
        _candidate("knn"),
        _candidate("beta_vae"),
        _candidate("beta_vae", beta=0),
        _candidate("beta_vae", beta=4),
    ),
}


@dataclass
class _Entry:
    candidate: Candidate
    control: bool
    scores: list[float] = field(default_factory=list)  # each divided by the reference's on the same split
    seconds: float = float("nan")  # of one fit
    calls: list[float] = field(default_factory=list)  # seconds from its start to each report of its progress
    outcome: str = ""
    in_time: bool = True  # False if it was not compared, or not as often as others, because time was short

    @property
    def score(self) -> float:
        return float(np.mean(self.scores)) if self.scores else float("inf")

    def late(self, why: str) -> None:
        """Note that there was no time for a fit; with a score from an earlier split the candidate stays."""
        self.in_time = False
        self.outcome = "" if self.scores else f"left out: {why}"


def run_race(
    data: Data,
    *,
    seconds: float,
    seconds_after: float,
    fits_after: float = 1.0,
    rng: np.random.Generator,
    seed: int = 0,
    link: str = "identity",
    candidates: Iterable[Candidate | Method] | None = None,
    n_splits: int = RACE_SPLITS,
    max_cells: int | None = None,
    max_genes: int | None = None,
    progress: Progress | None = None,
) -> Race:
    """Compare candidates and controls by held-out molecules (counts) or values (real values) of a sample.

    All run on a first split; the controls, and candidates within 2 % of the best, on the other ``n_splits`` - 1 too.
    The race takes about ``seconds``: a candidate is left out when no time is left, and its fit is stopped when the time
    is over, if the fit reports its progress. Controls always run. ``seconds_after`` is the time for what comes after,
    as much work as ``fits_after`` fits of the winner to all data. ``link`` is the one on which real values are imputed
    and errors are measured. ``candidates`` (None: `CANDIDATES`) and the size of the sample (None: `MAX_SAMPLE`) can be
    set.

    Only a candidate whose fit to all data ends in time can win. The time is estimated from that on the sample and the
    size of the data; where this is too long, a fit to all data is begun, to measure what an epoch takes there, for at
    most a tenth of all time.
    """
    check_possible(data)
    begun = time.perf_counter()
    # all errors are divided by the first control's on the same split, since splits differ more than methods do
    reference: list[float] = []
    sample = sample_of(data, rng, max_cells, max_genes)
    imitation = imitation_of(data, sample) if data.kind == "real" else AT_RANDOM
    metric = LOSS[data.kind]
    names = sorted(controls(data.kind), key=lambda name: name != REFERENCE[data.kind])  # the reference first
    entries = [_Entry(Candidate(name, name), True) for name in names]
    chosen = CANDIDATES[data.kind] if candidates is None else candidates
    entries += [_Entry(as_candidate(candidate), False) for candidate in chosen]
    size = _times_larger(data, sample)
    everything = seconds + seconds_after

    def time_left() -> float:
        """Seconds for the next fit: until the race ends, or until the best candidate needs all time that is left."""
        end = seconds
        scored = [entry for entry in entries if entry.scores and not entry.control]
        if scored:
            best = min(scored, key=lambda entry: entry.score)
            needed = best.seconds * size * fits_after / FINAL_FIT_SHARE
            if needed < FINAL_FIT_SHARE * everything:  # otherwise it will probably not be fitted to all data
                end = min(seconds, everything - needed)
        return end - (time.perf_counter() - begun)

    for number in range(n_splits):
        split = hold_out(sample, rng, imitation, number)
        best = min(entry.score for entry in entries)
        for place, entry in enumerate(entries):
            near = number == 0 or entry.score <= best * (1 + RERUN_WITHIN)
            if entry.outcome or not (entry.control or near):
                continue
            if progress is not None:
                share = (number + place / len(entries)) / n_splits
                progress(share, f"{entry.candidate.name}, split {number + 1} of {n_splits}")
            left = time_left()
            try:
                estimator = make(entry.candidate, seed, link).as_for(*data.shape)
                if not entry.control and (left <= 0 or entry.seconds > left):
                    entry.late("no time was left")
                    continue
                started, entry.calls = time.perf_counter(), []
                estimator.progress = _timer(entry.calls, np.inf if entry.control else left)
                error = scores(estimator.fit_transform(split.train), split, link=link)[metric]
                if len(reference) == number:
                    reference.append(error)
                entry.scores.append(error / reference[number])
                entry.seconds = time.perf_counter() - started
            except _OutOfTimeError:
                entry.late("it did not finish in the time available")
            except (ImputomeError, FloatingPointError, np.linalg.LinAlgError) as error:
                if entry.control and not isinstance(error, MissingExtraError):
                    raise
                entry.outcome = f"left out: {error}"
                entry.scores.clear()
    trial_seconds = TRIAL_SHARE * everything

    def longest() -> float:
        return FINAL_FIT_SHARE * (everything - (time.perf_counter() - begun)) / fits_after

    def expected(entry: _Entry) -> float:
        """Seconds of a fit to all data: by the size of the data and, where that is too long, by a trial."""
        nonlocal trial_seconds
        rough = entry.seconds * size
        if entry.control or rough <= longest() or longest() <= 0 or len(entry.calls) < 2:
            return rough
        started = time.perf_counter()
        measured = _trial(entry, data, make(entry.candidate, seed, link), max(trial_seconds, 0.0))
        trial_seconds -= time.perf_counter() - started
        return rough if measured is None else measured

    winner, control, seconds_for_all = _decide(entries, expected, longest)
    taken = time.perf_counter() - begun
    return Race(
        candidates=_table(entries, float(np.mean(reference))),
        winner=winner.candidate.name,
        control=control.candidate.name,
        metric=metric,
        cells=sample.shape[0],
        genes=sample.shape[1],
        seconds=taken,
        gain=0.0 if winner.control else 1 - winner.score / control.score,
        seconds_for_all=seconds_for_all,
        seconds_for_controls=size * sum(entry.seconds for entry in entries if entry.control),
        seed=seed,
    )


def sample_of(data: Data, rng: np.random.Generator, max_cells: int | None = None, max_genes: int | None = None) -> Data:
    """Cells drawn at random, and the genes with most molecules; of real values, features drawn at random."""
    most_cells, most_genes = MAX_SAMPLE[data.kind]
    cells = sample_cells(data, max_cells or most_cells, rng)
    G, max_genes = data.shape[1], max_genes or most_genes
    if max_genes >= G:
        return data.subset(rows=cells)
    if data.kind == "real":
        return data.subset(rows=cells, columns=np.sort(rng.choice(G, max_genes, replace=False)))
    genes = np.sort(np.argsort(-data.gene_totals, kind="stable")[:max_genes])
    return data.subset(rows=cells, columns=genes)


def make(candidate: Candidate, seed: int, link: str = "identity") -> Imputer:
    """The unfitted estimator of a candidate, its link set."""
    estimator = create(candidate.method, candidate.params, random_state=seed)
    estimator.link = link
    return estimator


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def _timer(calls: list[float], seconds: float) -> Progress:
    """A progress callable that notes when it is called, and ends the fit after ``seconds``."""
    begun = time.perf_counter()

    def look(share: float, text: str) -> None:
        calls.append(time.perf_counter() - begun)
        if calls[-1] > seconds:
            raise _OutOfTimeError

    return look


def _trial(entry: _Entry, data: Data, estimator: Imputer, seconds: float) -> float | None:
    """Expected seconds of a fit to all data, from one that is ended after ``seconds``; None if it came to nothing.

    The fit to the sample reported its progress at K steps, this one at k by its end. The other K - k, and what comes
    after the last, are taken to need as much more time than on the sample as these did.
    """
    calls: list[float] = []
    estimator.progress = _timer(calls, seconds)
    started = time.perf_counter()
    try:
        estimator.fit_transform(data)
    except _OutOfTimeError:
        k, on_sample = len(calls), entry.calls
        if not 2 <= k <= len(on_sample):
            return None
        longer = (calls[-1] - calls[0]) / max(on_sample[k - 1] - on_sample[0], 1e-9)
        return calls[-1] + longer * (entry.seconds - on_sample[k - 1])
    except (ImputomeError, FloatingPointError, np.linalg.LinAlgError):
        return None  # the fit itself will say what is wrong
    return time.perf_counter() - started


def _times_larger(data: Data, sample: Data) -> float:
    """How many times longer a fit to all data takes than a fit to the sample.

    Methods for counts mostly visit the nonzeros, and networks compute every rate too: the estimate is the weighted
    geometric mean of both ratios, three to one. Cells that a fit does not learn from are only imputed, which takes
    about a tenth of the time. Methods for real values compare rows, or solve a system of them.
    """
    (n, G), (n_sample, G_sample) = data.shape, sample.shape
    if data.kind == "counts":
        only_imputed = max(0, n - TRAINING_CELLS)
        cells = n - 0.9 * only_imputed
        nonzeros = data.X.nnz * cells / n / max(1, sample.X.nnz)
        rates = cells * np.count_nonzero(data.gene_totals) / (n_sample * G_sample)
        return TIME_MARGIN * float(nonzeros**0.75 * rates**0.25)
    return TIME_MARGIN * (n / n_sample) ** 2 * G / G_sample


def _decide(
    entries: list[_Entry], expected: Callable[[_Entry], float], longest: Callable[[], float]
) -> tuple[_Entry, _Entry, float]:
    """The winner, the best control, and the expected seconds of the winner's fit; writes the outcome of each entry.

    A candidate whose fit to all data is ``expected`` to take longer than there is time cannot win.
    """
    control = min((entry for entry in entries if entry.control), key=lambda entry: entry.score)
    winner, seconds = None, float("nan")
    for entry in sorted(entries, key=lambda entry: entry.score):
        if not entry.scores or entry.outcome:
            continue
        if winner is not None:
            entry.outcome = "lost"
            continue
        seconds = expected(entry)
        if entry.control or seconds <= longest():
            winner, entry.outcome = entry, "won"
        else:
            entry.in_time = False
            more = f"about {_time(seconds)}, more than the budget allows"
            entry.outcome = f"left out: a fit to all data would take {more}"
    if winner is None:
        raise InputError("no control could be fitted to these data: pass {method}", code="no-control", method=...)
    return winner, control, seconds


def _table(entries: list[_Entry], unit: float) -> pd.DataFrame:
    """A row for each entry, the best first; scores are given in ``unit``, the mean error of the reference."""
    import pandas as pd

    return pd.DataFrame(
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
            "in_time": entry.in_time,
        }
        for entry in sorted(entries, key=lambda entry: entry.score)
    )
