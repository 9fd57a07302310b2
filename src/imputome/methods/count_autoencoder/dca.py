"""DCA and the comparisons of paper 001 as settings of one family."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from imputome.methods.count_autoencoder import DCA_INFO, DCA_PAPER001_INFO, TUNED_DCA_INFO, ZIP_DCA_INFO
from imputome.methods.count_autoencoder.zipo import Zipo


def _defaults(**changes: Any) -> Callable[..., None]:
    """ZiPo's constructor with other defaults; signature and annotations stay readable for whoever inspects them."""
    original = Zipo.__init__
    constructor = FunctionType(original.__code__, original.__globals__, "__init__", None, original.__closure__)
    known = original.__kwdefaults__ or {}
    unknown = set(changes) - set(known)
    if unknown:
        raise TypeError(f"Zipo has no parameters {sorted(unknown)}")
    constructor.__kwdefaults__ = {**known, **changes}
    constructor.__annotations__ = original.__annotations__
    return constructor


_DCA_BLOCKS: dict[str, Any] = {
    "residual": False,
    "activation": "relu",
    "batch_norm_place": "before",
    "library": "size_factor",
    "dispersion": "conditional",
    "alpha_z": 0.0,
    "alpha_w": 0.0,
    "loss_over": "entries",
}
_DCA_TRAINING: dict[str, Any] = {
    "optimizer": "rmsprop",
    "learning_rate": 1e-3,
    "decay": 1.0,
    "decay_epochs": 0,
    "plateau_patience": 10,
    "patience": 15,
    "patience_from": 0,
    "clip_value": 5.0,
    "max_epochs": 300,
    "batch_size": 32,
}


class DCA(Zipo):
    """Deep count autoencoder (Eraslan et al. 2019, doi:10.1038/s41467-018-07931-2), the original's defaults.

    64-32-64, z-scored input, ReLU after batch normalisation without scale, mean = size factor x exp(head),
    zero-inflated negative binomial with a dispersion for each cell and gene (``dispersion="gene"`` and
    ``distribution="nb"`` are its other forms), RMSprop at 1e-3 with gradients clipped at 5, batches of 32. Its ridge on
    the dropout probability is ``alpha_z``, 0 by default as there. Unlike in the original, the validation cells (20 %,
    not 10 %) are drawn at random and the best weights are restored. Parameters as `Zipo`.
    """

    info = DCA_INFO
    __init__ = _defaults(
        encoder="64-32", decoder="64", distribution="zinb", input_transform="zscore", **_DCA_BLOCKS, **_DCA_TRAINING
    )


class DCAPaper001(Zipo):
    """DCA as paper 001 set it up for its comparison (section III-G): 128-64-128, NB, log1p of normalised counts.

    What it does not say is taken from `DCA`. Parameters as `Zipo`.
    """

    info = DCA_PAPER001_INFO
    __init__ = _defaults(
        encoder="128-64",
        decoder="128",
        distribution="nb",
        input_transform="log1p_normalized",
        **_DCA_BLOCKS,
        **_DCA_TRAINING,
    )


class ZipDCA(Zipo):
    """Paper 001's zipDCA (section III-G): `DCAPaper001` with a zero-inflated Poisson. Parameters as `Zipo`."""

    info = ZIP_DCA_INFO
    __init__ = _defaults(
        encoder="128-64",
        decoder="128",
        distribution="zip",
        input_transform="log1p_normalized",
        **_DCA_BLOCKS,
        **_DCA_TRAINING,
    )


class TunedDCA(Zipo):
    """Paper 001's tunedDCA (section III-G): a negative binomial on ZiPo's encoder, with ZiPo's training schedule.

    Mean and dispersion stay DCA's: size factor x exp(head), and a dispersion for each cell and gene; so does the
    clipping of gradients, without which such a mean explodes at ZiPo's first rates. Parameters as `Zipo`.
    """

    info = TUNED_DCA_INFO
    __init__ = _defaults(
        distribution="nb",
        input_transform="log1p_normalized",
        library="size_factor",
        dispersion="conditional",
        alpha_w=0.0,
        clip_value=5.0,
    )
