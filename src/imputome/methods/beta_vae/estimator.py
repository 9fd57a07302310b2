"""The ``beta_vae`` method: z-scores, validation, shift correction and new samples around the network."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch

from imputome.core.data import Data
from imputome.core.holdout import hide_values
from imputome.core.imputation import Status
from imputome.core.scales import Standard, varying
from imputome.errors import InputError
from imputome.methods.beta_vae import BETA_VAE_INFO
from imputome.methods.beta_vae.decoder import DecodedSamples
from imputome.methods.beta_vae.network import Likelihood, VariationalAutoencoder, begin_at_components
from imputome.methods.deep.batches import DenseBatches
from imputome.methods.deep.estimator import DeepImputer, split_cells
from imputome.methods.deep.training import Schedule, Training, seeded

Preset = Literal["paper", "published_code"]
Start = Literal["mean", "random"]
ShiftMode = Literal["inference", "train"]

OUTWARDS = (10, 30)  # widths of the hidden layers over that of the latent, from the inside (section "Model parameters")
LARGEST_SHIFT = 10.0  # what is farther out is no low value any more
SMALLEST_SHARE = 5  # the latent has at most a fifth of the features


@dataclass(frozen=True)
class Design:
    """Everything that decides what is trained and how; the parameters of `BetaVAE` and their defaults.

    The last six, and ``rate_decay``, are not offered one by one: they are what the default adds to the paper's network,
    and where the published code departs from it.

    The default was chosen by measurement on training samples alone: RMSE (mean absolute error) in z units at 10 % of
    values hidden in a fifth of the training samples of tcga_gbmlgg (arcsinh) and tcga_glioma_meth, after 60 to 120
    epochs; iterative SVD has its best rank. The dropout column is hidden / input.

    ===================================  =============  =============
    latent, hidden, dropout              expression     methylation
    ===================================  =============  =============
    KNN                                  0.907 (0.574)  0.791 (0.562)
    iterative SVD                        0.824 (0.519)  0.740 (0.525)
    50, 500, 0 / 0                       0.823 (0.486)  0.744 (0.522)
    50, 1000-300, 0 / 0.2, not rescaled  0.871 (0.542)  0.765 (0.532)
    50, 500, 0 / 0.2                     0.825 (0.490)  0.745 (0.513)
    the same, compressed                 0.819 (0.487)  0.745 (0.520)
    the same, residual and compressed    0.811 (0.482)  0.745 (0.515)
    the same, with a falling rate        0.807 (0.478)  0.741 (0.507)
    100, 500, 0.1 / 0.3, all three       0.788 (0.462)  0.740 (0.508)
    200, 500, 0.2 / 0.3, all three       0.771 (0.452)  0.740 (0.511)
    ===================================  =============  =============

    After that, the same with the linear maps begun at principal components (`Components`); means over three splits, and
    iterative SVD is the registered one, its rank validated:

    ===================================  =============  =============
    iterative SVD                        0.682 (0.456)  0.717 (0.510)
    200, 500, 0.2 / 0.3, components      0.673 (0.443)  0.716 (0.498)
    200, 500, 0.2 / 0.2, components      0.670 (0.438)  0.713 (0.496)
    200, 500, 0.2 / 0.1, components      0.669 (0.436)  0.712 (0.496)
    the same, 0.2 / 0.2, beta = 0.5      0.669 (0.437)  0.713 (0.494)
    the same, 0.2 / 0.2, hidden 200      0.675 (0.447)  0.713 (0.496)
    ===================================  =============  =============

    Attributes
    ----------
    hidden : widths of the encoder's hidden layers, as data pass through them; None: latent x 30, latent x 10.
    rate_decay : the learning rate is multiplied by it after every epoch.
    residual, compressed : see `VariationalAutoencoder`; the linear maps begin at principal components.
    swapped : the encoder's hidden layers in the opposite order, and the decoder's too (2000-6000-200-6000-2000).
    log_sigma : the head for the spread gives log sigma.
    sampled : impute with drawn z, not with its mean.
    complete_rows : refuse rows with missing values when fitting.
    """

    latent: int = 200
    hidden: tuple[int, ...] | None = (500,)
    beta: float = 1.0
    likelihood: Likelihood = "gaussian"
    latent_noise: bool = True
    dropout: float = 0.2
    input_dropout: float = 0.2
    learning_rate: float = 1e-3
    rate_decay: float = 0.95
    weight_decay: float = 0.0
    batch_size: int = 64
    max_epochs: int = 80
    patience: int = 15
    iterations: int = 3
    start: Start = "mean"
    shift: float | Literal["auto"] = 0.0
    shift_mode: ShiftMode = "inference"
    residual: bool = True
    compressed: bool = True
    swapped: bool = False
    log_sigma: bool = False
    sampled: bool = False
    complete_rows: bool = False

    def __post_init__(self) -> None:
        choices = {
            "likelihood": ("gaussian", "mse"),
            "start": ("mean", "random"),
            "shift_mode": ("inference", "train"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"beta_vae: {name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        for name in ("latent", "batch_size", "max_epochs", "iterations", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"beta_vae: {name}={getattr(self, name)!r} must be positive")
        for name in ("beta", "weight_decay", "patience"):
            if not getattr(self, name) >= 0:
                raise InputError(f"beta_vae: {name}={getattr(self, name)!r} must not be negative")
        for name in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"beta_vae: {name}={getattr(self, name)!r} must lie in 0 to 1, 1 excluded")
        if self.hidden is not None and not all(width > 0 for width in self.hidden):
            raise InputError(f"beta_vae: hidden={self.hidden!r} must hold positive widths")
        if isinstance(self.shift, str) and self.shift != "auto":
            raise InputError(f"beta_vae: shift={self.shift!r} is neither a number nor 'auto'")
        if not isinstance(self.shift, str) and not 0 <= self.shift <= LARGEST_SHIFT:
            raise InputError(
                f"beta_vae: shift={self.shift!r} is counted in standard deviations: choose 0 to {LARGEST_SHIFT:g}"
            )
        if self.shift and self.likelihood == "mse":
            raise InputError("beta_vae: a shift is counted in sigma, which likelihood='mse' does not give")

    def widths(self, n_genes: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Widths of encoder and decoder, and of the latent between them, for G features.

        No hidden layer is wider than the data, and the latent has at most a fifth of their width.
        """
        latent = max(1, min(self.latent, n_genes // SMALLEST_SHARE))
        wanted = tuple(latent * factor for factor in reversed(OUTWARDS)) if self.hidden is None else self.hidden
        encoder = tuple(min(width, n_genes) for width in wanted)
        if self.swapped:
            encoder = encoder[::-1]
        return encoder, encoder[::-1], latent

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            max_epochs=self.max_epochs,
            optimizer="adamw" if self.weight_decay else "adam",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            decay=self.rate_decay,
            decay_epochs=self.max_epochs,
            patience=self.patience or None,
            restore_best=bool(self.patience),
        )


_PAPER = Design(
    latent=200,
    hidden=None,
    dropout=0.0,
    input_dropout=0.0,
    learning_rate=5e-5,
    rate_decay=1.0,
    batch_size=250,
    max_epochs=250,
    patience=0,
    start="random",
    residual=False,
    compressed=False,
)
PRESETS: dict[Preset | None, Design] = {
    None: Design(),
    "paper": _PAPER,
    "published_code": replace(
        _PAPER,
        learning_rate=5e-4,
        start="mean",
        swapped=True,
        log_sigma=True,
        sampled=True,
        complete_rows=True,
    ),
}


VALIDATION = 0.1  # share of the samples that training does not see, where anything is chosen on samples
HIDDEN = 0.1  # share of the known values of those samples that is hidden to be imputed
LOW = 0.1  # quantile under which a value counts as low, of which half are hidden (section "Missing data simulations")
LAMBDAS = tuple(np.arange(0, 3.01, 0.25).tolist())
ENCODED = 2**21  # values encoded at a time


class BetaVAE(DeepImputer):
    """The beta variational autoencoder of Qiu, Zheng & Gevaert (2020) for real values with NaN for missing.

    Features are z-scored by the mean and SD of their known values. A network x -> z -> x with Gaussian q(z | x) and
    N(mu(z), sigma(z)) is trained on ``sum_g -log N(x_g; mu_g, sigma_g) + beta KL(q || N(0, I))`` (eq. 5), the sum over
    known entries; missing ones enter as 0, the mean. Imputing (section "Variational autoencoder"): missing values start
    at the mean; ``iterations`` times the sample is encoded, the mean of q is decoded, and the missing values alone are
    overwritten by mu.

    New samples are imputed by the fitted network, without training, and each by itself.

    Shift correction is for values that are missing *because they are low*: what is known then lies above what is
    missing, and ``mu - lambda sigma`` is imputed. The data alone cannot tell whether values are missing for that cause,
    so it is never applied unless ``shift`` is given; `sensitivity` shows how far the result rests on it.

    Parameters
    ----------
    preset : where the parameters that are None come from. None: the defaults given below, chosen by measurement (see
        `Design`). ``"paper"``: latent 200 between hidden layers of 6000 and 2000, learning rate 5e-5, batches of 250,
        250 epochs on all samples, no input dropout, missing values start as N(0, 1) draws. ``"published_code"``: as
        that, but with the hidden layers in the order in which the code has them (2000-6000-200-6000-2000), a head for
        log sigma, learning rate 5e-4, missing values that start at 0 and drawn instead of mean z when imputing; fitting
        refuses samples with missing values. (The log sigma is limited here as everywhere, in the code it is not.)
    latent, hidden : width of the latent, and widths of the encoder's hidden layers as in ``"6000-2000"``, which the
        decoder has in the opposite order (200, ``"500"``; with a preset of the paper latent x 30 and latent x 10). No
        hidden layer is wider than the data, and the latent has at most a fifth of the features.
    beta : weight of the KL (1); with 0 the latent stays random.
    likelihood : ``"gaussian"`` (default), or ``"mse"``: squared error (eq. 8), and one variance for each feature.
    latent_noise : draw z while training (True). False is a plain autoencoder, which the paper found useless here.
    dropout, input_dropout : probability of dropping a hidden unit, and an input, while training (0.2, 0.2); the
        loss looks at dropped inputs too.
    learning_rate, weight_decay, batch_size, max_epochs : of Adam, of AdamW with a decay (1e-3, 0, 64, 80).
        Without a preset the rate falls by 5 % an epoch.
    patience : stop after so many epochs in which the imputation of hidden values in 10 % of the samples, which are not
        trained on, did not improve (15); 0 trains on all samples for ``max_epochs``.
    iterations : rounds of imputing (3).
    start : missing values begin at the ``"mean"`` (default), or as ``"random"`` N(0, 1) draws.
    shift : lambda (0); ``"auto"``: chosen in 0, 0.25, ..., 3 by the error on the samples held out for it, with half of
        their lowest 10 % of values (of z-scores) hidden.
    shift_mode : ``"inference"`` (default): a standard network, of which mu - lambda sigma is imputed, in every round.
        ``"train"``: the network is trained with N(x; mu + lambda sigma, sigma), and mu is imputed. As mu is free,
        mu + lambda sigma has the optimum that mu has without; so ``"auto"`` chooses lambda as for ``"inference"`` and
        trains once more with it, instead of once for each lambda.
    device : ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Attributes
    ----------
    center_, scale_ : (G,) mean and SD of each feature; the SD is 0 for a feature that does not vary or was never
        observed, which is imputed by its mean, or by the mean of all values.
    shift_ : lambda in use.
    inflation_ : ratio of the squared error to the predicted variance at the hidden values of the held-out samples; the
        variance and the draws are widened (or narrowed) by it. 1 where no samples were held out.

    Notes
    -----
    Output ``"variance"`` is the spread of a value given what is known of its sample: of x around mu(z) and of mu over
    20 draws of z ~ q. `Imputation.draw` gives multiple imputations, z ~ q and then x ~ N(mu, sigma). With
    ``keep_observed=False`` a value is what would have been imputed in the last round, for observed entries too.

    Without a preset the network has linear maps beside its hidden layers, and training begins at the principal
    components of the training samples, as many as impute the held-out ones best.

    Cost: with P weights, 2 P operations per sample for each encoding or decoding of it, and three times that for
    training on it; the head for sigma is skipped where no sigma is needed. Memory: the z-scores once, and nine times P
    numbers while training. Values are decoded from the latent whenever they are asked for.

    Raises
    ------
    InputError
        A parameter is out of range; a sample with missing values when fitting ``preset="published_code"``.
    """

    info = BETA_VAE_INFO
    network_: VariationalAutoencoder
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "latent": (10, 200, "log"),
        "beta": (0.0, 4.0, "linear"),
        "dropout": (0.0, 0.4, "linear"),
        "input_dropout": (0.0, 0.5, "linear"),
        "learning_rate": (1e-4, 3e-3, "log"),
    }

    def __init__(
        self,
        *,
        preset: Preset | None = None,
        latent: int | None = None,
        hidden: str | None = None,
        beta: float | None = None,
        likelihood: Likelihood | None = None,
        latent_noise: bool | None = None,
        dropout: float | None = None,
        input_dropout: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        batch_size: int | None = None,
        max_epochs: int | None = None,
        patience: int | None = None,
        iterations: int | None = None,
        start: Start | None = None,
        shift: float | Literal["auto"] = 0.0,
        shift_mode: ShiftMode = "inference",
        device: Literal["auto", "cpu", "cuda"] = "auto",
        random_state: int = 0,
    ) -> None:
        self.preset = preset
        self.latent = latent
        self.hidden = hidden
        self.beta = beta
        self.likelihood = likelihood
        self.latent_noise = latent_noise
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.iterations = iterations
        self.start = start
        self.shift = shift
        self.shift_mode = shift_mode
        self.device = device
        self.random_state = random_state

    @property
    def design(self) -> Design:
        """What the preset and the given parameters come to."""
        if self.preset not in PRESETS:
            raise InputError(f"beta_vae: preset={self.preset!r} is neither None, 'paper' nor 'published_code'")
        names = {field.name for field in fields(Design)} & set(self.parameter_defaults())
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.hidden is not None:
            if not all(width.isdecimal() for width in self.hidden.split("-")):
                raise InputError(f"beta_vae: hidden={self.hidden!r} must be widths like '6000-2000'")
            given["hidden"] = tuple(int(width) for width in self.hidden.split("-"))
        return replace(PRESETS[self.preset], **given)

    def sensitivity(self, data: Any, lambdas: Sequence[float] = LAMBDAS) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest imputed values over several lambdas, each (n, G), in the input's unit.

        Observed values are the same in both. The network is the fitted one, whatever lambda it was trained with: what
        is imputed is the mean of observed values minus lambda sigma, in every round.
        """
        if self.design.likelihood == "mse":
            raise InputError("beta_vae: a shift is counted in sigma, which likelihood='mse' does not give")
        if not len(lambdas):
            raise InputError("beta_vae: sensitivity needs at least one lambda")
        shifted = copy(self)
        low = high = np.empty(0)
        for place, value in enumerate(lambdas):
            shifted.shift_ = float(value)
            imputed = shifted.transform(data).to_array()
            low = imputed if place == 0 else np.minimum(low, imputed)
            high = imputed if place == 0 else np.maximum(high, imputed)
        return low, high

    def _fit(self, data: Data) -> tuple[DecodedSamples, dict[str, Any]]:
        design = self.design
        X = data.known_values()
        known = ~np.isnan(X)
        if design.complete_rows and not known.all():
            raise InputError(
                f"beta_vae: preset='published_code' is fitted on complete samples, and {(~known.all(axis=1)).sum()} of "
                f"{len(X)} have missing values: leave them out, or the preset"
            )
        standard = Standard.of(X)
        Z = standard.forward(X)  # (n, G)
        self.center_, self.scale_ = standard.center, np.where(varying(Z), standard.scale, 0.0)
        self._level(Z)
        usable = np.flatnonzero(known.any(axis=1))
        train, held_out = usable, None
        if design.patience or design.shift == "auto":
            train, held_out = (usable[part] for part in split_cells(len(usable), VALIDATION, self.random_state))
        self.noise_, self.inflation_ = np.zeros(Z.shape[1]), 1.0
        auto = design.shift == "auto"
        self.shift_ = 0.0 if isinstance(design.shift, str) else float(design.shift)
        self.trained_shift_ = self.shift_ if design.shift_mode == "train" else 0.0
        training = self._train_network(Z, data, train, held_out)
        if auto and held_out is not None:
            self.shift_ = self._choose_shift(Z[held_out])
            if design.shift_mode == "train" and self.shift_:
                self.trained_shift_ = self.shift_
                training = self._train_network(Z, data, train, held_out, member=1)
        if design.likelihood == "mse":
            self.noise_ = self._residual_variance(Z[train])
        if held_out is not None:
            self.inflation_ = self._measure_inflation(Z[held_out])
        model = self._model(Z)
        details = {**training.status.details, "shift": self.shift_, "inflation": self.inflation_}
        return model, {
            "status": Status(training.status.name, training.status.message, details),
            "history": training.history,
            "latent": model.mean,
        }

    def _train_network(
        self, Z: np.ndarray, data: Data, train: np.ndarray, held_out: np.ndarray | None, *, member: int = 0
    ) -> Training:
        design, device = self.design, self._device()
        batches = DenseBatches(Z, batch_size=design.batch_size, device=device)
        watched, rows = None, None
        if held_out is not None:
            visible, truth = self._hide(Z[held_out])
            watched = DenseBatches(visible, target=truth, batch_size=design.batch_size, device=device)
            rows = np.arange(len(visible))
        network = cast(VariationalAutoencoder, self._new_network())
        if design.residual:
            with seeded(self.random_state):
                begin_at_components(network.to(device), Z[train], None if watched is None else watched.epoch(rows))
        return self._train(
            network,
            batches,
            data,
            design.schedule,
            train_rows=train,
            validation_rows=rows,
            validation_batches=watched,
            member=member,
        )

    def _hide(self, Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z-scores without a random part of the known ones, and an array of that part alone; NaN elsewhere."""
        share = min(1.0, max(HIDDEN, 1 / max(1, (~np.isnan(Z)).sum())))
        visible, i, j, values = hide_values(Z, share, np.random.default_rng([self.random_state, 1]))
        truth = np.full_like(Z, np.nan)
        truth[i, j] = values
        return visible, truth

    def _choose_shift(self, Z: np.ndarray) -> float:
        """Lambda with the least squared error where half of the lowest known values of some samples are hidden."""
        limit = np.nanquantile(Z, LOW)
        visible, i, j, truth = hide_values(Z, 0.5, np.random.default_rng([self.random_state, 2]), among=limit > Z)
        if len(i) == 0:
            return 0.0
        errors = [np.square(self._in_z(visible, shift=shift).at(i, j) - truth).mean() for shift in LAMBDAS]
        return LAMBDAS[int(np.argmin(errors))]

    def _measure_inflation(self, Z: np.ndarray) -> float:
        """Squared error over predicted variance, at values hidden at random."""
        visible, truth = self._hide(Z)
        i, j = np.nonzero(~np.isnan(truth))
        model = self._in_z(visible, shift=0.0)
        expected = model.at(i, j, "variance").sum()
        return float(np.square(model.at(i, j) - truth[i, j]).sum() / expected) if expected > 0 else 1.0

    def _residual_variance(self, Z: np.ndarray) -> np.ndarray:
        """(G,) mean squared difference of known and decoded values."""
        model = self._in_z(Z, shift=0.0)
        total, count = np.zeros(Z.shape[1]), np.zeros(Z.shape[1])
        step = max(1, ENCODED // Z.shape[1])
        for start in range(0, len(Z), step):
            part = np.arange(start, min(start + step, len(Z)))
            gap = Z[part] - model.rows(part, None)
            count += (~np.isnan(gap)).sum(axis=0)
            total += np.nansum(gap * gap, axis=0)
        return total / np.maximum(count, 1)

    def _new_rows(self, data: Data) -> DecodedSamples:
        return self._model(self._standardized(data.known_values()))

    def _standardized(self, X: np.ndarray) -> np.ndarray:
        """(n, G) float32 z-scores."""
        Z = Standard(self.center_, np.where(self.scale_ > 0, self.scale_, 1.0)).forward(X)
        self._level(Z)
        return Z

    def _level(self, Z: np.ndarray) -> None:
        """0 for features that did not vary when fitting, of which the network has learned nothing; in place."""
        constant = self.scale_ == 0
        Z[:, constant] = np.where(np.isnan(Z[:, constant]), np.nan, 0.0)

    def _in_z(self, Z: np.ndarray, *, shift: float) -> DecodedSamples:
        """The model of z-scores, on their own unit and with the decoder's own variance."""
        G = Z.shape[1]
        return replace(self._model(Z, shift=shift), center=np.zeros(G), scale=np.ones(G), inflation=1.0)

    def _model(self, Z: np.ndarray, *, shift: float | None = None) -> DecodedSamples:
        shift = self.shift_ if shift is None else shift
        step = max(1, ENCODED // Z.shape[1])
        parts = [self._encode(Z[start : start + step], start, shift) for start in range(0, len(Z), step)]
        latent, mean, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        return DecodedSamples(
            self.network_,
            latent,
            mean,
            spread,
            self.center_,
            self.scale_,
            self.noise_,
            self.inflation_,
            shift,
            self.random_state,
        )

    def _encode(self, Z: np.ndarray, first: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is decoded, and mean and SD of q, each (B, L), of the samples ``first``, ``first + 1``, ..."""
        design, device = self.design, next(self.network_.parameters()).device
        values = torch.from_numpy(Z).to(device)
        observed = ~torch.isnan(values)
        L = self.network_.latent_mean.out_features
        numbers = design.iterations * L if design.sampled else 0
        numbers += Z.shape[1] if design.start == "random" else 0
        drawn = np.empty((len(Z), numbers), np.float32)
        for place in range(len(Z) if numbers else 0):  # a sample's numbers do not depend on those beside it
            drawn[place] = np.random.default_rng([self.random_state, 2, first + place]).standard_normal(numbers)
        random = torch.from_numpy(drawn).to(device)
        start, noise = None, None
        if design.sampled:
            noise = random[:, : design.iterations * L].reshape(len(Z), design.iterations, L).transpose(0, 1)
        if design.start == "random":
            start = random[:, -Z.shape[1] :]
        with torch.no_grad():
            found = self.network_.impute(
                values, observed, iterations=design.iterations, shift=shift, start=start, noise=noise
            )
            latent = found.at(None if noise is None else noise[-1])
            spread = torch.zeros_like(latent) if found.log_variance is None else torch.exp(found.log_variance / 2)
        return latent.cpu().numpy(), found.mean.cpu().numpy(), spread.cpu().numpy()

    def _network(self) -> VariationalAutoencoder:
        design, G = self.design, len(self.center_)
        encoder, decoder, latent = design.widths(G)
        return VariationalAutoencoder(
            G,
            encoder=encoder,
            decoder=decoder,
            latent=latent,
            beta=design.beta,
            likelihood=design.likelihood,
            latent_noise=design.latent_noise,
            shift=self.trained_shift_,
            residual=design.residual,
            compressed=design.compressed,
            log_sigma=design.log_sigma,
            dropout=design.dropout,
            input_dropout=design.input_dropout,
            iterations=design.iterations,
        )

    def _state(self) -> dict[str, np.ndarray]:
        shifts = np.array([self.shift_, self.trained_shift_])
        return {
            **super()._state(),
            "center": self.center_,
            "scale": self.scale_,
            "shift": shifts,
            "noise": self.noise_,
            "inflation": np.array(self.inflation_),
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.center_, self.scale_ = arrays["center"], arrays["scale"]
        self.shift_, self.trained_shift_ = (float(value) for value in arrays["shift"])
        self.noise_, self.inflation_ = arrays["noise"], float(arrays["inflation"])
        super()._restore(arrays)
