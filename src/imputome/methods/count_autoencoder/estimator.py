"""The default for counts: a small count autoencoder, averaged with two kinds of factors, and the posterior step.

Letters: ``n`` cells, ``G`` genes, ``k`` factors, ``x1`` nine tenths of the molecules, for training, ``x2`` the held-out
tenth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
from torch import nn

from imputome.core.data import Data
from imputome.core.imputation import Model, Status
from imputome.core.learned import Learned
from imputome.core.many_cells import MANY_CELLS
from imputome.methods.averaged_counts import AveragedCounts, AveragedRates, geometric_mean
from imputome.methods.count_autoencoder import COUNT_AUTOENCODER_INFO
from imputome.methods.count_autoencoder.family import CountFamily
from imputome.methods.count_autoencoder.fitted import encode
from imputome.methods.count_autoencoder.network import CountNetwork
from imputome.methods.deep.covariates import coded_as_in_fit
from imputome.methods.deep.rates import LogLinearModel
from imputome.methods.deep.training import NOT_NEGATIVE, POSITIVE, Schedule, Training, check_values

# with very many cells: an epoch of `MANY_CELLS` cells that lowers the loss by less than this share lowers the rate
PLATEAU: dict[str, Any] = {"plateau_patience": 0, "plateau_factor": 0.4, "plateau_threshold": 3e-4, "least_scale": 0.05}
MAX_VALIDATION_CELLS = 1024  # cells whose held-out molecules are predicted after each epoch


@dataclass(kw_only=True, eq=False, repr=False)
class CountAutoencoder(AveragedCounts, CountFamily):
    """Count autoencoder with Poisson loss at the observed library size: the default method for counts.

    The network is the smallest of the family that predicted held-out molecules best. It reads log1p of counts per
    10,000, with random entries hidden in training, through a sparse first layer (``n_hidden`` units, batch
    normalisation, ReLU, dropout) and ``n_latent`` linear latents. The softmax of a linear output, times the library
    size, is the rate. Nine tenths of the molecules (x1) are for training, which stops when the other tenth (x2) is no
    longer predicted better. The rate is averaged, on the log scale, with those of two kinds of factors of x1, as in
    `imputome.methods.count_factors.estimator.CountFactors`; the weights are those that predict x2 best, once the rate
    is combined with the counts of x1 (or, with ``posterior=False``, by itself).

    The posterior step combines the rate, at the cell's full counts, with these counts. If then x2 is not predicted
    clearly better (by two standard errors) than by the posterior of the gene mean, 2, 4 and 8 Poisson factors alone are
    tried, and if these are not better either, the gene mean gives the rate. The result is then exactly that of
    ``gene_mean_posterior`` with the same ``random_state``. ``status`` and ``replaced_by`` say what gives the values.

    Counts that are not integers (a normalised matrix) cannot be split into molecules. Then a fifth of the cells is held
    out instead, and networks and both kinds of factors have the same weight.

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
    n_factors : int or "auto", default="auto"
        Rank of the log-linear and of the Poisson factors; 0 for none. ``"auto"``: 16 for the Poisson factors; for the
        log-linear ones 8, 16, 32 or 64, whichever predicts the held-out molecules best.
    n_networks : int, default=1
        Networks with different initial weights, averaged on the log scale; 3 gives a better but slower fit.
    learning_rate : float, default=2e-3
        Learning rate of AdamW.
    weight_decay : float, default=1e-2
        Weight decay of AdamW.
    batch_size : int, default=128
        Cells of a batch, at least 2.
    max_epochs : int, default=400
        Largest number of epochs. An epoch is a pass over the cells, or 25,000 of them if there are more (see Notes).
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
        Poisson factors of the genes.
    log_linear_ : LogLinearFactors or None
        Log-linear factors of the genes.
    weights_ : ndarray of shape (3,) or None
        Weights of the log rates of networks, log-linear factors and Poisson factors; None if the gene mean, or a few
        factors, give the rate.
    uses_gene_mean_, uses_factors_ : bool
        Whether the gene mean, or a few factors, give the rate.
    replaced_by : str
        What gives the rate if the networks have no part in it, in words.

    Raises
    ------
    InputError
        A parameter is out of range, or ``posterior`` is True and the counts are not integers.

    Notes
    -----
    Covariates (`Data.covariates`) are read by the decoder, with the latents.

    With more than 25,000 cells, an epoch is 25,000 of them, and the next one goes on with the others, so that all are
    used once before any is used twice. Each epoch that lowers the loss by less than 0.03 % multiplies the learning rate
    by 0.4; training stops when it would fall below a twentieth. Both kinds of factors are learned from 25,000 random
    cells, the log-linear ones in 10 passes, not 30; the prior of the posterior step, and the factor that keeps the
    total, from 25,000 evenly spaced ones. On 100,000 simulated cells this took a fifth to a quarter of the processor
    time, with a held-out Poisson loss 0.06 % higher.

    Cost: minutes; an epoch passes over the nonzeros, makes n x G rates once, and those of at most 1,024 cells again for
    x2. The prior of the posterior step needs the rates of up to ten splits of the molecules. With more than 25,000
    cells, only what gives each cell its values grows with their number.

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
    learned: ClassVar[dict[str, Learned]] = {**CountFamily.learned, **AveragedCounts.learned}
    # models of the first versions lack what these replace: they have one weight, that of the networks
    stored: ClassVar[dict[str, Learned]] = {**CountFamily.stored, "weight": Learned(values="a share", optional=True)}
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
    n_factors: int | Literal["auto"] = "auto"
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
        if self.n_factors != "auto":
            check_values(self, NOT_NEGATIVE, "n_factors")
        super()._check_values()

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self._prepare(data)
        parts, x1, x2 = self._divide(data)
        training = self._train_networks(x1, x2)
        self._learn(data, parts, x1, x2)
        model = self._new_rows(data)
        status = training.status
        why = f"all values come from {self.replaced_by}: the network does not predict held-out molecules clearly better"
        text = "; ".join(part for part in (status.message, why if self.replaced_by else "") if part)
        return model, {
            "status": Status(status.name, text, {**status.details, **self._details(data.shape[0])}),
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
                self._schedule_for(len(train_rows)),
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

    def _schedule_for(self, n: int) -> Schedule:
        """The schedule for n training cells: with very many, epochs are shorter, and the rate falls until the end."""
        schedule = self._schedule()
        if n <= MANY_CELLS:
            return schedule
        return replace(schedule, steps_per_epoch=-(-MANY_CELLS // self.batch_size), **PLATEAU)

    _has_networks = True

    def _tell_of_learning(self, share: float, text: str) -> None:
        self._tell(1.0, text)  # the networks took nearly all of the time

    def _networks_in_words(self) -> str:
        return "the network" if self.n_networks == 1 else f"{self.n_networks} networks"

    def _network(self) -> nn.Module:
        return nn.ModuleList(super(CountAutoencoder, self)._network() for _ in range(self.n_networks))

    @property
    def encoder(self) -> tuple[int, int]:
        """Widths of the encoder's layers."""
        return self.n_hidden, self.n_latent

    # -- the fitted model ----------------------------------------------------------------------------------------------
    def _averaged(self, data: Data, weights: np.ndarray | None = None) -> AveragedRates:
        # networks without weight read no covariates, but other ones than in the fit are an error all the same
        coded_as_in_fit(self.coding_, data.covariates, method=self.name)
        return super()._averaged(data, weights)

    def _network_rates(self, data: Data) -> LogLinearModel:
        batches = self._batches(data)
        return geometric_mean(
            [
                encode(cast(CountNetwork, network), batches.epoch(), n=data.shape[0], usable=self.share_ > 0)[0]
                for network in self.network_
            ]
        )

    def _layers(self) -> int:
        return self.n_networks * super()._layers()

    def _declared(self) -> dict[str, Learned]:
        declared = super()._declared()
        first = {name: replace(declared[name], optional=True) for name in ("uses_factors", "mean_share")}
        return {**declared, **first}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        arrays.setdefault("uses_factors", np.array(False))
        arrays.setdefault("mean_share", arrays["share"])
        weight = arrays.pop("weight", None)
        if weight is not None:
            arrays.setdefault("weights", np.array([float(weight), 0.0, 1 - float(weight)]))
        super()._restore(arrays)
