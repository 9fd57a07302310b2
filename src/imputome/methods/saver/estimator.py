"""SAVER: the method, and the rates that its regressions predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp

from imputome import methods
from imputome.core.data import Data
from imputome.core.imputation import Model, Output, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned, array_fault, damaged
from imputome.core.posterior import Prior
from imputome.core.prior import fit_prior
from imputome.methods.rescaled import at_from_rows, row_blocks
from imputome.methods.saver import SAVER_INFO
from imputome.methods.saver.gamma_poisson import POWERS, GammaPosterior, Spread, fitted_spread
from imputome.methods.saver.poisson_lasso import FOLDS, fit_regressions
from imputome.methods.similar_cells import summed

PREDICTOR_MEAN = 0.1  # genes with a smaller mean, at size factor 1, predict no other gene
FEWEST_CELLS = 20  # with fewer, every gene keeps its mean
NESTED = "prior."  # of the names of saved arrays of the method that gives the prior


class Saver(Imputer):
    """The counts of a cell, shrunk towards what its other genes predict (SAVER, Huang et al. 2018).

    1. The size factor s of a cell is its library over the mean library. For each gene a Poisson regression with the
       lasso predicts its expression mu from log(count / s + 1) of the other genes
       (`imputome.methods.saver.poisson_lasso`), with the strength of the lasso from 5-fold cross-validation. A gene
       for which that gains nothing keeps its mean.
    2. mu is the mean of a gamma prior whose coefficient of variation, Fano factor or variance is the same in all cells,
       whichever gives the counts of the gene the highest marginal likelihood.
    3. The value is the mean of the posterior, times s (`imputome.methods.saver.gamma_poisson`).

    Parameters
    ----------
    prior : str, default="lasso"
        ``"lasso"``, or the name of a registered method for counts, such as ``"poisson_nmf"``: its rates, as for a new
        cell and scaled to the total of each gene, are the prior means instead of those of step 1.
    noise : {"auto", "cv", "fano", "variance", "none"}, default="auto"
        What is constant in step 2; ``"auto"`` chooses for each gene. ``"none"`` leaves out steps 2 and 3: the values
        are the prior means.
    max_predictors : int, default=100
        Genes that one regression may use: those that correlate most with the gene, chosen in each fold anew.
    min_molecules : int, default=50
        A gene with fewer molecules keeps its mean.
    min_gain : float, default=0.5
        So does a gene that gains less than this in cross-validation, in standard errors over the folds.
    posterior : bool, default=False
        Replace steps 2 and 3 by the package's own step (`imputome.core.posterior`) on the prior means: there phi comes
        from held-out molecules instead of the marginal likelihood. The counts of a cell are never used twice.
    random_state : int, default=0
        Seed of the folds, of the method that gives the prior, and of the posterior step.

    Attributes
    ----------
    base_ : ndarray of shape (G,)
        exp of the intercept of each gene; None with another prior than ``"lasso"``.
    coefficients_ : csr_array of shape (G, G)
        Coefficients; column g has those of gene g.
    shape_of_prior_, power_ : ndarray of shape (G,)
        phi and b of each gene; see `imputome.methods.saver.gamma_poisson`.

    Raises
    ------
    InputError
        ``prior`` is no method for counts, or one that cannot impute new cells.
    MissingExtraError
        The method that gives the prior needs an optional dependency.

    Notes
    -----
    A new cell has the mu that the regressions predict for it, at most the largest mu of the training cells.

    Differences from the original: the regression is that of the counts with s as exposure, not of count / s; the
    penalty is chosen for every gene (the original extrapolates it from a hundred genes); a regression sees
    ``max_predictors`` genes (the original all, of which at most 300 get a coefficient); genes with fewer than
    ``min_molecules`` molecules have none.

    Cost: minutes; 25 to 70 ms a gene for 2,700 cells on one core, the more the more molecules the gene has, and in
    proportion to the cells: hours for 100,000 cells, where ``prior="poisson_nmf"`` takes minutes. Regressions run in
    parallel. Memory: the nonzeros of the predictors twice, and blocks of values; no n x G array.

    On pbmc3k (11,139 genes found in ten cells, a tenth of the molecules held out) the Poisson loss is 0.04504, with the
    prior from ``"poisson_nmf"`` 0.04508; that of the posterior of the gene mean is 0.04563.

    Known to fail: a mu that a count has helped to fit is too close to it, so that the marginal likelihood takes the
    prior for better than it is. The folds keep the lasso from that; for a ``prior`` that reads the gene itself, such as
    ``"poisson_nmf"``, the switch ``posterior`` on that method is the better way.

    Examples
    --------
    >>> import imputome
    >>> adata = imputome.datasets.pbmc68k()[:300, :100]
    >>> result = imputome.methods.create("saver").fit_transform(adata.X)
    >>> sorted(result.outputs)
    ['lower', 'rate', 'upper', 'value', 'variance']
    """

    info = SAVER_INFO
    learned: ClassVar[dict[str, Learned]] = {"mean_depth": Learned(values="positive")}
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "noise": ("auto", "cv", "fano", "variance"),
        "max_predictors": (20, 300, "log"),
    }

    def __init__(
        self,
        *,
        prior: str = "lasso",
        noise: Literal["auto", "cv", "fano", "variance", "none"] = "auto",
        max_predictors: int = 100,
        min_molecules: int = 50,
        min_gain: float = 0.5,
        posterior: bool = False,
        random_state: int = 0,
    ) -> None:
        self.prior = prior
        self.noise = noise
        self.max_predictors = max_predictors
        self.min_molecules = min_molecules
        self.min_gain = min_gain
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("max_predictors", self.max_predictors >= 1, "at least 1")
        self._require("min_molecules", self.min_molecules >= 1, "at least 1")
        self._require("min_gain", self.min_gain >= 0, "at least 0")
        if self.prior != "lasso":
            known = self.prior != self.name and self.prior in methods.names()
            about = methods.info(self.prior) if known else None
            valid = about is not None and "counts" in about.kinds and about.new_rows != "none"
            self._require("prior", valid, "'lasso' or the name of another method for counts")

    # -- the fit -------------------------------------------------------------------------------------------------------
    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        depth = data.depth
        self.mean_depth_ = float(depth[depth > 0].mean())
        s = depth / self.mean_depth_
        details: dict[str, Any] = {}
        columns: dict[str, np.ndarray] = {}
        if self.prior == "lasso":
            gain, columns["n_predictors"] = self._regress(data, s)
            details["predicted_genes"] = int((gain > 0).sum())
            text = f"{details['predicted_genes']} of {len(gain)} genes are predicted from others"
        else:
            self._learn_from_method(data)
            text = f"prior means from {self.prior}"
        self._tell(0.9, "spread of the priors")
        prior = self._prior_model(data, s)
        if self.prior == "lasso":
            self._limit(prior, data, s)
            prior = self._prior_model(data, s)
        if self._uses_spread:
            powers = tuple(POWERS.values()) if self.noise == "auto" else (POWERS[self.noise],)
            self.spread_ = fitted_spread(prior, data, s, powers)
            columns |= {"prior_shape": self.spread_.shape, "prior_power": self.spread_.power}
        return self._with_counts(prior, data, s), {
            "status": Status("exact", text, details),
            "gene_columns": columns,
        }

    @property
    def outputs_without_step(self) -> frozenset[Output]:
        """With steps 2 and 3 also the variance and the interval of the posterior that they end in."""
        return self.info.outputs | (GammaPosterior.outputs if self._uses_spread else frozenset())

    @property
    def _uses_spread(self) -> bool:
        """Whether the fit has the steps 2 and 3."""
        return self.noise != "none" and not self.posterior

    @property
    def shape_of_prior_(self) -> np.ndarray:
        return self.spread_.shape

    @property
    def power_(self) -> np.ndarray:
        return self.spread_.power

    def _posterior_prior(self, data: Data) -> Prior:
        return fit_prior(self.clone(posterior=False, noise="none"), data, random_state=self.random_state)

    def _regress(self, data: Data, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Learn the regressions; returns the gain of each gene and its number of predictors, (G,) each."""
        G = data.shape[1]
        cells = np.flatnonzero(s > 0)
        X, s = data.X[cells], s[cells]
        self.base_ = data.gene_totals / s.sum()
        self.coefficients_ = sp.csr_array((G, G), dtype=np.float32)
        self.ceiling_ = np.full(G, np.inf)
        x = _log_values(X, s)
        may_predict = np.flatnonzero(np.bincount(X.indices, _per_size(X, s), G) >= PREDICTOR_MEAN * len(cells))
        targets = np.flatnonzero(data.gene_totals >= self.min_molecules)
        gain = np.zeros(G)
        if len(cells) >= FEWEST_CELLS and len(targets) and len(may_predict) > 1:
            place = np.full(G, -1)
            place[may_predict] = np.arange(len(may_predict))
            fold = np.random.default_rng(self.random_state).permutation(np.arange(len(cells)) % FOLDS)
            found = fit_regressions(
                sp.csr_array(x[:, may_predict]),
                sp.csc_array(X[:, targets]),
                s,
                place[targets],
                max_predictors=self.max_predictors,
                min_gain=self.min_gain,
                fold=fold,
                tell=lambda share, text: self._tell(0.9 * share, text),
            )
            self.base_[targets], gain[targets] = found.base, found.gain
            predictors, genes = found.coefficients.nonzero()
            self.coefficients_ = sp.csr_array(
                (found.coefficients.data, (may_predict[predictors], targets[genes])), shape=(G, G)
            )
        return gain, np.bincount(self.coefficients_.indices, minlength=G).astype(np.float64)

    def _limit(self, prior: Model, data: Data, s: np.ndarray) -> None:
        """Learn the largest mu of each gene, which that of a new cell cannot exceed."""
        ceiling = self.base_.copy()
        for rows in row_blocks(*data.shape):
            rows = rows[s[rows] > 0]
            ceiling = np.maximum(ceiling, (prior.rows(rows, None, "value") / s[rows, None]).max(axis=0, initial=0.0))
        self.ceiling_ = ceiling

    def _learn_from_method(self, data: Data) -> None:
        """Fit the method that gives the prior, and learn the factor of each gene that restores its total."""
        self.method_ = self._method()
        self.method_.progress = lambda share, text: self._tell(0.9 * share, text)
        self.method_.fit(data)
        self.method_.progress = None
        rates, fitted = self.method_._new_rows(data), np.zeros(data.shape[1])
        for rows in row_blocks(*data.shape):
            fitted += rates.rows(rows, None, "value").sum(axis=0, dtype=np.float64)
        totals = data.gene_totals
        self.gene_scale_ = np.divide(totals, fitted, out=np.zeros_like(totals), where=fitted > 0)

    def _method(self) -> Imputer:
        """The unfitted method that gives the prior: its rates, without a posterior step."""
        method = methods.create(self.prior, random_state=self.random_state)
        return method.clone(posterior=False) if "posterior" in method.get_params() else method

    # -- the models ----------------------------------------------------------------------------------------------------
    def _prior_model(self, data: Data, s: np.ndarray) -> Model:
        if self.prior == "lasso":
            x = sp.csr_array(_log_values(data.X, s))
            return PredictedRates(x, self.coefficients_, self.base_, self.ceiling_, s)
        return ScaledRates(self.method_._new_rows(data), self.gene_scale_)

    def _with_counts(self, prior: Model, data: Data, s: np.ndarray) -> Model:
        return GammaPosterior(prior, data, s, self.spread_) if self._uses_spread else prior

    def _new_rows(self, data: Data) -> Model:
        s = data.depth / self.mean_depth_
        return self._with_counts(self._prior_model(data, s), data, s)

    # -- saved models --------------------------------------------------------------------------------------------------
    def _declared(self) -> dict[str, Learned]:
        declared = super()._declared()
        if self.prior == "lasso":
            declared |= {
                "base": Learned("G", values="not negative"),
                "ceiling": Learned("G", values="not negative"),
                "coefficients": Learned("r"),
                "predictors": Learned("r", kind="int", below="G"),
                "predicted": Learned("r", kind="int", below="G"),
            }
        else:
            declared["gene_scale"] = Learned("G", values="not negative")
            declared |= {f"{NESTED}{name}": expected for name, expected in self._method()._declared().items()}
        if self._uses_spread:
            declared |= {
                "prior_shape": Learned("G", values="positive"),
                "prior_power": Learned("G", kind="int", values="not negative"),
                "prior_centre": Learned("G", values="not negative"),
            }
        return declared

    def _state(self) -> dict[str, np.ndarray]:
        arrays = super()._state()
        if self.prior == "lasso":
            predictors, predicted = self.coefficients_.nonzero()
            arrays |= {"base": self.base_, "ceiling": self.ceiling_, "coefficients": self.coefficients_.data}
            arrays |= {"predictors": predictors, "predicted": predicted}
        else:
            arrays["gene_scale"] = self.gene_scale_
            arrays |= {f"{NESTED}{name}": value for name, value in self.method_._state().items()}
            if self.method_.training_totals_ is not None:
                arrays[f"{NESTED}training_totals"] = self.method_.training_totals_
        if self._uses_spread:
            spread = self.spread_
            arrays |= {"prior_shape": spread.shape, "prior_power": spread.power, "prior_centre": spread.centre}
        return arrays

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        if self.prior == "lasso":
            G = len(self.feature_names_)
            self.base_, self.ceiling_ = arrays["base"], arrays["ceiling"]
            places = (arrays["predictors"], arrays["predicted"])
            self.coefficients_ = sp.csr_array((arrays["coefficients"].astype(np.float32), places), shape=(G, G))
        else:
            self.gene_scale_ = arrays["gene_scale"]
            self._restore_method(
                {name.removeprefix(NESTED): a for name, a in arrays.items() if name.startswith(NESTED)}
            )
        if self._uses_spread:
            if arrays["prior_power"].max() > max(POWERS.values()):
                raise damaged("the array 'prior_power' has values above 2", code="model-array-values")
            self.spread_ = Spread(arrays["prior_shape"], arrays["prior_power"], arrays["prior_centre"])

    def _restore_method(self, arrays: dict[str, np.ndarray]) -> None:
        """The fitted method that gives the prior, from its arrays."""
        method = self._method()
        for name in ("feature_names_", "kind_", "covariate_names_", "bounds_", "link"):
            setattr(method, name, getattr(self, name))
        fault = array_fault(method._declared(), arrays, n_features=len(self.feature_names_))
        if fault is not None:
            raise damaged(fault[1], code=fault[0])
        method.training_totals_ = arrays.pop("training_totals", None)
        method._restore(arrays)
        self.method_ = method


