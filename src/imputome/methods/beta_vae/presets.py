"""The designs of the beta-VAE: the measured default, the paper's, and what its published code does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from imputome.errors import InputError
from imputome.methods.beta_vae.network import Likelihood
from imputome.methods.deep.schedule import Schedule

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
