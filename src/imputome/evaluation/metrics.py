"""Scores of predictions against held-out truth. Arguments are keyword-only: swapped ones have fooled benchmarks."""

from __future__ import annotations

import numpy as np

from imputome.errors import InputError

FLOOR = 1e-8  # smallest rate in a Poisson loss


def poisson_loss(*, truth: np.ndarray, prediction: np.ndarray) -> float:
    """Mean of mu - x ln mu over *all* entries of a thinned-off part, constant left out; mu floored at 1e-8."""
    x, mu = _checked(truth, prediction)
    mu = np.maximum(mu, FLOOR)
    return float(np.mean(mu - x * np.log(mu)))


def nrmse(*, truth: np.ndarray, prediction: np.ndarray) -> float:
    """Root mean squared error over hidden entries, divided by the mean of their truth."""
    x, mu = _checked(truth, prediction)
    return float(np.sqrt(np.mean((x - mu) ** 2)) / np.mean(x))


def pearson(*, truth: np.ndarray, prediction: np.ndarray) -> float:
    """Pearson correlation over hidden entries; NaN where either does not vary."""
    x, mu = _checked(truth, prediction)
    x, mu = x - x.mean(), mu - mu.mean()
    size = np.sqrt(np.sum(x * x) * np.sum(mu * mu))
    return float(np.sum(x * mu) / size) if size > 0 else float("nan")


def _checked(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(truth) != np.shape(prediction):
        raise InputError(f"truth has shape {np.shape(truth)}, prediction {np.shape(prediction)}: they must be the same")
    if np.size(truth) == 0:
        raise InputError("there are no entries to score")
    return np.asarray(truth, dtype=np.float64).ravel(), np.asarray(prediction, dtype=np.float64).ravel()
