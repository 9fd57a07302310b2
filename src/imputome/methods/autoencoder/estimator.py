"""The plain autoencoder of Xi & Li (2023): parameters and presets, choice of genes, fit, and check for collapse.

Letters: ``n`` cells, ``G`` genes, ``m`` genes that the network reads, ``w`` width.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from imputome.core.data import Data, Kind
from imputome.core.imputation import Status
from imputome.core.learned import Learned
from imputome.core.scales import TARGET
from imputome.errors import InputError, Message, missing_extra
from imputome.methods.autoencoder import AUTOENCODER_INFO
from imputome.methods.autoencoder.network import (
    ACTIVATIONS,
    PRESETS,
    Activation,
    Autoencoder,
    DecodedCells,
    Design,
    LossNorm,
    Preset,
)
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deep.estimator import DeepImputer, split_cells
from imputome.methods.deep.training import Training, seeded, wrong_parameter

VALIDATION_SHARE = 0.2  # share of the cells whose error decides when to stop (section 4.5)
MIN_CELLS_PER_GENE = 3  # the network reads genes that are found in at least this many cells (section 4.4)
LOESS_SPANS = (0.3, 0.6, 1.0)  # Seurat's, then wider ones for many genes of the same mean, which make it singular
COLLAPSED_SHARE = 0.01  # a network with less than this share of the data's between-cell SD gives the gene means only


@dataclass(kw_only=True, eq=False, repr=False)
class PlainAutoencoder(DeepImputer):
    """The plain autoencoder of Xi & Li (2023): squared error at the nonzeros of log1p(counts per 10,000).

    Minimises ``sum_ij (Y_ij - X_ij)^2 [X_ij != 0] / sum_ij [X_ij != 0] + lambda ||W||^2`` (sections 4.1 and 4.2). X is
    log1p of counts per 10,000 of the cell's library over *all* genes; Y is the network's linear output. Adam trains on
    80 % of the cells until the error at the nonzeros of the other 20 % has not fallen for ``patience`` epochs.

    Zeros are not part of the error, so Y estimates a value *if it is not zero*. With ``rescale`` (the default) Y is
    turned into counts (expm1, times library / 10,000), and each gene is scaled to its training total: this gives values
    on the scale of counts, with the observed sums. With ``rescale=False``, as in the paper, the result on scale
    ``log1p`` is Y itself (between 0 and log1p(10,000)), which is what the paper scores; on scale ``counts`` it is too
    large for genes with zeros. Observed counts are kept, unless ``keep_observed=False``.

    Genes that the network does not read get library x share of the gene (the gene mean). These are genes beyond
    ``n_top_genes``, genes found in fewer than 3 cells (with a preset and ``n_top_genes="all"``: in none of the training
    cells), and genes without any positive output. Cells without counts are not used in training. The paper's filter of
    cells with fewer than 200 genes is left to the user.

    Parameters
    ----------
    preset : {"paper", "published_code"} or None, default=None
        Source of the parameters that are None. None: the defaults in brackets below, chosen by measurement (see
        `Design`). ``"paper"``: 10 x 32 sigmoid on 2,000 variable genes, without regularisation (Table 1 adds
        ``dropout=0.2``), at most 10,000 epochs, not rescaled. The paper's figures on depth and width for imputation
        (figure 2) are of ``activation="relu"``; those for clustering and differential genes of sigmoid. It chooses
        genes and normalises before values are hidden: `imputome.evaluation.splits.normalized_before`, and
        ``n_top_genes="all"`` on data of its 2,000 genes. ``"published_code"``: the same, as in its scripts: the
        error is divided by the number of all entries, the last weights are used instead of the best, weight decay is
        Adam's own (with biases), learning rate 1e-4, at most 1,000 epochs, one start for all seeds. (Its script on
        depth and width has 1e-3 and 10,000.)
    depth : int or None, default=None
        Number of hidden layers (2).
    width : int or None, default=None
        Units in each hidden layer (128).
    activation : str or None, default=None
        ``"sigmoid"`` (the default), ``"tanh"``, ``"relu"``, ``"leaky_relu_0.01"``, ``"leaky_relu_0.2"``, ``"elu"`` or
        ``"selu"``.
    dropout : float or None, default=None
        Probability of dropping a hidden unit in training (0.2).
    weight_decay : float or None, default=None
        lambda (0).
    loss_norm : {"nonzero", "all"} or None, default=None
        The summed squared error over the nonzeros is divided by their number (the default; the paper), or by the
        number of all entries (the published code).
    batch_norm : bool or None, default=None
        Batch normalisation, which is not in the paper (True). It prevents collapse, as ``residual`` does.
    residual : bool or None, default=None
        Residual connections, which are not in the paper (False).
    n_top_genes : int, "all" or None, default=None
        Number of variable genes that the network reads (scanpy's ``seurat_v3`` on the training data, which needs
        scikit-misc), or ``"all"`` (the default).
    learning_rate : float or None, default=None
        Learning rate of Adam (1e-3).
    batch_size : int or None, default=None
        Cells of a batch (64).
    patience : int or None, default=None
        Epochs without improvement before training stops (20); 0: never.
    max_epochs : int or None, default=None
        Largest number of epochs (500).
    rescale : bool or None, default=None
        See above (True).
    device : {"auto", "cpu", "cuda"}, default="auto"
        ``"auto"`` takes a CUDA device if there is one.
    posterior : bool, default=False
        Combine the values with the cell's own counts (`imputome.core.posterior`); needs ``rescale``.
    random_state : int, default=0
        Seed of validation cells, initial weights and shuffling.

    Attributes
    ----------
    selected_ : ndarray of int
        Positions of the m genes that the network reads.
    factor_ : ndarray of shape (G,)
        Factor that brings a gene's counts to its training total; 0 for genes not decoded.
    share_ : ndarray of shape (G,)
        Share of the gene in all molecules; 0 for genes that are decoded.
    network_ : Autoencoder
        The trained network.

    Raises
    ------
    InputError
        A parameter is out of range, no gene is found in enough cells, or variable genes cannot be chosen.

    Notes
    -----
    ``latent`` is the middle hidden layer, the ``ceil(depth / 2)``-th. ``gene_columns`` holds each gene's total in the
    data and in the output before rescaling. ``status.details`` holds the median over genes of the between-cell SD of
    the output and of the data (log1p scale, with zeros). Below 1 % of the data's the fit counts as collapsed, with a
    warning. Collapse is a plateau: on 400 cells and 500 genes of pbmc3k the paper's 10 x 32 sigmoid stops on it after
    96 epochs, and leaves it after about 1,000 epochs if ``patience`` allows.

    Cost: minutes; a step takes three products of (batch, width) and (width, m); memory grows with the nonzeros, n x
    width and batch x m.

    Known to fail: zeros are not part of the error, so the network estimates a value *if it is not zero*; ``rescale``
    corrects the total of each gene, not the pattern of its zeros. Narrow sigmoid networks, as the paper's, can collapse
    to the mean (see above). Without ``posterior`` the cell's own counts are used only where they are not 0.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.methods.autoencoder.estimator import PlainAutoencoder
    >>> counts = np.random.default_rng(0).poisson(3.0, (40, 6))
    >>> method = PlainAutoencoder(width=4, max_epochs=10, learning_rate=0.1, device="cpu")
    >>> result = method.fit_transform(counts)
    >>> result.latent.shape
    (40, 4)
    """

    info = AUTOENCODER_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "selected": Learned("m", "int", below="G"),
        "factor": Learned("G", values="not negative"),
        "share": Learned("G", values="a share"),
    }
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "depth": (1, 2, 3, 5, 10),
        "width": (32, 64, 128, 256),
        "activation": tuple(ACTIVATIONS),
        "dropout": (0.0, 0.4, "linear"),
        "weight_decay": (1e-7, 5e-4, "log"),
        "batch_norm": (True, False),
    }

    preset: Preset | None = None
    depth: int | None = None
    width: int | None = None
    activation: Activation | None = None
    dropout: float | None = None
    weight_decay: float | None = None
    loss_norm: LossNorm | None = None
    batch_norm: bool | None = None
    residual: bool | None = None
    n_top_genes: int | Literal["all"] | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    patience: int | None = None
    max_epochs: int | None = None
    rescale: bool | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    posterior: bool = False
    random_state: int = 0
    network_: Autoencoder = field(init=False)

    @property
    def design(self) -> Design:
        """The settings of the preset, changed by the given parameters."""
        if self.preset not in PRESETS:
            raise wrong_parameter("preset", self.preset, "must be None, 'paper' or 'published_code'")
        names = {field.name for field in fields(Design)} & set(self.parameter_defaults())
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(PRESETS[self.preset], **changes)

    def _accept(self, data: Any, kind: Kind | None = None) -> Data:
        if self.posterior and not self.design.rescale:
            raise InputError(
                "autoencoder: the posterior step needs values on the scale of counts: pass {rescale}",
                code="parameter-conflict",
                rescale=True,
            )
        return super()._accept(data, kind)

    def _check_values(self) -> None:
        _ = self.design.schedule  # both check what they hold

    def _fit(self, data: Data) -> tuple[DecodedCells, dict[str, Any]]:
        design = self.design
        cells = np.flatnonzero(np.diff(data.X.indptr))
        train, validation = (cells[part] for part in split_cells(len(cells), VALIDATION_SHARE, self.random_state))
        # the paper filters genes before values are hidden: its networks read genes that then are left with one cell
        as_published = self.preset is not None and design.n_top_genes == "all"
        self.selected_ = _select_genes(data.X, train, design.n_top_genes, 1 if as_published else MIN_CELLS_PER_GENE)
        X = self._read_by_network(data)
        batches = self._batches(X, data.depth)
        training = self._train(
            self._new_network(), batches, data, design.schedule, train_rows=train, validation_rows=validation
        )
        latent, hidden = self._encode(batches)
        totals, decoded_totals = self._match_totals(hidden, data)
        nonzeros_per_cell = max(1, np.diff(X.indptr)[validation].sum()) / len(validation)
        model = self._model(hidden, data)
        output_sd = _output_sd(hidden, model.weight[self.selected_])
        status, history = _status_and_history(training, nonzeros_per_cell, output_sd, _data_sd(X, data.depth))
        return model, {
            "latent": latent,
            "gene_columns": {"training_total": totals, "fitted_total": decoded_totals},
            "status": status,
            "history": history,
        }

    def _match_totals(self, hidden: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Set the factor or the share of each gene; returns its total in the data and in the output, (G,) each."""
        totals = data.gene_totals
        self.share_, self.factor_ = np.zeros(len(totals)), np.zeros(len(totals))
        self.factor_[self.selected_] = 1
        decoded_totals = self._model(hidden, data).totals()
        is_decoded = decoded_totals > 0
        if self.design.rescale:
            self.factor_ = np.divide(totals, decoded_totals, out=np.zeros_like(decoded_totals), where=is_decoded)
        self.share_ = np.where(is_decoded, 0, totals / data.depth.sum())
        return totals, decoded_totals

    def _new_rows(self, data: Data) -> DecodedCells:
        batches = self._batches(self._read_by_network(data), data.depth)
        return self._model(self._encode(batches)[1], data)

    def _network(self) -> Autoencoder:
        return Autoencoder(len(self.selected_), self.design)

    def _layers(self) -> int:
        return self.design.depth

    def _new_network(self) -> nn.Module:
        with seeded(0 if self.design.shared_start else self.random_state):
            return self._network()

    def _read_by_network(self, data: Data) -> sp.csr_array:
        """(n, m) counts of the selected genes."""
        return data.X if len(self.selected_) == data.shape[1] else sp.csr_array(data.X[:, self.selected_])

    def _batches(self, X: sp.csr_array, library: np.ndarray) -> CountBatches:
        return CountBatches(X, library=library, batch_size=self.design.batch_size, device=self._device())

    def _encode(self, batches: CountBatches) -> tuple[np.ndarray, np.ndarray]:
        """The middle and the last hidden layer of all cells, (n, w) each."""
        with torch.no_grad():
            layers = [self.network_.encode(batch) for batch in batches.epoch()]
        middle, last = (torch.cat(parts).cpu().numpy() for parts in zip(*layers, strict=True))
        return middle, last

    def _model(self, hidden: np.ndarray, data: Data) -> DecodedCells:
        G = data.shape[1]
        weight, bias = np.zeros((G, hidden.shape[1]), np.float32), np.zeros(G, np.float32)
        output = self.network_.output
        weight[self.selected_], bias[self.selected_] = (a.detach().cpu().numpy() for a in (output.weight, output.bias))
        factor, share, library = (array.astype(np.float32) for array in (self.factor_, self.share_, data.depth))
        return DecodedCells(hidden, weight, bias, factor, share, library)


