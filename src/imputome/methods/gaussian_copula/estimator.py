"""The ``gaussian_copula`` method: transform the features, condition on the observed ones, transform back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, ClassVar, Literal

import numpy as np

from imputome.core.data import WIDE_FEATURES, Data
from imputome.core.imputation import Output, Status
from imputome.core.imputer import Imputer
from imputome.core.learned import Learned, damaged
from imputome.core.scales import Standard
from imputome.errors import ModelFormatError, some
from imputome.inspection.advice import MOST_WIDE_SAMPLES
from imputome.methods.factors import few_threads
from imputome.methods.gaussian_copula import GAUSSIAN_COPULA_INFO
from imputome.methods.gaussian_copula.calibration import (
    QuantileCalibration,
    ResidualDistribution,
    leave_one_out_loss,
    leave_one_out_residuals,
    residuals_at,
    tune,
)
from imputome.methods.gaussian_copula.conditional import MAX_ROWS_IN_SYSTEM, BasePredictor, Conditional, RowPrediction
from imputome.methods.gaussian_copula.marginals import MAX_KNOTS, Marginals
from imputome.methods.gaussian_copula.noise import Gaussian, column_blocks, complete_rows, fit_gaussian
from imputome.methods.gaussian_copula.relevance import Relevance, fit_relevance
from imputome.methods.gaussian_copula.wide import KNOTS, RowWeights, fit_wide, stack

NORMAL_SHARES = (0.25, 0.5)  # candidates of normal_share="auto"
GAUSSIAN = tuple(BasePredictor("gaussian", noise) for noise in (1.0, 0.5, 0.25))
PREDICTORS: dict[str, tuple[BasePredictor, ...]] = {  # by mode
    "fast": GAUSSIAN,
    "accurate": (
        *GAUSSIAN,
        BasePredictor("sum", 0.5, length=1.0, height=1.0),
        BasePredictor("laplace", 0.1, length=4.0),
        BasePredictor("local", 0.25, length=0.2),
        BasePredictor("relevance"),
    ),
}
PREDICTORS["wide"] = tuple(each for each in PREDICTORS["accurate"] if each.kind != "relevance")
SHARE_FEATURES = 1024  # of a wide table, on which normal_share is chosen
LEAST_WIDE_SAMPLES = 3  # of features with two known values, none can be hidden
# models saved by version 0.1.0 hold positions in this list
NAMES_0_1_0 = ("gaussian 1", "gaussian 0.5", "gaussian 0.25", "sum 0.5", "laplace 0.1", "local 0.25")
# a `ResidualDistribution` in a saved model: name of the array -> attribute, and the factors in "calibration"
RESIDUAL_ARRAYS = {
    "heights": "heights",
    "pooled": "pooled",
    "scores": "feature_scores",
    "explained": "explained",
    "unit": "feature_sd",
}
RESIDUAL_FACTORS = ("width", "variance_factor", "extra_variance", "mean_shift")
NORMAL_90 = 1.645  # half the width of a 90 % interval, in standard deviations of a normal
# of a saved model; every fit gives larger ones, and with smaller ones the systems of `conditional` can be singular
SMALLEST_NOISE, SMALLEST_RIDGE = 1e-5, 0.1
DENSE = 8  # one entry for so many features of a block: then all of these are predicted
CACHED_VALUES = 2**26  # largest number of values in cached row predictions (0.5 GiB)


class GaussianCopula(Imputer):
    """Conditional mean of the missing features of a row, given its observed ones, under a Gaussian copula.

    Each feature is transformed (partly a normal score, partly a z-score, see `marginals`). On that scale rows are
    Gaussian with covariance Z'Z / c + diag(d). The noise d of each feature, the ridge c and the fill of missing
    training values come from leave-one-out errors in closed form (see `noise`). The missing features of a row come from
    a solve over training rows, not features (see `conditional`, and `wide`). ``mode="accurate"`` adds processes with a
    Laplace kernel, a local ridge, and a regression of each feature on those that are most correlated with it (see
    `relevance`); all are stacked with non-negative weights, fitted on values hidden in training rows. In the input's
    unit, a value is the mean or median over quantiles of the out-of-fold residuals of its feature.

    A training row is recognised by its values, and is predicted from the other rows and its own observed values. A row
    without any observed value gets the feature means. Constant features stay constant; features that were never
    observed get the mean of all values. Values may lie slightly outside of the training range of their feature.

    Parameters
    ----------
    mode : {"auto", "accurate", "fast", "wide"}, default="auto"
        ``"fast"`` uses the Gaussian only. ``"wide"`` works in blocks of features, without the regressions of features
        (see Notes). ``"auto"`` is ``"wide"`` for more than 20,000 features that vary, of up to 1,000 rows, and
        ``"accurate"`` otherwise; with two rows it is ``"fast"``.
    center : {"mean", "median"}, default="mean"
        What the value is of the predictive distribution: its mean (least squared error) or its median (least absolute
        error).
    normal_share : float or "auto", default="auto"
        Share of the normal score in the transform, 0 to 1. ``"auto"`` takes 0.25 or 0.5, whichever has the lower
        leave-one-out error in the input's unit.
    random_state : int, default=0
        Seed of the hidden training values and of the draws.

    Attributes
    ----------
    noise_ : ndarray of shape (G,)
        Noise of each feature, as a share of its variance on the transformed scale; 0 for constant features.
    members_ : dict of str to float
        Weights of the predictors that were kept.

    Notes
    -----
    Cost: minutes; for n rows and G features O(n^2 (n + G)) per pass of the fit, with ten to thirty passes, then O(n^2
    (n + m)) for a row with m missing features; ``mode="accurate"`` adds O(n G^2), and O(n^3) for each feature, which is
    most of the time: 35 s of one core for 455 x 1,544, of which ``"fast"`` takes 5. With more than 1,000 training rows
    the covariance is learned from 1,000 random ones, and a row is predicted from the 256 nearest of all, at O(n + 256^2
    G) each.

    ``mode="wide"``: a training row is predicted from the other rows, so `transform` gives it other values: use the
    result of the fit for the rows that were fitted. Cost: 4 to 12 passes of about 3 n^2 G multiplications in float32,
    and n systems of n rows; all training rows are predicted at once, at 2 n^2 multiplications for each feature. Memory:
    the input, its transformed values (``4 n G`` bytes), 0.7 KiB for each feature, and blocks. What is learned by trying
    is learned on features drawn at random: ``normal_share`` on 1,024, and the ridge, the level of the noise, the
    weights of the predictors and the intervals on 4,096, of which a tenth of the values or more is hidden. The noise
    and the shape of the residuals are of each feature. New rows cost O(n^2 m) each, as in the other modes.

    Outputs: ``value``; ``variance`` of one value given the row; ``lower`` and ``upper``, a 90 % interval. Draws are
    joint over the missing features of a row. Copula: Hoff 2007 (doi:10.1214/07-AOAS107), Zhao & Udell 2020
    (doi:10.1145/3394486.3403106). Processes: Rasmussen & Williams 2006. Stacking: Breiman 1996.

    Known to fail: with 4 samples it is worse than the mean (RMSE in SD 1.36 to 1.50; mean 1.31 to 1.36), and with 6 it
    is level. Its intervals are too narrow there: they held half of the hidden values with 4 samples, 0.66 to 0.71 with
    6, 0.77 to 0.82 with 10, and 0.85 to 0.87 with 20, where 0.9 is right. Values that are missing because they are low
    are imputed too high.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome import methods
    >>> a = np.linspace(0, 1, 40)
    >>> X = np.column_stack([a, 2 * a, 1 - a])
    >>> X[20, 1] = np.nan
    >>> result = methods.get("gaussian_copula")(mode="fast").fit_transform(X)
    >>> bool(abs(result.to_array()[20, 1] - 2 * a[20]) < 0.1)
    True
    """

    info = GAUSSIAN_COPULA_INFO
    learned: ClassVar[dict[str, Learned]] = {
        "centre": Learned("G"),
        "usable": Learned("G", "bool"),
        "seen": Learned("G", "bool"),
        "fallback_variance": Learned(values="not negative"),
        "prints": Learned("n", "uint64"),
    }
    # U: features that vary, K: knots, m: predictors, B: bins of residuals, L: bins of the calibration
    stored: ClassVar[dict[str, Learned]] = {
        "noise": Learned("U", values="positive", optional=True),
        "x_knots": Learned("K U", optional=True),
        "t_knots": Learned("K U", optional=True),
        "slope": Learned("U", values="not negative", optional=True),
        "rows": Learned("n U", optional=True),
        "ridge": Learned(values="positive", optional=True),
        "members": Learned("m", "int or text", optional=True),
        "weights": Learned("m", optional=True),
        "regressed_on": Learned("U k", "int", optional=True),
        "coefficients": Learned("U k", optional=True),
        "intercepts": Learned("U", optional=True),
        "heights": Learned("B", optional=True),
        "pooled": Learned("10 B", optional=True),
        "scores": Learned("10 U", optional=True),
        "explained": Learned("U", optional=True),
        "unit": Learned("U", values="positive", optional=True),
        "calibration": Learned("4", optional=True),
        "levels_at": Learned("L", optional=True),
        "levels": Learned("10 L", optional=True),
        "levels_spread": Learned("L", values="not negative", optional=True),
    }
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"normal_share": (0.0, 1.0, "linear")}

    def __init__(
        self,
        *,
        mode: Literal["auto", "accurate", "fast", "wide"] = "auto",
        center: Literal["mean", "median"] = "mean",
        normal_share: float | Literal["auto"] = "auto",
        random_state: int = 0,
    ) -> None:
        self.mode = mode
        self.center = center
        self.normal_share = normal_share
        self.random_state = random_state

    def as_for(self, n: int, G: int) -> GaussianCopula:
        return self.clone(mode=self._mode_for(n, G))

    conditional_: Conditional | None
    row_weights_: RowWeights | None  # of the training rows, if the mode is "wide"; not saved

    def _check_values(self) -> None:
        share = self.normal_share
        self._require("normal_share", share == "auto" or 0 <= share <= 1, "'auto' or a number from 0 to 1")

    def _fit(self, data: Data) -> tuple[CopulaModel, dict[str, Any]]:
        X = data.known_values()
        self.centre_, self.usable_ = _centres(X)
        self.seen_ = ~np.isnan(X).all(axis=0)
        self.fallback_variance_ = _variance(X)
        self.prints_ = _fingerprints(X)
        # not the stream of ``default_rng(random_state)``: a user may have hidden values by that
        rng = np.random.default_rng([self.random_state, 1])
        with few_threads(X.size < 2**16):
            self.row_weights_ = self.conditional_ = None
            if self.usable_.any():
                wide = self._mode_for(len(X), int(self.usable_.sum())) == "wide"
                learn = self._learn_wide if wide else self._learn
                learn(X if self.usable_.all() else X[:, self.usable_], rng)
        weights = "; ".join(f"{name}: {weight:.2f}" for name, weight in self.members_.items() if weight)
        status = Status(
            "exact", "no feature varies" if self.conditional_ is None else f"weights of its predictions: {weights}"
        )
        return self._model(X, self.row_weights_), {"status": status, "gene_columns": {"noise": self.noise_}}

    def _mode_for(self, n: int, G: int) -> Literal["accurate", "fast", "wide"]:
        """The mode in use for n samples x G features."""
        mode = self.mode
        if mode == "auto":
            mode = "wide" if G > WIDE_FEATURES and n <= MOST_WIDE_SAMPLES else "accurate"
        return "fast" if mode == "wide" and n < LEAST_WIDE_SAMPLES else mode

    def imputes_by_rows(self, data: Data) -> bool:
        # the weights of the training rows, in which a row has no part in its own prediction, are not saved
        return getattr(self, "row_weights_", None) is None

    def _learn_wide(self, X: np.ndarray, rng: np.random.Generator) -> None:
        feature_sd = Standard.of(X).scale
        share = self.normal_share
        if share == "auto":
            some = np.sort(rng.permutation(X.shape[1])[:SHARE_FEATURES])
            share = self._best_share(X[:, some], np.arange(len(X)), feature_sd[some], rng, KNOTS)[0]
        self.marginals_ = Marginals.fit(X, float(share), most_knots=KNOTS)
        gaussian, K, sample = fit_wide(X, self.marginals_, rng, lambda part, text: self._tell(0.1 + 0.6 * part, text))
        self._tell(0.7, "weights and calibration on hidden values")
        gaussian, predictors, weights, self.residuals_, self.row_weights_ = stack(
            gaussian, K, sample, X, self.marginals_, feature_sd, PREDICTORS["wide"]
        )
        self.conditional_ = Conditional(gaussian, predictors, weights, self.residuals_.explained)

    def _best_share(
        self, X: np.ndarray, rows: np.ndarray, feature_sd: np.ndarray, rng: np.random.Generator, most_knots: int
    ) -> tuple[float, Marginals, np.ndarray, Gaussian]:
        """The share of the normal score, and the transforms, the transformed ``rows`` and their Gaussian."""
        shares = NORMAL_SHARES if self.normal_share == "auto" else (float(self.normal_share),)
        lowest = np.inf
        for number, share in enumerate(shares):
            self._tell(0.6 * number / len(shares), f"correlations, marginals {number + 1} of {len(shares)}")
            marginals = Marginals.fit(X, share, most_knots=most_knots)
            T = marginals.forward(X[rows])
            gaussian = fit_gaussian(T, rng)
            error = leave_one_out_loss(gaussian, marginals, T, feature_sd) if len(shares) > 1 else 0.0
            if error < lowest:
                lowest, best = error, (share, marginals, T, gaussian)
        return best

    def _learn(self, X: np.ndarray, rng: np.random.Generator) -> None:
        n = len(X)
        rows = np.arange(n) if n <= MAX_ROWS_IN_SYSTEM else np.sort(rng.permutation(n)[:MAX_ROWS_IN_SYSTEM])
        feature_sd = Standard.of(X).scale
        _, self.marginals_, T, gaussian = self._best_share(X, rows, feature_sd, rng, MAX_KNOTS)
        self._tell(0.6, "residuals of the training rows")
        residuals = leave_one_out_residuals(gaussian, np.isnan(T), feature_sd)
        if n > MAX_ROWS_IN_SYSTEM:
            T = self.marginals_.forward(X)
            gaussian = complete_rows(gaussian, T)
        self._tell(0.7, "calibration on hidden values")
        predictors = PREDICTORS[self._mode_for(*X.shape)]
        first_only = np.eye(len(predictors))[0]
        regressed = any(predictor.kind == "relevance" for predictor in predictors)
        relevance = fit_relevance(gaussian.Z, ~np.isnan(T), gaussian.noise) if regressed else None
        start = Conditional(gaussian, predictors, first_only, residuals.explained, relevance)
        self.conditional_, self.residuals_ = tune(start, residuals, self.marginals_, T, rng)

    @property
    def noise_(self) -> np.ndarray:
        noise = np.zeros(len(self.usable_))
        if self.conditional_ is not None:
            noise[self.usable_] = self.conditional_.gaussian.noise
        return noise

    @property
    def members_(self) -> dict[str, float]:
        if self.conditional_ is None:
            return {}
        pairs = zip(self.conditional_.predictors, self.conditional_.weights, strict=True)
        return {predictor.name: float(weight) for predictor, weight in pairs}

    def _new_rows(self, data: Data) -> CopulaModel:
        return self._model(data.known_values())

    def _model(self, X: np.ndarray, row_weights: RowWeights | None = None) -> CopulaModel:
        """The model of these rows; with ``row_weights`` they are the training rows."""
        positions = {int(mark): position for position, mark in reversed(list(enumerate(self.prints_)))}
        training_rows = np.array([positions.get(int(mark), -1) for mark in _fingerprints(X)])
        return CopulaModel(X, training_rows, self, row_weights)

    def _state(self) -> dict[str, np.ndarray]:
        state = super()._state()
        if self.conditional_ is None:
            return state
        gaussian, residuals, calibration = self.conditional_.gaussian, self.residuals_, self.residuals_.calibration
        return state | {
            "x_knots": self.marginals_.x,
            "t_knots": self.marginals_.t,
            "slope": self.marginals_.slope,
            "rows": gaussian.Z,
            "noise": gaussian.noise,
            "ridge": np.array(gaussian.ridge),
            "members": np.array(list(self.members_)),
            "weights": self.conditional_.weights,
            **_saved(self.conditional_.relevance),
            **{name: getattr(residuals, attribute) for name, attribute in RESIDUAL_ARRAYS.items()},
            "calibration": np.array([getattr(residuals, name) for name in RESIDUAL_FACTORS]),
            "levels_at": calibration.predicted,
            "levels": calibration.scores,
            "levels_spread": calibration.variance_factor,
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        super()._restore(arrays)
        self.conditional_ = None
        if not self.usable_.any():
            return
        if len(arrays["noise"]) != self.usable_.sum():
            raise damaged("the array 'noise' is not of the features that vary", code="model-array-shape")
        self.marginals_ = Marginals(arrays["x_knots"], arrays["t_knots"], arrays["slope"])
        gaussian = Gaussian(arrays["rows"], arrays["noise"], float(arrays["ridge"]))
        if gaussian.noise.min() < SMALLEST_NOISE or gaussian.ridge < SMALLEST_RIDGE:
            raise damaged("the arrays 'noise' and 'ridge' have values that are too small", code="model-array-values")
        # early models have no calibration
        calibration = QuantileCalibration.none()
        if "levels" in arrays:
            calibration = QuantileCalibration(arrays["levels_at"], arrays["levels"], arrays["levels_spread"])
        fitted: dict[str, Any] = {attribute: arrays[name] for name, attribute in RESIDUAL_ARRAYS.items()}
        fitted |= zip(RESIDUAL_FACTORS, arrays["calibration"].tolist(), strict=True)
        self.residuals_ = ResidualDistribution(**fitted, calibration=calibration)
        predictors = _predictors_named(arrays["members"])
        relevance = _relevance_of(arrays, len(gaussian.noise))
        if relevance is None and any(predictor.kind == "relevance" for predictor in predictors):
            raise damaged("the regressions of the features are not there", code="model-array-values")
        self.conditional_ = Conditional(gaussian, predictors, arrays["weights"], self.residuals_.explained, relevance)


def _predictors_named(stored: np.ndarray) -> tuple[BasePredictor, ...]:
    """The predictors of a saved model, from their names, or from the positions that version 0.1.0 saved."""
    older = dict(enumerate(NAMES_0_1_0))
    names = [str(name) if stored.dtype.kind == "U" else older.get(int(name), str(name)) for name in stored]
    known = {predictor.name: predictor for predictor in PREDICTORS["accurate"]}
    unknown = [name for name in names if name not in known]
    if unknown:
        text = (
            f"the saved copula has unknown predictors ({some(unknown)[:200]}): load it with the version that saved it"
        )
        raise ModelFormatError(text, code="model-version")
    return tuple(known[name] for name in names)


def _saved(relevance: Relevance | None) -> dict[str, np.ndarray]:
    if relevance is None:
        return {}
    arrays = {"regressed_on": relevance.predictors, "coefficients": relevance.coefficients}
    return arrays | {"intercepts": relevance.intercepts}


def _relevance_of(arrays: dict[str, np.ndarray], n_features: int) -> Relevance | None:
    if any(name not in arrays for name in ("regressed_on", "coefficients", "intercepts")):
        return None
    predictors = arrays["regressed_on"]
    if predictors.size and not 0 <= predictors.min() <= predictors.max() < n_features:
        raise damaged("the array 'regressed_on' has positions that are not there", code="model-array-values")
    return Relevance(predictors, arrays["coefficients"], arrays["intercepts"], np.zeros(n_features, int))


def _centres(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G,) feature means (the mean of all values for features without any), and which features vary."""
    G = X.shape[1]
    count, total, varies = np.zeros(G), np.zeros(G), np.zeros(G, bool)
    for part in column_blocks(*X.shape):
        known = ~np.isnan(X[:, part])
        count[part] = known.sum(axis=0)
        total[part] = np.nansum(X[:, part], axis=0, dtype=np.float64)
        low = np.where(known, X[:, part], np.inf).min(axis=0)
        high = np.where(known, X[:, part], -np.inf).max(axis=0)
        # a range that is only rounding error cannot be standardised
        with np.errstate(invalid="ignore"):
            varies[part] = high - low > 1e-6 * np.maximum(np.abs(low), np.abs(high))
    centre = np.full(G, total.sum() / max(1.0, count.sum()))
    np.divide(total, count, out=centre, where=count > 0)
    return centre, varies


