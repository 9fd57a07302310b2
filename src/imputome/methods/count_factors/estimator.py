"""The fast method for counts: the default without its network."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from imputome.core.data import Data
from imputome.core.imputation import Model, Status
from imputome.core.learned import Learned
from imputome.errors import InputError
from imputome.methods.averaged_counts import AveragedCounts
from imputome.methods.count_factors import COUNT_FACTORS_INFO


class CountFactors(AveragedCounts):
    """Log-linear factors averaged with Poisson factors, and the posterior step; needs no network and no torch.

    Two low-rank models of the same counts are learned from nine tenths of the molecules (x1): GLM-PCA (Townes et al.
    2019), in which the logs of the rates are low rank, and a Poisson factorisation, in which the rates are. The rate is
    their weighted geometric mean. The weight is the one that predicts the other tenth of the molecules (x2) best, once
    the rate is combined with the counts of x1 (or, with ``posterior=False``, by itself).

    The posterior step combines the rate, at the cell's full counts, with these counts. If then x2 is not predicted
    clearly better (by two standard errors) than by the posterior of the gene mean, 2, 4 and 8 Poisson factors alone are
    tried, and if these are not better either, the gene mean gives the rate. The result is then exactly that of
    ``gene_mean_posterior`` with the same ``random_state``. ``status`` and ``replaced_by`` say what gives the values.

    Counts that are not integers (a normalised matrix) cannot be split into molecules: both kinds of factors then have
    the same weight.

    Parameters
    ----------
    n_factors : int or "auto", default="auto"
        Rank of both models. ``"auto"``: 16 for the Poisson factors; for the log-linear ones 8, 16, 32 or 64, whichever
        predicts the held-out molecules best.
    posterior : bool, default=True
        Combine the rate with the cell's own counts (`imputome.core.posterior`).
    random_state : int, default=0
        Seed of all random choices.

    Attributes
    ----------
    factors_ : ndarray of shape (G, k) or None
        Poisson factors of the genes.
    log_linear_ : LogLinearFactors or None
        Log-linear factors of the genes.
    weights_ : ndarray of shape (3,) or None
        Weights of networks (0), log-linear factors and Poisson factors; None if something simpler gives the rate.
    uses_gene_mean_, uses_factors_ : bool
        Whether the gene mean, or a few Poisson factors, give the rate.
    replaced_by : str
        What gives the rate if it is not the average, in words.

    Raises
    ------
    InputError
        A parameter is out of range, or ``posterior`` is True and the counts are not integers.

    Notes
    -----
    Source: Townes et al. 2019 (GLM-PCA) and Lee & Seung 1999 (Poisson factorisation); the average is ours.

    Cost: seconds; 30 passes over n x G rates for the log-linear factors, in blocks of 128 cells, and for each part of
    the molecules that the posterior step uses about 15. With more than 25,000 cells, factors are learned from 25,000
    random ones (the log-linear ones in 10 passes), the posterior step from as many evenly spaced ones, and
    ``status.details["cells_for_factors"]`` says so; all cells then get factors of their own, in some ten passes.

    Known to fail: where the types of cells are many and rare, a network (``count_autoencoder``) is better. With few
    cells, or little structure, the gene mean is returned, and ``status`` says so.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.methods.count_factors.estimator import CountFactors
    >>> counts = np.random.default_rng(0).poisson(3.0, (40, 6))
    >>> CountFactors(n_factors=2, posterior=False).fit_transform(counts).to_array().shape
    (40, 6)
    """

    info = COUNT_FACTORS_INFO
    learned: ClassVar[dict[str, Learned]] = AveragedCounts.learned
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"n_factors": (4, 32, "log")}

    def __init__(
        self, *, n_factors: int | Literal["auto"] = "auto", posterior: bool = True, random_state: int = 0
    ) -> None:
        self.n_factors = n_factors
        self.posterior = posterior
        self.random_state = random_state

    def _check_values(self) -> None:
        self._require("n_factors", self.n_factors == "auto" or self.n_factors >= 1, "at least 1, or 'auto'")

    def _fit(self, data: Data) -> tuple[Model, dict[str, Any]]:
        if np.count_nonzero(np.diff(data.X.indptr)) < 2:
            raise InputError(f"{self.name} needs at least two cells with counts: give more cells", code="too-few-cells")
        parts, x1, x2 = self._divide(data)
        self._learn(data, parts, x1, x2)
        model = self._new_rows(data)
        if self.replaced_by:
            ending = f"all values come from {self.replaced_by}: the factors do not predict held-out molecules better"
        else:
            ending = f"average of {self._average_in_words()}, with weights from held-out molecules"
        return model, {
            "status": Status("validated", ending, self._details(data.shape[0])),
            "latent": getattr(model, "latent", None),
        }
