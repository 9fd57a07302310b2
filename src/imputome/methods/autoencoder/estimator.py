"""The ``autoencoder`` method: genes, totals, collapse and new cells around the network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from imputome.core.data import Data, Kind
from imputome.core.imputation import Status
from imputome.core.scales import TARGET
from imputome.errors import InputError, missing_extra
from imputome.methods.autoencoder import AUTOENCODER_INFO
from imputome.methods.autoencoder.network import ACTIVATIONS, Activation, Autoencoder, Decay, DecodedCells, LossNorm
from imputome.methods.deep.batches import CountBatches
from imputome.methods.deep.estimator import DeepImputer, split_cells
from imputome.methods.deep.training import Schedule, Training, seeded

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


VALIDATION = 0.2  # share of the cells whose error decides when to stop (section 4.5)
MIN_CELLS = 3  # cells in which a gene has to be found for the network to read it (section 4.4)
SPANS = (0.3, 0.6, 1.0)  # Seurat's window of the loess; wider ones where many genes of one mean make it singular
COLLAPSED = 0.01  # share of the data's between-cell SD under which a network has learned the gene means alone


class PlainAutoencoder(DeepImputer):
    """The plain autoencoder of Xi & Li (2023): squared error at the nonzeros of log1p(counts per 10,000).

    Minimises ``sum_ij (Y_ij - X_ij)^2 [X_ij != 0] / sum_ij [X_ij != 0] + lambda ||W||^2`` (sections 4.1 and 4.2). X is
    log1p of counts per 10,000 of the cell's library over *all* genes, Y the network's linear output. Adam trains on
    80 % of the cells until the error at the nonzeros of the other 20 % has not fallen for ``patience`` epochs.

    Zeros are never looked at, so Y estimates a value *given that it is not zero*. With ``rescale`` (the default) it is
    taken back to counts (expm1, times library / 10,000) and each gene is rescaled to its training total; only then is
    it on the scale of counts and sums to what was observed. With ``rescale=False``, as in the paper, the result on
    scale ``log1p`` is Y itself (between 0 and log1p(10,000)), which is what the paper scores, and on scale ``counts``
    it is too large wherever a gene has zeros. Observed counts are kept unless ``keep_observed=False`` is asked for.

    Genes that the network does not read get library x share of the gene (the gene mean): those beyond ``n_top_genes``,
    those found in fewer than 3 cells, and those whose output is nowhere positive. Cells without a count are not trained
    on; the paper's filter of cells with fewer than 200 genes is left to the user.

    Parameters
    ----------
    preset : where the parameters that are None come from. None: the defaults given below, chosen by measurement.
        ``"paper"``: 10 x 32 sigmoid on 2,000 variable genes, not regularised (Table 1 adds ``dropout=0.2``), at most
        10,000 epochs, not rescaled. ``"published_code"``: the same with what its scripts do: the error is divided by
        the number of all entries, the last weights are taken instead of the best, weight decay is Adam's own (biases
        included), learning rate 1e-4, at most 1,000 epochs, one start for all seeds. (Its script on depth and width
        has 1e-3 and 10,000.)
    depth, width : number of hidden layers and units in each (2, 128).
    activation : ``"sigmoid"`` (default), ``"tanh"``, ``"relu"``, ``"leaky_relu_0.01"``, ``"leaky_relu_0.2"``, ``"elu"``
        or ``"selu"``.
    dropout : probability of dropping a hidden unit while training (0.2).
    weight_decay : lambda (0).
    loss_norm : see `Autoencoder` (``"nonzero"``).
    batch_norm, residual : not in the paper (True, False); either keeps a deep or saturating network from collapsing.
        (The collapse is a plateau: on 400 cells and 500 genes of pbmc3k the paper's 10 x 32 sigmoid, which stops on it
        after 96 epochs, leaves it after about 1,000 where ``patience`` lets it.)
    n_top_genes : number of variable genes that the network reads (scanpy's ``seurat_v3``, from the training data; it
        needs scikit-misc), or ``"all"`` (default).
    learning_rate, batch_size : of Adam (1e-3, 64).
    patience, max_epochs : when to stop (20, 500); ``patience=0`` never stops early.
    rescale : see above (True).
    device : ``"auto"``, ``"cpu"`` or ``"cuda"``.
    posterior : combine with the cell's own counts (`imputome.core.posterior`); needs ``rescale``.

    Attributes
    ----------
    selected_ : positions of the genes that the network reads.
    factor_ : (G,) what a gene's counts are multiplied by to reach its training total; 0 for genes not decoded.
    share_ : (G,) share of the gene in all molecules; 0 for genes that are decoded.

    Notes
    -----
    ``latent`` is the middle hidden layer, the ``ceil(depth / 2)``-th. ``gene_columns`` holds each gene's total in the
    data and in the output before rescaling. ``status.details`` holds the median over genes of the between-cell SD of
    the output and of the data (log1p scale, zeros included): under 1 % of the data's, the fit counts as collapsed, and
    a warning says so.

    Cost: a step takes three products of (batch, width) and (width, G); memory goes with the nonzeros, n x width and
    batch x G.

    Raises
    ------
    InputError
        A parameter is out of range; no gene is found in enough cells; no variable genes can be chosen.
    """

    info = AUTOENCODER_INFO
    network_: Autoencoder
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "depth": (1, 2, 3, 5, 10),
        "width": (32, 64, 128, 256),
        "activation": tuple(ACTIVATIONS),
        "dropout": (0.0, 0.4, "linear"),
        "weight_decay": (1e-7, 5e-4, "log"),
        "batch_norm": (True, False),
    }

    def __init__(
        self,
        *,
        preset: Preset | None = None,
        depth: int | None = None,
        width: int | None = None,
        activation: Activation | None = None,
        dropout: float | None = None,
        weight_decay: float | None = None,
        loss_norm: LossNorm | None = None,
        batch_norm: bool | None = None,
        residual: bool | None = None,
        n_top_genes: int | Literal["all"] | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        patience: int | None = None,
        max_epochs: int | None = None,
        rescale: bool | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.preset = preset
        self.depth = depth
        self.width = width
        self.activation = activation
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.loss_norm = loss_norm
        self.batch_norm = batch_norm
        self.residual = residual
        self.n_top_genes = n_top_genes
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.patience = patience
        self.max_epochs = max_epochs
        self.rescale = rescale
        self.device = device
        self.posterior = posterior
        self.random_state = random_state

    @property
    def design(self) -> Design:
        """What the preset and the given parameters come to."""
        if self.preset not in PRESETS:
            raise InputError(f"autoencoder: preset={self.preset!r} is neither None, 'paper' nor 'published_code'")
        names = {field.name for field in fields(Design)} & set(self.parameter_defaults())
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(PRESETS[self.preset], **given)

    def _accept(self, data: Any, kind: Kind | None = None) -> Data:
        if self.posterior and not self.design.rescale:
            raise InputError("autoencoder: the posterior step needs values on the scale of counts: pass rescale=True")
        return super()._accept(data, kind)

    def _fit(self, data: Data) -> tuple[DecodedCells, dict[str, Any]]:
        design = self.design
        cells = np.flatnonzero(np.diff(data.X.indptr))
        train, validation = (cells[part] for part in split_cells(len(cells), VALIDATION, self.random_state))
        self.selected_ = _select_genes(data.X, train, design.n_top_genes)
        X = self._read_by_network(data)
        batches = self._batches(X, data.depth)
        training = self._train(
            self._new_network(), batches, data, design.schedule, train_rows=train, validation_rows=validation
        )
        latent, hidden = self._encode(batches)
        totals, fitted = self._match_totals(hidden, data)
        spread = _spread_of_output(hidden, self._output()[0]), _spread_of_data(X, data.depth)
        nonzeros = max(1, np.diff(X.indptr)[validation].sum()) / len(validation)
        status, history = _outcome(training, nonzeros, *spread)
        return self._model(hidden, data), {
            "latent": latent,
            "gene_columns": {"training_total": totals, "fitted_total": fitted},
            "status": status,
            "history": history,
        }

    def _match_totals(self, hidden: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
        """Set the factor or the share of every gene; returns its total in the data and in the output as it is."""
        totals = data.gene_totals
        self.share_, self.factor_ = np.zeros(len(totals)), np.zeros(len(totals))
        self.factor_[self.selected_] = 1
        fitted = self._model(hidden, data).totals()
        decoded = fitted > 0
        if self.design.rescale:
            self.factor_ = np.divide(totals, fitted, out=np.zeros_like(fitted), where=decoded)
        self.share_ = np.where(decoded, 0, totals / data.depth.sum())
        return totals, fitted

    def _new_rows(self, data: Data) -> DecodedCells:
        batches = self._batches(self._read_by_network(data), data.depth)
        return self._model(self._encode(batches)[1], data)

    def _network(self) -> Autoencoder:
        design = self.design
        return Autoencoder(
            len(self.selected_),
            width=design.width,
            depth=design.depth,
            activation=design.activation,
            dropout=design.dropout,
            weight_decay=design.weight_decay,
            decay=design.decay,
            loss_norm=design.loss_norm,
            batch_norm=design.batch_norm,
            residual=design.residual,
        )

    def _new_network(self) -> nn.Module:
        with seeded(0 if self.design.shared_start else self.random_state):
            return self._network()

    def _read_by_network(self, data: Data) -> sp.csr_array:
        """(n, m) counts of the selected genes."""
        return data.X if len(self.selected_) == data.shape[1] else sp.csr_array(data.X[:, self.selected_])

    def _batches(self, X: sp.csr_array, library: np.ndarray) -> CountBatches:
        return CountBatches(X, library=library, batch_size=self.design.batch_size, device=self._device())

    def _encode(self, batches: CountBatches) -> tuple[np.ndarray, np.ndarray]:
        """The middle and the last hidden layer of all cells, each (n, w)."""
        with torch.no_grad():
            layers = [self.network_.encode(batch) for batch in batches.epoch()]
        middle, last = (torch.cat(parts).cpu().numpy() for parts in zip(*layers, strict=True))
        return middle, last

    def _output(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight (m, w) and bias (m,) of the output layer."""
        output = self.network_.output
        return output.weight.detach().cpu().numpy(), output.bias.detach().cpu().numpy()

    def _model(self, hidden: np.ndarray, data: Data) -> DecodedCells:
        G = data.shape[1]
        weight, bias = np.zeros((G, hidden.shape[1]), np.float32), np.zeros(G, np.float32)
        weight[self.selected_], bias[self.selected_] = self._output()
        factor, share, library = (array.astype(np.float32) for array in (self.factor_, self.share_, data.depth))
        return DecodedCells(hidden, weight, bias, factor, share, library)

    def _state(self) -> dict[str, np.ndarray]:
        return {**super()._state(), "selected": self.selected_, "factor": self.factor_, "share": self.share_}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.selected_, self.factor_, self.share_ = arrays["selected"], arrays["factor"], arrays["share"]
        super()._restore(arrays)


