"""The designs of the plain autoencoder: the measured default, the paper's, and what its published code does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from imputome.errors import InputError
from imputome.methods.autoencoder.network import ACTIVATIONS, Activation, Decay, LossNorm
from imputome.methods.deep.schedule import Schedule

Preset = Literal["paper", "published_code"]


@dataclass(frozen=True)
class Design:
    """Everything that decides what is trained and how; the parameters of `PlainAutoencoder` and their defaults.

    The last three are not offered one by one: they are where the published code departs from the paper.

    The default was chosen by measurement: 1,000 cells and 1,000 variable genes of five datasets, one seed. Held-out
    Poisson loss under ``thin`` 0.9 (rescaled, nothing kept), and NRMSE on the log1p scale of a random half of the
    nonzeros (the paper's score); lower is better:

    ==================================  ======  ======  ======  ======  =======  ======  ======  ======  ======  ======
    design                              pbmc3k  zeisel  klein   kang    baron    pbmc3k  zeisel  klein   kang    baron
    ==================================  ======  ======  ======  ======  =======  ======  ======  ======  ======  ======
    gene mean                           0.0958  0.2968  0.1617  0.0493  -0.0309  0.2882  0.2440  0.3330  0.2759  0.3520
    10 x 32 sigmoid (collapsed)         0.0958  0.2968  0.1617  0.0493  -0.0309  0.2888  0.2442  0.3335  0.2767  0.3524
    10 x 32 ReLU                        0.0960  0.3108  0.1622  0.0494  0.0060   0.2783  0.2508  0.3368  0.2456  0.3439
    10 x 32 sigmoid, batch norm         0.0844  0.2883  0.1508  0.0291  -0.2677  0.2397  0.1959  0.2956  0.2446  0.2671
    1 x 128 ReLU, dropout, norm         0.0798  0.2845  0.1480  0.0229  -0.2910  0.2941  0.2437  0.3414  0.3024  0.2935
    1 x 128 tanh, dropout, norm         0.0802  0.2769  0.1466  0.0195  -0.3070  0.3140  0.2238  0.3731  0.3099  0.3056
    1 x 128 sigmoid, dropout            0.0834  0.2872  0.1485  0.0247  -0.2902  0.2279  0.1997  0.2883  0.2321  0.2585
    2 x 128 sigmoid, dropout, norm      0.0833  0.2862  0.1487  0.0260  -0.2802  0.2304  0.1969  0.2898  0.2340  0.2594
    ==================================  ======  ======  ======  ======  =======  ======  ======  ======  ======  ======

    ReLU and tanh with batch normalisation win the first score, but lose the second to the gene mean on three of five.
    One sigmoid layer without it is as good as the default here, but collapsed on scmix_celseq2_3cl (17,023 genes,
    7,000 of them found in a cell): between-cell SD 2e-9, in the data 0.21.

    Attributes
    ----------
    restore_best : end with the weights of the epoch with the lowest validation error, else with the last.
    decay : what weight decay shrinks, see `Autoencoder`.
    shared_start : all seeds start from the same weights.
    """

    depth: int = 2
    width: int = 128
    activation: Activation = "sigmoid"
    dropout: float = 0.2
    weight_decay: float = 0.0
    loss_norm: LossNorm = "nonzero"
    batch_norm: bool = True
    residual: bool = False
    n_top_genes: int | Literal["all"] = "all"
    learning_rate: float = 1e-3
    batch_size: int = 64
    patience: int = 20
    max_epochs: int = 500
    rescale: bool = True
    restore_best: bool = True
    decay: Decay = "weights"
    shared_start: bool = False

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise InputError(f"autoencoder: activation={self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if self.loss_norm not in ("nonzero", "all"):
            raise InputError(f"autoencoder: loss_norm={self.loss_norm!r} is not one of nonzero, all")
        for name in ("depth", "width", "batch_size", "max_epochs", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"autoencoder: {name}={getattr(self, name)!r} must be positive")
        for name in ("weight_decay", "patience"):
            if not getattr(self, name) >= 0:
                raise InputError(f"autoencoder: {name}={getattr(self, name)!r} must not be negative")
        if not 0 <= self.dropout < 1:
            raise InputError(f"autoencoder: dropout={self.dropout!r} must lie in 0 to 1, 1 excluded")
        if self.n_top_genes != "all" and not (isinstance(self.n_top_genes, int) and self.n_top_genes > 0):
            raise InputError(f"autoencoder: n_top_genes={self.n_top_genes!r} is neither a positive integer nor 'all'")

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            max_epochs=self.max_epochs,
            learning_rate=self.learning_rate,
            patience=self.patience or None,
            restore_best=self.restore_best,
        )


_PAPER = Design(
    depth=10,
    width=32,
    dropout=0.0,
    batch_norm=False,
    n_top_genes=2000,
    max_epochs=10_000,
    rescale=False,
)
PRESETS: dict[Preset | None, Design] = {
    None: Design(),
    "paper": _PAPER,
    "published_code": replace(
        _PAPER,
        loss_norm="all",
        learning_rate=1e-4,
        max_epochs=1000,
        restore_best=False,
        decay="adam",
        shared_start=True,
    ),
}
