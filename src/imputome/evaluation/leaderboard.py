"""The two numbers of the public denoising benchmark, as it computes them: for comparison with its table, no more."""

from __future__ import annotations

from typing import Any

import numpy as np

from imputome.core.scales import TARGET
from imputome.errors import InputError

BLOCK = 2**20  # dense values looked at at a time
EPSILON = 1e-6  # added inside the benchmark's logarithm


def leaderboard_denoising(
    *, truth: Any, prediction: np.ndarray, training_total: float | None = None
) -> dict[str, float]:
    """Scores as the denoising task of Open Problems computes them. Never choose a method by them.

    Parameters
    ----------
    truth : (n, G) held-out counts, dense or sparse.
    prediction : (n, G) denoised training counts.
    training_total : molecules in the training part: the prediction is multiplied by total(truth) / training_total, as
        the benchmark does before its Poisson loss; None means that it already is at the depth of the truth.

    Returns
    -------
    ``leaderboard_mse`` : mean squared error after each row of either side was scaled to 10,000 by its own total
        (an empty row stays empty), then ln(1 + x).
    ``leaderboard_poisson_swapped`` : mean of x - mu ln(x + 1e-6), truth and prediction in each other's places.

    Notes
    -----
    Both numbers are flawed. The benchmark calls ``poisson_nll_loss(test, denoised)``, whose signature is
    ``(y_pred, y_true)``: every molecule that is predicted where the truth is 0 costs ln 1e6 = 13.8, so an all-zero
    output scores as well as the truth itself wherever held-out counts are 0 or 1, and better than the true rates. The
    first number is biased the same way where the held-out part is sparse (`mse_log1p`). `poisson_loss` ranks the true
    rates first.
    """
    if np.shape(truth) != np.shape(prediction) or len(np.shape(truth)) != 2:
        raise InputError(
            f"truth has shape {np.shape(truth)}, prediction {np.shape(prediction)}: pass two matrices of one shape"
        )
    n, G = np.shape(truth)
    if training_total is not None and not training_total > 0:
        raise InputError(f"training_total is {training_total}: pass the number of molecules in the training part")
    factor = 1.0 if training_total is None else float(truth.sum()) / training_total
    squares = poisson = 0.0
    step = max(1, BLOCK // max(1, G))
    for start in range(0, n, step):
        x, mu = (_dense(matrix[start : start + step]) for matrix in (truth, prediction))
        squares += float(np.sum((_log_normalised(x) - _log_normalised(mu)) ** 2))
        poisson += float(np.sum(x - factor * mu * np.log(x + EPSILON)))
    return {"leaderboard_mse": squares / (n * G), "leaderboard_poisson_swapped": poisson / (n * G)}


def _dense(block: Any) -> np.ndarray:
    return np.asarray(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64)


def _log_normalised(block: np.ndarray) -> np.ndarray:
    total = block.sum(axis=1, keepdims=True)
    return np.log1p(block * (TARGET / np.where(total > 0, total, np.inf)))
