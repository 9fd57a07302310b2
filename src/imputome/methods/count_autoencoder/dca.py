"""DCA (Eraslan et al. 2019), and the variants of it that paper 001 compares ZiPo with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from imputome.methods.count_autoencoder import DCA_INFO, DCA_PAPER001_INFO, TUNED_DCA_INFO, ZIP_DCA_INFO
from imputome.methods.count_autoencoder.family import SingleNetworkImputer
from imputome.methods.count_autoencoder.network import Distribution, InputTransform, Widths
from imputome.methods.count_autoencoder.zipo import Zipo

DCADispersion = Literal["conditional", "gene"]


@dataclass(kw_only=True, eq=False, repr=False)
class DCAFamily(SingleNetworkImputer):
    """The parameters that DCA and all its variants have, and the settings that all of them fix."""

    encoder: Widths = "128-64"
    decoder: Widths = "128"
    input_transform: InputTransform = "log1p_normalized"
    learning_rate: float = 1e-3
    plateau_patience: int | None = 10
    patience: int | None = 15
    max_epochs: int = 300
    batch_size: int = 32
    clip_value: float | None = 5.0
    validation_share: float = 0.2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    posterior: bool = False
    random_state: int = 0

    # without annotation: not parameters
    library = "size_factor"
    alpha_w = 0.0


class OriginalDCA(DCAFamily):
    """The other settings of the original, which are not parameters; only `TunedDCA` does not have them."""

    residual = False
    activation = "relu"
    batch_norm_place = "before"
    dispersion = "conditional"
    alpha_z = 0.0
    loss_over = "entries"
    optimizer = "rmsprop"


@dataclass(kw_only=True, eq=False, repr=False)
class DCA(OriginalDCA):
    """Deep count autoencoder (Eraslan et al. 2019, doi:10.1038/s41467-018-07931-2), with the original's defaults.

    The mean is size factor x exp(linear output). Hidden layers have batch normalisation without scale, then ReLU. The
    loss is the negative log-likelihood, mean over entries, minimised by RMSprop with clipped gradients. Two things
    differ from the original: the validation cells (20 %, not 10 %) are drawn at random, and the best weights are
    restored.

    Parameters
    ----------
    encoder : str, int or tuple of int, default="64-32"
        Widths of the encoder's layers; the last is the latent.
    decoder : str, int or tuple of int, default="64"
        Widths of the decoder's hidden layers.
    distribution : {"poisson", "nb", "zip", "zinb"}, default="zinb"
        Poisson or negative binomial, without or with zero inflation.
    dispersion : {"conditional", "gene"}, default="conditional"
        Dispersion of a negative binomial for each cell and gene, or one for each gene.
    input_transform : {"counts", "log1p", "log1p_normalized", "zscore"}, default="zscore"
        What the encoder reads: counts; their log1p; log1p of counts per 10,000; log1p of counts per median library,
        standardised for each gene.
    alpha_z : float, default=0.0
        Ridge penalty on the dropout probability z: ``alpha_z * mean(z^2)`` is added to the loss.
    learning_rate : float, default=1e-3
        Learning rate of the first epoch.
    plateau_patience : int or None, default=10
        Epochs without improvement before the rate is lowered to a tenth. None: never.
    patience : int or None, default=15
        Epochs without improvement before training stops. None: never.
    max_epochs : int, default=300
        Largest number of epochs.
    batch_size : int, default=32
        Cells of a batch, at least 2.
    clip_value : float or None, default=5.0
        Largest absolute value of each entry of the gradient. None: no limit.
    validation_share : float, default=0.2
        Share of the cells kept for validation.
    device : {"auto", "cpu", "cuda"}, default="auto"
        ``"auto"`` takes a CUDA device if there is one.
    posterior : bool, default=False
        Combine the expected count with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of validation cells, initial weights and shuffling.

    Notes
    -----
    Outputs, ``latent``, ``status.details`` and fitted attributes are those of `Zipo`, whose class has all settings as
    parameters.

    Cost: minutes; an epoch makes n x G outputs three times (mean, dispersion, dropout), in small batches.

    Known to fail: on UMI counts zero inflation explains zeros that are sampling only. Without ``posterior`` the cell's
    own counts are lost. With a few hundred cells the network sees too little: compare it with ``gene_mean_posterior``
    on your data.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.methods.count_autoencoder.dca import DCA
    >>> counts = np.random.default_rng(0).poisson(3.0, (40, 6))
    >>> result = DCA(encoder="4-2", decoder="4", max_epochs=2, device="cpu").fit_transform(counts)
    >>> result.to_array(output="dropout_probability").shape
    (40, 6)
    """

    info = DCA_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        name: Zipo.search_space[name] for name in ("encoder", "alpha_z")
    }

    encoder: Widths = "64-32"
    decoder: Widths = "64"
    distribution: Distribution = "zinb"
    dispersion: DCADispersion = "conditional"
    input_transform: InputTransform = "zscore"
    alpha_z: float = 0.0


@dataclass(kw_only=True, eq=False, repr=False)
class DCAPaper001(OriginalDCA):
    """DCA as set up in paper 001 (section III-G): 128-64-128, negative binomial, log1p of counts per 10,000.

    Settings that the paper does not state are those of `DCA`.

    Parameters
    ----------
    encoder : str, int or tuple of int, default="128-64"
        Widths of the encoder's layers; the last is the latent.
    decoder : str, int or tuple of int, default="128"
        Widths of the decoder's hidden layers.
    dispersion, input_transform, learning_rate, plateau_patience, patience, max_epochs, batch_size, clip_value, \
