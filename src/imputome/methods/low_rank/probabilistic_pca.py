"""The ``ppca`` and ``bpca`` methods: probabilistic PCA of z-scores with missing values, by EM and by variational Bayes.

Both have the model ``z_i = mean + W x_i + e``, x_i ~ N(0, I) and e ~ N(0, s2 I), and use the known entries only. So the
missing entries of a row are Gaussian given its known ones, which gives values, intervals and draws.

Letters: ``Z`` the (n, G) z-scores with NaN for missing, ``W`` (G, k) loadings, ``s2`` noise variance, ``O`` the known
entries of a row or a feature.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from imputome.core.data import Data
from imputome.core.holdout import hide_values
from imputome.core.imputation import Output, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned, damaged
from imputome.core.scales import Standard, varying
from imputome.methods.factors import SMALL_SIDE, DenseOperator, WarmSVD, few_threads
from imputome.methods.low_rank import BPCA_INFO, PPCA_INFO

LARGEST_RANK = 20  # unless a rank is chosen
EXACT_START_SIDE = 2_000  # the start is an exact decomposition if the smaller side is at most this
SMALLEST_NOISE = 1e-8  # of z-scores; a perfect fit would have no likelihood
BLOCK_VALUES = 2**22  # float64 values in a temporary array (32 MiB)
NORMAL_90 = 1.6448536269514722  # half the width of a 90 % interval, in standard deviations

# how a rank is chosen
RANKS = (1, 2, 3, 5, 7, 10, 14, 20, 30, 45, 65, 100)
HIDDEN_SHARE = 0.1
ENOUGH_SCORED_ENTRIES = 20_000
TRIAL_ITERATIONS, TRIAL_TOL = 30, 1e-4
PATIENCE_RANKS = 2  # the search ends after this many ranks without a lower error

GAMMA_ALPHA, GAMMA_TAU = (
    1e-10,
    1e-10,
)  # shapes of the priors of alpha and 1 / s2 of bpca, both with mean 1: all but flat
IN_USE = 0.01  # a component of bpca counts as in use if it explains this share of a feature's variance


@dataclass(frozen=True)
class Components:
    """What is learned: the parameters of the model of z-scores."""

    loadings: np.ndarray  # (G, k) W; its posterior mean for bpca
    mean: np.ndarray  # (G,)
    noise: float  # s2
    prior: np.ndarray  # (k, k) precision of x beside the term of the known entries: I, for bpca I + G V
    spread: np.ndarray  # (k, k) V: covariance of a row of W divided by s2, the same for all features; 0 for ppca


@dataclass(frozen=True)
class Latents:
    """The posterior of the latents of some rows: N(mean_i, covariance_i)."""

    mean: np.ndarray  # (m, k)
    covariance: np.ndarray  # (m, k, k)
    log_likelihood: float  # of the known entries, natural log, for the point estimate of W


@dataclass
class Moments:
    """Sums over rows that the M-steps need, with x~ = (x, 1)."""

    second: np.ndarray  # (G, k + 1, k + 1) E[x~ x~'] over the rows that have the feature
    cross: np.ndarray  # (G, k + 1) z E[x~] over these
    total: np.ndarray  # (k, k) E[x x'] over all rows
    squares: float  # z^2 over the known entries
    n_known: int
    log_likelihood: float


# -- the E-step -------------------------------------------------------------------------------------------------------
def latents_of(Z: np.ndarray, model: Components) -> Latents:
    """The posterior of each row's x given its known entries.

    With M_i = s2 P + W_O'W_O, where P is the prior's precision, the mean is M_i^-1 W_O'(z_O - mean_O) and the
    covariance s2 M_i^-1. The products w w' of all features are multiplied with the mask of all rows at once.

    Z is (m, G) with NaN. Cost: ``m G k^2`` flops plus an inverse of (k, k) for each row.
    """
    W, s2 = model.loadings, model.noise
    known = ~np.isnan(Z)
    gap = np.where(known, Z - model.mean, 0.0)  # (m, G)
    precision = _unpacked(known.astype(np.float64) @ _packed(W[:, :, None] * W[:, None, :])) + s2 * model.prior
    projected = gap @ W  # (m, k)
    inverse = np.linalg.inv(precision)
    mean = np.einsum("mab,mb->ma", inverse, projected)
    k, count = W.shape[1], int(known.sum())
    log_det = np.linalg.slogdet(precision)[1].sum()
    misfit = (np.einsum("mg,mg->", gap, gap) - np.einsum("mk,mk->", projected, mean)) / s2
    terms = count * np.log(2 * np.pi) + (count - k * len(Z)) * np.log(s2) + log_det + misfit
    return Latents(mean, s2 * inverse, -0.5 * float(terms))


def moments_of(Z: np.ndarray, model: Components) -> Moments:
    """The E-step over all rows, (n, G), in blocks of rows."""
    G, k = model.loadings.shape
    pairs = (k + 1) * (k + 2) // 2
    second, cross, total = np.zeros((G, pairs)), np.zeros((G, k + 1)), np.zeros((k, k))
    squares, n_known, log_likelihood = 0.0, 0, 0.0
    for part in _blocks(len(Z), max(G, (k + 1) ** 2)):
        rows = Z[part].astype(np.float64)
        latents = latents_of(rows, model)
        known = ~np.isnan(rows)
        filled = np.where(known, rows, 0.0)
        x = np.column_stack([latents.mean, np.ones(len(rows))])  # (m, k + 1)
        products = x[:, :, None] * x[:, None, :]
        products[:, :k, :k] += latents.covariance
        second += known.T.astype(np.float64) @ _packed(products)
        cross += filled.T @ x
        total += products[:, :k, :k].sum(axis=0)
        squares += float(np.einsum("mg,mg->", filled, filled))
        n_known += int(known.sum())
        log_likelihood += latents.log_likelihood
    return Moments(_unpacked(second), cross, total, squares, n_known, log_likelihood)


def latent_means(Z: np.ndarray, model: Components) -> np.ndarray:
    """(n, k) posterior means of all rows, in blocks of rows."""
    parts = _blocks(len(Z), max(Z.shape[1], model.spread.size))
    return np.concatenate([latents_of(Z[part], model).mean for part in parts])


def _packed(matrices: np.ndarray) -> np.ndarray:
    """The upper triangles of symmetric (m, k, k) matrices, (m, k (k + 1) / 2)."""
    a, b = np.triu_indices(matrices.shape[1])
    return np.ascontiguousarray(matrices[:, a, b])


def _unpacked(triangles: np.ndarray) -> np.ndarray:
    """The symmetric matrices of these upper triangles."""
    k = int(np.sqrt(2 * triangles.shape[1]))
    a, b = np.triu_indices(k)
    out = np.empty((len(triangles), k, k))
    out[:, a, b] = out[:, b, a] = triangles
    return out


def _blocks(n: int, values_per_row: int) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // values_per_row)
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


# -- the M-steps ------------------------------------------------------------------------------------------------------
def ppca_step(moments: Moments) -> Components:
    """The parameters that maximise the expected log-likelihood (Ilin & Raiko 2010).

    Feature g: (w_g, mean_g) solves the normal equations of z_g on x~ over the rows that have it; s2 is the expected
    squared residual of a known entry.
    """
    k = moments.cross.shape[1] - 1
    jitter = 1e-12 * np.maximum(np.einsum("gaa->g", moments.second), 1.0)
    system = moments.second + jitter[:, None, None] * np.eye(k + 1)
    solved = np.linalg.solve(system, moments.cross[:, :, None])[:, :, 0]
    noise = (moments.squares - float(np.einsum("gk,gk->", solved, moments.cross))) / moments.n_known
    loadings, mean = np.ascontiguousarray(solved[:, :k]), solved[:, k].copy()
    return Components(loadings, mean, max(noise, SMALLEST_NOISE), np.eye(k), np.zeros((k, k)))


def bpca_step(moments: Moments, model: Components, relevance: np.ndarray, n: int) -> tuple[Components, np.ndarray]:
    """The variational M-step of Oba et al. (2003): the next parameters, and the precisions alpha of the columns of W.

    Prior: column c of W is N(0, s2 / alpha_c I). Missing entries belong to the latent variables of their row, so their
    expectations complete the sums: E[z_g x'] = w_g' E[x x'] over the rows that lack g. ``relevance`` is alpha, (k,).
    """
    W, s2 = model.loadings, model.noise
    G, k = W.shape
    of_missing = moments.total - moments.second[:, :k, :k]  # (G, k, k)
    filled = np.einsum("gk,gkl->gl", W, of_missing)  # (G, k) w_g' E[x x']
    cross = moments.cross[:, :k] + filled
    squares = moments.squares + (n * G - moments.n_known) * s2 + float(np.einsum("gk,gk->", filled, W))
    spread = np.linalg.inv(moments.total + np.diag(relevance))
    loadings = cross @ spread
    residual = squares - float(np.einsum("gk,gk->", cross, loadings))
    noise = max((residual + 2 * GAMMA_TAU) / (n * G + 2 * GAMMA_TAU), SMALLEST_NOISE)
    model = Components(loadings, model.mean, noise, np.eye(k) + G * spread, spread)
    return model, relevance_of(model)


def relevance_of(model: Components) -> np.ndarray:
    """(k,) alpha: number of features over the expected square of a column of W in units of s2."""
    G = len(model.loadings)
    size = np.einsum("gk,gk->k", model.loadings, model.loadings) / model.noise + G * np.diag(model.spread)
    return np.asarray((G + 2 * GAMMA_ALPHA) / (size + 2 * GAMMA_ALPHA))


def principal_components(Z: np.ndarray, rank: int) -> Components:
    """The maximum-likelihood model of the z-scores with 0 for missing (Tipping & Bishop 1999, eq. 7 and 8): a start."""
    n, G = Z.shape
    filled = np.where(np.isnan(Z), np.float32(0), Z)
    svd = WarmSVD(np.random.default_rng(0), method="gram" if min(n, G) <= EXACT_START_SIDE else "auto", passes=4)
    triplets = svd.top(DenseOperator(filled), rank)
    rank = max(1, int((triplets.s > 1e-5 * triplets.s[0]).sum()))
    roots = triplets.s[:rank].astype(np.float64) ** 2 / n
    rest = float(np.sum(filled * filled, dtype=np.float64)) / n - roots.sum()
    noise = max(rest / max(1, G - rank), SMALLEST_NOISE)
    loadings = np.zeros((G, rank))
    if triplets.s[0] > 0:
        loadings = triplets.vectors(rank)[1] * np.sqrt(np.maximum(roots - noise, 1e-3 * roots))
    return Components(loadings.astype(np.float64), np.zeros(G), noise, np.eye(rank), np.zeros((rank, rank)))


# -- the model of some rows -------------------------------------------------------------------------------------------
class GaussianRows:
    """A `Model` of rows given their known entries: means, variances, 90 % intervals and draws.

    ``Z`` are (n, G) z-scores of the rows with NaN for missing. Known entries are predicted with their own value known.
    """

    outputs: frozenset[Output] = frozenset({"value", "variance", "lower", "upper"})

    def __init__(self, Z: np.ndarray, method: ProbabilisticPCA) -> None:
        self.Z, self.components, self.random_state = Z, method.components_, method.random_state
        self.center, self.unit, self.residual = method.standard_.center, method.unit_, method.residual_
        self.latent = latent_means(Z, self.components)

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        columns = np.arange(self.Z.shape[1]) if genes is None else np.asarray(genes, dtype=np.intp)
        out = np.empty((len(rows), len(columns)))
        for part in _blocks(len(rows), max(1, len(columns), self.Z.shape[1], self.components.spread.size)):
            value = self.latent[rows[part]] @ self.components.loadings[columns].T + self.components.mean[columns]
            variance = None if output == "value" else self._variance(rows[part], columns)
            out[part] = self._in_unit(value, variance, columns, output)
        return out

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        out = np.empty(len(i))
        W, k = self.components.loadings, self.components.loadings.shape[1]
        order = np.argsort(i, kind="stable")
        for part in _blocks(len(i), max(self.Z.shape[1], k * k)):
            entries = order[part]
            rows, columns = i[entries], j[entries]
            value = np.einsum("ek,ek->e", self.latent[rows], W[columns]) + self.components.mean[columns]
            variance = None
            if output != "value":
                unique, position = np.unique(rows, return_inverse=True)
                latents = latents_of(self.Z[unique], self.components)
                shared = np.einsum("ek,ekl,el->e", W[columns], latents.covariance[position], W[columns])
                variance = shared + self.residual[columns] * self._factor(latents)[position]
            out[entries] = self._in_unit(value, variance, columns, output)
        return out

    def draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """(len(rows), G) joint draws of all entries; they depend on random_state, the position of the row and number.

        x is drawn from its posterior, then each entry from N(w'x, s2 (1 + x'Vx)) with V the spread of W.
        """
        W, V = self.components.loadings, self.components.spread
        out = np.empty((len(rows), len(W)))
        for part in _blocks(len(rows), max(len(W), V.size)):
            latents = latents_of(self.Z[rows[part]], self.components)
            roots = np.linalg.cholesky(latents.covariance)
            for position, (i, mean, root) in enumerate(zip(rows[part], latents.mean, roots, strict=True)):
                rng = np.random.default_rng([self.random_state, number, int(i)])
                x = mean + root @ rng.standard_normal(len(mean))
                noise = rng.standard_normal(len(W)) * np.sqrt(self.residual * (1 + x @ V @ x))
                out[part.start + position] = self.center + self.unit * (self.components.mean + W @ x + noise)
        return out

    def _variance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(len(rows), len(columns)) variances of the z-scores: w'Cov(x)w + s2 (1 + E[x'Vx])."""
        latents = latents_of(self.Z[rows], self.components)
        W = self.components.loadings[columns]
        a, b = np.triu_indices(W.shape[1])
        twice = np.where(a == b, 1.0, 2.0)
        shared = (_packed(latents.covariance) * twice) @ (W[:, a] * W[:, b]).T
        return np.asarray(shared + self.residual[columns] * self._factor(latents)[:, None])

    def _factor(self, latents: Latents) -> np.ndarray:
        """(m,) 1 + E[x'Vx]: how much the uncertain loadings of bpca add to the noise."""
        V = self.components.spread
        second = latents.covariance + latents.mean[:, :, None] * latents.mean[:, None, :]
        return np.asarray(1 + np.einsum("ab,mab->m", V, second))

    def _in_unit(
        self, value: np.ndarray, variance: np.ndarray | None, columns: np.ndarray, output: Output
    ) -> np.ndarray:
        unit = self.unit[columns]
        if output == "variance":
            return np.asarray(variance * unit**2)
        if variance is not None:
            value = value + (-NORMAL_90 if output == "lower" else NORMAL_90) * np.sqrt(variance)
        return np.asarray(self.center[columns] + unit * value)


# -- the estimators ---------------------------------------------------------------------------------------------------
class ProbabilisticPCA(Imputer):
    """Base of the two methods; a subclass defines `_learn`."""

    rank: int | str | None
    tol: float
    max_iter: int
    random_state: int
    stored: ClassVar[dict[str, Learned]] = {
        "loadings": Learned("G k"),
        "mean": Learned("G"),
        "noise": Learned(values="positive"),
        "prior": Learned("k k"),
        "spread": Learned("k k"),
        "center": Learned("G"),
        "scale": Learned("G", values="positive"),
        "unit": Learned("G", values="not negative"),
        "residual": Learned("G", values="positive"),
    }
    figure: ClassVar[str]  # what `_path` yields beside the models, for the history

    @abstractmethod
    def _path(self, Z: np.ndarray, rank: int) -> Iterator[tuple[Components, float]]:
        """The models of the iterations without end, each with a figure that stands still when the fit has converged.

        Z are (n, G) z-scores in which each row has known values and each feature varies.
        """

    def _learn(self, Z: np.ndarray) -> tuple[Components, Status, dict[str, list[float]]]:
        largest = max(1, min(Z.shape) - 1)
        details: dict[str, Any] = {}
        if self.rank == "validated":
            rank, details["held_out_rmse"] = self._validated_rank(Z, largest)
        else:
            rank = min(largest, self.rank if isinstance(self.rank, int) else LARGEST_RANK)
        model, history, converged = self._converge(Z, rank, self.tol, self.max_iter)
        in_use = int((np.square(model.loadings).sum(axis=0) > IN_USE).sum())
        details |= {"rank": in_use, "iterations": len(history) - 1, "noise_variance": float(model.noise)}
        parts = f"{in_use} components", f"noise variance {model.noise:.3g}", f"{len(history) - 1} iterations"
        message = ", ".join(parts) + ("" if converged else f", tol={self.tol:g} not reached")
        return model, Status("converged" if converged else "max_iter", message, details), {self.figure: history}

    def _converge(self, Z: np.ndarray, rank: int, tol: float, max_iter: int) -> tuple[Components, list[float], bool]:
        """The model at which the figure changes by less than ``tol``, the figures, and whether that was reached."""
        history: list[float] = []
        for model, figure in self._path(Z, rank):  # noqa: B007  (the last one is returned)
            history.append(figure)
            share = len(history) / (max_iter + 1)
            self._tell(0.5 + 0.5 * share, f"rank {rank}, iteration {len(history)}")
            converged = len(history) > 1 and abs(history[-1] - history[-2]) < tol
            if converged or len(history) > max_iter:
                break
        return model, history, converged

    def _validated_rank(self, Z: np.ndarray, largest: int) -> tuple[int, float]:
        """The rank with the lowest error on hidden entries, after a few iterations each, and this error."""
        rng = np.random.default_rng(self.random_state)
        n_known = int((~np.isnan(Z)).sum())
        share = min(max(HIDDEN_SHARE, 1 / n_known), ENOUGH_SCORED_ENTRIES / n_known)
        hidden, i, j, truth = hide_values(Z, share, rng)
        ranks = [rank for rank in RANKS if rank <= largest]
        errors: list[float] = []
        for position, rank in enumerate(ranks):
            model, _, _ = self._converge(hidden, rank, TRIAL_TOL, TRIAL_ITERATIONS)
            gap = np.einsum("ek,ek->e", latent_means(hidden, model)[i], model.loadings[j]) + model.mean[j] - truth
            errors.append(float(np.sqrt(np.mean(gap * gap))))
            if position - int(np.argmin(errors)) >= PATIENCE_RANKS:
                break
        return ranks[int(np.argmin(errors))], min(errors)

    def _check_values(self) -> None:
        self._require("rank", not isinstance(self.rank, int) or self.rank >= 1, "a positive integer or 'validated'")
        self._require("max_iter", self.max_iter >= 1, "at least 1")
        self._require("tol", self.tol >= 0, "0 or larger")

    def _fit(self, data: Data) -> tuple[GaussianRows, dict[str, Any]]:
        X = data.known_values()
        self.standard_ = Standard.of(X)
        Z = self.standard_.forward(X)
        known = ~np.isnan(Z)
        seen, varies = known.any(axis=0), varying(Z)
        G = Z.shape[1]
        self.unit_ = np.where(varies, self.standard_.scale, 0.0)
        # of a feature that was never observed nothing is known but the spread of all values
        self.unit_[~seen] = float(np.nanstd(X, dtype=np.float64))
        with few_threads(min(Z.shape) <= SMALL_SIDE):
            if varies.any():
                rows = known[:, varies].any(axis=1)
                used = Z if varies.all() and rows.all() else Z[np.ix_(rows, varies)]
                learned, status, history = self._learn(used)
            else:
                learned = Components(np.zeros((0, 1)), np.zeros(0), 1.0, np.eye(1), np.zeros((1, 1)))
                status, history = Status("exact", "no feature varies"), {}
            loadings, mean = np.zeros((G, learned.loadings.shape[1])), np.zeros(G)
            loadings[varies], mean[varies] = learned.loadings, learned.mean
            self.components_ = replace(learned, loadings=loadings, mean=mean)
            self.residual_ = np.where(seen, learned.noise, 1.0)
            model = GaussianRows(Z, self)
        return model, {"status": status, "history": history, "latent": model.latent}

    def _new_rows(self, data: Data) -> GaussianRows:
        Z = self.standard_.forward(data.known_values())
        with few_threads(min(Z.shape) <= SMALL_SIDE):
            return GaussianRows(Z, self)

    def _state(self) -> dict[str, np.ndarray]:
        components = self.components_
        return {
            "loadings": components.loadings,
            "mean": components.mean,
            "noise": np.array(components.noise),
            "prior": components.prior,
            "spread": components.spread,
            "center": self.standard_.center,
            "scale": self.standard_.scale,
            "unit": self.unit_,
            "residual": self.residual_,
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        loadings, mean, noise = arrays["loadings"], arrays["mean"], float(arrays["noise"])
        if noise < SMALLEST_NOISE:
            raise damaged("the array 'noise' has a value that is too small", code="model-array-values")
        for name, least in (("prior", 1.0), ("spread", 0.0)):
            matrix = arrays[name]
            if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix)[0] < least - 1e-6:
                raise damaged(f"the array {name!r} is no covariance", code="model-array-values")
        self.components_ = Components(loadings, mean, noise, arrays["prior"], arrays["spread"])
        self.standard_ = Standard(arrays["center"], arrays["scale"])
        self.unit_, self.residual_ = arrays["unit"], arrays["residual"]


class PPCA(ProbabilisticPCA):
    """Probabilistic PCA, fitted to the known entries by maximum likelihood (Tipping & Bishop 1999; Roweis 1998).

    The z-scores of a row are ``W x + mean + e``, x ~ N(0, I), e ~ N(0, s2 I). EM gives the posterior of each x from the
    known entries of its row, then W, the means and s2 from the known entries of each feature (Ilin & Raiko 2010); no
    entry is filled meanwhile. The observed-data likelihood rises in each iteration. A missing value is its conditional
    mean. A new row is treated as a training row.

    Parameters
    ----------
    rank : int, "validated" or None, default="validated"
        Number of components k. ``"validated"`` chooses among up to twelve ranks from 1 to 100 on a tenth of the known
        entries (at most 20,000), which are hidden. None means min(n - 1, G - 1, 20).
    tol : float, default=1e-5
        Stop when the log-likelihood per known entry rises by less.
    max_iter : int, default=200
        Largest number of iterations.
    random_state : int, default=0
        Seed of the hidden entries and the draws.

    Attributes
    ----------
    components_ : Components
        Loadings W (G, k), means (G,) and noise variance s2, all of z-scores.

    Notes
    -----
    Scale: real values in the unit of the input; z-scores inside. New rows: exactly as training rows. Cost: seconds; per
    iteration ``2 n G k^2`` flops and n + G inverses of (k, k). Memory: ``4 n G`` bytes, ``4 G k^2``, and about 0.1 GB.

    Outputs: ``value``; ``variance`` of one value given the row; ``lower`` and ``upper``, a 90 % interval. Draws are
    joint over the missing features of a row. They take W and s2 as known and the noise as equal in all features, in
    standard deviations: where features differ in how far the components explain them, intervals are too wide for some
    and too narrow for others.

    Known to fail: with few rows, or as many components as rows, s2 goes to 0 and the fit follows the noise (`BPCA` is
    safer). It is linear and Gaussian: outliers and bimodal features (methylation) are smoothed. Values that are missing
    because they are low are imputed as if missing at random.

    References: Tipping & Bishop 1999 (doi:10.1111/1467-9868.00196), Roweis 1998, Ilin & Raiko 2010 (JMLR 11:1957).

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 3.0, 4.0])
    >>> X[2, 1] = np.nan
    >>> methods.get("ppca")(rank=1).fit_transform(X).to_array()[2].round(1)
    array([ 3.,  6.,  9., 12.])
    """

    info = PPCA_INFO
    figure = "log_likelihood"
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (1, 100, "log")}

    def __init__(
        self,
        *,
        rank: int | Literal["validated"] | None = "validated",
        tol: float = 1e-5,
        max_iter: int = 200,
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _path(self, Z: np.ndarray, rank: int) -> Iterator[tuple[Components, float]]:
        n_known = int((~np.isnan(Z)).sum())
        model = principal_components(Z, rank)
        while True:
            moments = moments_of(Z, model)
            yield model, moments.log_likelihood / n_known
            model = ppca_step(moments)


class BPCA(ProbabilisticPCA):
    """Bayesian PCA (Oba et al. 2003): probabilistic PCA whose prior switches off the components that are not needed.

    The model is that of `PPCA`; column c of W has the prior N(0, s2 / alpha_c I). Variational Bayes alternates between
    the latents and missing entries of each row, the posterior of W (its mean and its covariance, which is shared by all
    features), s2, and alpha: where the data do not support a component, alpha grows and the column vanishes. So the
    rank is an upper limit. The means are those of the known values, as in the authors' program.

    Parameters
    ----------
    rank : int, "validated" or None, default=None
        Largest number of components. None means min(n - 1, G - 1, 20); ``"validated"`` chooses it as `PPCA` does.
    tol : float, default=1e-5
        Stop when the natural log of s2 changes by less.
    max_iter : int, default=200
        Largest number of iterations.
    random_state : int, default=0
        Seed of the draws.

    Attributes
    ----------
    components_ : Components
        Posterior mean of W (G, k), noise variance s2 and the covariance of a row of W divided by s2, of z-scores.

    Notes
    -----
    Scale: real values in the unit of the input; z-scores inside (the authors' program takes values as they are). New
    rows: exactly as training rows. Cost: seconds; per iteration ``2 n G k^2`` flops and n inverses of (k, k). Memory:
    ``4 n G`` bytes, ``8 G k^2``, and about 0.1 GB.

    Outputs and draws are those of `PPCA`, and the uncertainty of W widens the intervals. The noise is equal in all
    features, in standard deviations, so intervals are right on average only.

    Known to fail: it is linear and Gaussian, as `PPCA`. With more than twenty real components (several thousand rows)
    the default rank is too low. Rows with hardly any known value are imputed with the means of the features.

    Source: Oba et al. 2003 (doi:10.1093/bioinformatics/btg287). The updates give the numbers of
    pcaMethods 1.90 on z-scores from the same start. The start is another one: the maximum-likelihood components and
    noise of the matrix with 0 for missing. The authors' program starts with the noise of all features added up, which
    switches off nearly all components where there are many features. Measured at 10 % hidden, RMSE in SD, ours and from
    that start: 569 tumours x 1,544 genes 0.704 (20 components) and 0.832 (4), 880 x 1,205 methylation probes 0.723 (20)
    and 0.778 (2); on 60 x 40 of rank 3 both 0.21 (7 and 3).

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 3.0, 4.0])
    >>> X[2, 1] = np.nan
    >>> methods.get("bpca")().fit_transform(X).to_array()[2].round(1)
    array([ 3. ,  6.5,  9. , 12. ])
    """

    info = BPCA_INFO
    figure = "log_noise_variance"
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"rank": (5, 100, "log")}

    def __init__(
        self,
        *,
        rank: int | Literal["validated"] | None = None,
        tol: float = 1e-5,
        max_iter: int = 200,
        random_state: int = 0,
    ) -> None:
        self.rank = rank
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _path(self, Z: np.ndarray, rank: int) -> Iterator[tuple[Components, float]]:
        model = principal_components(Z, rank)
        relevance = relevance_of(model)
        while True:
            yield model, float(np.log(model.noise))
            model, relevance = bpca_step(moments_of(Z, model), model, relevance, len(Z))
