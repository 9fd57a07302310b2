"""`count_autoencoder`: the family's best settings by held-out loss, averaged with Poisson factors, and the posterior.

Letters: ``n`` cells, ``G`` genes; ``x1`` nine tenths of the molecules, ``x2`` the tenth kept from training; ``m`` rate.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal, cast

import numpy as np
from torch import nn

from imputome.core.data import Data
from imputome.core.imputation import Model, Output, Status
from imputome.core.posterior import deal, likelihood_at, pooled_shape, split
from imputome.core.scales import is_integer
from imputome.errors import InputError
from imputome.methods.count_autoencoder import COUNT_AUTOENCODER_INFO
from imputome.methods.count_autoencoder.fitted import encode, top_genes
from imputome.methods.count_autoencoder.family import CountFamily
from imputome.methods.count_autoencoder.network import CountNetwork, Design
from imputome.methods.deep.rates import LinearOutput, LogLinearModel
from imputome.methods.deep.training import Schedule, Training
from imputome.methods.factors import LowRank, few_threads
from imputome.methods.nmf import poisson_nmf, project

WEIGHTS = np.linspace(0, 1, 6)  # of the networks' log rate, against that of the factors
BLOCK = 2**22  # dense values made at a time
SAMPLE = 2**24  # entries that decide the weight
TINY = np.float32(1e-12)
WATCHED = 1024  # cells whose left-out molecules are looked at after each epoch
FEWER = (2, 4, 8)  # factors, tried alone where the networks are no better than the gene mean
UPDATES = 15  # of a cell's share of the factors; more of them fit the cell's noise


class CountAutoencoder(CountFamily):
    """Count autoencoder with Poisson loss at the observed library size: what imputome takes for counts by default.

    The network is the smallest of the family that did best on held-out molecules: log1p of counts per 10,000, hidden
    among them at random, through a sparse first layer (``n_hidden``, batch normalisation, ReLU, dropout) to
    ``n_latent`` linear latents, whose softmax, times the cell's library size, is the rate. It learns from nine tenths
    of the molecules (x1), and stops when the tenth that was left out of every cell (x2) is predicted no better. Its
    rate is averaged, on the log scale, with that of a Poisson factorisation of x1, at the weight that predicts x2 best.
    The posterior step then combines the rate, at the cell's full counts, with these counts; if even so x2 is predicted
    no better than by the posterior on the gene mean, a few Poisson factors are tried alone, and if they are no better
    either there is no structure to be used: whichever predicts x2 best is what is returned, with a message.

    Counts that are not integers (a normalised matrix) cannot be split into molecules: then a fifth of the cells is left
    out instead, and the weight is 0.6.

    Parameters
    ----------
    n_hidden, n_latent : widths of the hidden and of the latent layer.
    dropout, input_dropout : share of hidden units, and of the nonzero inputs, dropped in training.
    n_factors : rank of the Poisson factorisation; 0: none.
    n_networks : networks from different starts, averaged on the log scale; 3 is a thorough mode.
    learning_rate, weight_decay, batch_size, max_epochs, patience : of AdamW with early stopping.
    device : ``"auto"`` takes a CUDA device where there is one.
    posterior : combine the rate with the cell's own counts (`imputome.core.posterior`).

    Covariates (`Data.covariates`) are given to the decoder beside the latents.

    Cost: an epoch passes over the nonzeros and makes n x G rates once, and those of at most 1,024 cells again to watch
    x2. To find the shapes of the posterior step, the rates are made anew from up to ten splits of the molecules.

    Attributes
    ----------
    network_ : the trained networks.
    factors_ : (G, k) gene factors, or None.
    weight_ : of the networks' log rate.
    uses_gene_mean_, uses_factors_ : whether the gene mean, or the factors alone, are the rate.
    """

    info = COUNT_AUTOENCODER_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n_hidden": (64, 128, 256),
        "n_latent": (16, 32, 64),
        "dropout": (0.0, 0.5, "linear"),
        "input_dropout": (0.0, 0.6, "linear"),
        "learning_rate": (5e-4, 5e-3, "log"),
        "weight_decay": (1e-4, 1e-1, "log"),
    }
    network_: nn.ModuleList

    def __init__(
        self,
        *,
        n_hidden: int = 128,
        n_latent: int = 32,
        dropout: float = 0.2,
        input_dropout: float = 0.3,
        n_factors: int = 16,
        n_networks: int = 1,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 128,
        max_epochs: int = 400,
        patience: int | None = 10,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        posterior: bool = True,
        random_state: int = 0,
    ) -> None:
        self.n_hidden = n_hidden
        self.n_latent = n_latent
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.n_factors = n_factors
        self.n_networks = n_networks
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.device = device
        self.posterior = posterior
        self.random_state = random_state

    # -- fitting -------------------------------------------------------------------------------------------------------
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self._prepare(data)
        dealt, seen, rest = [], data, None
        if is_integer(data.X.data):
            dealt = deal(data, np.random.default_rng(self.random_state))
            seen, rest = split(data, dealt[0])
        elif self.posterior:
            raise InputError(
                "the posterior step needs raw counts (integers): pass the layer that holds them, or posterior=False"
            )
        training = self._learn(seen, rest)
        self.factors_ = self._factors(seen, self.n_factors) if self.n_factors else None
        self.weight_ = 1.0 if self.factors_ is None else 0.6
        if rest is not None and self.factors_ is not None:
            rows = _evenly(*data.shape)
            self.weight_ = _best_weight(self._averaged(seen.subset(rows=rows)), rest[rows])
        message = ""
        self.uses_gene_mean_ = self.uses_factors_ = False
        if self.posterior:
            message = self._learn_shape(data, seen, dealt)
        model = self._new_rows(data)
        status = training.status
        text = "; ".join(part for part in (status.message, message) if part)
        used = {"uses_gene_mean": self.uses_gene_mean_, "uses_factors": self.uses_factors_}
        details = {**status.details, "network_weight": self.weight_, **used}
        return model, {
            "status": Status(status.name, text, details),
            "history": training.history,
            "latent": getattr(model, "latent", None),
        }

    def _learn(self, seen: Data, rest: Any) -> Training:
        """Train the networks on ``seen``, watching the molecules ``rest`` of the same cells, or other cells."""
        batches = watched = self._batches(seen)
        if rest is None:
            train_rows, validation_rows = self._split(seen)
        else:
            # a cell whose molecules are all in one part is still a cell
            train_rows = np.flatnonzero(np.diff(seen.X.indptr) + np.diff(rest.indptr))
            order = np.random.default_rng(self.random_state).permutation(train_rows)
            validation_rows = np.sort(order[:WATCHED])
            watched = self._batches(seen, target=rest, target_library=np.asarray(rest.sum(axis=1)).ravel())
        networks = cast(nn.ModuleList, self._new_network())
        trainings = [
            self._train(
                network,
                batches,
                seen,
                self._schedule(),
                train_rows=train_rows,
                validation_rows=validation_rows,
                validation_batches=watched,
                member=k,
            )
            for k, network in enumerate(networks)
        ]
        self.network_ = networks
        networks.zero_grad(set_to_none=True)  # as large as the weights, and of no use any more
        return trainings[0]

    def _learn_shape(self, data: Data, seen: Data, dealt: list[np.ndarray]) -> str:
        """Learn the shapes of the posterior step; the message says what predicts x2 better than the networks do."""
        self._shape, first = pooled_shape(data, dealt, self._averaged)
        own, gene_mean = pooled_shape(data, dealt[:1], self._gene_mean)
        best = likelihood_at(gene_mean, own)
        if likelihood_at(first, self._shape) > best:
            return ""
        chosen = None
        for rank in FEWER:
            factors = self._factors(seen, rank)
            own, few = pooled_shape(data, dealt[:1], partial(_by_factors, factors=factors))
            if likelihood_at(few, own) > best:
                best, chosen = likelihood_at(few, own), factors
        if chosen is not None:
            self.factors_, self.uses_factors_ = chosen, True
            what = f"{chosen.shape[1]} Poisson factors, so that these"
        else:
            self.uses_gene_mean_ = True
            what = "the gene mean, so that the gene mean"
        self._shape = pooled_shape(data, dealt, self._new_rows)[0]
        return (
            f"held-out molecules are predicted no better by the network than by {what}, with each cell's own counts, "
            f"{'are' if chosen is not None else 'is'} what is given"
        )

    def _posterior_shape(self, data: Data) -> np.ndarray:
        return self._shape

    def _factors(self, seen: Data, rank: int) -> np.ndarray:
        rank = min(rank, *seen.shape)
        with few_threads(seen.X.nnz * rank < 2**20):
            return poisson_nmf(seen.X, rank, max_iter=100, tol=1e-4, random_state=self.random_state).right

    def _network(self) -> nn.Module:
        return nn.ModuleList(CountNetwork(self._design(), self._statistics) for _ in range(self.n_networks))

    def _design(self) -> Design:
        return Design(
            n_genes=len(self.share_),
            n_covariates=0 if self.coding_ is None else len(self.coding_.columns),
            encoder=(self.n_hidden, self.n_latent),
            decoder=(),
            residual=False,
            activation="relu",
            batch_norm=True,
            batch_norm_place="before",
            negative_binomial=False,
            zero_inflation=False,
            dispersion="odds",
            library="observed",
            input_transform="log1p_normalized",
            alpha_z=0.0,
            alpha_w=0.0,
            alpha_theta=0.0,
            alpha_rate=0.0,
            rate_penalty="entries",
            loss_over="cells",
            dropout=self.dropout,
            input_dropout=self.input_dropout,
            linear_latent=True,
        )

    def _schedule(self) -> Schedule:
        return Schedule(
            max_epochs=self.max_epochs,
            optimizer="adamw",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.patience,
        )

    def _check(self) -> None:
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{self.name}: {name}={getattr(self, name)} must lie in 0 to 1, 1 excluded")
        if self.n_hidden < 1 or self.n_latent < 1:
            raise InputError(f"{self.name}: n_hidden and n_latent must be at least 1")
        if self.n_networks < 1 or self.n_factors < 0:
            raise InputError(f"{self.name}: n_networks must be at least 1, and n_factors at least 0")

    # -- the fitted model ----------------------------------------------------------------------------------------------
    def _new_rows(self, data: Data) -> Model:
        if self.uses_gene_mean_:
            return self._gene_mean(data)
        if self.uses_factors_:
            assert self.factors_ is not None  # noqa: S101
            return _by_factors(data, self.factors_)
        return self._averaged(data)

    def _gene_mean(self, data: Data) -> Model:
        library = np.asarray(data.X.sum(axis=1), dtype=np.float32)
        return LowRank(library[:, None], self.share_[:, None].astype(np.float32))

    def _averaged(self, data: Data) -> AveragedRates:
        """The rates of some cells: networks and factors, from these cells' counts alone."""
        fitted = [
            encode(cast(CountNetwork, network), self._batches(data).epoch(), n=data.shape[0], usable=self.share_ > 0)
            for network in self.network_
        ]
        with few_threads(data.X.nnz < 2**16):
            left = None if self.factors_ is None else project(data.X, self.factors_, max_iter=UPDATES)
        return AveragedRates(
            _stacked([one.model for one in fitted]),
            left,
            self.factors_,
            weight=self.weight_,
            library=fitted[0].library,
        )

    def first_layer_genes(self, k: int = 10) -> Any:
        """As `imputome.methods.count_autoencoder.zipo.Zipo.first_layer_genes`, of the first network."""
        first = cast(CountNetwork, self.network_[0]).first
        return top_genes(first.weight.detach().cpu().numpy(), self.feature_names_, k)

    def _state(self) -> dict[str, np.ndarray]:
        factors = {} if self.factors_ is None else {"factors": self.factors_}
        learned = {"weight": np.array(self.weight_), "uses_gene_mean": np.array(self.uses_gene_mean_)}
        learned["uses_factors"] = np.array(self.uses_factors_)
        return {**super()._state(), **factors, **learned}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.factors_ = arrays.get("factors")
        self.weight_, self.uses_gene_mean_ = float(arrays["weight"]), bool(arrays["uses_gene_mean"])
        self.uses_factors_ = bool(arrays.get("uses_factors", False))  # models of before do not say
        super()._restore(arrays)