def _select_genes(X: sp.csr_array, train: np.ndarray, n_top_genes: int | Literal["all"], min_cells: int) -> np.ndarray:
    """Sorted positions of the genes that the network reads."""
    G = X.shape[1]
    min_cells = min(min_cells, int((np.diff(X.indptr) > 0).sum()))
    in_training = np.bincount(X[train].indices, minlength=G) > 0  # the outputs of other genes would not be trained
    usable = np.flatnonzero((np.bincount(X.indices, minlength=G) >= min_cells) & in_training)
    if not len(usable):
        raise InputError(f"no gene is found in {min_cells} cells or more: give more cells", code="no-usable-genes")
    if n_top_genes == "all" or n_top_genes >= len(usable):
        return usable
    return usable[_most_variable(sp.csr_matrix(X[:, usable]), n_top_genes)]


def _most_variable(X: sp.csr_matrix, number: int) -> np.ndarray:
    """Sorted positions of the most variable genes by Seurat's ``vst`` (section 4.4)."""
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(X)
    for span in LOESS_SPANS:
        try:
            table = sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=number, span=span, inplace=False)
        except ImportError as error:
            raise missing_extra("autoencoder with n_top_genes", "scikit-misc", "deep") from error
        except ValueError:  # the loess is singular
            continue
        return np.flatnonzero(table["highly_variable"].to_numpy())
    raise InputError(
        "autoencoder: there are too few genes to choose variable ones from: pass {n_top_genes}",
        code="too-few-genes",
        n_top_genes="all",
    )


