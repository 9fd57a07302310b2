"""What the two defaults for counts share: rates averaged over several models, chosen on held-out molecules.

Letters: ``n`` cells, ``G`` genes, ``k`` factors, ``x1`` nine tenths of the molecules, for training, ``x2`` the held-out
tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Model, Output
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned
from imputome.core.many_cells import MANY_CELLS, evenly_spaced, random_rows
from imputome.core.posterior import LARGEST_SHAPE, Prior
from imputome.core.prior import (
    CLEARLY_BETTER,
    deal,
    pooled_prior,
    predicted,
    predictive_likelihood,
    some_cells,
    split,
)
from imputome.errors import InputError
from imputome.methods.deep.rates import LinearOutput, LogLinearModel, row_blocks
from imputome.methods.factors import LowRank, few_threads, gene_mean_rates, gene_shares
from imputome.methods.log_linear import LogLinearFactors, complete_log_linear, fit_log_linear, project_log_linear
from imputome.methods.nmf import complete_factors, poisson_nmf, project

MEMBERS = ("networks", "log_linear", "poisson_factors")  # what is averaged, in the order of ``weights_``
WEIGHT_STEPS = 4  # weights are multiples of 1 / WEIGHT_STEPS
ENTRIES_FOR_WEIGHTS = 2**23  # largest number of entries on which the weights are chosen
SHAPES_FOR_WEIGHTS = np.geomspace(0.1, 100, 8)  # phi of a gene, when weights are compared: the best of these
POWERS_FOR_WEIGHTS = np.array([0.0, 0.5, 1.0])
SMALLEST_RATE = np.float32(1e-12)
FALLBACK_RANKS = (2, 4, 8)  # numbers of factors that are tried if the average is no better than the gene mean
PROJECTION_UPDATES = 15  # updates of a cell's Poisson factors; more of them fit the noise of the cell
DEFAULT_RANK, LARGEST_RANK = 16, 64  # numbers of factors; that of the log-linear ones is chosen up to the second
EPOCHS = 30  # passes over the cells when the log-linear factors are fitted
EPOCHS_OF_SAMPLE = 10  # the same, over a sample of very many cells
PENALTY = 100.0  # of their gene factors


class AveragedCounts(Imputer):
    """An `Imputer` whose rate is a weighted geometric mean of networks, log-linear factors and Poisson factors.

    A subclass has the parameters ``n_factors``, ``posterior`` and ``random_state``. It calls `_divide`, learns its
    networks, if it has any, and calls `_learn`. With more than `MANY_CELLS` cells, factors are learned from so many
    random ones, and the prior is fitted on so many evenly spaced ones: gene factors of few ranks need no more.
    """

    n_factors: int | Literal["auto"]
    random_state: int
    factors_: np.ndarray | None  # (G, k) Poisson factors
    log_linear_factors_: np.ndarray | None  # (G, k), with the next
    log_linear_offset_: np.ndarray | None  # (G,)
    weights_: np.ndarray | None  # of `MEMBERS`; None if the gene mean, or a few factors, give the rate
    uses_gene_mean_: bool
    uses_factors_: bool
    mean_share_: np.ndarray  # (G,) share of each gene in all libraries

    learned: ClassVar[dict[str, Learned]] = {
        "uses_gene_mean": Learned(kind="bool"),
        "uses_factors": Learned(kind="bool"),
        "mean_share": Learned("G", values="a share"),
        "factors": Learned("G k", values="not negative", optional=True),
        "log_linear_factors": Learned("G r", optional=True),
        "log_linear_offset": Learned("G", optional=True),
        "weights": Learned("3", values="a share", optional=True),
    }

    # -- fitting -------------------------------------------------------------------------------------------------------
    def _divide(self, data: Data) -> tuple[list[np.ndarray], Data, Any]:
        """The parts of the molecules, x1 and x2; no parts, all counts and None if the counts are not integers."""
        if data.holds_integers:
            parts = deal(data, np.random.default_rng(self.random_state))
            return parts, *split(data, parts[0])
        if self.posterior:
            raise InputError(
                "the posterior step needs raw counts (integers): pass these, or {posterior}",
                code="not-integers",
                posterior=False,
            )
        return [], data, None

    def _learn(self, data: Data, parts: list[np.ndarray], x1: Data, x2: Any) -> None:
        """Learn the factors from x1, choose the weights on x2, and fit the prior of the posterior step."""
        self._tell_of_learning(0.0, "Poisson factors")
        self.uses_gene_mean_ = self.uses_factors_ = False
        self.mean_share_ = gene_shares(data)
        rank = DEFAULT_RANK if self.n_factors == "auto" else self.n_factors
        self.factors_ = self._poisson_factors(x1, rank) if rank else None
        self.log_linear_factors_ = self.log_linear_offset_ = None
        if rank:
            found = (
                self._log_linear(x1, rank) if x2 is None or self.n_factors != "auto" else self._best_log_linear(x1, x2)
            )
            self.log_linear_factors_, self.log_linear_offset_ = found.factors, found.offset
        present = self._present()
        self.weights_ = present / present.sum()
        self._tell_of_learning(0.5, "weights and posterior step")
        if x2 is not None and present.sum() > 1:
            self.weights_ = self._best_weights(x1, x2)
        if self.posterior:
            self._choose_rate(data, x1, parts)

    _has_networks = False

    def _tell_of_learning(self, share: float, text: str) -> None:
        """Report how far `_learn` is; a subclass that has trained networks before may say so in its own way."""
        self._tell(share, text)

    def _present(self) -> np.ndarray:
        """(3,) 1 for each of `MEMBERS` that the model has, else 0."""
        return np.array([self._has_networks, self.log_linear_ is not None, self.factors_ is not None], float)

    def _log_linear(self, x1: Data, rank: int, begin: float = 0.1, end: float = 0.4) -> LogLinearFactors:
        """Log-linear factors; the progress goes from ``begin`` to ``end``."""
        rows = random_rows(x1.shape[0], self.random_state)
        counts = x1.X if rows is None else x1.X[rows]
        with few_threads(True):  # its batches are small
            genes = fit_log_linear(
                counts,
                rank,
                penalty=PENALTY,
                epochs=EPOCHS if rows is None else EPOCHS_OF_SAMPLE,
                random_state=self.random_state,
                progress=lambda share, text: self._tell_of_learning(begin + (end - begin) * share, f"{rank} {text}"),
            )
        return genes if rows is None else complete_log_linear(genes, counts, x1.X)

    def _best_log_linear(self, x1: Data, x2: Any) -> LogLinearFactors:
        """Log-linear factors of the rank that predicts x2 best: doubled as long as that helps, or else halved.

        They are compared averaged with the other members, which get a half or a quarter of the weight together: alone,
        fewer factors look better than they are beside others.
        """
        seen, held_out = _some_cells(x1, x2)
        rows = np.arange(seen.shape[0])
        others = self._averaged(seen, np.array([1.0, 0.0, 1.0]))
        logs = others.log_members(rows, None)
        present = np.array([log is not None for log in logs], float)
        present /= present.sum()
        begin = 0.1

        def tried(rank: int) -> tuple[float, LogLinearFactors]:
            nonlocal begin
            end = (begin + 0.4) / 2  # how many ranks will be tried is not known: each takes half of what is left
            genes = self._log_linear(x1, rank, begin, end)
            begin = end
            logs[1] = _log_linear_rates(seen, genes).log_rows(rows, None)
            totals = []
            for weight in (0.5, 0.75):
                averaged = _averaged_logs(logs, np.where([False, True, False], weight, (1 - weight) * present))
                totals.append(self._predicted(_DenseRates(averaged, others.library), seen, held_out))
            return max(totals), genes

        rank = min(DEFAULT_RANK, *x1.shape)
        best = tried(rank)
        while 2 * rank <= min(LARGEST_RANK, *x1.shape) and (doubled := tried(2 * rank))[0] > best[0]:
            rank, best = 2 * rank, doubled
        if rank == DEFAULT_RANK and (halved := tried(rank // 2))[0] > best[0]:
            best = halved
        return best[1]

    def _best_weights(self, x1: Data, x2: Any) -> np.ndarray:
        """The weights that give x2 the largest likelihood, on some cells; see `_predicted`."""
        seen, held_out = _some_cells(x1, x2)
        rates = self._averaged(seen, np.full(3, 1 / 3))
        logs = rates.log_members(np.arange(seen.shape[0]), None)
        best, weights = -np.inf, self._present()
        for steps in product(range(WEIGHT_STEPS + 1), repeat=3):
            candidate = np.array(steps) / WEIGHT_STEPS
            if sum(steps) != WEIGHT_STEPS or (candidate[self._present() == 0] > 0).any():
                continue
            total = self._predicted(_DenseRates(_averaged_logs(logs, candidate), rates.library), seen, held_out)
            if total > best:
                best, weights = total, candidate
        return weights

    def _predicted(self, rates: Model, seen: Data, held_out: Any) -> float:
        """Log-likelihood of held-out counts given the others, with the best shape of each gene.

        Without the posterior step it is that of the rates alone: with the largest shape, the counts have no weight.
        """
        shapes, powers = SHAPES_FOR_WEIGHTS, POWERS_FOR_WEIGHTS
        if not self.posterior:
            shapes, powers = np.array([LARGEST_SHAPE]), np.zeros(1)
        likelihood = predictive_likelihood(rates, seen.X, held_out, ratio=1 / 9, shapes=shapes, powers=powers)
        return float(likelihood.max(axis=(1, 2)).sum())

    def _choose_rate(self, data: Data, x1: Data, parts: list[np.ndarray]) -> None:
        """Choose average, few factors or gene mean, all learned from x1, and fit the prior of the posterior step.

        All are compared on x2, which chose epochs and weights too: a small gain there is chance. For the gene mean the
        steps are those of ``gene_mean_posterior``, with the same result.
        """
        data, parts = some_cells(data, parts)

        def evidence(rate: Callable[[Data], Model]) -> np.ndarray:
            return predicted(data, parts[0], rate)[0].evidence()

        rate: Callable[[Data], Model] = partial(gene_mean_rates, share=gene_shares(x1))
        by_gene_mean = evidence(rate)
        self._prior, by_average = pooled_prior(data, parts, self._averaged)
        if _clear_gain(by_average.evidence() - by_gene_mean):
            return
        self.factors_ = self.log_linear_factors_ = self.log_linear_offset_ = self.weights_ = None
        self.uses_gene_mean_ = True
        best = 0.0
        for rank in FALLBACK_RANKS:
            factors = self._poisson_factors(x1, rank)
            by_factors = partial(_factor_rates, factors=factors)
            if (gain := _clear_gain(evidence(by_factors) - by_gene_mean)) > best:
                best, rate, self.factors_ = gain, by_factors, factors
                self.uses_gene_mean_, self.uses_factors_ = False, True
        self._prior = pooled_prior(data, parts, rate)[0]

    def _posterior_prior(self, data: Data) -> Prior:
        return self._prior

    def _poisson_factors(self, data: Data, rank: int) -> np.ndarray:
        """(G, rank) gene factors."""
        rank = min(rank, *data.shape)
        rows = random_rows(data.shape[0], self.random_state)
        counts = data.X if rows is None else data.X[rows]
        with few_threads(counts.nnz * rank < 2**20):
            factors = poisson_nmf(counts, rank, max_iter=100, tol=1e-4, random_state=self.random_state).right
        return factors if rows is None else complete_factors(factors, data.X)

    @property
    def log_linear_(self) -> LogLinearFactors | None:
        """The log-linear factors of the genes; None if there are none."""
        if self.log_linear_factors_ is None or self.log_linear_offset_ is None:
            return None
        return LogLinearFactors(self.log_linear_factors_, self.log_linear_offset_)

    # -- in words ------------------------------------------------------------------------------------------------------
    @property
    def replaced_by(self) -> str:  # type: ignore[override]
        """What gives the rate if it is not the average, in words; else, and before the fit, an empty text."""
        if getattr(self, "uses_gene_mean_", False):
            return "the gene mean (as gene_mean_posterior)"
        if getattr(self, "uses_factors_", False):
            assert self.factors_ is not None  # noqa: S101
            return f"{self.factors_.shape[1]} Poisson factors"
        weights = getattr(self, "weights_", None)
        return self._average_in_words() if self._has_networks and weights is not None and weights[0] == 0 else ""

    def _details(self, n: int) -> dict[str, Any]:
        """Entries of ``Status.details`` that say what gives the values, and how many of the n cells taught factors."""
        details: dict[str, Any] = {
            "values_from": self.replaced_by or self._average_in_words(),
            "replaced": bool(self.replaced_by),
            "cells_for_factors": min(n, MANY_CELLS),
        }
        if self.weights_ is not None:
            details |= {f"weight_{name}": float(w) for name, w in zip(MEMBERS, self.weights_, strict=True)}
        return details

    def _average_in_words(self) -> str:
        assert self.weights_ is not None  # noqa: S101
        words = (self._networks_in_words(), "log-linear factors", "Poisson factors")
        used = [word for word, weight in zip(words, self.weights_, strict=True) if weight > 0]
        return " and ".join(", ".join(used).rsplit(", ", 1))

    def _networks_in_words(self) -> str:
        return ""

    # -- the fitted model ----------------------------------------------------------------------------------------------
    def _new_rows(self, data: Data) -> Model:
        if self.uses_gene_mean_:
            return gene_mean_rates(data, self.mean_share_)
        if self.uses_factors_:
            assert self.factors_ is not None  # noqa: S101
            return _factor_rates(data, self.factors_)
        return self._averaged(data)

    def _latent(self, data: Data) -> np.ndarray | None:
        if self.weights_ is None:
            return super()._latent(data)
        used = self.weights_ > 0
        first = 0 if self._has_networks else int(used.argmax())  # the member that `_averaged` takes the latents of
        return self._averaged(data, np.eye(len(MEMBERS))[first]).latent if used[first] else None

    def _network_rates(self, data: Data) -> LogLinearModel | None:
        """The rates of some cells by the networks; None if there are none."""
        return None

    def _averaged(self, data: Data, weights: np.ndarray | None = None) -> AveragedRates:
        """The rates of some cells, from the counts of these cells; members without weight are not computed."""
        weights = self.weights_ if weights is None else weights
        assert weights is not None  # noqa: S101
        networks = self._network_rates(data) if weights[0] else None
        log_linear = _log_linear_rates(data, self.log_linear_) if weights[1] and self.log_linear_ is not None else None
        factors = _factor_rates(data, self.factors_) if weights[2] and self.factors_ is not None else None
        library = np.asarray(data.X.sum(axis=1), dtype=np.float32)
        usable = self.mean_share_ > 0
        rates = AveragedRates(networks, log_linear, factors, weights=weights, library=library, usable=usable)
        if self._has_networks:
            rates.latent = None if networks is None else networks.latent
        elif log_linear is not None:
            rates.latent = log_linear.latent
        elif factors is not None:
            rates.latent = factors.left
        return rates

    # -- saved models --------------------------------------------------------------------------------------------------
    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        simpler = self.uses_gene_mean_ or self.uses_factors_
        if simpler:
            self.weights_ = None
        elif self.weights_ is None:
            raise KeyError("weights")
        weights = np.zeros(3) if self.weights_ is None else self.weights_
        if self.factors_ is None and (self.uses_factors_ or weights[2] > 0):
            raise KeyError("factors")
        if self.log_linear_ is None and weights[1] > 0:
            raise KeyError("log_linear_factors")


def _some_cells(x1: Data, x2: Any) -> tuple[Data, Any]:
    """Evenly spaced cells of x1 and x2, with at most `ENTRIES_FOR_WEIGHTS` entries in all."""
    rows = evenly_spaced(*x1.shape, ENTRIES_FOR_WEIGHTS)
    return x1.subset(rows=rows), x2[rows]


def _clear_gain(gains: np.ndarray) -> float:
    """The sum of the genes' gains in log-likelihood, if it is `CLEARLY_BETTER` than 0; else 0."""
    total = float(gains.sum())
    return total if total > CLEARLY_BETTER * np.sqrt(np.square(gains).sum()) else 0.0


