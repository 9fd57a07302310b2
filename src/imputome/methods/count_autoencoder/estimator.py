"""The default for counts: a small count autoencoder, averaged with Poisson factors, and the posterior step.

Letters: ``n`` cells, ``G`` genes, ``k`` factors, ``x1`` nine tenths of the molecules, for training, ``x2`` the held-out
tenth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, cast

import numpy as np
from torch import nn

from imputome.core.data import Data
from imputome.core.imputation import Model, Output, Status
from imputome.core.learned import Learned
from imputome.core.posterior import deal, likelihoods_of_part, pooled_shape, split
from imputome.core.scales import is_integer
from imputome.errors import InputError
from imputome.methods.count_autoencoder import COUNT_AUTOENCODER_INFO
from imputome.methods.count_autoencoder.family import CountFamily
from imputome.methods.count_autoencoder.fitted import encode
from imputome.methods.count_autoencoder.network import CountNetwork
from imputome.methods.deep.rates import LinearOutput, LogLinearModel, row_blocks
from imputome.methods.deep.training import NOT_NEGATIVE, POSITIVE, Training, check_values
from imputome.methods.factors import LowRank, few_threads, gene_mean_rates, gene_shares
from imputome.methods.nmf import poisson_nmf, project

NETWORK_WEIGHTS = np.linspace(0, 1, 6)  # tried weights of the networks' log rate; the factors have the rest
DEFAULT_NETWORK_WEIGHT = 0.6  # if there are no held-out molecules
ENTRIES_FOR_WEIGHT = 2**24  # largest number of entries on which the weight is chosen
SMALLEST_RATE = np.float32(1e-12)
MAX_VALIDATION_CELLS = 1024  # cells whose held-out molecules are predicted after each epoch
FALLBACK_RANKS = (2, 4, 8)  # numbers of factors that are tried if the networks are no better than the gene mean
CLEARLY_BETTER = 2.0  # standard errors of the gain over the gene mean, summed over genes, that a rate must reach
PROJECTION_UPDATES = 15  # updates of a cell's factors; more of them fit the noise of the cell


@dataclass(kw_only=True, eq=False, repr=False)
class CountAutoencoder(CountFamily):
    """Count autoencoder with Poisson loss at the observed library size: the default method for counts.

    The network is the smallest of the family that predicted held-out molecules best. It reads log1p of counts per
    10,000, with random entries hidden in training, through a sparse first layer (``n_hidden`` units, batch
    normalisation, ReLU, dropout) and ``n_latent`` linear latents. The softmax of a linear output, times the library
    size, is the rate. Nine tenths of the molecules (x1) are for training, which stops when the other tenth (x2) is no
    longer predicted better. The rate is averaged, on the log scale, with that of a Poisson factorisation of x1; the
    weight is the one that predicts x2 best.

    The posterior step combines the rate, at the cell's full counts, with these counts. If then x2 is not predicted
    clearly better (by two standard errors) than by the posterior of the gene mean, 2, 4 and 8 Poisson factors alone are
    tried, and if these are not better either, the gene mean gives the rate. The result is then exactly that of
    ``gene_mean_posterior`` with the same ``random_state``. ``status`` and ``replaced_by`` say what gives the values.

    Counts that are not integers (a normalised matrix) cannot be split into molecules. Then a fifth of the cells is held
    out instead, and the weight of the networks is 0.6.

    Parameters
    ----------
    n_hidden : int, default=128
        Width of the hidden layer.
    n_latent : int, default=32
        Width of the latent layer.
    dropout : float, default=0.2
        Share of hidden units dropped in training.
    input_dropout : float, default=0.3
        Share of nonzero inputs dropped in training.
    n_factors : int, default=16
        Rank of the Poisson factorisation; 0 for none.
    n_networks : int, default=1
        Networks with different initial weights, averaged on the log scale; 3 gives a better but slower fit.
    learning_rate : float, default=2e-3
        Learning rate of AdamW.
    weight_decay : float, default=1e-2
        Weight decay of AdamW.
    batch_size : int, default=128
        Cells of a batch, at least 2.
    max_epochs : int, default=400
        Largest number of epochs.
    patience : int or None, default=10
        Epochs without improvement before training stops. None: never.
    device : {"auto", "cpu", "cuda"}, default="auto"
        ``"auto"`` takes a CUDA device if there is one.
    posterior : bool, default=True
        Combine the rate with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of all random choices.

    Attributes
    ----------
    network_ : torch.nn.ModuleList
        The trained networks.
    factors_ : ndarray of shape (G, k) or None
        Gene factors.
    weight_ : float or None
        Weight of the networks' log rate; None if the gene mean, or a few factors, give the rate.
    uses_gene_mean_, uses_factors_ : bool
        Whether the gene mean, or a few factors, give the rate.
    replaced_by : str
        What gives the rate if it is not the networks, in words.

    Raises
    ------
    InputError
        A parameter is out of range, or ``posterior`` is True and the counts are not integers.

    Notes
    -----
    Covariates (`Data.covariates`) are read by the decoder, with the latents.

    Cost: minutes; an epoch passes over the nonzeros, makes n x G rates once, and those of at most 1,024 cells again for
    x2. The shapes of the posterior step need the rates of up to ten splits of the molecules.

    Known to fail: with few cells, or little structure, the network predicts held-out molecules no better than the gene
    mean; the gene mean is then returned, and ``status`` says so. Rare types of cells are drawn to their neighbours in
    the latent space. Counts that are not integers cannot have the posterior step, which gives most of the gain over the
    gene mean.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.methods.count_autoencoder.estimator import CountAutoencoder
    >>> counts = np.random.default_rng(0).poisson(3.0, (40, 6))
    >>> method = CountAutoencoder(max_epochs=2, n_factors=0, posterior=False, device="cpu")
    >>> method.fit_transform(counts).to_array().shape
    (40, 6)
    """

    info = COUNT_AUTOENCODER_INFO
    learned: ClassVar[dict[str, Learned]] = {
        **CountFamily.learned,
        "uses_gene_mean": Learned(kind="bool"),
        # models of the first versions lack the next two, and have a weight that may not be used
        "uses_factors": Learned(kind="bool", optional=True),
        "mean_share": Learned("G", values="a share", optional=True),
        "factors": Learned("G k", values="not negative", optional=True),
        "weight": Learned(values="a share", optional=True),
    }
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n_hidden": (64, 128, 256),
        "n_latent": (16, 32, 64),
        "dropout": (0.0, 0.5, "linear"),
        "input_dropout": (0.0, 0.6, "linear"),
        "learning_rate": (5e-4, 5e-3, "log"),
        "weight_decay": (1e-4, 1e-1, "log"),
    }

    n_hidden: int = 128
    n_latent: int = 32
    dropout: float = 0.2
    input_dropout: float = 0.3
    n_factors: int = 16
    n_networks: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    batch_size: int = 128
    max_epochs: int = 400
    patience: int | None = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"
    posterior: bool = True
    random_state: int = 0
    network_: nn.ModuleList = field(init=False)

    # settings that are not parameters
    residual = False
    activation = "relu"
    batch_norm_place = "before"
    distribution = "poisson"
    library = "observed"
    input_transform = "log1p_normalized"
    alpha_z = alpha_w = 0.0
    linear_latent = True
    optimizer = "adamw"

    # -- fitting -------------------------------------------------------------------------------------------------------
    def _check_values(self) -> None:
        check_values(self, POSITIVE, "n_hidden", "n_latent", "n_networks")
        check_values(self, NOT_NEGATIVE, "n_factors")
        super()._check_values()

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self._prepare(data)
        parts, x1, x2 = [], data, None
        if is_integer(data.X.data):
            parts = deal(data, np.random.default_rng(self.random_state))
            x1, x2 = split(data, parts[0])
        elif self.posterior:
            raise InputError(
                "the posterior step needs raw counts (integers): pass these, or {posterior}",
                code="not-integers",
                posterior=False,
            )
        training = self._train_networks(x1, x2)
        self.factors_ = self._factors(x1, self.n_factors) if self.n_factors else None
        self.weight_: float | None = 1.0 if self.factors_ is None else DEFAULT_NETWORK_WEIGHT
        if x2 is not None and self.factors_ is not None:
            rows = _evenly_spaced(*data.shape)
            self.weight_ = _best_weight(self._averaged(x1.subset(rows=rows)), x2[rows])
        self.uses_gene_mean_ = self.uses_factors_ = False
        self.mean_share_ = gene_shares(data)
        if self.posterior:
            self._choose_rate(data, x1, parts)
        model = self._new_rows(data)
        status = training.status
        why = f"all values come from {self.replaced_by}: the network does not predict held-out molecules clearly better"
        text = "; ".join(part for part in (status.message, why if self.replaced_by else "") if part)
        weight = {} if self.weight_ is None else {"network_weight": self.weight_}
        source = {"values_from": self.replaced_by or self._rate_in_words(), "replaced": bool(self.replaced_by)}
        details = {**status.details, **source, **weight}
        return model, {
            "status": Status(status.name, text, details),
            "history": training.history,
            "latent": getattr(model, "latent", None),
        }

    def _train_networks(self, x1: Data, x2: Any) -> Training:
        """Train the networks on x1, and validate on x2 of the same cells, or, if there is no x2, on other cells."""
        batches = validation_batches = self._batches(x1)
        if x2 is None:
            train_rows, validation_rows = self._split(x1)
        else:
            # cells whose molecules are all in one part are included
            train_rows = np.flatnonzero(np.diff(x1.X.indptr) + np.diff(x2.indptr))
            order = np.random.default_rng(self.random_state).permutation(train_rows)
            validation_rows = np.sort(order[:MAX_VALIDATION_CELLS])
            validation_batches = self._batches(x1, target=x2)
        networks = cast(nn.ModuleList, self._new_network())
        trainings = [
            self._train(
                network,
                batches,
                x1,
                self._schedule(),
                train_rows=train_rows,
                validation_rows=validation_rows,
                validation_batches=validation_batches,
                member=k,
            )
            for k, network in enumerate(networks)
        ]
        self.network_ = networks
        networks.zero_grad(set_to_none=True)  # frees as much memory as the weights take
        return trainings[0]

    def _choose_rate(self, data: Data, x1: Data, parts: list[np.ndarray]) -> None:
        """Choose networks, factors or gene mean, all learned from x1, and fit the shapes of the posterior step for it.

        All are compared on x2, which chose the networks' epoch and weight too: a small gain there is chance. For the
        gene mean the steps are those of ``gene_mean_posterior``, with the same result.
        """

        def likelihoods(rate: Callable[[Data], Model]) -> np.ndarray:
            return likelihoods_of_part(pooled_shape(data, parts[:1], rate)[1], data, parts[0])

        rate: Callable[[Data], Model] = partial(gene_mean_rates, share=gene_shares(x1))
        by_gene_mean = likelihoods(rate)
        self._shape, by_networks = pooled_shape(data, parts, self._averaged)
        if _clear_gain(likelihoods_of_part(by_networks, data, parts[0]) - by_gene_mean):
            return
        self.factors_, self.weight_, self.uses_gene_mean_ = None, None, True
        best = 0.0
        for rank in FALLBACK_RANKS:
            factors = self._factors(x1, rank)
            by_factors = partial(_factor_rates, factors=factors)
            if (gain := _clear_gain(likelihoods(by_factors) - by_gene_mean)) > best:
                best, rate, self.factors_ = gain, by_factors, factors
                self.uses_gene_mean_, self.uses_factors_ = False, True
        self._shape = pooled_shape(data, parts, rate)[0]

    @property
    def replaced_by(self) -> str:  # type: ignore[override]
        """What gives the rate if it is not the networks, in words; else, and before the fit, an empty text."""
        if getattr(self, "uses_gene_mean_", False):
            return "the gene mean (as gene_mean_posterior)"
        if getattr(self, "uses_factors_", False) or getattr(self, "weight_", None) == 0:
            assert self.factors_ is not None  # noqa: S101
            return f"{self.factors_.shape[1]} Poisson factors"
        return ""

    def _rate_in_words(self) -> str:
        networks = "the network" if self.n_networks == 1 else f"{self.n_networks} networks"
        if self.factors_ is None or self.weight_ == 1:
            return networks
        return f"{networks} and {self.factors_.shape[1]} Poisson factors"

    def _posterior_shape(self, data: Data) -> np.ndarray:
        return self._shape

    def _factors(self, data: Data, rank: int) -> np.ndarray:
        """(G, rank) gene factors."""
        rank = min(rank, *data.shape)
        with few_threads(data.X.nnz * rank < 2**20):
            return poisson_nmf(data.X, rank, max_iter=100, tol=1e-4, random_state=self.random_state).right

    def _network(self) -> nn.Module:
        return nn.ModuleList(super(CountAutoencoder, self)._network() for _ in range(self.n_networks))

    @property
    def encoder(self) -> tuple[int, int]:
        """Widths of the encoder's layers."""
        return self.n_hidden, self.n_latent

    # -- the fitted model ----------------------------------------------------------------------------------------------
    def _new_rows(self, data: Data) -> Model:
        if self.uses_gene_mean_:
            return gene_mean_rates(data, self.mean_share_)
        if self.uses_factors_:
            assert self.factors_ is not None  # noqa: S101
            return _factor_rates(data, self.factors_)
        return self._averaged(data)

    def _averaged(self, data: Data) -> AveragedRates:
        """The rates of some cells by networks and factors, from the counts of these cells."""
        encoded = [
            encode(cast(CountNetwork, network), self._batches(data).epoch(), n=data.shape[0], usable=self.share_ > 0)
            for network in self.network_
        ]
        factors = None if self.factors_ is None else _factor_rates(data, self.factors_)
        model = _geometric_mean([model for model, _ in encoded])
        assert self.weight_ is not None  # noqa: S101
        return AveragedRates(model, factors, weight=self.weight_, library=encoded[0][1])

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.uses_factors_ = bool(self.uses_factors_)
        self.mean_share_ = self.share_ if self.mean_share_ is None else self.mean_share_
        if self.uses_gene_mean_ or self.uses_factors_:
            self.weight_ = None
        elif self.weight_ is None:
            raise KeyError("weight")
        if self.factors_ is None and (self.uses_factors_ or self.weight_ == 0):
            raise KeyError("factors")

    def _layers(self) -> int:
        return self.n_networks * super()._layers()


