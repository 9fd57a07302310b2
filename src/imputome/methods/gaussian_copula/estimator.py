"""The ``gaussian_copula`` method: transform, condition on the observed features, transform back."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, ClassVar, Literal

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Status
from imputome.core.imputer import Imputer
from imputome.core.scales import Standard
from imputome.errors import InputError
from imputome.methods.factors import few_threads
from imputome.methods.gaussian_copula import GAUSSIAN_COPULA_INFO
from imputome.methods.gaussian_copula.calibration import (
    Levels,
    Residuals,
    leave_one_out_loss,
    leave_one_out_residuals,
    tune,
)
from imputome.methods.gaussian_copula.conditional import LARGE, Conditional, Member
from imputome.methods.gaussian_copula.marginals import Marginals
from imputome.methods.gaussian_copula.noise import Gaussian, complete_rows, fit_gaussian
from imputome.methods.gaussian_copula.rows import CopulaRows, Predictor

SHARES = (0.25, 0.5)  # candidates of normal_share="auto"
GAUSSIAN = (Member("gaussian", 1.0), Member("gaussian", 0.5), Member("gaussian", 0.25))
MEMBERS: dict[str, tuple[Member, ...]] = {
    "fast": GAUSSIAN,
    "accurate": (
        *GAUSSIAN,
        Member("sum", 0.5, length=1.0, height=1.0),
        Member("laplace", 0.1, length=4.0),
        Member("local", 0.25, length=0.2),
    ),
}


class GaussianCopula(Imputer):
    """Conditional expectation of the missing features of a row, given its observed ones, under a Gaussian copula.

    Each feature is transformed (a part normal score, a part z-score, see `marginals`); on that scale rows are Gaussian
    with covariance Z'Z / c + diag(d). The noise d of each feature, the ridge c and the fill of missing training values
    come from leave-one-out errors in closed form (see `noise`), and a row's missing features from a solve over
    training rows, not features (see `conditional`). With ``mode="accurate"`` processes with a Laplace kernel and a
    local ridge are stacked with it, by non-negative weights fitted on values hidden in training rows. Back in the
    input's unit a value is the mean or median over quantiles of the out-of-fold residuals of its feature.

    A row that was trained on, recognised by its values, is predicted from the other rows and its own observed values; a
    row without any gets the feature means. Features that do not vary come back constant, features never observed as
    the mean of all values. Values may lie somewhat beyond the training range of their feature.

    Cost, for n rows and G features: O(n^2 (n + G)) a pass to fit, of which there are ten to thirty, then
    O(n^2 (n + m)) for a row with m missing features. Above 1,000 training rows the covariance is learned from a random
    1,000 and a row is conditioned on the 256 nearest of all, at O(n + 256^2 G) each.

    Parameters
    ----------
    mode : ``"accurate"``, or ``"fast"``: the Gaussian alone.
    center : what of the predictive distribution is the value: ``"mean"`` (least squared error) or ``"median"`` (least
        absolute error).
    normal_share : share of the normal score in the transform, 0 to 1; ``"auto"`` takes 0.25 or 0.5, whichever has the
        lower leave-one-out error in the input's unit.
    random_state : decides which training values are hidden for tuning, and the draws.

    Attributes
    ----------
    noise_ : (G,) noise of each feature as a share of its variance on the transformed scale; 0 where it does not vary.
    members_ : predictors that were kept, with their weights.

    Notes
    -----
    Outputs: ``value``; ``variance``, of one value given the row; ``lower`` and ``upper``, a 90 % interval. Draws are
    joint over a row's missing features. Hoff 2007 (doi:10.1214/07-AOAS107), Zhao & Udell 2020
    (doi:10.1145/3394486.3403106) for the copula; Rasmussen & Williams 2006 for processes; Breiman 1996 for stacking.
    """

    info = GAUSSIAN_COPULA_INFO
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"normal_share": (0.0, 1.0, "linear")}

    def __init__(
        self,
        *,
        mode: Literal["accurate", "fast"] = "accurate",
        center: Literal["mean", "median"] = "mean",
        normal_share: float | Literal["auto"] = "auto",
        random_state: int = 0,
    ) -> None:
        self.mode = mode
        self.center = center
        self.normal_share = normal_share
        self.random_state = random_state

    conditional_: Conditional | None

    def _fit(self, data: Data) -> tuple[CopulaRows, dict[str, Any]]:
        self._validate()
        X = data.known_values()
        self.centre_, self.usable_ = _centres(X)
        self.seen_ = ~np.isnan(X).all(axis=0)
        self.fallback_variance_ = _variance(X)
        self.prints_ = _prints(X)
        rng = np.random.default_rng(self.random_state)
        with few_threads(X.size < 2**16):
            if self.usable_.any():
                self._learn(X[:, self.usable_], rng)
            else:
                self.conditional_ = None
        model = self._new_rows(data)
        status = Status("exact", "no feature varies" if self.conditional_ is None else self._summary())
        noise = self.noise_
        return model, {"status": status, "gene_columns": {"noise": noise}}

    def _learn(self, X: np.ndarray, rng: np.random.Generator) -> None:
        n = len(X)
        rows = np.arange(n) if n <= LARGE else np.sort(rng.permutation(n)[:LARGE])
        unit = Standard.of(X).scale
        shares = SHARES if self.normal_share == "auto" else (float(self.normal_share),)
        best = np.inf
        for number, share in enumerate(shares):
            self._tell(0.6 * number / len(shares), f"correlations, marginals {number + 1} of {len(shares)}")
            marginals = Marginals.fit(X, share)
            T = marginals.forward(X[rows])
            gaussian = fit_gaussian(T)
            error = leave_one_out_loss(gaussian, marginals, T, unit) if len(shares) > 1 else 0.0
            if error < best:
                best, chosen = error, (marginals, T, gaussian)
        self.marginals_, T, gaussian = chosen
        self._tell(0.6, "residuals of the training rows")
        residuals = leave_one_out_residuals(gaussian, np.isnan(T), unit)
        if n > LARGE:
            T = self.marginals_.forward(X)
            gaussian = complete_rows(gaussian, T)
        self._tell(0.7, "calibration on hidden values")
        members = MEMBERS[self.mode]
        alone = np.eye(len(members))[0]
        start = Conditional(gaussian, members, alone, residuals.explained)
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
        return {
            f"{member.kind} {member.noise:g}": float(weight)
            for member, weight in zip(self.conditional_.members, self.conditional_.weights, strict=True)
        }

    def _summary(self) -> str:
        return "; ".join(f"{name}: {weight:.2f}" for name, weight in self.members_.items())

    def _new_rows(self, data: Data) -> CopulaRows:
        X = data.known_values()
        places = {int(mark): place for place, mark in reversed(list(enumerate(self.prints_)))}
        own = np.array([places.get(int(mark), -1) for mark in _prints(X)])
        return CopulaRows(
            X,
            own,
            centre=self.centre_,
            usable=np.flatnonzero(self.usable_),
            constant=self.seen_ & ~self.usable_,
            fallback_variance=self.fallback_variance_,
            predictor=None
            if self.conditional_ is None
            else Predictor(self.marginals_, self.conditional_, self.residuals_, self.center),
            random_state=self.random_state,
        )

    def _state(self) -> dict[str, np.ndarray]:
        state = {
            "centre": self.centre_,
            "usable": self.usable_,
            "seen": self.seen_,
            "fallback_variance": np.array(self.fallback_variance_),
            "prints": self.prints_,
        }
        if self.conditional_ is None:
            return state
        gaussian, members, residuals = self.conditional_.gaussian, self.conditional_.members, self.residuals_
        return state | {
            "x_knots": self.marginals_.x,
            "t_knots": self.marginals_.t,
            "slope": self.marginals_.slope,
            "rows": gaussian.Z,
            "noise": gaussian.noise,
            "ridge": np.array(gaussian.ridge),
            "members": np.array([MEMBERS["accurate"].index(member) for member in members]),
            "weights": self.conditional_.weights,
            "heights": residuals.heights,
            "pooled": residuals.pooled,
            "scores": residuals.scores,
            "explained": residuals.explained,
            "unit": residuals.unit,
            "calibration": np.array([residuals.width, residuals.spread, residuals.least, residuals.bend]),
            "levels_at": residuals.levels.at,
            "levels": residuals.levels.instead,
            "levels_spread": residuals.levels.spread,
        }

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        self.centre_, self.usable_, self.seen_ = arrays["centre"], arrays["usable"], arrays["seen"]
        self.prints_ = arrays["prints"]
        self.fallback_variance_ = float(arrays["fallback_variance"])
        self.conditional_ = None
        if not self.usable_.any():
            return
        self.marginals_ = Marginals(arrays["x_knots"], arrays["t_knots"], arrays["slope"])
        gaussian = Gaussian(arrays["rows"], arrays["noise"], float(arrays["ridge"]))
        members = tuple(MEMBERS["accurate"][place] for place in arrays["members"])
        width, spread, least, bend = (float(value) for value in arrays["calibration"])
        self.residuals_ = Residuals(
            arrays["heights"],
            arrays["pooled"],
            arrays["scores"],
            arrays["explained"],
            arrays["unit"],
            width=width,
            spread=spread,
            least=least,
            bend=bend,
            # a model saved before there were levels takes them as they are
            levels=Levels(arrays["levels_at"], arrays["levels"], arrays["levels_spread"])
            if "levels" in arrays
            else Levels.nominal(),
        )
        self.conditional_ = Conditional(gaussian, members, arrays["weights"], self.residuals_.explained)

    def _validate(self) -> None:
        if self.mode not in MEMBERS:
            raise InputError(f"gaussian_copula: mode={self.mode!r} is not one of {', '.join(MEMBERS)}")
        if self.center not in ("mean", "median"):
            raise InputError(f"gaussian_copula: center={self.center!r} is not one of mean, median")
        share = self.normal_share
        if share != "auto" and not (isinstance(share, int | float) and 0 <= share <= 1):
            raise InputError(f"gaussian_copula: normal_share={share!r} is neither 'auto' nor a number from 0 to 1")


def _centres(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(G,) feature means, the mean of all values where there is none; and which features vary."""
    known = ~np.isnan(X)
    count = known.sum(axis=0)
    centre = np.full(X.shape[1], np.nanmean(X, dtype=np.float64))
    np.divide(np.nansum(X, axis=0, dtype=np.float64), count, out=centre, where=count > 0)
    low, high = np.where(known, X, np.inf).min(axis=0), np.where(known, X, -np.inf).max(axis=0)
    # a spread within rounding of the values cannot be standardised
    with np.errstate(invalid="ignore"):
        return centre, high - low > 1e-6 * np.maximum(np.abs(low), np.abs(high))


def _variance(X: np.ndarray) -> float:
    """Of all known values, in float64 (NumPy squares float32 as it is)."""
    level = float(np.nanmean(X, dtype=np.float64))
    squares = sum(float(np.nansum(np.square(row.astype(np.float64) - level))) for row in X)
    return squares / max(1, int((~np.isnan(X)).sum()))


def _prints(X: np.ndarray) -> np.ndarray:
    """(n,) 64-bit fingerprints of rows: the same values, and the same ones missing."""
    marks = np.empty(len(X), np.uint64)
    for i, row in enumerate(X):
        plain = np.where(np.isnan(row), np.nan, row + 0.0).astype(np.float32)  # tables are read in either precision
        marks[i] = int.from_bytes(blake2b(plain.tobytes(), digest_size=8).digest(), "little")
    return marks
