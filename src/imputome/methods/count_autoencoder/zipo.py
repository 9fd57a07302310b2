"""ZiPo (Sharifitabar et al. 2024, paper 001) as an estimator; other defaults of it are DCA.

Letters: ``n`` cells, ``G`` genes, ``C`` coded covariates; ``U`` latent, ``l`` library size, ``m`` rate, ``z`` share of
dropouts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Model, Status
from imputome.errors import InputError
from imputome.methods.count_autoencoder import ZIPO_INFO
from imputome.methods.count_autoencoder.encode import Fitted, Pruning, Tally, encode, figures, prune, top_genes, warning
from imputome.methods.count_autoencoder.family import CountFamily
from imputome.methods.count_autoencoder.network import (
    Activation,
    CountNetwork,
    Design,
    Dispersion,
    InputTransform,
    Library,
    widths,
)
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deep.training import Schedule, Training

Distribution = Literal["poisson", "nb", "zip", "zinb"]


class Zipo(CountFamily):
    """Count autoencoder with predicted library size, adjustable zero inflation and a sparse first layer.

    The objective, per batch (paper 001, section II-D): minus the mean over cells of the log-likelihood, summed over
    genes, + alpha_z mean(z^2) + alpha_w mean over first-layer neurons of mean|w| / sqrt(mean w^2)
    + alpha_theta mean(theta^2), and for a negative binomial + alpha_rate mean((m - x)^2) (section III-F). With
    V = [U, covariates]: log l = library network of V; logit z, log(m / l) = linear in V, the latter through a
    log-softmax. The latent U is the last encoder block plus a linear projection of every earlier one.

    Two starting values are not the paper's: the library network begins at the mean log total, and the bias of
    log(m / l) at the log of each gene's share in all molecules. Neither moves the optimum.

    Parameters
    ----------
    encoder, decoder : widths of hidden layers, ``"2048-1024-512-256-128"`` (the paper's notation) or several integers;
        the encoder's last is the latent. An empty decoder is the paper's: linear.
    residual : add a bias-free projection of every encoder block to the latent, after its batch normalisation.
    activation, batch_norm, batch_norm_place : a block is linear, activation, batch normalisation; ``"before"`` puts the
        latter, without scale, before the activation, as DCA does.
    distribution, zero_inflation : ``"zip"`` and ``"zinb"`` are ``"poisson"`` and ``"nb"`` with zero inflation;
        ``zero_inflation`` overrules the name unless it is None.
    dispersion : of a negative binomial with mean m and size r: ``"odds"``, theta = log(m / r) linear in V (paper 001);
        ``"conditional"``, r = softplus of a linear output; ``"gene"``, one r per gene (both DCA).
    library : l is predicted (``"network"``) or the cell's molecules (``"observed"``); ``"size_factor"`` is DCA's mean:
        an exponential output, not a softmax, times the cell's molecules over their median.
    input_transform : what the encoder reads: ``"counts"``, ``"log1p"`` of them, ``"log1p_normalized"`` (log1p of counts
        per 10,000) or ``"zscore"`` (log1p of counts per median library, standardised per gene; DCA). It stays sparse.
    alpha_z, alpha_w : strengths above.
    alpha_theta, alpha_rate : None: 0.01 and 0.1 for a negative binomial with ``dispersion="odds"``, else 0.
    rate_penalty : what ``alpha_rate`` is for: the squared difference of rates and counts, mean over entries, or of
        their sums, mean over cells (the paper's formula allows both readings).
    loss_over : the log-likelihood is a mean over cells (``"cells"``) or over entries (``"entries"``, DCA); this changes
        what penalties and gradient clipping mean.
    optimizer, learning_rate, decay, decay_epochs, plateau_patience, patience, patience_from, clip_value, max_epochs :
        see `imputome.methods.deep.training.Schedule`. Section II-G: Adam, 0.0212 x 0.9^(e-1) for 30 epochs, then
        a tenth after 15 epochs without 0.1 % improvement; stop after 30 without improvement.
    batch_size, validation_share : cells of a batch; share of cells kept for validation, by ``random_state``.
    device : ``"auto"`` takes a CUDA device where there is one.
    posterior : combine the expected count with the cell's own counts (`imputome.core.posterior`).

    Covariates (`Data.covariates`) are part of V: categories one-hot, numbers standardised.

    Result: the value is the expected count at this cell's depth, (1 - z) m times one factor that makes its sum over the
    fitted cells that of their counts, which free zero inflation alone misses by up to a tenth; further outputs are
    ``rate`` (m, the paper's imputed value), ``expected_count``, ``normalized``, ``variance`` and, with zero inflation,
    ``dropout_probability`` (see `imputome.methods.deep.rates.LogLinearModel`). ``latent`` is U;
    ``cell_columns["library_size"]`` is l. `Status.details` holds the epochs, ``nll_validation`` (mean per cell,
    constants included), ``mse_validation`` (of the rate, per entry), ``mean_dropout`` (mean z), ``total_ratio_rate``
    and ``total_ratio_expected`` (sums over the sum of counts, before the factor) and ``library_correlation`` (log
    scale, predicted against observed).

    Attributes
    ----------
    network_ : the trained `CountNetwork`.
    factor_ : of the expected count, above.
    coding_, share_ : see `CountFamily`.

    Raises
    ------
    InputError
        A width is not positive, a covariate has missing values or, later, levels that were not seen.
    """

    info = ZIPO_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {  # section III-H
        "encoder": (
            "2048-1024-512-256-128",
            "1024-512-256-128",
            "1024-512-256-128-64",
            "512-256-128",
            "512-256-128-64",
        ),
        "alpha_z": (0.01, 1.0, "log"),
        "alpha_w": (0.01, 1.0, "log"),
    }

    def __init__(
        self,
        *,
        encoder: str | int | tuple[int, ...] = "2048-1024-512-256-128",
        decoder: str | int | tuple[int, ...] = "",
        residual: bool = True,
        activation: Activation = "sigmoid",
        batch_norm: bool = True,
        batch_norm_place: Literal["after", "before"] = "after",
        distribution: Distribution = "zip",
        zero_inflation: bool | None = None,
        dispersion: Dispersion = "odds",
        library: Library = "network",
        input_transform: InputTransform = "log1p",
        alpha_z: float = 0.1,
        alpha_w: float = 0.1,
        alpha_theta: float | None = None,
        alpha_rate: float | None = None,
        rate_penalty: Literal["entries", "library"] = "entries",
        loss_over: Literal["cells", "entries"] = "cells",
        optimizer: Literal["adam", "rmsprop"] = "adam",
        learning_rate: float = 0.0212,
        decay: float = 0.9,
        decay_epochs: int = 30,
        plateau_patience: int | None = 15,
        patience: int | None = 30,
        patience_from: int = 30,
        clip_value: float | None = None,
        max_epochs: int = 500,
        batch_size: int = 256,
        validation_share: float = 0.2,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self.residual = residual
        self.activation = activation
        self.batch_norm = batch_norm
        self.batch_norm_place = batch_norm_place
        self.distribution = distribution
        self.zero_inflation = zero_inflation
        self.dispersion = dispersion
        self.library = library
        self.input_transform = input_transform
        self.alpha_z = alpha_z
        self.alpha_w = alpha_w
        self.alpha_theta = alpha_theta
        self.alpha_rate = alpha_rate
        self.rate_penalty = rate_penalty
        self.loss_over = loss_over
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.decay = decay
        self.decay_epochs = decay_epochs
        self.plateau_patience = plateau_patience
        self.patience = patience
        self.patience_from = patience_from
        self.clip_value = clip_value
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.validation_share = validation_share
        self.device = device
        self.posterior = posterior
        self.random_state = random_state

    network_: CountNetwork

    # -- fitting -------------------------------------------------------------------------------------------------------
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self._prepare(data)
        network = cast(CountNetwork, self._new_network())
        return self._trained(network, data, self._schedule())

    def fine_tune(self, data: Any, *, max_epochs: int = 100, learning_rate: float = 1e-3) -> Imputation:
        """Train the fitted (or loaded) network further on other cells, and impute these.

        "Partially trained with one dataset and then fine-tuned using other datasets" (paper 001, section IV). The
        network starts from its weights, with a new optimiser at a constant rate that falls on a plateau. Genes,
        covariates and their levels must be those of the fitted model; the transform of the input stays as it was.
        The posterior step keeps its shapes.

        Returns
        -------
        Imputation of ``data``; ``status.details["nll_before"]`` is the validation loss of the network as it was.
        """
        data = self._accept(data, kind=getattr(self, "kind_", None))
        self.transform(data)  # is it fitted, and for these genes and covariates?
        before = Tally.of(self.network_, self._batches(data).epoch(self._split(data)[1])).fit["nll"]
        schedule = replace(
            self._schedule(), max_epochs=max_epochs, learning_rate=learning_rate, decay_epochs=0, patience_from=0
        )
        model, result = self._trained(self.network_, data, schedule)
        result["status"].details["nll_before"] = before
        return self._imputation(model, data, training=True, **result)

    def _trained(self, network: CountNetwork, data: Data, schedule: Schedule) -> tuple[Model, dict[str, Any]]:
        """Train ``network`` on ``data``; its model and the further arguments of `Imputation`."""
        batches = self._batches(data)
        train_rows, validation_rows = self._split(data)
        training = self._train(network, batches, data, schedule, train_rows=train_rows, validation_rows=validation_rows)
        network.zero_grad(set_to_none=True)  # as large as the weights, and of no use any more
        everything = Tally.of(network, batches.epoch(np.union1d(train_rows, validation_rows)))
        self.factor_ = everything.counts / everything.expected
        fitted = self._encode(data, batches)
        found = figures(
            everything,
            Tally.of(network, batches.epoch(validation_rows)),
            fitted.library,
            np.asarray(data.X.sum(axis=1)).ravel(),
        )
        return fitted.model, self._result(fitted, training, found)

    @staticmethod
    def _result(fitted: Fitted, training: Training, found: dict[str, Any]) -> dict[str, Any]:
        status = training.status
        message = "; ".join(part for part in (status.message, warning(found)) if part)
        return {
            "status": Status(status.name, message, {**status.details, **found}),
            "history": training.history,
            "latent": fitted.model.latent,
            "cell_columns": {"library_size": fitted.library},
        }

    def _design(self) -> Design:
        nb = self.distribution in ("nb", "zinb")
        inflated = self.distribution in ("zip", "zinb") if self.zero_inflation is None else self.zero_inflation
        by_odds = nb and self.dispersion == "odds"
        return Design(
            n_genes=len(self.share_),
            n_covariates=0 if self.coding_ is None else len(self.coding_.columns),
            encoder=widths(self.encoder, "encoder"),
            decoder=widths(self.decoder, "decoder"),
            residual=self.residual,
            activation=self.activation,
            batch_norm=self.batch_norm,
            batch_norm_place=self.batch_norm_place,
            negative_binomial=nb,
            zero_inflation=inflated,
            dispersion=self.dispersion,
            library=self.library,
            input_transform=self.input_transform,
            alpha_z=self.alpha_z,
            alpha_w=self.alpha_w,
            alpha_theta=(1e-2 if by_odds else 0.0) if self.alpha_theta is None else self.alpha_theta,
            alpha_rate=(0.1 if by_odds else 0.0) if self.alpha_rate is None else self.alpha_rate,
            rate_penalty=self.rate_penalty,
            loss_over=self.loss_over,
        )

    def _schedule(self) -> Schedule:
        return Schedule(
            max_epochs=self.max_epochs,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            decay=self.decay,
            decay_epochs=self.decay_epochs,
            plateau_patience=self.plateau_patience,
            patience=self.patience,
            patience_from=self.patience_from,
            clip_value=self.clip_value,
        )

    def _check(self) -> None:
        if not widths(self.encoder, "encoder"):
            raise InputError(f"{self.name}: the encoder needs at least one layer, the latent")
        widths(self.decoder, "decoder")
        for name in ("alpha_z", "alpha_w", "alpha_theta", "alpha_rate"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{self.name}: {name}={value} must not be negative")

    @property
    def _reads_zscores(self) -> bool:
        return self.input_transform == "zscore"

    # -- the fitted model ----------------------------------------------------------------------------------------------
    def _new_rows(self, data: Data) -> Model:
        return self._encode(data, self._batches(data)).model

    def _encode(self, data: Data, batches: CountBatches) -> Fitted:
        usable = self.share_ > 0
        return encode(self.network_, batches.epoch(), n=data.shape[0], usable=usable, factor=self.factor_)

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), "factor": np.array(self.factor_)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.factor_ = float(arrays["factor"])
        super()._restore(arrays)

    def prune(self, data: Any, *, delta: float = 1e-4) -> Pruning:
        """Set the small weights of the first layer to zero, for good (paper 001, section III-E).

        Per neuron, weights below ``delta`` times the largest absolute weight become zero. The report compares the fit
        before and after on the validation cells of ``data``, which are those of the fit if ``data`` is what was fitted.
        """
        data = self._accept(data, kind=getattr(self, "kind_", None))
        self.transform(data)  # is it fitted, and for these genes and covariates?
        batches, (_, rows) = self._batches(data), self._split(data)
        return prune(self.network_, lambda: batches.epoch(rows), delta=delta)

    def first_layer_genes(self, k: int = 10) -> Any:
        """The genes that each neuron of the first layer weighs most: what it stands for.

        Returns
        -------
        DataFrame with a row for each neuron and each of its ``k`` genes of largest absolute weight, in that order:
        ``neuron``, ``rank`` (from 1), ``gene``, ``weight``, ``relative`` (weight over the largest absolute one).
        """
        return top_genes(self.network_.first.weight.detach().cpu().numpy(), self.feature_names_, k)
