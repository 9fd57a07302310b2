"""What the estimators of count autoencoders share: `CountFamily`; of ZiPo and DCA: `SingleNetworkImputer`.

Letters: ``n`` cells, ``G`` genes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
import torch
from torch import nn

from imputome.core.data import Data
from imputome.core.imputation import Imputation, Model, Status
from imputome.core.learned import Learned
from imputome.core.unknown_genes import unseen_genes, without_genes
from imputome.errors import InputError, ModelFormatError
from imputome.methods.count_autoencoder.fitted import (
    PRUNING_THRESHOLDS,
    FitTotals,
    Pruning,
    PruningCurve,
    encode,
    fit_details,
    scale_warning,
)
from imputome.methods.count_autoencoder.network import CountNetwork, Design, Statistics
from imputome.methods.count_autoencoder.network import sparsity as weight_sparsity
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deep.covariates import CovariateCoding, coded_as_in_fit
from imputome.methods.deep.estimator import DeepImputer, split_cells
from imputome.methods.deep.rates import LogLinearModel
from imputome.methods.deep.training import Schedule, wrong_parameter

Settings = TypeVar("Settings", Design, Schedule)


class CountFamily(DeepImputer):
    """A `DeepImputer` whose networks are `CountNetwork`; a subclass defines `_fit`.

    Its parameters are the settings of `Design` and `Schedule` that users may change. Its class attributes are the
    settings that it fixes at values other than their defaults.
    """

    batch_size: int
    validation_share: float = 0.2
    coding_: CovariateCoding | None  # how covariates are coded
    share_: np.ndarray  # (G,) share of each gene in all molecules of the training cells
    learned: ClassVar[dict[str, Learned]] = {"share": Learned("G", values="a share")}
    stored: ClassVar[dict[str, Learned]] = {"covariate_coding": Learned(kind="text")}

    def _settings(self, kind: type[Settings]) -> Settings:
        """A `Design` or a `Schedule` with the parameters and with what the class fixes."""
        names = [field.name for field in fields(kind) if hasattr(self, field.name)]
        return kind(**{name: getattr(self, name) for name in names})

    def _design(self) -> Design:
        return self._settings(Design)

    def _schedule(self) -> Schedule:
        return self._settings(Schedule)

    def _check_values(self) -> None:
        self._design()  # both check themselves
        self._schedule()
        if self.batch_size < 2:
            raise wrong_parameter("batch_size", self.batch_size, "must be at least 2, for batch normalisation")

    def _prepare(self, data: Data) -> None:
        """Learn everything that is needed before training."""
        if np.count_nonzero(np.diff(data.X.indptr)) < 2:
            raise InputError(f"{self.name} needs at least two cells with counts: give more cells", code="too-few-cells")
        self.coding_ = None if data.covariates is None else CovariateCoding.learn(data.covariates)
        totals = data.gene_totals
        self.share_ = totals / totals.sum()
        self._statistics = _statistics(data, self.share_, zscore=self._design().input_transform == "zscore")

    def _split(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Positions of training and validation cells, among the cells with counts."""
        with_counts = np.flatnonzero(np.diff(data.X.indptr))
        train_rows, validation_rows = split_cells(len(with_counts), self.validation_share, self.random_state)
        return with_counts[train_rows], with_counts[validation_rows]

    def _batches(self, data: Data, **target: Any) -> CountBatches:
        return CountBatches(
            data.X,
            library=data.depth,
            covariates=coded_as_in_fit(self.coding_, data.covariates, method=self.name),
            batch_size=self.batch_size,
            device=self._device(),
            **target,
        )

    def _network(self) -> nn.Module:
        n_covariates = 0 if self.coding_ is None else len(self.coding_.columns)
        return CountNetwork(self._design(), self._statistics, n_covariates)

    def _layers(self) -> int:
        design = self._design()
        return len(design.encoder_widths) + len(design.decoder_widths)

    def _state(self) -> dict[str, np.ndarray]:
        coding = "null" if self.coding_ is None else self.coding_.to_json()
        return {**super()._state(), "covariate_coding": np.array(coding)}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        coding = str(arrays["covariate_coding"])
        self.coding_ = None if coding == "null" else CovariateCoding.from_json(coding)
        share = arrays["share"]
        G = len(share)
        # starting values, which the saved weights replace
        self._statistics = Statistics(share, 0.0, 1.0, np.zeros(G), np.ones(G))
        super()._restore(arrays)

    def first_layer_genes(self, k: int = 10) -> Any:
        """The genes with the largest absolute weights of each first-layer neuron, to interpret the neurons.

        If there are several networks, these are the neurons of the first.

        Parameters
        ----------
        k : int, default=10
            Number of genes for each neuron.

        Returns
        -------
        DataFrame
            Ordered by neuron and rank, with columns ``neuron``, ``rank`` (from 1), ``gene``, ``weight`` and
            ``relative`` (weight over the neuron's largest absolute weight).
        """
        import pandas as pd

        network = next(module for module in self.network_.modules() if isinstance(module, CountNetwork))
        weight = network.first.weight.detach().cpu().numpy()
        G, H = weight.shape
        if not 1 <= k <= G:
            raise wrong_parameter("k", k, f"must be between 1 and the number of genes, {G}")
        size = np.abs(weight)
        chosen = np.argpartition(-size, k - 1, axis=0)[:k]  # (k, H)
        order = np.argsort(-np.take_along_axis(size, chosen, 0), axis=0, kind="stable")
        chosen = np.take_along_axis(chosen, order, 0)
        weights = np.take_along_axis(weight, chosen, 0)  # (k, H)
        largest = np.maximum(size.max(axis=0), np.finfo(weight.dtype).tiny)  # (H,)
        return pd.DataFrame(
            {
                "neuron": np.repeat(np.arange(H), k),
                "rank": np.tile(np.arange(1, k + 1), H),
                "gene": np.asarray(self.feature_names_)[chosen.T.ravel()],
                "weight": weights.T.ravel(),
                "relative": (weights / largest).T.ravel(),
            }
        )


