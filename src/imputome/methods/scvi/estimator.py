"""scVI (Lopez et al. 2018) by scvi-tools, as a method of this library: `ScVI`.

scvi-tools trains the network. Its outputs are then computed from plain arrays, as those of the other count networks
are (`imputome.methods.deep.rates`). Letters: ``n`` cells, ``G`` genes, ``K`` hidden units.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from imputome.core.data import Data
from imputome.core.imputation import Model, Status
from imputome.core.learned import Learned
from imputome.errors import InputError, TrainingError
from imputome.methods.deep.covariates import CovariateCoding, coded_as_in_fit
from imputome.methods.deep.estimator import NetworkImputer
from imputome.methods.deep.rates import LinearOutput, LogLinearModel, row_blocks
from imputome.methods.scvi import SCVI_INFO
from imputome.methods.scvi.quiet_training import PATIENCE, seeded_by_scvi, silenced, train

if find_spec("scvi") is None:  # imported only when it is needed: that takes seconds
    raise ModuleNotFoundError("No module named 'scvi'", name="scvi-tools")

Likelihood = Literal["zinb", "nb", "poisson"]
INPUT_VALUES = 2**22  # dense counts made at a time


class ScVI(NetworkImputer):
    """scVI (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2), fitted by the package scvi-tools.

    A variational autoencoder. The encoder reads log1p of the counts and gives a normal distribution of the latent
    z. The decoder (z and the covariates, K hidden units, batch normalisation, ReLU) gives each gene's share of the
    cell's molecules, a softmax. The counts are zero-inflated negative binomial, negative binomial or Poisson, with the
    mean share x library size: the observed number of molecules of these genes. The loss is the negative ELBO.

    The rate is the decoder's at the mean of z given the cell, times the observed library size; scvi-tools calls it
    normalised expression with ``library_size="latent"``. So the rates of a cell sum to its molecules, and without zero
    inflation they are the values. With zero inflation the values are the expected counts (1 - dropout) x rate, times
    one factor that makes their total that of the counts.

    Parameters
    ----------
    likelihood : {"zinb", "nb", "poisson"}, default="zinb"
        Distribution of the counts.
    n_latent : int, default=10
        Dimensions of z.
    n_hidden : int, default=128
        Units of each hidden layer.
    n_layers : int, default=1
        Hidden layers of the encoder, and of the decoder.
    max_epochs : int or None, default=None
        Largest number of epochs. None is scvi-tools' rule: 400, above 20,000 cells 8 million over the number of cells.
    early_stopping : bool, default=True
        End when the ELBO of 10 % of the cells, kept for validation, has not improved for 45 epochs. Below 10 cells
        there are none, and training goes on to ``max_epochs``.
    batch_size : int, default=128
        Cells of a batch, at least 3.
    learning_rate : float, default=1e-3
        Learning rate of Adam.
    device : {"auto", "cpu", "cuda"}, default="auto"
        ``"auto"`` takes a CUDA device if there is one.
    posterior : bool, default=False
        Combine the expected count with the cell's own counts (`imputome.core.posterior`). This fits twice.
    random_state : int, default=0
        Seed of validation cells, initial weights, shuffling and draws of z. The result is that of scvi-tools with
        ``scvi.settings.seed`` at this value.

    Attributes
    ----------
    network_ : scvi.module.VAE
        The trained network, in eval mode.
    share_ : ndarray of shape (G,)
        Share of each gene in all molecules of the training cells. Genes without molecules have rates of 0.
    factor_ : float
        Factor of the expected counts.

    Notes
    -----
    The first categorical covariate is scvi-tools' batch, others are its further categorical and continuous covariates;
    the decoder reads them, the encoder does not. Cells without molecules are left out of the fit.

    ``latent`` is the mean of z. ``status.details``: ``epochs``, ``train_seconds``, ``validation_loss`` (negative ELBO
    of the last epoch, with early stopping), ``total_ratio_expected`` (the total of the expected counts over that of
    the counts, before the factor).

    scvi-tools gives rates at random draws of z; the mean of z needs none, so that a cell has one rate. On pbmc3k (2,700
    cells x 11,139 genes, 10 % of the molecules held out, "nb") the Poisson loss was 0.04668 at the mean of z, 0.04667
    for the mean rate of 25 draws and 0.04671 for one draw. With "zinb" the values are better than the rates: 0.2746 and
    0.2765 on zeisel_ercc (1,464 cells x 1,000 genes, 80 epochs).

    Cost: minutes; an epoch takes time proportional to n x G, because scvi-tools works on dense batches. A saved model
    is made again from its parameters and arrays; nothing in it is unpickled or run.

    Known to fail: without ``posterior`` the cell's own counts are lost: on seven of nine data sets its held-out Poisson
    loss was above that of ``gene_mean_posterior``. A fit ends at the last epoch, not at the best. On UMI counts zero
    inflation (the default) explains zeros that are sampling only. Other versions of scvi-tools, or of torch, give other
    values.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> counts = np.random.default_rng(0).poisson(3.0, (40, 6))
    >>> result = methods.create("scvi", {"n_hidden": 8, "max_epochs": 2}).fit_transform(counts)
    >>> result.latent.shape
    (40, 10)
    """

    info = SCVI_INFO
    libraries: ClassVar[tuple[str, ...]] = ("torch", "scvi-tools")
    learned: ClassVar[dict[str, Learned]] = {
        "share": Learned("G", values="a share"),
        "factor": Learned(values="positive"),
    }
    stored: ClassVar[dict[str, Learned]] = {"covariate_coding": Learned(kind="text")}
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "likelihood": ("zinb", "nb", "poisson"),
        "n_latent": (5, 50, "log"),
        "n_hidden": (64, 256, "log"),
        "n_layers": (1, 2, "linear"),
    }

    coding_: CovariateCoding | None  # how covariates are coded
    share_: np.ndarray
    factor_: float

    def __init__(
        self,
        *,
        likelihood: Likelihood = "zinb",
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        max_epochs: int | None = None,
        early_stopping: bool = True,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.likelihood = likelihood
        self.n_latent = n_latent
        self.n_hidden = n_hidden
        self.n_layers = n_layers
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.device = device
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        for name in ("n_latent", "n_hidden", "n_layers"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("max_epochs", self.max_epochs is None or self.max_epochs >= 1, "at least 1, or None")
        self._require("batch_size", self.batch_size >= 3, "at least 3, for batch normalisation")
        self._require("learning_rate", self.learning_rate > 0, "positive")

    # -- fitting -------------------------------------------------------------------------------------------------------
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        device = self._device()
        with_counts = np.flatnonzero(np.diff(data.X.indptr))
        if len(with_counts) < 2:
            raise InputError(f"{self.name} needs at least two cells with counts: give more cells", code="too-few-cells")
        self.coding_ = None if data.covariates is None else CovariateCoding.learn(data.covariates)
        totals = data.gene_totals
        self.share_ = totals / totals.sum()
        self._tell(0.0, "loading scvi-tools")
        begun = time.perf_counter()
        history, stopped = self._train(data.subset(rows=with_counts), device)
        details = {"epochs": len(history["epoch"]), "train_seconds": time.perf_counter() - begun}
        if "validation_loss" in history:
            details["validation_loss"] = history["validation_loss"][-1]
        self.factor_ = 1.0
        model = self._new_rows(data)
        details["total_ratio_expected"] = _expected_total(model) / float(data.X.sum(dtype=np.float64))
        self.factor_ = 1 / details["total_ratio_expected"]
        text = f"no improvement in the last {PATIENCE} of {{}} epochs" if stopped else "all {} epochs were used"
        text = text.format(details["epochs"])
        return replace(model, factor=self.factor_), {
            "status": Status("converged" if stopped else "max_iter", text, details),
            "history": history,
            "latent": model.latent,
        }

    def _train(self, data: Data, device: torch.device) -> tuple[dict[str, list[float]], bool]:
        """Let scvi-tools train on ``data``: sets ``network_``, returns the losses and whether it stopped early."""
        import anndata as ad
        import pandas as pd
        import scvi

        codes, numbers = self._conditions(data)
        obs = pd.DataFrame(index=np.arange(data.shape[0]).astype(str))
        for k, (values, size) in enumerate(zip(codes, self._levels(), strict=True)):
            obs[f"category{k}"] = pd.Categorical.from_codes(values, categories=range(size))
        for k, values in enumerate(numbers.T):
            obs[f"number{k}"] = values
        X = sp.csr_matrix((data.X.data, data.X.indices, data.X.indptr), shape=data.shape)
        names = list(obs.columns)
        categories, quantities = names[: len(codes)], names[len(codes) :]
        with silenced(), seeded_by_scvi(self.random_state):
            adata = ad.AnnData(X, obs)
            scvi.model.SCVI.setup_anndata(
                adata,
                batch_key=categories[0] if categories else None,
                categorical_covariate_keys=categories[1:] or None,
                continuous_covariate_keys=quantities or None,
            )
            model = scvi.model.SCVI(
                adata,
                gene_likelihood=self.likelihood,
                n_latent=self.n_latent,
                n_hidden=self.n_hidden,
                n_layers=self.n_layers,
            )
            try:
                outcome = train(
                    model,
                    max_epochs=self.max_epochs,
                    early_stopping=self.early_stopping,
                    batch_size=self.batch_size,
                    learning_rate=self.learning_rate,
                    device=device,
                    told=self._tell,
                )
            except ValueError as error:
                if _is_finite(model.module):
                    raise
                raise self._diverged() from error
            finally:
                model.deregister_manager(adata)  # or the class would keep the counts
        if not _is_finite(model.module):
            raise self._diverged()
        self.network_ = model.module.to(device).eval()
        self.network_.zero_grad(set_to_none=True)  # frees as much memory as the weights take
        return outcome

    def _diverged(self) -> TrainingError:
        text = "the weights of scVI did not stay finite: look for very large values, or pass a lower {learning_rate}"
        return TrainingError(text, code="not-finite", learning_rate=self.learning_rate / 10)

    # -- the fitted model ----------------------------------------------------------------------------------------------
    def _levels(self) -> list[int]:
        """Number of levels of each categorical covariate."""
        coding = () if self.coding_ is None else self.coding_.covariates
        return [len(covariate.levels) for covariate in coding if covariate.levels is not None]

    def _conditions(self, data: Data) -> tuple[list[np.ndarray], np.ndarray]:
        """Codes (n,) of each categorical covariate, and the (n, c) float32 standardised values of the others."""
        coded = coded_as_in_fit(self.coding_, data.covariates, method=self.name)
        codes, numbers, start = [], [np.empty((data.shape[0], 0), np.float32)], 0
        for covariate in () if self.coding_ is None else self.coding_.covariates:
            assert coded is not None  # noqa: S101
            part = coded[:, start : start + len(covariate.columns)]
            start += len(covariate.columns)
            if covariate.levels is None:
                numbers.append(part)
            else:
                codes.append(part.argmax(axis=1))
        return codes, np.hstack(numbers)

    def _network(self) -> nn.Module:
        """The network that `scvi.model.SCVI` makes for such data."""
        from scvi.module import VAE

        levels = self._levels()
        n_numbers = 0 if self.coding_ is None else len(self.coding_.covariates) - len(levels)
        return VAE(
            n_input=len(self.share_),
            n_batch=levels[0] if levels else 1,
            n_labels=1,
            n_cats_per_cov=levels[1:] or None,
            n_continuous_cov=n_numbers,
            n_hidden=self.n_hidden,
            n_latent=self.n_latent,
            n_layers=self.n_layers,
            gene_likelihood=self.likelihood,
        )

    def _layers(self) -> int:
        return 2 * self.n_layers

    @torch.no_grad()
    def _new_rows(self, data: Data) -> LogLinearModel:
        network: Any = self.network_
        n, G = data.shape
        encoder, decoder, head = network.z_encoder, network.decoder, network.decoder.px_scale_decoder[0]
        device = head.weight.device
        codes, numbers = self._conditions(data)
        bias = head.bias.clone()
        bias[torch.from_numpy(self.share_ == 0).to(device)] = -torch.inf
        hidden, latent = np.empty((n, self.n_hidden), np.float32), np.empty((n, self.n_latent), np.float32)
        log_offset = np.full(n, -np.inf, np.float32)
        for rows in row_blocks(n, G, INPUT_VALUES):
            x = torch.from_numpy(data.X[rows].toarray().astype(np.float32)).to(device)  # (rows, G)
            conditions = [torch.from_numpy(values[rows]).to(device)[:, None] for values in codes]
            conditions = conditions or [torch.zeros(len(rows), 1, dtype=torch.long, device=device)]
            z = encoder.mean_encoder(encoder.encoder(x.log1p()))  # `network.inference` would also draw from z
            decoded = decoder.px_decoder(torch.cat([z, torch.from_numpy(numbers[rows]).to(device)], 1), *conditions)
            logits = nn.functional.linear(decoded, head.weight, bias)
            hidden[rows], latent[rows] = _numpy(decoded), _numpy(z)
            log_offset[rows] = _numpy(x.sum(1).log() - logits.logsumexp(1))
        return LogLinearModel(
            hidden,
            log_offset=log_offset,
            library=data.depth.astype(np.float32),
            latent=latent,
            mean=LinearOutput(_linear(head).weight, _numpy(bias)),
            zero=_linear(decoder.px_dropout_decoder) if self.likelihood == "zinb" else None,
            dispersion=None if self.likelihood == "poisson" else LinearOutput(None, _numpy(network.px_r)),
            dispersion_is="size",
            factor=self.factor_,
        )

    def _state(self) -> dict[str, np.ndarray]:
        coding = "null" if self.coding_ is None else self.coding_.to_json()
        return {**super()._state(), "covariate_coding": np.array(coding)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        coding = str(arrays["covariate_coding"])
        self.coding_ = None if coding == "null" else CovariateCoding.from_json(coding)
        self.share_ = arrays["share"]
        super()._restore(arrays)


def _expected_total(model: LogLinearModel) -> float:
    """Sum of the expected counts of all cells."""
    blocks = row_blocks(len(model.hidden), len(model.mean.bias))
    return sum(float(model.rows(rows, None, "expected_count").sum(dtype=np.float64)) for rows in blocks)


@torch.no_grad()
def _is_finite(network: nn.Module) -> bool:
    """Whether all weights are finite, and their squares are, too."""
    return all(bool(weight.square().isfinite().all()) for weight in network.parameters())


def _linear(linear: nn.Linear) -> LinearOutput:
    return LinearOutput(np.ascontiguousarray(_numpy(linear.weight).T), _numpy(linear.bias))


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
