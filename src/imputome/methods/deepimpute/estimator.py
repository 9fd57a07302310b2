"""DeepImpute: parameters, fit, and saved networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp

from imputome.core.data import Data, Kind
from imputome.core.learned import Learned, damaged
from imputome.errors import InputError
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deep.estimator import DeepImputer, split_cells
from imputome.methods.deep.training import NOT_NEGATIVE, POSITIVE, SHARE, Schedule, check_values
from imputome.methods.deepimpute import DEEPIMPUTE_INFO
from imputome.methods.deepimpute.gene_groups import group_inputs, target_groups
from imputome.methods.deepimpute.network import GroupNetworks, Layer, PredictedGroups

VALIDATION_SHARE = 0.05  # share of the cells whose loss decides when to stop


@dataclass(kw_only=True, eq=False, repr=False)
class DeepImpute(DeepImputer):
    """Networks that predict groups of genes from correlated genes (DeepImpute, Arisdakessian et al. 2019).

    1. The genes to predict are those whose variance over (1 + mean) is above ``min_ratio``, and the next ones that fill
       the last group. They are dealt at random into groups of ``group_size``.
    2. The inputs of a group are the ``n_correlated`` genes outside of it that correlate most, in absolute value, with
       each of its genes.
    3. One hidden layer (ReLU, dropout) and a softplus predict log1p of the counts of the group from log1p of the counts
       of its inputs. The loss is the mean of ``y (y - prediction)^2``, summed over the groups: zeros have no weight.

    As in the paper, observed counts stay as they are (its policy "restore"), unless ``keep_observed=False``. The
    prediction estimates a value *if it is not zero*. So with ``rescale`` (the default) each gene is scaled to its total
    over the training cells, and genes without a network have library x share of the gene (the gene mean).

    Parameters
    ----------
    min_ratio : float, default=0.5
        See step 1.
    group_size : int, default=512
        Genes of a group; fewer if that is more than half of the genes that vary.
    n_correlated : int, default=5
        See step 2.
    hidden : int, default=256
        Units of the hidden layer of a group.
    dropout : float, default=0.2
        Probability of dropping a hidden unit in training.
    rescale : bool, default=True
        False: values are as in the paper, expm1 of the prediction, and genes without a network keep their counts.
    learning_rate : float, default=1e-4
        Learning rate of Adam.
    batch_size : int, default=64
        Cells of a batch.
    patience : int, default=5
        Epochs without a lower loss of 5 % of the cells, which are not trained on, before training stops; 0: never.
    max_epochs : int, default=500
        Largest number of epochs.
    device : {"auto", "cpu", "cuda"}, default="auto"
        ``"auto"`` takes a CUDA device if there is one.
    posterior : bool, default=False
        Combine the values with the cell's own counts (`imputome.core.posterior`); needs ``rescale``.
    random_state : int, default=0
        Seed of the groups, validation cells, initial weights and shuffling.

    Attributes
    ----------
    targets_, groups_ : ndarray of shape (t,)
        Positions of the genes that are predicted, and the number of the group of each.
    inputs_, input_groups_ : ndarray of shape (u,)
        Positions of the inputs, and the number of the group that each belongs to.
    factor_ : ndarray of shape (G,)
        Factor that brings a gene's counts to its training total; 0 for genes without a network.
    share_ : ndarray of shape (G,)
        Share of the gene in all molecules; 0 for genes with a network.

    Raises
    ------
    InputError
        A parameter is out of range.

    Notes
    -----
    Differences from the original: the weights of the best epoch are kept, not the last ones; groups have no genes twice
    (the original fills the last one at random); predictions are at most the largest count of the training cells (there,
    those above twice its log1p become 0); there is no policy "max".

    On pbmc3k 1,536 genes have a network. With a tenth of the molecules held out (11,139 genes found in ten cells) the
    Poisson loss is 0.04745, with the posterior step 0.04555; that of the gene mean is 0.04934, of its posterior
    0.04563.

    Cost: minutes; a step takes three products of (batch, u), (u, h) and (h, t) for each group. Memory: the columns of
    inputs and targets of a batch, and for a result those of a block of cells; no n x G array.

    Known to fail: genes of low variance have no network and get the gene mean. Zeros have no weight in the loss, so
    that the prediction is a value if it is not zero, and only its total is corrected. Without ``posterior`` it was
    behind ``gene_mean_posterior`` on pbmc3k (above).

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:200]
    >>> method = imputome.methods.create("deepimpute", {"group_size": 100, "max_epochs": 2, "device": "cpu"})
    >>> method.fit(adata.X).targets_.shape  # four groups
    (400,)
    """

    info = DEEPIMPUTE_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "targets": Learned("t", "int", below="G"),
        "groups": Learned("t", "int", "not negative"),
        "inputs": Learned("u", "int", below="G"),
        "input_groups": Learned("u", "int", "not negative"),
        "factor": Learned("G", values="not negative"),
        "share": Learned("G", values="a share"),
        "largest": Learned(values="positive"),
    }
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n_correlated": (2, 20, "log"),
        "hidden": (64, 512, "log"),
        "dropout": (0.0, 0.5, "linear"),
        "learning_rate": (1e-4, 3e-3, "log"),
    }

    min_ratio: float = 0.5
    group_size: int = 512
    n_correlated: int = 5
    hidden: int = 256
    dropout: float = 0.2
    rescale: bool = True
    learning_rate: float = 1e-4
    batch_size: int = 64
    patience: int = 5
    max_epochs: int = 500
    device: Literal["auto", "cpu", "cuda"] = "auto"
    posterior: bool = False
    random_state: int = 0
    network_: GroupNetworks = field(init=False)

    def _check_values(self) -> None:
        check_values(self, POSITIVE, "group_size", "n_correlated", "hidden", "batch_size", "max_epochs")
        check_values(self, POSITIVE, "learning_rate")
        check_values(self, NOT_NEGATIVE, "min_ratio", "patience")
        check_values(self, SHARE, "dropout")

    def _accept(self, data: Any, kind: Kind | None = None) -> Data:
        if self.posterior and not self.rescale:
            text = "deepimpute: the posterior step needs values on the scale of counts: pass {rescale}"
            raise InputError(text, code="parameter-conflict", rescale=True)
        return super()._accept(data, kind)

    def _fit(self, data: Data) -> tuple[PredictedGroups, dict[str, Any]]:
        cells = np.flatnonzero(np.diff(data.X.indptr))
        X = sp.csr_array(data.X[cells])
        generator = np.random.default_rng(self.random_state)
        groups = target_groups(X, min_ratio=self.min_ratio, group_size=self.group_size, generator=generator)
        inputs = group_inputs(X, groups, self.n_correlated)
        self.targets_, self.groups_ = _flat(groups)
        self.inputs_, self.input_groups_ = _flat(inputs)
        self.largest_ = float(np.log1p(X.data.max()))
        train, validation = (cells[part] for part in split_cells(len(cells), VALIDATION_SHARE, self.random_state))
        batches = CountBatches(
            sp.csr_array(data.X[:, self._columns]),
            library=data.depth,
            batch_size=self.batch_size,
            device=self._device(),
        )
        schedule = Schedule(
            max_epochs=self.max_epochs, learning_rate=self.learning_rate, patience=self.patience or None
        )
        training = self._train(
            self._new_network(), batches, data, schedule, train_rows=train, validation_rows=validation
        )
        totals, predicted_totals = self._match_totals(data)
        return self._model(data), {
            "status": training.status,
            "history": training.history,
            "gene_columns": {"training_total": totals, "fitted_total": predicted_totals},
        }

    def _match_totals(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Set the factor or the share of each gene; returns its total in the data and in the output, (G,) each."""
        totals = data.gene_totals
        self.factor_, self.share_ = np.zeros(len(totals)), np.zeros(len(totals))
        self.factor_[self.targets_] = 1
        fitted = self._model(data).totals()
        has_network = np.zeros(len(totals), dtype=bool)
        has_network[self.targets_] = fitted[self.targets_] > 0
        if self.rescale:
            self.factor_ = np.divide(totals, fitted, out=np.zeros_like(fitted), where=has_network)
        self.share_ = np.where(has_network, 0, totals / data.depth.sum())
        return totals, fitted

    def _new_rows(self, data: Data) -> PredictedGroups:
        return self._model(data)

    @property
    def _columns(self) -> np.ndarray:
        """Sorted positions of the genes that are read or predicted: the columns of a batch."""
        return np.union1d(self.targets_, self.inputs_)

    def _network(self) -> GroupNetworks:
        columns = self._columns
        inputs, targets = (
            [np.searchsorted(columns, group) for group in _parts(*flat)]
            for flat in ((self.inputs_, self.input_groups_), (self.targets_, self.groups_))
        )
        return GroupNetworks(inputs, targets, self.hidden, self.dropout)

    def _model(self, data: Data) -> PredictedGroups:
        # in the order of a layer's parameters: weight, bias
        weights = [
            [array.detach().cpu().numpy() for array in (*first.parameters(), *second.parameters())]
            for first, second in zip(self.network_.first, self.network_.second, strict=True)
        ]
        groups = zip(_parts(self.inputs_, self.input_groups_), _parts(self.targets_, self.groups_), strict=True)
        layers = [
            Layer(inputs, targets, first.T, first_bias, second.T, second_bias)
            for (inputs, targets), (first, first_bias, second, second_bias) in zip(groups, weights, strict=True)
        ]
        logs = sp.csr_array((np.log1p(data.X.data).astype(np.float32), data.X.indices, data.X.indptr), shape=data.shape)
        share = self.share_ if self.rescale else None
        return PredictedGroups(logs, layers, self.factor_, share, data.depth, self.largest_)

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        numbers = [np.unique(arrays[name]) for name in ("groups", "input_groups")]
        whole = all(np.array_equal(found, np.arange(len(numbers[0]))) for found in numbers)
        if not whole or len(np.unique(arrays["targets"])) < len(arrays["targets"]):
            raise damaged("the arrays 'groups', 'input_groups' and 'targets' do not agree", code="model-array-values")
        super()._restore(arrays)


def _flat(groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The members of all groups, and the number of the group of each."""
    return np.concatenate(groups), np.repeat(np.arange(len(groups)), [len(group) for group in groups])


def _parts(members: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """The members of each group."""
    order = np.argsort(groups, kind="stable")
    return np.split(members[order], np.flatnonzero(np.diff(groups[order])) + 1)