def _factor_rates(data: Data, factors: np.ndarray) -> LowRank:
    """The rates of some cells by Poisson factors of the genes alone."""
    with few_threads(data.X.nnz < 2**16):
        return LowRank(project(data.X, factors, max_iter=PROJECTION_UPDATES), factors)


def _log_linear_rates(data: Data, genes: LogLinearFactors) -> LogLinearModel:
    """The rates of some cells by log-linear factors of the genes alone."""
    with few_threads(data.X.nnz < 2**16):
        cells, offset = project_log_linear(data.X, genes)
    weight = np.ascontiguousarray(genes.factors.T)
    return LogLinearModel(
        cells, log_offset=offset, library=data.depth, mean=LinearOutput(weight, genes.offset), latent=cells
    )


class AveragedRates:
    """Weighted geometric mean of the rates of networks, log-linear factors and Poisson factors (a `Model`).

    A member that is None has no weight. The rates of each cell are scaled to sum to its ``library``; with more than
    `MANY_CELLS` cells, what a cell is scaled by is computed when its rates are first read. Genes that are not
    ``usable`` get rates of 0.
    """

    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(
        self,
        networks: LogLinearModel | None,
        log_linear: LogLinearModel | None,
        factors: LowRank | None,
        *,
        weights: np.ndarray,
        library: np.ndarray,
        usable: np.ndarray,
    ) -> None:
        self.members = (networks, log_linear, factors)
        self.weights = np.where([member is not None for member in self.members], weights, 0.0)
        self.library, self.usable = library, usable
        self.latent: np.ndarray | None = None  # represents the cells
        self.factor = np.full(len(library), np.nan, np.float32)  # what a cell is scaled by; NaN until it is needed
        if len(library) <= MANY_CELLS:
            self._find_factors(np.arange(len(library)))

    def log_members(self, rows: np.ndarray, genes: np.ndarray | None) -> list[np.ndarray | None]:
        """Log rates of some rows by each member; unusable genes are -inf."""
        columns = slice(None) if genes is None else genes
        logs = [None if m is None else _log_rows(m, rows, genes) for m in self.members]
        for log in logs:
            if log is not None:
                log[:, ~self.usable[columns]] = -np.inf
        return logs

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        rate = self._unscaled(rows, genes)
        if genes is None:
            self._set_factors(rows, rate)
        else:
            self._find_factors(rows)
        return rate * self.factor[rows, None]

    def _unscaled(self, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
        log_rate = _averaged_logs(self.log_members(rows, genes), self.weights)
        return np.exp(log_rate, out=log_rate)

    def _find_factors(self, rows: np.ndarray) -> None:
        """Compute the factors of those ``rows`` that have none yet, in blocks."""
        unknown = np.unique(rows[np.isnan(self.factor[rows])])
        for block in row_blocks(len(unknown), len(self.usable)):
            self._set_factors(unknown[block], self._unscaled(unknown[block], None))

    def _set_factors(self, rows: np.ndarray, rate: np.ndarray) -> None:
        """Set the factors of those ``rows`` that have none yet, from their rates of all genes."""
        unknown = np.isnan(self.factor[rows])
        if unknown.any():
            sums = rate[unknown].sum(axis=1)
            library = self.library[rows[unknown]]
            self.factor[rows[unknown]] = np.divide(library, sums, out=np.zeros_like(sums), where=sums > 0)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        self._find_factors(i)
        logs = [None if m is None else _log_at(m, i, j) for m in self.members]
        log_rate = _averaged_logs(logs, self.weights)
        return np.where(self.usable[j], np.exp(log_rate, out=log_rate) * self.factor[i], np.float32(0))


def _log_rows(member: LogLinearModel | LowRank, rows: np.ndarray, genes: np.ndarray | None) -> np.ndarray:
    if isinstance(member, LogLinearModel):
        return member.log_rows(rows, genes)
    product = member.rows(rows, genes)
    return np.log(np.maximum(product, SMALLEST_RATE, out=product), out=product)


def _log_at(member: LogLinearModel | LowRank, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    if isinstance(member, LogLinearModel):
        return member.log_at(i, j)
    product = member.at(i, j)
    return np.log(np.maximum(product, SMALLEST_RATE, out=product), out=product)


def _averaged_logs(logs: list[np.ndarray | None], weights: np.ndarray) -> np.ndarray:
    """The weighted sum of the members' log rates; changes none of them."""
    used = [(log, weight) for log, weight in zip(logs, weights, strict=True) if log is not None and weight > 0]
    total = used[0][0] * np.float32(used[0][1])
    for log, weight in used[1:]:
        total += log * np.float32(weight)
    return total


class _DenseRates:
    """A `Model` of dense log rates, scaled to sum to the library of each cell."""

    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(self, log_rate: np.ndarray, library: np.ndarray) -> None:
        self.rate = np.exp(log_rate, out=log_rate)
        sums = self.rate.sum(axis=1)
        self.rate *= np.divide(library, sums, out=np.zeros_like(sums), where=sums > 0)[:, None]

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        return self.rate[rows] if genes is None else self.rate[np.ix_(rows, genes)]

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self.rate[i, j]


def geometric_mean(models: list[LogLinearModel]) -> LogLinearModel:
    """The geometric mean of log-linear rates, which is log-linear in all their hidden values together."""
    if len(models) == 1:
        return models[0]
    share = np.float32(1 / len(models))
    return LogLinearModel(
        np.hstack([model.hidden for model in models]),
        log_offset=np.sum([model.log_offset * share for model in models], axis=0),
        library=models[0].library,
        latent=np.hstack([model.latent for model in models if model.latent is not None]),
        mean=LinearOutput(
            np.vstack([model.mean.weight * share for model in models]),  # type: ignore[operator]
            np.sum([model.mean.bias * share for model in models], axis=0),
        ),
    )