def _select_genes(X: sp.csr_array, train: np.ndarray, n_top_genes: int | Literal["all"]) -> np.ndarray:
    """Positions of the genes that the network reads, sorted."""
    G = X.shape[1]
    needed = min(MIN_CELLS, int((np.diff(X.indptr) > 0).sum()))
    trained = np.bincount(X[train].indices, minlength=G) > 0  # nothing would move the output of the others
    found = np.flatnonzero((np.bincount(X.indices, minlength=G) >= needed) & trained)
    if not len(found):
        raise InputError(f"autoencoder: no gene is found in {needed} cells or more, so there is nothing to learn from")
    if n_top_genes == "all" or n_top_genes >= len(found):
        return found
    return found[_most_variable(sp.csr_matrix(X[:, found]), n_top_genes)]


def _most_variable(X: sp.csr_matrix, number: int) -> np.ndarray:
    """Positions of the most variable genes by Seurat's ``vst`` (section 4.4), sorted."""
    import scanpy as sc
    from anndata import AnnData

    adata = AnnData(X)
    for span in SPANS:
        try:
            table = sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=number, span=span, inplace=False)
        except ImportError as error:
            raise missing_extra("autoencoder with n_top_genes", "scikit-misc", "deep") from error
        except ValueError:  # loess finds its window singular
            continue
        return np.flatnonzero(table["highly_variable"].to_numpy())
    raise InputError("autoencoder: too few genes to choose variable ones from: pass n_top_genes='all'")