def _by_factors(data: Data, factors: np.ndarray) -> Model:
    """The rates of some cells by gene factors alone."""
    with few_threads(data.X.nnz < 2**16):
        return LowRank(project(data.X, factors, max_iter=UPDATES), factors)


class AveragedRates:
    """Geometric mean of a network's rates and of ``left @ right'``, each cell's summing to its library (a `Model`)."""

    outputs: frozenset[Output] = frozenset({"value", "rate"})

    def __init__(
        self,
        network: LogLinearModel,
        left: np.ndarray | None,
        right: np.ndarray | None,
        *,
        weight: float,
        library: np.ndarray,
    ) -> None:
        self.network, self.left, self.right, self.weight, self.library = network, left, right, weight, library
        self.latent = network.latent
        self.factor = np.ones(len(library), np.float32)
        step = max(1, BLOCK // len(network.mean.bias))
        for start in range(0, len(library), step):
            rows = np.arange(start, min(len(library), start + step))
            sums = self.rows(rows, None, "rate").sum(axis=1)
            self.factor[rows] = np.divide(library[rows], sums, out=np.zeros_like(sums), where=sums > 0)

    def with_weight(self, weight: float) -> AveragedRates:
        return AveragedRates(self.network, self.left, self.right, weight=weight, library=self.library)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        log_rate = self.network.log_rows(rows, genes)
        if self.left is not None and self.right is not None:
            product = self.left[rows] @ (self.right if genes is None else self.right[genes]).T
            log_rate = self._mean(log_rate, product)
        return np.exp(log_rate, out=log_rate) * self.factor[rows, None]

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        log_rate = self.network.log_at(i, j)
        if self.left is not None and self.right is not None:
            log_rate = self._mean(log_rate, LowRank(self.left, self.right).at(i, j))
        return np.exp(log_rate, out=log_rate) * self.factor[i]

    def _mean(self, log_rate: np.ndarray, product: np.ndarray) -> np.ndarray:
        np.log(np.maximum(product, TINY, out=product), out=product)
        product *= np.float32(1 - self.weight)
        if self.weight == 0:  # a gene without molecules is -inf in the network, and stays so
            return np.where(np.isneginf(log_rate), log_rate, product)
        log_rate *= np.float32(self.weight)
        log_rate += product
        return log_rate


def _stacked(models: list[LogLinearModel]) -> LogLinearModel:
    """The geometric mean of log-linear rates is log-linear in all their hidden values together."""
    if len(models) == 1:
        return models[0]
    share = np.float32(1 / len(models))
    weights, biases, offsets = [], [], []
    for model in models:
        assert model.mean.weight is not None  # noqa: S101  (a network's head always has one)
        weights.append(model.mean.weight * share)
        biases.append(model.mean.bias * share)
        offsets.append(model.log_offset * share)
    return LogLinearModel(
        np.hstack([model.hidden for model in models]),
        log_offset=np.sum(offsets, axis=0),
        library=models[0].library,
        latent=np.hstack([model.latent for model in models if model.latent is not None]),
        mean=LinearOutput(np.vstack(weights), np.sum(biases, axis=0)),
    )


def _evenly(n: int, G: int) -> np.ndarray:
    """Positions of up to `SAMPLE` / G of n cells, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, max(1, min(n, SAMPLE // G))).astype(np.intp))


def _best_weight(rates: AveragedRates, rest: Any) -> float:
    """The weight of `WEIGHTS` under which ``rest`` is likeliest, up to what does not depend on the rates."""
    i = np.repeat(np.arange(rest.shape[0]), np.diff(rest.indptr))
    scores = []
    for weight in WEIGHTS:
        rate = rates.with_weight(weight).at(i, rest.indices, "rate").astype(np.float64)
        scores.append(float(rest.data @ np.log(np.maximum(rate, TINY))))
    return float(WEIGHTS[int(np.argmax(scores))])
