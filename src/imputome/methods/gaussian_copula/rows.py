"""Rows imputed by a fitted copula: values, variances and intervals made when asked for, and draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from imputome.core.imputation import Output
from imputome.methods.gaussian_copula.calibration import Residuals, stretch
from imputome.methods.gaussian_copula.conditional import Conditional, Row
from imputome.methods.gaussian_copula.marginals import Marginals

NORMAL_90 = 1.645  # half a 90 % interval in standard deviations of a normal
_KEPT = 2**26  # entries of solved rows that are kept for the next question


@dataclass(frozen=True)
class Predictor:
    """What is known after fitting about features that vary."""

    marginals: Marginals
    conditional: Conditional
    residuals: Residuals
    center: Literal["mean", "median"]

    def row(self, x: np.ndarray, own: int) -> Row:
        t = self.marginals.forward(x[None])[0].astype(np.float64)
        return self.conditional.predict(t, None if own < 0 else own)

    def output(self, row: Row, columns: np.ndarray, output: Output) -> np.ndarray:
        """(len(columns),) of one row."""
        mean, deviation = row.mean[columns], row.scale * np.sqrt(row.variance[columns])
        plain = self.marginals.back(mean[None], columns)[0]
        if output == "value":
            levels = self.residuals.values(self.marginals, mean, deviation, columns)
            if self.center == "mean":
                return self.residuals.mean(plain, levels)
            return np.asarray(levels[4:6].mean(axis=0))
        quantiles = self.residuals.quantiles(self.marginals, plain, mean, deviation, columns)
        if output == "variance":
            return self.residuals.variance(plain, quantiles, columns)
        return np.asarray(quantiles[0 if output == "lower" else -1])

    def draw(self, row: Row, rng: np.random.Generator) -> np.ndarray:
        """(G,) one draw of the missing features jointly; the others have their means."""
        own = rng.standard_normal(len(row.missing)) * np.sqrt(self.conditional.gaussian.noise[row.missing])
        common = rng.standard_normal(len(row.roots)) @ row.roots
        mean, variance = row.mean[row.missing], row.variance[row.missing]
        plain = self.marginals.back(mean[None], row.missing)[0]
        score = self.residuals.levels.scores(((own + common) / np.sqrt(variance))[None], plain)
        residual = stretch(score, self.residuals.fan(mean, row.missing))[0]
        t = row.mean.copy()
        t[row.missing] += self.residuals.width * row.scale * np.sqrt(variance) * residual
        every = np.arange(len(t))
        return np.asarray(self.marginals.beyond(t[None], every, self.residuals.unit)[0])


class CopulaRows:
    """The rows of X, (n, G) with NaN for missing; ``own`` (n,) their places among the training rows, -1 for new ones.

    Solved rows are kept, up to 0.5 GiB of them, since a row is often asked for its values and then their variances, or
    for one draw after another; what only draws need, most of it, is kept for them alone.
    """

    outputs: frozenset[Output] = frozenset({"value", "variance", "lower", "upper"})

    def __init__(
        self,
        X: np.ndarray,
        own: np.ndarray,
        *,
        centre: np.ndarray,
        usable: np.ndarray,
        constant: np.ndarray,
        fallback_variance: float,
        predictor: Predictor | None,
        random_state: int,
    ) -> None:
        self.X, self.own, self.centre, self.usable = X, own, centre, usable
        self.constant, self.fallback_variance = constant, fallback_variance
        self.predictor, self.random_state = predictor, random_state
        self.place = np.full(X.shape[1], -1)  # of a feature among those that vary
        self.place[usable] = np.arange(len(usable))
        self._solved: dict[int, Row] = {}
        self._jointly: dict[int, Row] = {}  # with their roots

    def rows(self, rows: np.ndarray, genes: np.ndarray | None, output: Output) -> np.ndarray:
        columns = np.arange(self.X.shape[1]) if genes is None else genes
        out = np.empty((len(rows), len(columns)))
        for number, i in enumerate(rows):
            out[number] = self._row(int(i), columns, output)
        return out

    def at(self, i: np.ndarray, j: np.ndarray, output: Output) -> np.ndarray:
        out = np.empty(len(i))
        order = np.argsort(i, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(i[order])) + 1):
            if len(part):
                out[part] = self._row(int(i[part[0]]), j[part], output)
        return out

    def draw(self, rows: np.ndarray, number: int) -> np.ndarray:
        """(len(rows), G) completions of these rows; they depend on random_state, the row's place and ``number``."""
        out = np.tile(self.centre, (len(rows), 1))
        if self.predictor is not None:
            for place, i in enumerate(rows):
                rng = np.random.default_rng([self.random_state, number, int(i)])
                out[place, self.usable] = self.predictor.draw(self._solve(int(i), jointly=True), rng)
        return out

    def _row(self, i: int, columns: np.ndarray, output: Output) -> np.ndarray:
        out = self._fallback(columns, output)
        varying = self.place[columns] >= 0
        if self.predictor is None or not varying.any():
            return out
        row = self._solve(i)
        if output == "value" and len(row.missing) == len(self.usable):
            return out  # nothing is known of this row: the feature means
        out[varying] = self.predictor.output(row, self.place[columns[varying]], output)
        return out

    def _fallback(self, columns: np.ndarray, output: Output) -> np.ndarray:
        """What is said of features that do not vary: certain if they were observed, else spread like all values."""
        constant = self.constant[columns]
        variance = np.where(constant, 0.0, self.fallback_variance)
        if output == "variance":
            return variance
        side = {"lower": -NORMAL_90, "upper": NORMAL_90}.get(output, 0.0)
        return np.asarray(self.centre[columns] + side * np.sqrt(variance))

    def _solve(self, i: int, *, jointly: bool = False) -> Row:
        assert self.predictor is not None  # noqa: S101
        kept = self._jointly if jointly else self._solved
        if i not in kept:
            row = self.predictor.row(self.X[i, self.usable], int(self.own[i]))
            if not jointly:
                row = replace(row, roots=np.empty((0, len(row.missing))))
            size = 2 * row.mean.size + row.shares.size + row.roots.size
            if size * (len(kept) + 1) > _KEPT:
                kept.clear()
            kept[i] = row
        return kept[i]