validation_share, device, posterior, random_state
        As in `DCA`; ``input_transform="log1p_normalized"`` by default.

    Notes
    -----
    Cost: minutes; as `DCA`, with wider layers and no dropout output.

    Known to fail: as `DCA`; it is here for the comparison of paper 001, with the settings found there, not for use on
    new data.
    """

    info = DCA_PAPER001_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"encoder": Zipo.search_space["encoder"]}

    dispersion: DCADispersion = "conditional"
    distribution = "nb"


@dataclass(kw_only=True, eq=False, repr=False)
class ZipDCA(OriginalDCA):
    """The zipDCA of paper 001 (section III-G): `DCAPaper001` with a zero-inflated Poisson distribution.

    Parameters
    ----------
    encoder : str, int or tuple of int, default="128-64"
        Widths of the encoder's layers; the last is the latent.
    decoder : str, int or tuple of int, default="128"
        Widths of the decoder's hidden layers.
    input_transform, alpha_z, learning_rate, plateau_patience, patience, max_epochs, batch_size, clip_value, \
validation_share, device, posterior, random_state
        As in `DCA`; ``input_transform="log1p_normalized"`` by default.

    Notes
    -----
    Cost: minutes; as `DCA`, with wider layers and no dispersion.

    Known to fail: as `DCA`. A Poisson distribution with zero inflation takes spread between cells for dropout, so that
    the share of dropouts is too high.
    """

    info = ZIP_DCA_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = DCA.search_space

    alpha_z: float = 0.0
    distribution = "zip"


@dataclass(kw_only=True, eq=False, repr=False)
class TunedDCA(DCAFamily):
    """The tunedDCA of paper 001 (section III-G): a negative binomial with ZiPo's encoder and training schedule.

    Mean and dispersion are DCA's: size factor x exp(linear output), and a dispersion for each cell and gene. Gradients
    are clipped as in DCA, because without that such a mean diverges at ZiPo's first learning rates.

    Parameters
    ----------
    encoder : str, int or tuple of int, default="2048-1024-512-256-128"
        Widths of the encoder's layers; the last is the latent.
    decoder : str, int or tuple of int, default=""
        Widths of the decoder's hidden layers; without them, the outputs are linear in the latent.
    learning_rate : float, default=0.0212
        Learning rate of the first epoch; it decays as in `Zipo`.
    plateau_patience, patience, max_epochs, batch_size
        As in `Zipo`.
    dispersion, input_transform, clip_value, validation_share, device, posterior, random_state
        As in `DCA`; ``input_transform="log1p_normalized"`` by default.

    Notes
    -----
    Cost: minutes; as `Zipo`: the encoder is wide.

    Known to fail: as `Zipo` and `DCA`: it needs many cells. An exponential mean at a high learning rate diverges if
    ``clip_value`` is None.
    """

    info = TUNED_DCA_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = DCAPaper001.search_space

    encoder: Widths = "2048-1024-512-256-128"
    decoder: Widths = ""
    dispersion: DCADispersion = "conditional"
    learning_rate: float = 0.0212
    plateau_patience: int | None = 15
    patience: int | None = 30
    max_epochs: int = 500
    batch_size: int = 256

    distribution = "nb"
    decay = 0.9
    decay_epochs = 30
    patience_from = 30