def _variance(X: np.ndarray) -> float:
    """Variance of all known values, in float64 (NumPy squares float32 values in float32)."""
    count = total = squares = 0.0
    for row in X:
        known = row[~np.isnan(row)].astype(np.float64)
        count += len(known)
        total += known.sum()
    for row in X:
        known = row[~np.isnan(row)].astype(np.float64)
        squares += float(np.square(known - total / count).sum())
    return squares / max(1.0, count)


def _fingerprints(X: np.ndarray) -> np.ndarray:
    """(n,) 64-bit fingerprints; equal for rows with the same values and the same missing ones."""
    marks = np.empty(len(X), np.uint64)
    for i, row in enumerate(X):
        # float32, because a table may be read in either precision; + 0.0 turns -0.0 into 0.0
        values = np.where(np.isnan(row), np.nan, row + 0.0).astype(np.float32)
        marks[i] = int.from_bytes(blake2b(values.tobytes(), digest_size=8).digest(), "little")
    return marks


# -- the model of some rows -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class FittedCopula:
    """What was learned about the features that vary."""

    marginals: Marginals
    conditional: Conditional
    residuals: ResidualDistribution
    center: Literal["mean", "median"]  # what the value is of the predictive distribution

    def predict(self, x: np.ndarray, training_row: int | None) -> RowPrediction:
        """Predict the row x, (G,) with NaN for missing, on the transformed scale."""
        t = self.marginals.forward(x[None])[0].astype(np.float64)
        return self.conditional.predict(t, training_row)

    def output(self, mean: np.ndarray, deviation: np.ndarray, columns: np.ndarray, output: Output) -> np.ndarray:
        """(m,) values, variances or bounds in the input's unit, from transformed means and standard deviations."""
        predicted = self.marginals.back(mean[None], columns)[0]
        if output == "value":
            uncorrected = self.residuals.uncorrected(self.marginals, mean, deviation, columns)
            if self.center == "mean":
                return self.residuals.mean(predicted, uncorrected)
            return np.asarray(uncorrected[4:6].mean(axis=0))
        quantiles = self.residuals.quantiles(self.marginals, predicted, mean, deviation, columns)
        if output == "variance":
            return self.residuals.variance(predicted, quantiles, columns)
        return np.asarray(quantiles[0 if output == "lower" else -1])

    def draw(self, row: RowPrediction, rng: np.random.Generator) -> np.ndarray:
        """(G,) one joint draw of the missing features; the others have their means."""
        missing, residuals = row.missing, self.residuals
        independent = rng.standard_normal(len(missing)) * np.sqrt(self.conditional.gaussian.noise[missing])
        shared = rng.standard_normal(len(row.roots)) @ row.roots
        mean, variance = row.mean[missing], row.variance[missing]
        predicted = self.marginals.back(mean[None], missing)[0]
        scores = residuals.calibration.correct(((independent + shared) / np.sqrt(variance))[None], predicted)
        residual = residuals_at(scores, residuals.ordered(mean, missing))[0]
        t = row.mean.copy()
        t[missing] += residuals.width * row.scale * np.sqrt(variance) * residual
        return np.asarray(self.marginals.back_extended(t[None], np.arange(len(t)), residuals.feature_sd)[0])


