"""The beta-VAE for real values: parameters and presets, z-scores, fit, and shift correction.

Letters: ``n`` samples, ``G`` features, ``L`` latent dimensions, ``B`` samples encoded at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch

from imputome.core.data import Data
from imputome.core.holdout import hide_values
from imputome.core.imputation import Imputation, Status
from imputome.core.learned import Learned
from imputome.core.links import link
from imputome.core.scales import Standard, varying
from imputome.errors import InputError
from imputome.methods.beta_vae import BETA_VAE_INFO
from imputome.methods.beta_vae.components import start_at_components
from imputome.methods.beta_vae.decoder import DecodedSamples
from imputome.methods.beta_vae.network import (
    PRESETS,
    Design,
    Likelihood,
    Preset,
    ShiftMode,
    Start,
    VariationalAutoencoder,
    no_sigma,
)
from imputome.methods.deep.batches import DenseBatches
from imputome.methods.deep.estimator import DeepImputer, split_cells
from imputome.methods.deep.rates import row_blocks
from imputome.methods.deep.training import Training, wrong_parameter

HIDDEN_SHARE = 0.1  # share of the known values of the watched samples that is hidden, to be imputed
INCOMPLETE_SHARE = 0.05  # with a smaller share of incomplete samples, settings are chosen on samples held out
MAX_WATCHED = 200  # samples with hidden values, or a tenth of all if that is more
LOW_QUANTILE = 0.1  # values below it count as low; half of them are hidden (section "Missing data simulations")
LAMBDAS = tuple(np.arange(0, 3.01, 0.25).tolist())
VALUES_PER_ENCODING = 2**21  # values encoded at once


@dataclass(kw_only=True, eq=False, repr=False)
class BetaVAE(DeepImputer):
    """The beta variational autoencoder of Qiu, Zheng & Gevaert (2020) for real values, with NaN for missing.

    Features are z-scored by the mean and SD of their known values. A network x -> z -> x with Gaussian q(z | x) and
    N(mu(z), sigma(z)) is trained on ``sum_g -log N(x_g; mu_g, sigma_g) + beta KL(q || N(0, I))`` (eq. 5), with the sum
    over known entries; missing ones enter as 0, the mean. Imputation (section "Variational autoencoder"): missing
    values start at the mean; ``iterations`` times the sample is encoded, the mean of q is decoded, and the missing
    values are replaced by mu.

    New samples are imputed by the fitted network without training, independently of each other.

    Shift correction is for values that are missing *because they are low*. Then known values are higher than missing
    ones, and ``mu - lambda sigma`` is imputed. The data alone cannot show whether this is the cause, so the correction
    is used only if ``shift`` is given; `sensitivity` shows how much the result depends on it.

    Parameters
    ----------
    preset : {"paper", "published_code"} or None, default=None
        Source of the parameters that are None. None: the defaults in brackets below, chosen by measurement (see
        `Design`). ``"paper"``: the configuration of Qiu et al. (see Notes). ``"published_code"``: the same, with what
        their code does differently: hidden layers in the order 2000-6000-200-6000-2000, the output for the spread is
        log sigma, the learning rate is 5e-4, missing values start at 0, z is drawn when imputing, and samples with
        missing values are not accepted in fitting. (log sigma is limited here, but not in the code.)
    latent : int or None, default=None
        Width of the latent (200); at most a fifth of the features.
    hidden : str or None, default=None
        Widths of the encoder's hidden layers, as in ``"6000-2000"`` (``"500"``; two with a preset); the decoder has the
        opposite order. One width gives three layers: "2000" is 2000-200-2000. No hidden layer is wider than the data.
    beta : float or None, default=None
        Weight of the KL (1); with 0 the latent is still random.
    likelihood : {"gaussian", "mse"} or None, default=None
        Gaussian (the default), or squared error (eq. 8) with one variance for each feature.
    latent_noise : bool or None, default=None
        Draw z in training (True). False is a plain autoencoder, without KL; that of the paper, which did not work
        there, is ``preset="paper", likelihood="mse", latent_noise=False`` (eq. 7).
    dropout : float or None, default=None
        Probability of dropping a hidden unit in training (0.2).
    input_dropout : float or None, default=None
        Probability of dropping an input in training (0.2); the loss includes dropped inputs.
    learning_rate : float or None, default=None
        Learning rate (1e-3). Without a preset it falls by 5 % an epoch.
    weight_decay : float or None, default=None
        If not 0, AdamW with this decay is used instead of Adam (0).
    batch_size : int or None, default=None
        Samples of a batch (64).
    max_epochs : int or None, default=None
        Largest number of epochs (80).
    patience : int or None, default=None
        Epochs without improvement before training stops (15), measured by imputing hidden values. 0: training on all
        samples for ``max_epochs``. See Notes for which values are hidden.
    iterations : int or None, default=None
        Rounds of imputation (3); `rounds` shows how the values change from one to the next.
    start : {"mean", "random"} or None, default=None
        Missing values start at the mean (the default), or as N(0, 1) draws.
    shift : float or "auto", default=0.0
        lambda, for values that are missing because they are low in the unit of the input (on the transform
        ``"neglog"``, which makes them the highest, mu + lambda sigma is imputed). ``"auto"`` chooses among 0, 0.25,
        ..., 3 by the error on held-out samples, with half of their lowest tenth of values hidden. With a preset these
        are 20 % of the samples, and the network is then trained on all.
    shift_mode : {"inference", "train"} or None, default=None
        ``"inference"`` (the default): the network is a standard one, and mu - lambda sigma is imputed in every round.
        ``"train"`` (with a preset): the network is trained with N(x; mu + lambda sigma, sigma), and mu is imputed.
        Because mu is free, both have the same optimum; so ``"auto"`` chooses lambda as for ``"inference"``, then trains
        once more with it, and not once for each lambda.
    device : {"auto", "cpu", "cuda"}, default="auto"
        ``"auto"`` takes a CUDA device if there is one.
    random_state : int, default=0
        Seed of all random choices.

    Attributes
    ----------
    network_ : VariationalAutoencoder
        The trained network.
    center_, scale_ : ndarray of shape (G,)
        Mean and SD of each feature. The SD is 0 for a feature that does not vary or was never observed; it is imputed
        by its mean, or by the mean of all values.
    shift_ : float
        lambda in use.
    inflation_ : float
        Ratio of the squared error to the predicted variance at the hidden values, a factor of variances and draws. 1 if
        no values were hidden.

    Raises
    ------
    InputError
        A parameter is out of range, or a sample has missing values when ``preset="published_code"`` is fitted.

    Notes
    -----
    The paper's configuration, ``preset="paper"`` (section "Model parameters" and before): z-scores by the training
    samples; ReLU; five layers with a latent of 200 (`paper_widths`: 6000 and 2000 for 17,176 features); linear outputs
    for mean and log variance of z and of x; Adam at 5e-5 without dropout or weight decay, batches of 250, 250 epochs on
    all samples; beta = 1; missing values start as N(0, 1) draws; three rounds with the means of z and x; lambda in
    training (see ``shift_mode``). On four points the paper is silent. For two the published code is followed: the loss
    is a sum over features and a mean over samples, and weights start as those of Glorot & Bengio (2010). Two are ours:
    log variances are within +-10, and lambda is at most 3. An epoch is every sample once, with a smaller last batch;
    the code draws whole batches anew.

    The paper chose the learning rate for 17,176 features, among 1e-5, 5e-5, 1e-4 and 5e-4. A step of Adam changes each
    weight by about the rate, so that the same rate trains a network with fewer inputs less: with 100 features 5e-5
    learns next to nothing in 250 epochs. For such data the choice has to be made again: pass ``learning_rate``. In the
    same way beta weighs more the fewer features there are, because the likelihood is a sum over them: with 500 features
    the paper's 4 and 10 make the network impute the mean. 0.12 and 0.29, which weigh as much per feature as these in
    the paper, made no difference (on one split).

    Measured with ``preset="paper", learning_rate=5e-4`` and 500 features, 10 % hidden in new samples, RMSE in SD (mean
    absolute error), means of two splits. TCGA glioma expression (arcsinh): 0.774 (0.502), beta = 0 0.774 (0.504), plain
    autoencoder 0.873 (0.612), KNN 0.824 (0.547), SVD of the paper 0.742 (0.499), with its best rank 0.724 (0.483), mean
    1.021 (0.748). Methylation: 0.775 (0.552), 0.789 (0.546), 0.939 (0.667), 0.811 (0.575), 0.877 (0.631), 0.763 (0.547)
    and 1.027 (0.837). Where half of the lowest tenth is hidden: 0.729 and 0.830, with lambda in training 0.377 and
    0.361, at inference 0.393 and 0.331. At 5e-5 (one split) the plain autoencoder is ahead on expression, 0.736 against
    0.788, and level on methylation, 0.792 against 0.793: it does not overfit yet, and the VAE is still learning.

    Output ``"variance"`` is the variance of a value, given what is known of its sample: of x around mu(z), and of mu
    over 20 draws of z ~ q. `Imputation.draw` gives multiple imputations: z ~ q, then x ~ N(mu, sigma). With
    ``keep_observed=False`` observed entries too have the value that is imputed in the last round.

    Without a preset the network has linear maps besides its hidden layers, and training starts at the components of the
    completed training samples that impute hidden values best (`imputome.methods.beta_vae.components`); this start is
    kept where training does not improve on it.

    Hidden values: where at least 5 % of the training samples are incomplete, and without a preset, a tenth of the known
    values of the training samples (of 200 of them, or a tenth, if there are more) is hidden. Else, and for
    ``shift="auto"``, 10 % of the samples are held out from training, and a tenth of their values is hidden. A network
    that is judged on other samples only can reproduce every sample of the fit, with the zeros that stand for its
    missing values; this made it hardly better than the mean below about 200 samples.

    Measured with 10 % of all values hidden, RMSE in SD, means of two draws of samples (mean; soft_impute;
    gaussian_copula). TCGA glioma expression, 50 samples: 0.870 (1.035; 0.885; 0.807), 99: 0.752 (1.004; 0.751; 0.686),
    185: 0.718 (1.007; 0.710; 0.653). Methylation, 50: 0.831 (1.026; 0.835; 0.801), 99: 0.779 (1.010; 0.779; 0.755),
    185: 0.767 (1.007; 0.762; 0.740).

    Cost: minutes; with P weights, 2 P operations per sample to encode or decode it, three times that to train on it;
    sigma is computed only if needed. Memory: the z-scores once, and nine times P numbers in training. Values are
    decoded from the latent on request.

    Known to fail: ``shift`` used where values are not missing because they are low raises the error by a sixth on
    expression, and on methylation to that of the mean. With ``preset="paper"`` on few samples it is hardly better than
    the mean, and takes hours. Where values are missing at random, `GaussianCopula` has the lower error with 20
    samples, with 50, and with hundreds, and `SoftImpute` has the same within 2 %, in less time.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.methods.beta_vae.estimator import BetaVAE
    >>> values = np.random.default_rng(0).normal(size=(40, 10))
    >>> values[0, 0] = np.nan
    >>> result = BetaVAE(hidden="8", max_epochs=2, device="cpu").fit_transform(values)
    >>> bool(np.isfinite(result.to_array()).all())
    True
    """

    info = BETA_VAE_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "center": Learned("G"),
        "scale": Learned("G", values="not negative"),
        "noise": Learned("G", values="not negative"),
        "inflation": Learned(values="not negative"),
    }
    stored: ClassVar[dict[str, Learned]] = {"shift": Learned("2", values="not negative")}
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "latent": (10, 200, "log"),
        "beta": (0.0, 4.0, "linear"),
        "dropout": (0.0, 0.4, "linear"),
        "input_dropout": (0.0, 0.5, "linear"),
        "learning_rate": (1e-4, 3e-3, "log"),
    }

    preset: Preset | None = None
    latent: int | None = None
    hidden: str | None = None
    beta: float | None = None
    likelihood: Likelihood | None = None
    latent_noise: bool | None = None
    dropout: float | None = None
    input_dropout: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    max_epochs: int | None = None
    patience: int | None = None
    iterations: int | None = None
    start: Start | None = None
    shift: float | Literal["auto"] = 0.0
    shift_mode: ShiftMode | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    random_state: int = 0
    network_: VariationalAutoencoder = field(init=False)

    @property
    def design(self) -> Design:
        """The settings of the preset, changed by the given parameters."""
        if self.preset not in PRESETS:
            raise wrong_parameter("preset", self.preset, "must be None, 'paper' or 'published_code'")
        names = {field.name for field in fields(Design)} & set(self.parameter_defaults())
        changes: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.hidden is not None:
            if not all(width.isdecimal() for width in self.hidden.split("-")):
                raise wrong_parameter("hidden", self.hidden, "must be widths like '6000-2000'")
            changes["hidden"] = tuple(int(width) for width in self.hidden.split("-"))
        return replace(PRESETS[self.preset], **changes)

    def rounds(self, data: Any, number: int = 10) -> list[Imputation]:
        """The imputed values after 1, 2, ..., ``number`` rounds, whatever ``iterations`` is.

        The paper finds that values are mostly stable after 2 or 3 rounds, and that a plain autoencoder does not
        converge. Cost: ``number (number + 1) / 2`` encodings and decodings.

        Parameters
        ----------
        data : Data or matrix of shape (n, G)
            Samples to impute.
        number : int, default=10
            Number of rounds.

        Returns
        -------
        list of Imputation
            One for each round; ``at(i, j, keep_observed=False)`` gives the values of hidden entries.

        Raises
        ------
        InputError
            ``number`` is less than 1.
        """
        if number < 1:
            raise wrong_parameter("number", number, "must be positive")
        again = copy(self)
        results = []
        for again.iterations in range(1, number + 1):
            results.append(again.transform(data))
        return results

    def sensitivity(self, data: Any, lambdas: Sequence[float] = LAMBDAS) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest imputed values over several lambdas.

        The fitted network is used, whatever lambda it was trained with: the mean of observed values minus lambda sigma
        is imputed in every round. Observed values are the same in both results.

        Parameters
        ----------
        data : Data or matrix of shape (n, G)
            Samples to impute.
        lambdas : sequence of float, default=0, 0.25, ..., 3
            Shifts, in sigma.

        Returns
        -------
        lowest, highest : ndarray of shape (n, G)
            In the unit of the input.

        Raises
        ------
        InputError
            There is no lambda, or the likelihood is ``"mse"``.
        """
        if self.design.likelihood == "mse":
            raise no_sigma()
        if not len(lambdas):
            raise InputError("beta_vae: sensitivity needs at least one lambda", code="no-lambdas", parameter="lambdas")
        shifted = copy(self)
        lowest = highest = np.empty(0)
        for k, value in enumerate(lambdas):
            shifted.shift_ = float(value)
            imputed = shifted.transform(data).to_array()
            lowest = imputed if k == 0 else np.minimum(lowest, imputed)
            highest = imputed if k == 0 else np.maximum(highest, imputed)
        return lowest, highest

    def _check_values(self) -> None:
        _ = self.design.schedule  # both check what they hold

    def _towards_low(self, shift: float) -> float:
        """A shift with the sign that lowers values in the unit of the input, which a link may turn round."""
        return shift if link(self.link).increasing else -shift

    def _fit(self, data: Data) -> tuple[DecodedSamples, dict[str, Any]]:
        design = self.design
        X = data.known_values()
        known = ~np.isnan(X)
        if design.complete_rows and not known.all():
            raise InputError(
                f"beta_vae: preset='published_code' is fitted on complete samples, but {(~known.all(axis=1)).sum()} of "
                f"{len(X)} have missing values: leave out these samples, or pass {{preset}}",
                code="incomplete-samples",
                preset=None,
            )
        standard = Standard.of(X)
        Z = standard.forward(X)  # (n, G)
        self.center_, self.scale_ = standard.center, np.where(varying(Z), standard.scale, 0.0)
        self._set_constant_features(Z)
        usable = np.flatnonzero(known.any(axis=1))
        train, held_out, watched = usable, None, None
        auto = design.shift == "auto"
        # where the samples to impute are those of the fit, settings are chosen on these: a network that can fit every
        # sample imputes new ones well and its own not at all
        inside = design.residual and bool(design.patience) and (~known[usable].all(axis=1)).mean() >= INCOMPLETE_SHARE
        if auto or (design.patience and not inside):
            parts = split_cells(len(usable), design.validation_share, self.random_state)
            train, held_out = (usable[part] for part in parts)
            watched = held_out
        if inside:
            number = min(len(train), max(MAX_WATCHED, len(train) // 10))
            watched = np.sort(np.random.default_rng([self.random_state, 3]).permutation(train)[:number])
        self.noise_, self.inflation_ = np.zeros(Z.shape[1]), 1.0
        self.shift_ = 0.0 if isinstance(design.shift, str) else float(design.shift)
        self.trained_shift_ = self.shift_ if design.shift_mode == "train" else 0.0
        training = self._train_network(Z, data, train, watched)
        again = auto and design.retrained and not design.patience  # on all samples, so that none are left to judge it
        if again:
            self.inflation_ = self._measure_inflation(Z[watched])
        if auto and held_out is not None:
            self.shift_ = self._choose_shift(Z[held_out])
            self.trained_shift_ = self.shift_ if design.shift_mode == "train" else 0.0
            if again:
                training = self._train_network(Z, data, usable, None, member=1)
            elif self.trained_shift_:
                training = self._train_network(Z, data, train, watched, member=1)
        if design.likelihood == "mse":
            self.noise_ = self._residual_variance(Z[train])
        if watched is not None and not again:
            self.inflation_ = self._measure_inflation(Z[watched])
        model = self._model(Z)
        details = {**training.status.details, "shift": self.shift_, "inflation": self.inflation_}
        return model, {
            "status": Status(training.status.name, training.status.message, details),
            "history": training.history,
            "latent": model.mean,
        }

    def _train_network(
        self, Z: np.ndarray, data: Data, train: np.ndarray, watched: np.ndarray | None, *, member: int = 0
    ) -> Training:
        """Train on the rows ``train`` of Z; the values hidden in the rows ``watched`` decide when to stop."""
        design, device = self.design, self._device()
        validation, rows, whole = None, None, None
        if watched is not None:
            visible, truth = self._hide(Z[watched])
            validation = DenseBatches(visible, target=truth, batch_size=design.batch_size, device=device)
            rows, whole = np.arange(len(visible)), Z[watched]
            Z[watched] = visible  # rows that are trained on must not show what is hidden
        batches = DenseBatches(Z, batch_size=design.batch_size, device=device)
        network = cast(VariationalAutoencoder, self._new_network())
        if design.residual:
            batches_to_impute = None if validation is None else validation.epoch(rows)
            rng = np.random.default_rng(self.random_state)
            start_at_components(network.to(device), Z[train], batches_to_impute, rng)
        training = self._train(
            network,
            batches,
            data,
            design.schedule,
            train_rows=train,
            validation_rows=rows,
            validation_batches=validation,
            member=member,
        )
        if whole is not None:
            Z[watched] = whole
        return training

    def _hide(self, Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, G) z-scores with some known values hidden at random, and the (n, G) hidden values; NaN elsewhere."""
        share = min(1.0, max(HIDDEN_SHARE, 1 / max(1, (~np.isnan(Z)).sum())))
        visible, i, j, values = hide_values(Z, share, np.random.default_rng([self.random_state, 1]))
        truth = np.full_like(Z, np.nan)
        truth[i, j] = values
        return visible, truth

    def _choose_shift(self, Z: np.ndarray) -> float:
        """The lambda with the smallest squared error, with half of the lowest known values hidden."""
        low_is_low = link(self.link).increasing
        limit = np.nanquantile(Z, LOW_QUANTILE if low_is_low else 1 - LOW_QUANTILE)
        low = limit > Z if low_is_low else limit < Z
        visible, i, j, truth = hide_values(Z, 0.5, np.random.default_rng([self.random_state, 2]), among=low)
        if len(i) == 0:
            return 0.0
        errors = [np.square(self._in_z(visible, shift=shift).at(i, j) - truth).mean() for shift in LAMBDAS]
        return LAMBDAS[int(np.argmin(errors))]

    def _measure_inflation(self, Z: np.ndarray) -> float:
        """Squared error over predicted variance, at values that are hidden at random."""
        visible, truth = self._hide(Z)
        i, j = np.nonzero(~np.isnan(truth))
        model = self._in_z(visible, shift=0.0)
        expected = model.at(i, j, "variance").sum()
        return float(np.square(model.at(i, j) - truth[i, j]).sum() / expected) if expected > 0 else 1.0

    def _residual_variance(self, Z: np.ndarray) -> np.ndarray:
        """(G,) mean squared difference between known and decoded values."""
        model = self._in_z(Z, shift=0.0)
        total, count = np.zeros(Z.shape[1]), np.zeros(Z.shape[1])
        for part in row_blocks(len(Z), Z.shape[1], VALUES_PER_ENCODING):
            difference = Z[part] - model.rows(part, None)
            count += (~np.isnan(difference)).sum(axis=0)
            total += np.nansum(difference * difference, axis=0)
        return total / np.maximum(count, 1)

    def _new_rows(self, data: Data) -> DecodedSamples:
        return self._model(self._standardized(data.known_values()))

    def _standardized(self, X: np.ndarray) -> np.ndarray:
        """(n, G) float32 z-scores."""
        Z = Standard(self.center_, np.where(self.scale_ > 0, self.scale_, 1.0)).forward(X)
        self._set_constant_features(Z)
        return Z

    def _set_constant_features(self, Z: np.ndarray) -> None:
        """Set features that did not vary in the fit to 0, in place; the network has learned nothing about them."""
        constant = self.scale_ == 0
        Z[:, constant] = np.where(np.isnan(Z[:, constant]), np.nan, 0.0)

    def _in_z(self, Z: np.ndarray, *, shift: float) -> DecodedSamples:
        """The model of z-scores, in z units and with the variance of the decoder."""
        G = Z.shape[1]
        return replace(self._model(Z, shift=shift), center=np.zeros(G), scale=np.ones(G), inflation=1.0)

    def _model(self, Z: np.ndarray, *, shift: float | None = None) -> DecodedSamples:
        shift = self._towards_low(self.shift_ if shift is None else shift)
        blocks = row_blocks(len(Z), Z.shape[1], VALUES_PER_ENCODING)
        encoded = zip(*(self._encode(Z[rows], rows[0], shift) for rows in blocks), strict=True)
        latent, mean, spread = (np.concatenate(parts) for parts in encoded)
        learned = (self.center_, self.scale_, self.noise_, self.inflation_)
        return DecodedSamples(self.network_, latent, mean, spread, *learned, shift, self.random_state)

    def _encode(self, Z: np.ndarray, first: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The latent to decode, and mean and SD of q, (B, L) each, of the samples ``first``, ``first + 1``, ..."""
        design, device = self.design, next(self.network_.parameters()).device
        values = torch.from_numpy(Z).to(device)
        observed = ~torch.isnan(values)
        L = self.network_.latent_mean.out_features
        numbers = design.iterations * L if design.sampled else 0
        numbers += Z.shape[1] if design.start == "random" else 0
        drawn = np.empty((len(Z), numbers), np.float32)
        for k in range(len(Z) if numbers else 0):  # the numbers of a sample do not depend on the others
            drawn[k] = np.random.default_rng([self.random_state, 2, first + k]).standard_normal(numbers)
        random = torch.from_numpy(drawn).to(device)
        start, noise = None, None
        if design.sampled:
            noise = random[:, : design.iterations * L].reshape(len(Z), design.iterations, L).transpose(0, 1)
        if design.start == "random":
            start = random[:, -Z.shape[1] :]
        with torch.no_grad():
            q = self.network_.impute(
                values, observed, iterations=design.iterations, shift=shift, start=start, noise=noise
            )
            latent = q.at(None if noise is None else noise[-1])
            spread = torch.zeros_like(latent) if q.log_variance is None else torch.exp(q.log_variance / 2)
        return latent.cpu().numpy(), q.mean.cpu().numpy(), spread.cpu().numpy()

    def _network(self) -> VariationalAutoencoder:
        design, G = self.design, len(self.center_)
        return VariationalAutoencoder(G, design, design.widths(G), shift=self._towards_low(self.trained_shift_))

    def _layers(self) -> int:
        return len(self.design.hidden or ())

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), "shift": np.array([self.shift_, self.trained_shift_])}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.shift_, self.trained_shift_ = arrays["shift"].tolist()
        super()._restore(arrays)
