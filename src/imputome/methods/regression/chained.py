"""The ``iterative_ridge`` and ``miss_forest`` methods: a regression of each feature in turn, round after round.

A round goes over the incomplete features, those with the fewest missing entries first. A feature is regressed on others
(as filled so far) over the rows that have it, and its missing entries are predicted at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numba import njit

from imputome.core.imputation import Status
from imputome.core.learned import Learned, damaged
from imputome.errors import Message
from imputome.methods.regression import ITERATIVE_RIDGE_INFO, MISS_FOREST_INFO
from imputome.methods.regression.by_feature import LinearRegressions, RegressionImputer, Regressions, most_similar

# A fit says beforehand that it will be slow above these, which took about 5 minutes on one core
RIDGE_LIMIT = 2e11  # rounds x features x rows x neighbours x min(rows, neighbours)
FOREST_LIMIT = 5e8  # rounds x features x trees x rows x neighbours tried at a node


USUAL_ROUNDS = 4.0


@dataclass(frozen=True)
class Rounds:
    """How `chained` ended."""

    F: np.ndarray  # (n, G)
    count: int
    changes: list[float]  # of each round
    converged: bool


def chained(
    Z: np.ndarray,
    order: np.ndarray,
    regress: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
    done: Callable[[np.ndarray, np.ndarray, np.ndarray, list[float]], bool],
    max_iter: int,
    tell: Callable[[float, str], None],
) -> Rounds:
    """Fill Z, (n, G) with NaN, by regressions in turn.

    ``regress(F, rows, j)`` fits feature j over the ``rows`` of F and returns its predictions for the other rows.
    ``done(new, old, missing, changes)`` is asked after each round, and appends the round's change.
    """
    missing = np.isnan(Z)
    F = np.where(missing, 0.0, Z)
    incomplete = [int(j) for j in order if missing[:, j].any()]
    changes: list[float] = []
    for number in range(max_iter):
        old = F.copy()
        for position, j in enumerate(incomplete):
            if position % 50 == 0:
                share = (number + position / len(incomplete)) / max_iter
                tell(share, f"round {number + 1}, feature {position + 1:,} of {len(incomplete):,}")
            F[missing[:, j], j] = regress(F, np.flatnonzero(~missing[:, j]), j)
        if not incomplete or done(F, old, missing, changes):
            return Rounds(F, number + 1, changes, True)
    return Rounds(F, max_iter, changes, False)


def warn_if_slow(name: str, work: float, limit: float, parameter: str) -> None:
    """Warn before a fit that will take much longer than a few minutes; a smaller ``parameter`` makes it faster."""
    if work > limit:
        text = (
            f"{name} is for small data, and this fit will take about {5 * work / limit:,.0f} minutes of one core: "
            f"pass a smaller {{{parameter}}}, or take the method bpca"
        )
        message = Message(text, code="slow-fit", **{parameter: ...})  # type: ignore[arg-type]
        warnings.warn(message, stacklevel=5)


class IterativeRidge(RegressionImputer):
    """Bayesian ridge regression of each feature on the most similar ones, in turn (chained equations).

    It is scikit-learn's IterativeImputer with its default BayesianRidge, on z-scores. Adapted: the neighbours are the
    ``n_nearest_features`` with the largest correlations (scikit-learn draws them at random in each step), so the result
    has no chance in it; and only the regressions of the last round are kept, for new rows. Values are predicted, not
    drawn, so this is single imputation.

    Parameters
    ----------
    n_nearest_features : int or None, default=100
        Number of features on which a feature is regressed. None means all others, as in scikit-learn.
    tol : float, default=1e-3
        Stop when no entry changes by more, in standard deviations of its feature.
    max_iter : int, default=10
        Largest number of rounds.

    Attributes
    ----------
    regressions_ : LinearRegressions
        For each feature the positions and coefficients of its neighbours, (G, k) each, and the intercept.

    Warns
    -----
    UserWarning
        The fit will take more than about 5 minutes.

    Notes
    -----
    Scale: real values in the unit of the input; z-scores inside. New rows: by the regressions of the last round,
    repeated up to ten times. Cost: minutes; per round ``6 n k min(n, k)`` flops for each incomplete feature. Memory:
    ``24 n G + 12 G k`` bytes.

    Known to fail: with few rows and many neighbours the regressions chase each other and need more rounds; it is slow
    beyond a few hundred features. Linear, as `LLS`, but shrunk, so it is safe with k above the number of rows.

    Source: van Buuren & Groothuis-Oudshoorn 2011 (doi:10.18637/jss.v045.i03). The ridge is scikit-learn's.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> X = np.outer(np.arange(1.0, 9.0), [1.0, 2.0, 3.0, 4.0])
    >>> X[2, 1] = np.nan
    >>> methods.get("iterative_ridge")().fit_transform(X).to_array()[2].round(1)
    array([ 3.,  6.,  9., 12.])
    """

    info = ITERATIVE_RIDGE_INFO
    libraries = ("scikit-learn",)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"n_nearest_features": (10, 200, "log")}

    def __init__(self, *, n_nearest_features: int | None = 100, tol: float = 1e-3, max_iter: int = 10) -> None:
        self.n_nearest_features = n_nearest_features
        self.tol = tol
        self.max_iter = max_iter

    def _check_values(self) -> None:
        nearest = self.n_nearest_features
        self._require("n_nearest_features", nearest is None or nearest >= 1, "at least 1 or None")
        self._require("tol", self.tol >= 0, "0 or larger")
        self._require("max_iter", self.max_iter >= 1, "at least 1")

    def _learn(self, Z: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, Regressions, Status]:
        from sklearn.linear_model import BayesianRidge

        from sklearn import config_context

        n = len(Z)
        k = max(1, min(len(used) - 1, self.n_nearest_features or len(used)))
        work = float(self.max_iter) * n * len(used) * k * min(n, k)
        warn_if_slow(self.name, work, RIDGE_LIMIT, "n_nearest_features")
        regressions = LinearRegressions.empty(Z, k)
        if len(used) > 1:
            regressions.neighbors[used] = used[most_similar(Z[:, used], np.arange(len(used)), k, "pearson")]

        def fit(F: np.ndarray, rows: np.ndarray, j: int) -> None:
            near = regressions.neighbors[j]
            ridge = BayesianRidge().fit(F[rows[:, None], near], F[rows, j])
            regressions.coefficients[j], regressions.intercept[j] = ridge.coef_, ridge.intercept_

        def regress(F: np.ndarray, rows: np.ndarray, j: int) -> np.ndarray:
            fit(F, rows, j)
            return regressions.predict(F, np.setdiff1d(np.arange(n), rows), j)

        def done(new: np.ndarray, old: np.ndarray, missing: np.ndarray, changes: list[float]) -> bool:
            changes.append(float(np.abs(new - old).max()))
            return changes[-1] < self.tol

        order = self.order_[: len(used)] if len(used) > 1 else used[:0]
        with config_context(assume_finite=True, skip_parameter_validation=True):
            rounds = chained(Z, order, regress, done, self.max_iter, self._tell)
            if len(used) > 1:
                for j in np.flatnonzero(~np.isnan(Z[:, used]).any(axis=0)):  # needed for new rows only
                    fit(rounds.F, np.arange(n), int(used[j]))
        reached = "" if rounds.converged else f", tol={self.tol:g} not reached"
        status = Status(
            "converged" if rounds.converged else "max_iter",
            f"{rounds.count} rounds{reached}",
            {"iterations": rounds.count},
        )
        return rounds.F, regressions, status


@dataclass(frozen=True)
class Forests:
    """Regression trees in flat arrays: those of feature j are ``roots[starts[j] : starts[j + 1]]``."""

    starts: np.ndarray  # (G + 1,)
    roots: np.ndarray  # (trees,) nodes
    feature: np.ndarray  # (nodes,) int32, -1 for a leaf
    threshold: np.ndarray  # (nodes,) a row with a value at or below it goes left
    left: np.ndarray  # (nodes,) int32 nodes
    right: np.ndarray
    value: np.ndarray  # (nodes,) mean of the training rows that reached it

    @classmethod
    def of(cls, trees: dict[int, list[Any]], columns: dict[int, np.ndarray], G: int) -> Forests:
        """From fitted scikit-learn trees of each feature, and the positions of the columns that they were fitted on.

        A feature without trees has one leaf, which is its mean, 0.
        """
        fitted = [trees.get(j, []) for j in range(G)]
        starts = np.cumsum([0, *(max(1, len(some)) for some in fitted)])
        number = sum(tree.tree_.node_count for some in fitted for tree in some) + fitted.count([])
        roots, size = [], 0
        feature, left, right = (np.zeros(number, np.int32) for _ in range(3))
        threshold, value = np.zeros(number), np.zeros(number)
        feature -= 1
        for j, some in enumerate(fitted):
            for tree in (estimator.tree_ for estimator in some):
                roots.append(size)
                part = slice(size, size + tree.node_count)
                leaf = tree.children_left < 0
                feature[part] = np.where(leaf, -1, columns[j][np.where(leaf, 0, tree.feature)])
                left[part] = np.where(leaf, 0, size + tree.children_left)
                right[part] = np.where(leaf, 0, size + tree.children_right)
                threshold[part], value[part] = np.where(leaf, 0, tree.threshold), tree.value[:, 0, 0]
                size += tree.node_count
            if not some:
                roots.append(size)
                size += 1
        return cls(starts, np.array(roots), feature, threshold, left, right, value)

    def fault(self, G: int) -> str:
        """What is wrong with arrays of a saved model, which could make `predict` run for ever or read elsewhere."""
        nodes = np.flatnonzero(self.feature >= 0)
        if not (len(self.starts) == G + 1 and self.starts[0] == 0 and self.starts[-1] == len(self.roots)):
            return "the array 'starts' is not of these features"
        if (np.diff(self.starts) < 1).any():
            return "the array 'starts' does not rise"
        if self.feature.min() < -1 or self.feature.max() >= G:
            return "the array 'feature' has positions that are not of features"
        if (self.left[nodes] <= nodes).any() or (self.right[nodes] <= nodes).any():
            return "the arrays 'left' and 'right' are no trees"
        return ""

    def predict(self, F: np.ndarray, rows: np.ndarray, feature: int) -> np.ndarray:
        roots = self.roots[self.starts[feature] : self.starts[feature + 1]]
        arrays = self.feature, self.threshold, self.left, self.right, self.value
        return np.asarray(_mean_of_trees(F, rows, roots, *arrays))


@njit(cache=True)
def _mean_of_trees(F, rows, roots, feature, threshold, left, right, value):  # type: ignore[no-untyped-def]
    out = np.zeros(rows.size)
    for position in range(rows.size):
        for root in roots:
            node = root
            while feature[node] >= 0:
                # scikit-learn compares values in single precision
                if np.float32(F[rows[position], feature[node]]) <= threshold[node]:
                    node = left[node]
                else:
                    node = right[node]
            out[position] += value[node]
    return out / roots.size


class MissForest(RegressionImputer):
    """A random forest for each feature on all others, in turn (Stekhoven & Bühlmann 2012).

    Each tree is fitted to a bootstrap sample of the rows that have the feature; at each node, the square root of the
    number of features is tried. The rounds end when the change between two rounds, ``sum (new - old)^2 / sum new^2``
    over the missing entries, grows for the first time; the fill of the round before is the result (the paper's rule).

    Parameters
    ----------
    n_trees : int, default=100
        Trees in each forest.
    min_leaf : int, default=5
        Smallest number of rows in a leaf.
    max_iter : int, default=10
        Largest number of rounds.
    random_state : int, default=0
        Seed of the bootstrap and of the features that are tried.

    Attributes
    ----------
    regressions_ : Forests
        The forests of all features.

    Warns
    -----
    UserWarning
        The fit will take more than about 5 minutes.

    Notes
    -----
    Scale: real values in the unit of the input; forests do not depend on it. New rows: by the forests of the last
    round, repeated up to ten times. Cost: hours; per round ``n_trees n sqrt(G) log2(n)`` comparisons for each
    incomplete feature. Memory: ``24 n G`` bytes, and 28 bytes for each node, of which a tree has about
    ``n / min_leaf``. Known entries, where asked for, are predicted by trees that have seen them.

    Known to fail: more than a few hundred features take hours; trees cannot leave the range of the training values and
    pull extremes to the middle; where features are in nearly linear relation (most bulk expression), `BPCA` is better
    at a fraction of the time. Its strength is small data with relations that are not linear.

    Source: doi:10.1093/bioinformatics/btr597. The trees are scikit-learn's.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> a = np.linspace(-1, 1, 60)
    >>> X = np.column_stack([a, a**2, a**4])
    >>> X[10, 1] = np.nan
    >>> values = methods.get("miss_forest")(n_trees=20).fit_transform(X).to_array()
    >>> bool(abs(values[10, 1] - a[10] ** 2) < 0.1)
    True
    """

    info = MISS_FOREST_INFO
    stored: ClassVar[dict[str, Learned]] = {
        "center": Learned("G"),
        "scale": Learned("G", values="positive"),
        "order": Learned("G", "int", below="G"),
        "starts": Learned("S", "int"),
        "feature": Learned("N", "int"),
        "threshold": Learned("N"),
        "left": Learned("N", "int", below="N"),
        "right": Learned("N", "int", below="N"),
        "value": Learned("N"),
        "roots": Learned("t", "int", below="N"),
    }
    libraries = ("scikit-learn",)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"min_leaf": (1, 20, "log")}

    def __init__(self, *, n_trees: int = 100, min_leaf: int = 5, max_iter: int = 10, random_state: int = 0) -> None:
        self.n_trees = n_trees
        self.min_leaf = min_leaf
        self.max_iter = max_iter
        self.random_state = random_state

    def _check_values(self) -> None:
        for name in ("n_trees", "min_leaf", "max_iter"):
            self._require(name, getattr(self, name) >= 1, "at least 1")

    def _learn(self, Z: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, Regressions, Status]:
        n, G = Z.shape
        work = USUAL_ROUNDS * len(used) * self.n_trees * n * np.sqrt(len(used))
        warn_if_slow(self.name, work, FOREST_LIMIT, "n_trees")
        rng = np.random.default_rng(self.random_state)
        columns = {int(j): np.setdiff1d(used, [j]) for j in used}
        trees: dict[int, list[Any]] = {}
        finished: tuple[np.ndarray, dict[int, list[Any]]] = (np.empty(0), {})

        def regress(F: np.ndarray, rows: np.ndarray, j: int) -> np.ndarray:
            inputs = F[:, columns[j]].astype(np.float32)
            trees[j] = self._forest(inputs[rows], F[rows, j], rng)
            others = np.delete(inputs, rows, axis=0)
            return np.asarray(np.mean([tree.tree_.predict(others)[:, 0] for tree in trees[j]], axis=0))

        def done(new: np.ndarray, old: np.ndarray, missing: np.ndarray, changes: list[float]) -> bool:
            nonlocal finished
            gap = new - old
            changes.append(float(np.sum(gap * gap) / max(float(np.sum(new[missing] ** 2)), 1e-300)))
            worse = len(changes) > 1 and changes[-1] > changes[-2]
            if not worse:
                finished = new.copy(), dict(trees)
            return worse

        incomplete = self.order_[: len(used)] if len(used) > 1 else used[:0]
        rounds = chained(Z, incomplete, regress, done, self.max_iter, self._tell)
        F = rounds.F
        if rounds.changes:
            F, trees = finished
        if len(used) > 1:
            for j in set(columns) - set(trees):  # complete features, needed for new rows only
                trees[j] = self._forest(F[:, columns[j]].astype(np.float32), F[:, j], rng)
        reached = "" if rounds.converged else ", and the change still fell"
        status = Status(
            "converged" if rounds.converged else "max_iter",
            f"{rounds.count} rounds{reached}",
            {"iterations": rounds.count},
        )
        return F, Forests.of(trees, columns, G), status

    def _forest(self, inputs: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> list[Any]:
        """Fitted trees, each on a bootstrap sample."""
        from sklearn.tree import DecisionTreeRegressor

        n = len(target)
        trees = []
        for _ in range(self.n_trees):
            weight = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)
            tree = DecisionTreeRegressor(
                max_features="sqrt", min_samples_leaf=self.min_leaf, random_state=int(rng.integers(2**31))
            )
            trees.append(tree.fit(inputs, target[:, None], sample_weight=weight, check_input=False))
        return trees

    def _regressions_from(self, arrays: dict[str, np.ndarray]) -> Regressions:
        names = (each.name for each in fields(Forests))
        forests = Forests(**{name: arrays[name] for name in names})
        if fault := forests.fault(len(arrays["center"])):
            raise damaged(fault, code="model-array-values")
        return forests