def _output_sd(hidden: np.ndarray, weight: np.ndarray) -> float:
    """Median over genes of the between-cell SD of the linear output, from the covariance of the hidden units."""
    W, width = weight.astype(np.float64), hidden.shape[1]
    covariance = np.cov(hidden, rowvar=False, bias=True, dtype=np.float64).reshape(width, width)
    variance = np.einsum("gw,wv,gv->g", W, covariance, W, optimize=True)  # (m,)
    return float(np.median(np.sqrt(np.maximum(variance, 0))))


def _data_sd(X: sp.csr_array, library: np.ndarray) -> float:
    """Median over genes of the between-cell SD of log1p of counts per 10,000, with zeros."""
    n, m = X.shape
    values = np.log1p(X.data * np.repeat(TARGET / np.where(library > 0, library, 1), np.diff(X.indptr)))
    mean, square = (np.bincount(X.indices, weights=v, minlength=m) / n for v in (values, values**2))
    return float(np.median(np.sqrt(np.maximum(square - mean**2, 0))))


def _status_and_history(
    training: Training, nonzeros_per_cell: float, output_sd: float, data_sd: float
) -> tuple[Status, dict[str, list[float]]]:
    """Status, and history with the validation loss per nonzero, as in the paper; warns if the fit has collapsed."""
    losses = [loss / nonzeros_per_cell for loss in training.history["validation_loss"]]
    collapsed = output_sd < COLLAPSED_SHARE * data_sd
    message = training.status.message
    if collapsed:
        collapse = Message(
            "the autoencoder has collapsed: it gives all cells the same profile, the gene means (between-cell SD "
            f"{output_sd:.2g}, in the data {data_sd:.2g}); pass {{batch_norm}}, {{residual}} or a smaller depth",
            code="network-collapsed",
            batch_norm=True,
            residual=True,
        )
        warnings.warn(collapse, stacklevel=2)
        message = f"{message}; {collapse}"
    details = {
        **training.status.details,
        "validation_loss": float(training.best_loss / nonzeros_per_cell),
        "between_cell_sd": output_sd,
        "data_between_cell_sd": data_sd,
        "collapsed": collapsed,
    }
    return replace(training.status, message=message, details=details), {**training.history, "validation_loss": losses}