def _per_size(X: sp.csr_array, s: np.ndarray) -> np.ndarray:
    """The stored counts over the size factor of their cell."""
    return X.data / np.repeat(np.where(s > 0, s, 1.0), np.diff(X.indptr))


def _log_values(X: sp.csr_array, s: np.ndarray) -> sp.csr_array:
    """log(count / s + 1), float32."""
    return sp.csr_array((np.log1p(_per_size(X, s)).astype(np.float32), X.indices, X.indptr), shape=X.shape)


@dataclass(frozen=True)
class PredictedRates:
    """A `Model` on scale ``counts``: ``s_i min(base_j exp(x_i . coefficients_j), ceiling_j)``."""

    x: sp.csr_array  # (n, G) log(count / s + 1)
    coefficients: sp.csr_array  # (G, G)
    base: np.ndarray  # (G,)
    ceiling: np.ndarray  # (G,)
    s: np.ndarray  # (n,)

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        some = slice(None) if genes is None else genes
        weights = self.coefficients if genes is None else self.coefficients[:, genes]
        logs = summed(self.x[rows], sp.csr_array(weights))
        with np.errstate(over="ignore"):  # an infinite value becomes the ceiling
            values = np.exp(logs, out=logs) * self.base[some].astype(np.float32)
        np.minimum(values, self.ceiling[some].astype(np.float32), out=values)
        values *= self.s[rows].astype(np.float32)[:, None]
        return values

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return at_from_rows(self.rows, i, j, len(self.base))


@dataclass(frozen=True)
class ScaledRates:
    """A `Model` on scale ``counts``: the values of another model, times a factor for each gene."""

    inner: Model
    gene_scale: np.ndarray  # (G,)

    outputs: ClassVar[frozenset[Output]] = frozenset({"value", "rate"})

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        scale = self.gene_scale if genes is None else self.gene_scale[genes]
        return self.inner.rows(rows, genes, "value") * scale.astype(np.float32)

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        return self.inner.at(i, j, "value") * self.gene_scale[j]