def _spread_of_output(hidden: np.ndarray, weight: np.ndarray) -> float:
    """Median over genes of the between-cell SD of the linear output, from the covariance of the hidden units."""
    W, width = weight.astype(np.float64), hidden.shape[1]
    covariance = np.cov(hidden, rowvar=False, bias=True, dtype=np.float64).reshape(width, width)
    variance = np.einsum("gw,wv,gv->g", W, covariance, W, optimize=True)
    return float(np.median(np.sqrt(np.maximum(variance, 0))))


def _spread_of_data(X: sp.csr_array, library: np.ndarray) -> float:
    """Median over genes of the between-cell SD of log1p of counts per 10,000, zeros included."""
    n, m = X.shape
    values = np.log1p(X.data * np.repeat(TARGET / np.where(library > 0, library, 1), np.diff(X.indptr)))
    mean, square = (np.bincount(X.indices, weights=v, minlength=m) / n for v in (values, values**2))
    return float(np.median(np.sqrt(np.maximum(square - mean**2, 0))))


def _outcome(
    training: Training, nonzeros_per_cell: float, spread: float, data_spread: float
) -> tuple[Status, dict[str, list[float]]]:
    """Status and history, with the validation loss per nonzero, as the paper has it; warns of a collapse."""
    losses = [loss / nonzeros_per_cell for loss in training.history["validation_loss"]]
    collapsed = spread < COLLAPSED * data_spread
    message = training.status.message
    if collapsed:
        collapse = (
            f"the autoencoder has collapsed to one profile for all cells (between-cell SD {spread:.2g}, in the data "
            f"{data_spread:.2g}), which is the gene mean in disguise: try batch_norm=True, residual=True or a smaller "
            "depth"
        )
        warnings.warn(collapse, stacklevel=2)
        message = f"{message}; {collapse}"
    details = {
        **training.status.details,
        "validation_loss": float(training.best_loss / nonzeros_per_cell),
        "between_cell_sd": spread,
        "data_between_cell_sd": data_spread,
        "collapsed": collapsed,
    }
    return replace(training.status, message=message, details=details), {**training.history, "validation_loss": losses}