class CopulaModel:
    """A `Model` of some rows, X (n, G) with NaN for missing: values, variances, intervals and draws, on request.

    ``training_rows``, (n,), are their positions among the training rows of ``method``, -1 for new rows.

    Row predictions are cached, up to 0.5 GiB, because a row is often asked for its values and then its variances, or
    for several draws. Most of the memory is needed for draws only, so these have their own cache.
    """

    outputs: frozenset[Output] = frozenset({"value", "variance", "lower", "upper"})

    def __init__(
        self, X: np.ndarray, training_rows: np.ndarray, method: GaussianCopula, row_weights: RowWeights | None = None
    ) -> None:
        self.X, self.training_rows, self.random_state = X, training_rows, method.random_state
        self.row_weights = row_weights
        self.quick_entries = row_weights is not None
        self.centre = method.centre_  # (G,) feature means
        self.usable = np.flatnonzero(method.usable_)  # features that vary
        self.constant = method.seen_ & ~method.usable_  # (G,) features that were observed and do not vary
        self.fallback_variance = method.fallback_variance_  # of all values, for features that were never observed
        self.copula: FittedCopula | None = None  # None if no feature varies
        if method.conditional_ is not None:
            self.copula = FittedCopula(method.marginals_, method.conditional_, method.residuals_, method.center)
        self._position = np.full(X.shape[1], -1)  # of a feature among those that vary
        self._position[self.usable] = np.arange(len(self.usable))
        self._empty = np.array([np.isnan(row).all() for row in X])  # (n,) rows of which nothing is known
        self._predicted: dict[int, RowPrediction] = {}
        self._predicted_with_roots: dict[int, RowPrediction] = {}

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        columns = np.arange(self.X.shape[1]) if genes is None else genes
        if self.row_weights is not None:
            i, j = np.divmod(np.arange(len(rows) * len(columns)), max(1, len(columns)))
            return self.at(rows[i], columns[j], output).reshape(len(rows), len(columns))
        out = np.empty((len(rows), len(columns)))
        for position, i in enumerate(rows):
            out[position] = self._row(int(i), columns, output)
        return out

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        if self.copula is not None and self.row_weights is not None:
            return self._at_together(self.copula, self.row_weights, i, j, output)
        out = np.empty(len(i))
        order = np.argsort(i, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(i[order])) + 1):
            if len(part):
                out[part] = self._row(int(i[part[0]]), j[part], output)
        return out

    def draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """(len(rows), G) completed rows; they depend on random_state, the position of the row and ``number``."""
        out = np.tile(self.centre, (len(rows), 1))
        if self.copula is not None:
            for position, i in enumerate(rows):
                rng = np.random.default_rng([self.random_state, number, int(i)])
                prediction = self._predict(self.copula, int(i), with_roots=True)
                out[position, self.usable] = self.copula.draw(prediction, rng)
        return out

    def _row(self, i: int, columns: np.ndarray, output: Output) -> np.ndarray:
        out = self._fallback(columns, output)
        varying = self._position[columns] >= 0
        if self.copula is None or not varying.any():
            return out
        prediction = self._predict(self.copula, i)
        if output == "value" and len(prediction.missing) == len(self.usable):
            return out  # nothing is known about this row: the feature means
        places = self._position[columns[varying]]
        deviation = prediction.scale * np.sqrt(prediction.variance[places])
        out[varying] = self.copula.output(prediction.mean[places], deviation, places, output)
        return out

    def _at_together(
        self, copula: FittedCopula, row_weights: RowWeights, i: np.ndarray, j: np.ndarray, output: Output
    ) -> np.ndarray:
        """`at` of training rows, in blocks of features, each for all rows at once."""
        out = self._fallback(j, output)
        places = self._position[j]
        chosen = places >= 0
        if output == "value":
            chosen &= ~self._empty[i]
        chosen = np.flatnonzero(chosen)
        chosen = chosen[np.argsort(places[chosen], kind="stable")]
        ordered = places[chosen]
        for part in column_blocks(len(self.X), len(self.usable)):
            first, last = np.searchsorted(ordered, [part.start, part.stop])
            if first == last:
                continue
            entries = chosen[first:last]
            columns: np.ndarray | slice = part
            column = ordered[first:last] - part.start
            if DENSE * (last - first) < part.stop - part.start:  # only a few features of the block
                columns, column = np.unique(ordered[first:last], return_inverse=True)
            rows, row = np.unique(self.training_rows[i[entries]], return_inverse=True)
            mean, deviation = row_weights.at(copula.conditional.gaussian, copula.residuals.explained, rows, columns)
            mean, deviation = (each[row, column].astype(np.float64) for each in (mean, deviation))
            out[entries] = copula.output(mean, deviation, ordered[first:last], output)
        return out

    def _fallback(self, columns: np.ndarray, output: Output) -> np.ndarray:
        """For features that do not vary: variance 0 if they were observed, else the variance of all values."""
        variance = np.where(self.constant[columns], 0.0, self.fallback_variance)
        if output == "variance":
            return variance
        side = {"lower": -NORMAL_90, "upper": NORMAL_90}.get(output, 0.0)
        return np.asarray(self.centre[columns] + side * np.sqrt(variance))

    def _predict(self, copula: FittedCopula, i: int, *, with_roots: bool = False) -> RowPrediction:
        cache = self._predicted_with_roots if with_roots else self._predicted
        if i not in cache:
            position = int(self.training_rows[i])
            row = copula.predict(self.X[i, self.usable], None if position < 0 else position)
            if not with_roots:
                row = replace(row, roots=np.empty((0, len(row.missing))))
            size = 3 * row.mean.size + row.row_weights.size + row.roots.size
            if size * (len(cache) + 1) > CACHED_VALUES:
                cache.clear()
            cache[i] = row
        return cache[i]
