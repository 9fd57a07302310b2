"""ZiPo (Sharifitabar et al. 2024, paper 001)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from imputome.methods.count_autoencoder import ZIPO_INFO
from imputome.methods.count_autoencoder.family import Settings, SingleNetworkImputer
from imputome.methods.count_autoencoder.network import (
    Activation,
    Dispersion,
    Distribution,
    InputTransform,
    Library,
    Residual,
    Widths,
)
from imputome.methods.deep.training import wrong_parameter

Preset = Literal["paper"]

# settings that differ between the presets; of these, parameters are used as given unless they are None
PRESETS: dict[Preset | None, dict[str, Any]] = {
    None: {"input_transform": "log1p"},
    "paper": {"input_transform": "counts", "data_start": False},
}


@dataclass(kw_only=True, eq=False, repr=False)
class Zipo(SingleNetworkImputer):
    """Count autoencoder with predicted library size, adjustable zero inflation and a sparse first layer.

    Letters: U latent, V = [U, covariates], l library size, m rate, x counts, z share of dropouts, w weights of the
    first layer, theta = log(m / r) with the size r of a negative binomial.

    The objective, for each batch (paper 001, section II-D): minus the log-likelihood, summed over genes, mean over
    cells, + alpha_z mean(z^2) + alpha_w mean over first-layer neurons of mean|w| / sqrt(mean w^2)
    + alpha_theta mean(theta^2), and for a negative binomial + alpha_rate mean((m - x)^2) (section III-F). log l is a
    small network of V; logit z and log(m / l) are linear in V, the latter followed by a log-softmax. U is the last
    encoder block plus a linear projection of every earlier block.

    Without the preset two starting values are not the paper's: the library network starts at the mean log total, and
    the bias of log(m / l) at the log of each gene's share in all molecules. The optimum stays, but training can end at
    another place, with more zero inflation.

    Parameters
    ----------
    preset : {"paper"} or None, default=None
        ``"paper"``: the encoder reads counts, and all starting values are PyTorch's, as in the paper (see Notes); all
        other parameters have the paper's values already. On few cells None has more likely validation cells.
    encoder : str, int or tuple of int, default="2048-1024-512-256-128"
        Widths of the encoder's layers, in the paper's notation or as integers. The last is the latent.
    decoder : str, int or tuple of int, default=""
        Widths of the decoder's hidden layers. The paper has none: its outputs are linear in V.
    residual : bool or tuple of int, default=True
        Encoder blocks that are added to the latent, as a projection without bias after their batch normalisation: all,
        none, or those of these numbers, from 1 (the paper's partial residuals).
    activation : {"sigmoid", "tanh", "relu", "relu6", "gelu", "elu", "selu", "leaky_relu"}, default="sigmoid"
        Activation of the hidden layers.
    batch_norm : bool, default=True
        Whether hidden layers have batch normalisation.
    batch_norm_place : {"after", "before"}, default="after"
        Batch normalisation after the activation, or, without scale, before it, as in DCA.
    distribution : {"poisson", "nb", "zip", "zinb"}, default="zip"
        Distribution of the counts: Poisson or negative binomial, without or with zero inflation.
    zero_inflation : bool or None, default=None
        If given, replaces the zero inflation of ``distribution``.
    dispersion : {"odds", "conditional", "gene"}, default="odds"
        Dispersion of a negative binomial with mean m and size r: ``"odds"``, theta linear in V (paper 001);
        ``"conditional"``, r is the softplus of a linear output; ``"gene"``, one r for each gene (both as in DCA).
    library : {"network", "observed", "size_factor"}, default="network"
        l is predicted, or the molecules of the cell. With ``"size_factor"`` the mean is DCA's: an exponential output
        (no softmax) times the molecules of the cell over their median.
    input_transform : {"counts", "log1p", "log1p_normalized", "zscore"} or None, default=None
        What the encoder reads: counts; their log1p; log1p of counts per 10,000; log1p of counts per median library,
        standardised for each gene (DCA). None: ``"log1p"``, and ``"counts"`` with the preset. The input stays sparse.
    alpha_z : float, default=0.1
        Strength of the penalty on z, above.
    alpha_w : float, default=0.1
        Strength of the penalty on w, above.
    alpha_theta : float or None, default=None
        Strength of the penalty on theta. None: 0.01 for a negative binomial with ``dispersion="odds"``, else 0.
    alpha_rate : float or None, default=None
        Strength of the penalty on rates. None: 0.1 for a negative binomial with ``dispersion="odds"``, else 0.
    rate_penalty : {"entries", "library"}, default="entries"
        Penalty of ``alpha_rate``: squared difference of rates and counts, mean over entries, or of their sums, mean
        over cells. The paper's formula can be read both ways.
    loss_over : {"cells", "entries"}, default="cells"
        The log-likelihood is a mean over cells, or over entries (DCA): both readings of the expectation in the paper's
        objective, see Notes. With entries the penalties are G times as strong, and gradient clipping is weaker.
    optimizer : {"adam", "rmsprop"}, default="adam"
        Optimiser; see `imputome.methods.deep.training.Schedule` for this and the next parameters. As in section II-G,
        the rate is 0.0212 x 0.9^(e-1) for 30 epochs, then a tenth after 15 epochs without 0.1 % improvement; training
        stops after 30 epochs without improvement.
    learning_rate : float, default=0.0212
        Learning rate of the first epoch.
    decay : float, default=0.9
        Factor of the learning rate after each of the first epochs.
    decay_epochs : int, default=30
        Number of epochs with decay.
    plateau_patience : int or None, default=15
        Epochs without improvement before the rate is lowered to a tenth. None: never.
    patience : int or None, default=30
        Epochs without improvement before training stops. None: never.
    patience_from : int, default=30
        Epochs up to this one do not count for ``patience``.
    clip_value : float or None, default=None
        Largest absolute value of each entry of the gradient.
    max_epochs : int, default=500
        Largest number of epochs.
    batch_size : int, default=256
        Cells of a batch, at least 2.
    validation_share : float, default=0.2
        Share of the cells kept for validation.
    device : {"auto", "cpu", "cuda"}, default="auto"
        ``"auto"`` takes a CUDA device if there is one.
    posterior : bool, default=False
        Combine the expected count with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of validation cells, initial weights and shuffling.

    Attributes
    ----------
    network_ : CountNetwork
        The trained network.
    factor_ : float
        Factor of the expected count, see Notes.
    coding_ : CovariateCoding or None
        How covariates are coded.
    share_ : ndarray of shape (G,)
        Share of each gene in all molecules of the training cells.

    Raises
    ------
    InputError
        A parameter is out of range, or a covariate has missing values or, later, new levels.

    Notes
    -----
    Covariates (`Data.covariates`) are part of V: categories one-hot, numbers standardised.

    The value is the expected count at the depth of the cell: (1 - z) m times one factor, which brings the sum over the
    fitted cells to that of their counts; free zero inflation alone misses it by up to a tenth. Other outputs are
    ``rate`` (m, the paper's imputed value), ``expected_count``, ``normalized``, ``variance`` and, with zero inflation,
    ``dropout_probability`` (see `imputome.methods.deep.rates.LogLinearModel`). ``latent`` is U;
    ``cell_columns["library_size"]`` is l.

    ``status.details`` holds the epochs, ``nll_validation`` (mean per cell, with constants), ``mse_validation`` (of the
    rate, per entry), ``mean_dropout`` (mean z), ``total_ratio_rate`` and ``total_ratio_expected`` (sums over the sum of
    counts, before the factor) and ``library_correlation`` (predicted and observed, log scale).

    The two readings of the objective, and what the preset is. The paper prints -E[log L_c] + ..., with L_c "over all
    available genes": ``loss_over="cells"``. "The model takes each cell's measured gene expression vector as its input",
    and a log transform is named for DCA only: ``input_transform="counts"``. Batch size and filters are not stated.
    Measured with the preset on 500 cells of pbmc3k_raw and all 6,967 genes found in 10 or more of them, encoder
    128-64-32, 30 epochs of 25 batches, one seed. Figure 8: NLL per validation cell, and mean z, both at the best epoch,
    with alpha_w = 0 (at 0.1 so few cells overfit: 2903 instead of 2821). Without zero inflation the NLL is about 2910:

    ==================  ======  ======  ======
    alpha_z                0.1     1e4     1e8
    ==================  ======  ======  ======
    NLL, over cells       2821    2807    2922
    NLL, over entries     2786    2906    2930
    mean z, cells        0.212   0.011   0.000
    mean z, entries      0.057   0.000   0.000
    ==================  ======  ======  ======

    Over cells only 1e8 removes zero inflation and costs NLL, as in the paper; over entries 1e4 does. Figure 10: share
    of first-layer weights below 1e-4 of the largest of their neuron, after the last epoch:

    ==================  ======  ======  ======  ======
    alpha_w                  0    0.01     0.1       1
    ==================  ======  ======  ======  ======
    over cells            0.0%   14.3%   15.3%   16.9%
    over entries          0.0%   22.9%   40.6%   78.7%
    ==================  ======  ======  ======  ======

    Over cells the share hardly depends on alpha_w, as in the paper: 92 % or more at 0.01, 98 % at 0.1; without it more
    than 90 % of the weights are above 0.01, here 97 %. Its size is a matter of training length. After 12 epochs on
    counts, 99.5 % of the slopes of the first sigmoids are below 1e-6 and 93 % of the weights get no gradient from the
    likelihood (log1p input without the preset: 74 %). Only the penalty moves these. However weak it is, Adam's steps of
    it are full ones, but not before Adam has forgotten the gradients of the first batches: at its factor of 0.999, by
    estimate, after some 20,000 batches. The paper has about 220 an epoch if it has 256 cells a batch; here 6, 15 and 26
    % are pruned with 12, 25 and 50 an epoch (batches of 32, 16 and 8 cells), with 128 first units as with 512 (27 %)
    and 2,048 (16 %). With a factor of 0.99 instead, on 250 cells and 64 units, 69 % are pruned after 3,750 batches, and
    the share still rises; with 0.999, 25 % after 10,000. So 98 % was not reached in either reading on so few cells; the
    larger shares over entries come from a penalty G times as strong. On 800 variable genes, in 450 batches, it was 0.02
    %. Pruning at 1e-3 never changed the NLL by more than 0.04 %.

    Cost: minutes; an epoch passes over the nonzeros in the first layer, and over n x G in the outputs. Fits of three
    small data sets took 170 to 440 s.

    Known to fail: it is a wide network for tens of thousands of cells: on nine data sets of 274 to 7,162 cells its
    held-out Poisson loss was above that of ``gene_mean_posterior``, on five of them above that of the gene mean.
    Without ``posterior`` the cell's own counts are lost. Which ``alpha_z`` does better differs between data sets.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.methods.count_autoencoder.zipo import Zipo
    >>> counts = np.random.default_rng(0).poisson(3.0, (40, 6))
    >>> result = Zipo(encoder="4-2", max_epochs=2, device="cpu").fit_transform(counts)
    >>> result.to_array(output="rate").shape
    (40, 6)
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

    preset: Preset | None = None
    encoder: Widths = "2048-1024-512-256-128"
    decoder: Widths = ""
    residual: Residual = True
    activation: Activation = "sigmoid"
    batch_norm: bool = True
    batch_norm_place: Literal["after", "before"] = "after"
    distribution: Distribution = "zip"
    zero_inflation: bool | None = None
    dispersion: Dispersion = "odds"
    library: Library = "network"
    input_transform: InputTransform | None = None
    alpha_z: float = 0.1
    alpha_w: float = 0.1
    alpha_theta: float | None = None
    alpha_rate: float | None = None
    rate_penalty: Literal["entries", "library"] = "entries"
    loss_over: Literal["cells", "entries"] = "cells"
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 0.0212
    decay: float = 0.9
    decay_epochs: int = 30
    plateau_patience: int | None = 15
    patience: int | None = 30
    patience_from: int = 30
    clip_value: float | None = None
    max_epochs: int = 500
    batch_size: int = 256
    validation_share: float = 0.2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    posterior: bool = False
    random_state: int = 0

    def _settings(self, kind: type[Settings]) -> Settings:
        if self.preset not in PRESETS:
            raise wrong_parameter("preset", self.preset, "must be None or 'paper'")
        names = {field.name for field in fields(kind)}
        changes = {
            name: value
            for name, value in PRESETS[self.preset].items()
            if name in names and getattr(self, name, None) is None
        }
        return replace(super()._settings(kind), **changes)