def _clear_gain(gains: np.ndarray) -> float:
    """The sum of the genes' gains in log-likelihood, if it is `CLEARLY_BETTER` than 0; else 0."""
    total = float(gains.sum())
    return total if total > CLEARLY_BETTER * np.sqrt(np.square(gains).sum()) else 0.0


def _factor_rates(data: Data, factors: np.ndarray) -> LowRank:
    """The rates of some cells by gene factors alone."""
    with few_threads(data.X.nnz < 2**16):
        return LowRank(project(data.X, factors, max_iter=PROJECTION_UPDATES), factors)


class AveragedRates:
    """Weighted geometric mean of the rates of networks and of factors (a `Model`).

    The networks' log rate has ``weight``, that of the factors ``1 - weight``; without factors (None) the rates are
    those of the networks. The rates of each cell are scaled to sum to its library size.
    """

    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(self, network: LogLinearModel, factors: LowRank | None, *, weight: float, library: np.ndarray) -> None:
        self.network, self.factors, self.weight, self.library = network, factors, weight, library
        self.latent = network.latent
        self.factor = np.ones(len(library), np.float32)
        for rows in row_blocks(len(library), len(network.mean.bias)):
            sums = self.rows(rows, None, "rate").sum(axis=1)
            self.factor[rows] = np.divide(library[rows], sums, out=np.zeros_like(sums), where=sums > 0)

    def with_weight(self, weight: float) -> AveragedRates:
        """The same with another weight."""
        return AveragedRates(self.network, self.factors, weight=weight, library=self.library)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        log_rate = self.network.log_rows(rows, genes)
        if self.factors is not None:
            log_rate = self._averaged(log_rate, self.factors.rows(rows, genes))
        return np.exp(log_rate, out=log_rate) * self.factor[rows, None]

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        log_rate = self.network.log_at(i, j)
        if self.factors is not None:
            log_rate = self._averaged(log_rate, self.factors.at(i, j))
        return np.exp(log_rate, out=log_rate) * self.factor[i]

    def _averaged(self, log_rate: np.ndarray, product: np.ndarray) -> np.ndarray:
        """Log of the geometric mean of the networks' rate and the factors' rate ``product``."""
        np.log(np.maximum(product, SMALLEST_RATE, out=product), out=product)
        product *= np.float32(1 - self.weight)
        if self.weight == 0:  # a gene without molecules is -inf in the network, and stays so
            return np.where(np.isneginf(log_rate), log_rate, product)
        log_rate *= np.float32(self.weight)
        log_rate += product
        return log_rate


def _geometric_mean(models: list[LogLinearModel]) -> LogLinearModel:
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


def _evenly_spaced(n: int, G: int) -> np.ndarray:
    """Positions of evenly spaced cells, of n, with at most `ENTRIES_FOR_WEIGHT` entries in all."""
    return np.unique(np.linspace(0, n - 1, max(1, min(n, ENTRIES_FOR_WEIGHT // G))).astype(np.intp))


def _best_weight(rates: AveragedRates, x2: Any) -> float:
    """The weight of `NETWORK_WEIGHTS` that gives x2 the largest Poisson likelihood (the rates' sums are fixed)."""
    i = np.repeat(np.arange(x2.shape[0]), np.diff(x2.indptr))
    log_likelihoods = []
    for weight in NETWORK_WEIGHTS:
        rate = rates.with_weight(weight).at(i, x2.indices, "rate").astype(np.float64)
        log_likelihoods.append(float(x2.data @ np.log(np.maximum(rate, SMALLEST_RATE))))
    return float(NETWORK_WEIGHTS[int(np.argmax(log_likelihoods))])