def _statistics(data: Data, share: np.ndarray, *, zscore: bool) -> Statistics:
    """Statistics of the training cells, without empty ones."""
    depth, totals = data.depth, np.asarray(data.X.sum(axis=1, dtype=np.float64)).ravel()
    with_counts = totals > 0
    median = float(np.median(depth[with_counts]))
    mean = sd = None
    if zscore:
        n, G = int(with_counts.sum()), len(share)
        scale = np.repeat(median / np.where(with_counts, depth, 1.0), np.diff(data.X.indptr))
        values = np.log1p(data.X.data * scale)
        mean = np.bincount(data.X.indices, values, minlength=G) / n
        squares = np.bincount(data.X.indices, values**2, minlength=G)
        sd = np.sqrt(np.maximum(squares - n * mean**2, 0) / max(n - 1, 1))
        sd = np.where(sd > 1e-6, sd, 1.0)  # a gene that does not vary is centred only
    return Statistics(share, float(np.log(totals[with_counts]).mean()), median, mean, sd)


class SingleNetworkImputer(CountFamily):
    """One `CountNetwork`, trained on some cells and validated on others: ZiPo, DCA and its variants."""

    posterior: bool
    network_: CountNetwork
    factor_: float  # of the expected count, which brings its sum to that of the counts
    learned: ClassVar[dict[str, Learned]] = {**CountFamily.learned, "factor": Learned(values="positive")}

    @classmethod
    def _params_from_saved(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Drop the settings that were parameters of a class in version 0.1.0 and are fixed now."""
        settings = {field.name: getattr(cls, field.name, field.default) for field in fields(Design) + fields(Schedule)}
        fixed = {name: value for name, value in settings.items() if name not in cls.parameter_defaults()}
        for name, value in params.items():
            if name in fixed and value != fixed[name]:
                raise ModelFormatError(
                    f"the saved {cls.name} model has {name}={value!r}, but {cls.name} now always uses {fixed[name]!r}: "
                    "fit it again, with zipo if you need this setting",
                    code="legacy-parameter",
                    parameter=name,
                )
        return {name: value for name, value in params.items() if name not in fixed}

    # -- fitting -------------------------------------------------------------------------------------------------------
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        self._prepare(data)
        network = cast(CountNetwork, self._new_network())
        return self._fit_network(network, data, self._schedule())

    def fine_tune(self, data: Any, *, max_epochs: int = 100, learning_rate: float = 1e-3) -> Imputation:
        """Train the fitted (or loaded) network further on other cells, and impute these.

        "Partially trained with one dataset and then fine-tuned using other datasets" (paper 001, section IV). Training
        starts from the network's weights, with a new optimiser. The learning rate is constant and falls on a plateau.
        Genes, covariates and their levels must be those of the fitted model. The transform of the input and the shapes
        of the posterior step stay as they were.

        Parameters
        ----------
        data : Data or matrix of shape (n, G)
            Cells to train on.
        max_epochs : int, default=100
            Largest number of epochs.
        learning_rate : float, default=1e-3
            Learning rate of the first epoch.

        Returns
        -------
        Imputation
            Of ``data``; ``status.details["nll_before"]`` is the validation loss before the training.

        Raises
        ------
        NotFittedError
            The network is not fitted.
        """
        data = self._accept(data, kind=getattr(self, "kind_", None))
        self.transform(data)  # checks that it is fitted, and for these genes and covariates
        inputs, data = data, without_genes(data, unseen_genes(data, self.training_totals_))
        before = FitTotals.of(self.network_, self._batches(data).epoch(self._split(data)[1])).mean_nll
        schedule = replace(
            self._schedule(), max_epochs=max_epochs, learning_rate=learning_rate, decay_epochs=0, patience_from=0
        )
        model, result = self._fit_network(self.network_, data, schedule)
        result["status"].details["nll_before"] = before
        return self._imputation(model, data, training=True, inputs=inputs, **result)

    def _fit_network(self, network: CountNetwork, data: Data, schedule: Schedule) -> tuple[Model, dict[str, Any]]:
        """Train ``network`` on ``data``; returns its model and the further arguments of `Imputation`."""
        batches = self._batches(data)
        train_rows, validation_rows = self._split(data)
        training = self._train(network, batches, data, schedule, train_rows=train_rows, validation_rows=validation_rows)
        network.zero_grad(set_to_none=True)  # frees as much memory as the weights take
        all_cells = FitTotals.of(network, batches.epoch(np.union1d(train_rows, validation_rows)))
        self.factor_ = all_cells.counts / all_cells.expected
        model, predicted_library = self._encode(data, batches)
        library = np.asarray(data.X.sum(axis=1)).ravel()
        validation = FitTotals.of(network, batches.epoch(validation_rows))
        details = fit_details(all_cells, validation, predicted_library, library)
        status = training.status
        message = "; ".join(part for part in (status.message, scale_warning(details)) if part)
        return model, {
            "status": Status(status.name, message, {**status.details, **details}),
            "history": training.history,
            "latent": model.latent,
            "cell_columns": {"library_size": predicted_library},
        }

    # -- the fitted model ----------------------------------------------------------------------------------------------
    def _new_rows(self, data: Data) -> Model:
        return self._encode(data, self._batches(data))[0]

    def _encode(self, data: Data, batches: CountBatches) -> tuple[LogLinearModel, np.ndarray]:
        """The model of the cells, and their predicted library sizes."""
        usable = self.share_ > 0
        return encode(self.network_, batches.epoch(), n=data.shape[0], usable=usable, factor=self.factor_)

    def prune(self, data: Any, *, delta: float = 1e-4) -> Pruning:
        """Set the small weights of the first layer to zero, permanently (paper 001, section III-E).

        The fit is compared on the validation cells of ``data``. If ``data`` is what the network was fitted on, they are
        those of the fit.

        Parameters
        ----------
        data : Data or matrix of shape (n, G)
            Cells to compare the fit on.
        delta : float, default=1e-4
            Weights below ``delta`` times the largest absolute weight of their neuron become zero.

        Returns
        -------
        Pruning
            Sparsity, and the fit before and after.
        """
        if not 0 <= delta < 1:
            raise wrong_parameter("delta", delta, "must be at least 0 and below 1")
        fit = self._fit_of(data)
        before = fit()
        sparsity = self._zero_below(delta)
        after = fit()
        return Pruning(delta, sparsity, before.mean_nll, after.mean_nll, before.mse, after.mse)

    def pruning_curve(self, data: Any) -> PruningCurve:
        """How much `prune` would remove, and how good the fit would be, at several thresholds (figure 10).

        The weights stay as they are. Cost: for each threshold one forward pass over the validation cells of ``data``.

        Parameters
        ----------
        data : Data or matrix of shape (n, G)
            Cells to compare the fit on, as in `prune`.

        Returns
        -------
        PruningCurve
            Sparsity and fit at each threshold.
        """
        fit = self._fit_of(data)
        before = totals = fit()
        weight = self.network_.first.weight
        kept = weight.detach().clone()
        removed = float((kept == 0).double().mean())
        values: dict[str, float] = {}
        for delta in sorted(PRUNING_THRESHOLDS):  # a larger one removes all that a smaller one does
            sparsity = self._zero_below(delta)
            totals = totals if sparsity == removed else fit()
            removed = sparsity
            for name, value in (("sparsity", sparsity), ("nll", totals.mean_nll), ("mse", totals.mse)):
                values[f"{name}_{delta:.0e}".replace("e-0", "e_")] = value
        with torch.no_grad():
            weight.copy_(kept)
        return PruningCurve(float(weight_sparsity(kept)), before.mean_nll, before.mse, **values)

    def _fit_of(self, data: Any) -> Callable[[], FitTotals]:
        """What measures how well the network, as it is then, fits the validation cells of ``data``."""
        data = self._accept(data, kind=getattr(self, "kind_", None))
        self.transform(data)  # checks that it is fitted, and for these genes and covariates
        batches, (_, rows) = self._batches(data), self._split(data)
        return lambda: FitTotals.of(self.network_, batches.epoch(rows))

    @torch.no_grad()
    def _zero_below(self, delta: float) -> float:
        """Set weights below ``delta`` times the largest of their neuron to zero; returns the share of zeros."""
        weight = self.network_.first.weight  # (G, H)
        size = weight.abs()
        weight[size < delta * size.max(0).values] = 0
        return float((weight == 0).double().mean())
