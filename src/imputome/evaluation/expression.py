"""Differential expression between two groups of cells, and how well known differences are detected.

`wilcoxon`, `welch` and `hurdle_lrt` test all genes between two given groups, and `called_differential` says which genes
differ; `de_by_count_splitting` also searches the groups. The tests are written by hand because they work on sparse
columns and a block of genes at once: scipy's tests need dense columns, statsmodels fits one gene at a time.

Letters: ``n`` cells (rows), ``G`` genes (columns), ``B`` genes of a block, ``X`` the n x G matrix of expression values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import special, stats

from imputome.core.arrays import clean_csr, in_memory
from imputome.core.holdout import thin, thin_overdispersed
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.arguments import check_choice, check_length, check_share

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

VALUES_PER_BLOCK = 2**20  # cells x genes of a block
NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-8  # largest remaining gain in log-likelihood; the statistic is wrong by twice that at most
LEVEL = 0.05  # genes with an adjusted p-value below it are called differential
# the filters of Seurat 4's FindMarkers, `passes_findmarkers`
MIN_LOG2_FOLD_CHANGE = 0.25
MIN_DETECTED = 0.1

Test = Literal["wilcoxon", "t", "hurdle", "findmarkers"]


# -- tests -------------------------------------------------------------------------------------------------------------
def wilcoxon(X: Any, groups: Any, *, tested: Any = None, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Wilcoxon rank-sum test of every gene between two groups of cells, with correction for ties.

    With R the sum of the mid-ranks of the tested group, ``U = R - n1 (n1 + 1) / 2`` is compared with a normal
    distribution of mean ``n1 n2 / 2`` and variance ``n1 n2 / 12 ((n + 1) - sum(t^3 - t) / (n (n - 1)))`` (t: sizes of
    ties), without continuity correction: ``scipy.stats.mannwhitneyu(method="asymptotic", use_continuity=False)`` (Mann
    & Whitney 1947, Ann Math Stat 18:50; ties as in Lehmann 1975, Nonparametrics). Only stored values are sorted: the
    zeros of a gene are one tie. The statistic is the same on every monotone scale.

    ``groups`` holds n labels of exactly two kinds. ``tested`` is the label of the tested group: a positive change means
    more in this group. By default it is the later label in sorted order (True before False). ``names`` are those of the
    genes, by default the columns of a DataFrame, or numbers.

    Returns a row per gene: ``log_fold_change`` (difference of mean values, tested group minus the other; in natural
    logs if X is log1p), ``statistic`` (U), ``z``, ``p_value`` (two-sided; 1 for a constant gene) and ``p_adjusted``
    (Bonferroni over all G genes).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.log1p(np.array([[0, 2], [0, 0], [1, 2], [5, 0], [7, 2], [9, 0]]))
    >>> table = wilcoxon(X, ["a", "a", "a", "b", "b", "b"], names=["marker", "other"])
    >>> table[["log_fold_change", "p_value"]].round(2)
            log_fold_change  p_value
    marker             1.83     0.05
    other             -0.37     0.46
    """
    X, in_tested, index = _checked(X, groups, tested, names)
    n, G = X.shape
    n1 = float(in_tested.sum())
    n2 = n - n1
    rank_sum, ties, change = np.empty(G), np.empty(G), np.empty(G)
    for genes, block in _gene_blocks(X):
        rank_sum[genes], ties[genes] = _rank_sums(block, in_tested)
        change[genes] = (block.T @ in_tested) / n1 - (block.T @ ~in_tested) / n2
    U = rank_sum - n1 * (n1 + 1) / 2
    variance = n1 * n2 / 12 * ((n + 1) - ties / (n * (n - 1)))
    varies = variance > 1e-9 * n1 * n2
    z = np.where(varies, (U - n1 * n2 / 2) / np.sqrt(np.where(varies, variance, 1)), 0.0)
    return _table(index, change, p_value=2 * special.ndtr(-np.abs(z)), statistic=U, z=z)


def hurdle_lrt(
    X: Any, groups: Any, *, detection_rate: bool = True, tested: Any = None, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Two-part hurdle likelihood-ratio test of every gene between two groups of cells (the model of MAST).

    ``logit P(x_ig > 0) = z_i a_g`` and ``x_ig | x_ig > 0 ~ Normal(z_i b_g, s_g^2)``, with z_i the intercept, the group
    and, by default, the cell's detection rate: the share of the G genes that it has, standardised, left out if it does
    not vary, as after imputation. The statistic is twice the gain in maximum log-likelihood by the group, summed over
    both parts (Finak et al. 2015, Genome Biol 16:278, methods). It is compared with chi-squared with one degree of
    freedom for each part that can distinguish the groups. The detection part cannot if all cells or no cell have the
    gene; the level part cannot if the detected cells are of one group, do not vary, or are no more than the
    coefficients.

    Values must be zero, or log1p of a normalised count. ``tested`` and ``names`` are as in `wilcoxon`. Returns a row
    per gene: ``log_fold_change`` (difference of mean values, zeros included), ``statistic_detection``,
    ``statistic_level``, ``statistic`` (their sum), ``df`` (0, 1 or 2), ``p_value`` (1 for df 0) and ``p_adjusted``
    (Bonferroni over all G genes).

    Without the covariate both parts are closed forms (the first is the G-test of a 2 x 2 table). With it, the logistic
    part is Newton's method for all genes of a block at once, which needs X only through ``z'(x > 0)``. Under separation
    the coefficients diverge but the likelihood converges, and only the likelihood is used. Levels that the group (with
    the covariate) explains without residual have no chi-squared statistic: they get the p-value of the exact
    permutation test, one over the number of ways to choose the tested cells. MAST also shrinks the variances over genes
    (``ebayes``); this test does not, so p-values from a handful of detected cells are somewhat too small.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.log1p(np.array([[0, 2], [0, 0], [1, 2], [5, 0], [7, 2], [9, 0]]))
    >>> table = hurdle_lrt(X, ["a", "a", "a", "b", "b", "b"], names=["marker", "other"])
    >>> table[["log_fold_change", "p_value"]].round(2)
            log_fold_change  p_value
    marker             1.83     0.00
    other             -0.37     0.05
    """
    X, in_tested, index = _checked(X, groups, tested, names)
    n, G = X.shape
    group = in_tested.astype(np.float64)
    rate = _detection_rate(X) if detection_rate else None
    # one column per group, not intercept and contrast: stays well conditioned when one coefficient diverges
    null = np.ones((n, 1)) if rate is None else np.column_stack([np.ones(n), rate])
    full = np.column_stack([1 - group, group, null[:, 1:]])
    change, detection, level = np.empty(G), np.zeros(G), np.zeros(G)
    df_detection, df_level = np.zeros(G), np.zeros(G)
    for genes, block in _gene_blocks(X):
        if block.nnz and block.data.min() < 0:
            raise InputError("X holds negative values: set them to zero", code="negative-values", parameter="X")
        change[genes] = (block.T @ group) / group.sum() - (block.T @ (1 - group)) / (1 - group).sum()
        detected = np.diff(block.indptr)
        some_have_it = (detected > 0) & (detected < n)
        df_detection[genes] = some_have_it
        sums = indicator(block).T @ full
        part = np.zeros(len(detected))
        part[some_have_it] = logistic_gain(sums[some_have_it], null, full)
        detection[genes] = part
        level[genes], df_level[genes] = gaussian_gain(block, group, null)
    total, df = detection + level, df_detection + df_level
    p_value = np.where(df > 0, stats.chi2.sf(total, np.maximum(df, 1)), 1.0)
    return _table(
        index,
        change,
        p_value=p_value,
        statistic_detection=detection,
        statistic_level=level,
        statistic=total,
        df=df.astype(np.int64),
    )


def welch(X: Any, groups: Any, *, tested: Any = None, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Welch's t-test of every gene between two groups of cells: unequal variances.

    ``t = (m1 - m2) / sqrt(s1^2 / n1 + s2^2 / n2)`` with the sample variances s^2 (divisor: cells minus 1) and the
    degrees of freedom of Welch (1947, Biometrika 34:28): ``scipy.stats.ttest_ind(equal_var=False)``. Arguments are
    those of `wilcoxon`; each group needs two cells. Returns a row per gene: ``log_fold_change``, ``statistic`` (t),
    ``df``, ``p_value`` (two-sided; 1 for a constant gene, 0 where groups differ and neither varies) and ``p_adjusted``
    (Bonferroni over all G genes).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.log1p(np.array([[0, 2], [0, 0], [1, 2], [5, 0], [7, 2], [9, 0]]))
    >>> welch(X, ["a", "a", "a", "b", "b", "b"], names=["marker", "other"])["p_value"].round(3).tolist()
    [0.005, 0.519]
    """
    X, in_tested, index = _checked(X, groups, tested, names)
    n, G = X.shape
    sizes = np.array([in_tested.sum(), n - in_tested.sum()], dtype=np.float64)
    if sizes.min() < 2:
        raise InputError("a group has one cell: the t-test needs two cells in each", code="too-few-cells")
    mean, squares = np.empty((2, G)), np.empty((2, G))
    for genes, block in _gene_blocks(X):
        gene = np.repeat(np.arange(block.shape[1]), np.diff(block.indptr))
        for k, member in enumerate((in_tested, ~in_tested)):
            weight = member[block.indices].astype(np.float64)
            stored = np.bincount(gene, weights=weight, minlength=block.shape[1])
            m = np.bincount(gene, weights=weight * block.data, minlength=block.shape[1]) / sizes[k]
            around = np.bincount(gene, weights=weight * (block.data - m[gene]) ** 2, minlength=block.shape[1])
            mean[k, genes], squares[k, genes] = m, around + (sizes[k] - stored) * m * m
    # a gene that is constant in a group has what rounding leaves
    squares[squares <= 1e-24 * sizes[:, None] * mean * mean] = 0
    error = squares / (sizes - 1)[:, None] / sizes[:, None]  # (2, G) squared standard errors of the means
    total, change = error.sum(axis=0), mean[0] - mean[1]
    varies = total > 0
    df = np.full(G, float(n - 2))
    df[varies] = total[varies] ** 2 / (error[:, varies] ** 2 / (sizes - 1)[:, None]).sum(axis=0)
    differs = np.abs(change) > 1e-12 * np.abs(mean).max(axis=0)
    t = np.where(differs, np.copysign(np.inf, change), 0.0)
    t[varies] = change[varies] / np.sqrt(total[varies])
    return _table(index, change, p_value=2 * stats.t.sf(np.abs(t), df), statistic=t, df=df)


def passes_findmarkers(X: Any, groups: Any) -> np.ndarray:
    """(G,) genes that Seurat 4's ``FindMarkers`` would test, by its defaults.

    A gene must be detected (above 0) in 10 % of the cells of one of the two groups, and have a fold change of 2^0.25
    or its inverse: ``log2(mean1 + 1) - log2(mean2 + 1)`` of expm1(X), so X (n, G) is log1p of counts per 10,000. The
    shares of detection are rounded to three digits, as there.

    Examples
    --------
    >>> import numpy as np
    >>> passes_findmarkers(np.log1p([[0, 2, 0], [0, 2, 0], [5, 2, 0], [7, 2, 0]]), [0, 0, 1, 1]).tolist()
    [True, False, False]
    """
    X, first, _ = _checked(X, groups, None, None)
    detected, mean = np.empty((2, X.shape[1])), np.empty((2, X.shape[1]))
    for genes, block in _gene_blocks(X):
        seen, linear = indicator(block), block.copy()
        seen.data *= block.data > 0
        linear.data = np.expm1(block.data)
        for k, member in enumerate((first, ~first)):
            detected[k, genes] = np.round((seen.T @ member) / member.sum(), 3)
            mean[k, genes] = (linear.T @ member) / member.sum()
    change = np.log2(mean[0] + 1) - np.log2(mean[1] + 1)
    return (detected.max(axis=0) >= MIN_DETECTED) & (np.abs(change) >= MIN_LOG2_FOLD_CHANGE)


def called_differential(X: Any, groups: Any, *, test: Test = "findmarkers", level: float = LEVEL) -> np.ndarray:
    """(G,) boolean, True for genes that a test calls differential between two groups of cells.

    Called are genes with a Bonferroni-adjusted p-value (over all G genes) below ``level``. X (n, G) is log1p of counts
    per 10,000, observed or imputed. The tests are `wilcoxon`, ``"t"`` (`welch`), ``"hurdle"`` (`hurdle_lrt` with the
    detection rate) and ``"findmarkers"``: `hurdle_lrt` without it, as Seurat calls MAST, and only the genes of
    `passes_findmarkers`. That is the analysis of paper 000 (section 4.11), except that MAST also shrinks variances and
    logistic coefficients, which matters little with hundreds of cells.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.log1p(np.random.default_rng(0).poisson([[2.0, 2.0]] * 30 + [[2.0, 8.0]] * 30))
    >>> called_differential(X, [0] * 30 + [1] * 30).tolist()
    [False, True]
    """
    check_choice("test", test, ("wilcoxon", "t", "hurdle", "findmarkers"))
    if test in ("hurdle", "findmarkers"):
        table = hurdle_lrt(X, groups, detection_rate=test == "hurdle")
    else:
        table = (welch if test == "t" else wilcoxon)(X, groups)
    called = (table["p_adjusted"] < level).to_numpy()
    return called & passes_findmarkers(X, groups) if test == "findmarkers" else called


def de_by_count_splitting(
    X: Any,
    groups: Any = None,
    *,
    rng: np.random.Generator,
    keep: float = 0.5,
    overdispersion: np.ndarray | None = None,
    test: Literal["wilcoxon", "hurdle"] = "wilcoxon",
    detection_rate: bool = True,
    tested: Any = None,
    names: Sequence[str] | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Split the molecules, cluster cells into two groups on one part, and test genes between them on the other part.

    Clusters of counts that are then tested on the same counts differ even if there is only one population: the
    clustering has sorted the noise, and the test sees the same noise again (double dipping). After `thin`, both parts
    are independent given the rates if counts are Poisson, and p-values are valid (Neufeld et al. 2024, Biostatistics
    25:270). If a gene varies more than Poisson for a reason that is not of interest, both parts share that variation
    and false positives remain. If its overdispersion is known, `thin_overdispersed` makes the parts independent
    (Neufeld et al. 2023, arXiv 2307.12985).

    ``groups`` is a function that takes the first part (``csr_array``) and returns n labels of two kinds, or such
    labels. Labels must not come from X itself: no later splitting makes those valid. By default it is two clusters
    (k-means on 20 principal components of the log-normalised first part). ``keep`` is the probability that a molecule
    goes to the first part. ``overdispersion`` (G,) is phi of each gene, for a variance of mean + phi mean^2; by default
    counts are split as Poisson. The ``test`` is applied to log1p of counts per 10,000 of the second part. Returns the
    table of the test, and the labels.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rates = np.full((60, 20), 5.0)
    >>> rates[:30, :3] = rates[30:, 3:6] = 25.0  # genes 0 to 5 differ
    >>> table, groups = de_by_count_splitting(rng.poisson(rates), rng=rng)
    >>> list(table.index[table["p_adjusted"] < 0.001])
    [0, 1, 2, 3, 4, 5]
    """
    check_share("keep", keep)
    check_choice("test", test, ("wilcoxon", "hurdle"))
    if names is None and hasattr(X, "iloc"):
        names = X.columns
    counts = clean_csr(in_memory(X))
    if overdispersion is None:
        for_groups, for_test = thin(counts, keep, rng)
    else:
        for_groups, for_test = thin_overdispersed(counts, keep, overdispersion, rng)
    if groups is None:
        labels = _two_clusters(for_groups, rng)
    else:
        labels = np.asarray(groups(for_groups) if callable(groups) else groups)
    values = log_normalized(for_test)
    if test == "wilcoxon":
        return wilcoxon(values, labels, tested=tested, names=names), labels
    return hurdle_lrt(values, labels, detection_rate=detection_rate, tested=tested, names=names), labels


def precision_recall_tnr(*, truth: Any, called: Any) -> dict[str, float]:
    """Precision tp / (tp + fp), recall tp / (tp + fn) and true negative rate tn / (tn + fp) of a test.

    ``truth`` and ``called`` are boolean, (G,): whether a gene differs, and whether the test calls it different. NaN
    where there is nothing to divide by. (The published code of Xi & Li computes tn / (tn + fn) and calls it the true
    negative rate.)

    Examples
    --------
    >>> import numpy as np
    >>> truth, called = np.array([True, True, False, False]), np.array([True, False, False, False])
    >>> precision_recall_tnr(truth=truth, called=called)
    {'precision': 1.0, 'recall': 0.5, 'tnr': 1.0}
    """
    truth, called = np.asarray(truth), np.asarray(called)
    if truth.shape != called.shape:
        message = f"truth has shape {truth.shape}, called {called.shape}: they must be the same"
        raise InputError(message, code="shape-mismatch", parameter="called")
    if truth.dtype != bool or called.dtype != bool:
        raise InputError(
            "truth and called must be boolean: compare p-values with a level", code="not-boolean", parameter="called"
        )

    def share(good: int, bad: int) -> float:
        return float(good / (good + bad)) if good + bad else float("nan")

    tp, fp = int((truth & called).sum()), int((~truth & called).sum())
    fn, tn = int((truth & ~called).sum()), int((~truth & ~called).sum())
    return {"precision": share(tp, fp), "recall": share(tp, fn), "tnr": share(tn, fp)}


def log_normalized(X: sp.csr_array, library: np.ndarray | None = None) -> sp.csr_array:
    """log1p of counts per 10,000 of ``library`` (n,), by default the row sums; sparse."""
    total = np.asarray(X.sum(axis=1), dtype=np.float64).ravel() if library is None else library
    library = np.repeat(total, np.diff(X.indptr))
    result = X.astype(np.float64)
    result.data = counts_to_scale(result.data, library, "log1p")
    return result


# -- parts of the hurdle test ------------------------------------------------------------------------------------------
def _detection_rate(X: Any) -> np.ndarray | None:
    """(n,) share of genes detected in each cell, standardised; None where it does not vary."""
    count = np.zeros(X.shape[0])
    for _, block in _gene_blocks(X):
        count += np.bincount(block.indices, minlength=len(count))
    return None if np.ptp(count) == 0 else (count - count.mean()) / count.std()


def indicator(block: sp.csc_array) -> sp.csc_array:
    """One where a value is stored: the cells that have the gene."""
    import scipy.sparse as sp

    return sp.csc_array((np.ones(block.nnz), block.indices, block.indptr), shape=block.shape)


def logistic_gain(sums: np.ndarray, null: np.ndarray, full: np.ndarray) -> np.ndarray:
    """(B,) twice the gain in log-likelihood of detection by the group.

    ``sums`` (B, k) holds the rows of ``full`` summed over the cells that have the gene; the designs are ``null`` (n, k
    - 1), intercept and covariate, and ``full`` (n, k), one column per group and covariate.
    """
    if full.shape[1] == 2:  # no covariate: the proportions maximise the likelihood
        size = full.sum(axis=0)
        log_likelihood = special.xlogy(sums, sums / size) + special.xlogy(size - sums, 1 - sums / size)
        k, n = sums.sum(axis=1), size.sum()
        gain = log_likelihood.sum(axis=1) - special.xlogy(k, k / n) - special.xlogy(n - k, 1 - k / n)
    else:
        # the sum of the two group columns is the intercept of the null design
        together = np.column_stack([sums[:, :2].sum(axis=1), sums[:, 2:]])
        gain = logistic_maximum(sums, full) - logistic_maximum(together, null)
    return np.maximum(2 * gain, 0)


def logistic_maximum(sums: np.ndarray, design: np.ndarray) -> np.ndarray:
    """(B,) maximum log-likelihood of logistic regressions on one design (n, k).

    ``sums`` (B, k) holds ``design' y_b`` of each outcome y_b (0 or 1). Newton's method maximises ``sums_b . a - sum_i
    log(1 + exp(z_i a))`` over a, which is concave; a step that lowers the likelihood is halved. Stops when half the
    Newton decrement is under 1e-8. Where the design separates the outcomes, the supremum is approached.
    """
    B, k = sums.shape
    n = len(design)
    result = np.empty(B)
    products = (design[:, :, None] * design[:, None, :]).reshape(n, k * k)
    size = max(1, VALUES_PER_BLOCK // n)
    for start in range(0, B, size):
        part = sums[start : start + size]
        result[start : start + size] = _newton(part, design, products)
    return result


def _newton(sums: np.ndarray, design: np.ndarray, products: np.ndarray) -> np.ndarray:
    B, k = sums.shape
    best = np.full(B, -np.inf)
    coefficients, step = np.zeros((B, k)), np.zeros((B, k))
    active = np.arange(B)
    for _ in range(NEWTON_STEPS):
        trial = coefficients[active] + step[active]
        eta = design @ trial.T  # (n, b)
        small = np.exp(-np.abs(eta))
        value = (sums[active] * trial).sum(axis=1) - (np.maximum(eta, 0) + np.log1p(small)).sum(axis=0)
        gained = value >= best[active]
        step[active[~gained]] /= 2
        # the search ends when the gain of a halved step is only rounding
        ended = ~gained & (best[active] - value < NEWTON_TOLERANCE)
        rows, eta, small = active[gained], eta[:, gained], small[:, gained]
        best[rows] = value[gained]
        coefficients[rows] = trial[gained]
        p = np.where(eta > 0, 1.0, small) / (1 + small)
        gradient = sums[rows] - p.T @ design
        hessian = ((small / (1 + small) ** 2).T @ products).reshape(-1, k, k)
        # relative to each diagonal element: a group without detections has weights near zero but still takes full steps
        diagonal = np.einsum("bkk->bk", hessian)
        diagonal += 1e-10 * diagonal + 1e-13
        step[rows] = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        ended[gained] = (gradient * step[rows]).sum(axis=1) / 2 < NEWTON_TOLERANCE
        active = active[~ended]
        if not len(active):
            return best
    warnings.warn(
        f"the logistic part of {len(active)} genes did not converge in {NEWTON_STEPS} steps: their p-values are rough",
        RuntimeWarning,
        stacklevel=5,
    )
    return best


def gaussian_gain(block: sp.csc_array, group: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Likelihood-ratio statistic and degrees of freedom of the level among detected cells, per gene of a block.

    Least squares in closed form: level and group are made orthogonal to the null design (Frisch-Waugh). The group then
    explains ``s_gy^2 / s_gg`` of the residual sum of squares s_yy, and the statistic for m detected cells is
    -m log(1 - s_gy^2 / s_gg / s_yy).
    """
    import scipy.sparse as sp

    m = np.diff(block.indptr).astype(np.float64)
    safe = np.maximum(m, 1)
    seen = indicator(block)
    gene = np.repeat(np.arange(block.shape[1]), np.diff(block.indptr))
    mean = np.bincount(gene, weights=block.data, minlength=len(m)) / safe
    centred = sp.csc_array((block.data - mean[gene], block.indices, block.indptr), shape=block.shape)
    tested = seen.T @ group
    s_yy = np.bincount(gene, weights=centred.data**2, minlength=len(m))
    scale = np.bincount(gene, weights=block.data.astype(np.float64) ** 2, minlength=len(m))
    s_gy = centred.T @ group
    s_gg = tested * (1 - tested / safe)
    used = np.full(len(m), 2.0)
    if null.shape[1] == 2:
        c = null[:, 1]
        c_sum, gc = seen.T @ c, seen.T @ (group * c)
        raw = seen.T @ c**2
        s_cc, s_gc, s_cy = raw - c_sum**2 / safe, gc - tested * c_sum / safe, centred.T @ c
        varies = s_cc > 1e-10 * np.maximum(raw, 1)
        s_cc = np.where(varies, s_cc, np.inf)  # a covariate that does not vary explains nothing
        used += varies
        s_yy, s_gy, s_gg = s_yy - s_cy**2 / s_cc, s_gy - s_gc * s_cy / s_cc, s_gg - s_gc**2 / s_cc
    informs = (m > used) & (s_gg > 1e-8) & (s_yy > 1e-12 * scale)
    left = 1 - s_gy**2 / np.where(informs, s_gg * s_yy, np.inf)
    exact = informs & (left * s_yy <= 1e-12 * scale)
    statistic = np.where(informs, -m * np.log(np.where(exact | ~informs, 1.0, left)), 0.0)
    if exact.any():
        choices = special.gammaln(m + 1) - special.gammaln(tested + 1) - special.gammaln(m - tested + 1)
        statistic[exact] = stats.chi2.isf(np.exp(np.maximum(-choices[exact], -700)), 1)
    return np.maximum(statistic, 0), informs.astype(np.float64)


# -- steps that tests share --------------------------------------------------------------------------------------------
def _rank_sums(block: sp.csc_array, in_tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of mid-ranks of the tested group and sum of t^3 - t over ties, per gene, from the nonzero values alone."""
    n, G = block.shape
    stored = np.diff(block.indptr)
    zeros = (n - stored).astype(np.float64)
    inside = in_tested[block.indices]
    gene = np.repeat(np.arange(G), stored)
    zeros_inside = in_tested.sum() - np.bincount(gene, weights=inside, minlength=G)
    order = np.lexsort((block.data, gene))
    values, inside = block.data[order], inside[order]  # `gene` is sorted already
    starts = np.flatnonzero(np.r_[True, (np.diff(values) != 0) | (np.diff(gene) != 0)][: len(values)])
    size = np.diff(np.r_[starts, len(values)]).astype(np.float64)
    run_gene = gene[starts]
    positive = values[starts] > 0
    # cells of the tested group in each run of equal values, and how many of the gene's cells lie below it
    hits = np.add.reduceat(inside, starts, dtype=np.float64) if len(starts) else np.empty(0)
    below = starts - block.indptr[run_gene] + np.where(positive, zeros[run_gene], 0)
    # without a value bincount returns integers, whatever the weights are
    rank_sum = np.bincount(run_gene, weights=hits * (below + (size + 1) / 2), minlength=G).astype(np.float64)
    negative = np.bincount(run_gene, weights=size * ~positive, minlength=G)
    rank_sum += zeros_inside * (negative + (zeros + 1) / 2)
    ties = np.bincount(run_gene, weights=size**3 - size, minlength=G) + zeros**3 - zeros
    return rank_sum, ties


def _two_clusters(X: sp.csr_array, rng: np.random.Generator) -> np.ndarray:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    seed = int(rng.integers(2**31))
    components = min(20, *(size - 1 for size in X.shape))
    if components < 1:
        raise InputError(
            "two clusters need at least two cells and two genes: pass {groups}", code="too-few-values", groups=...
        )
    scores = PCA(components, svd_solver="arpack", random_state=seed).fit_transform(log_normalized(X))
    return KMeans(2, n_init=10, random_state=seed).fit_predict(scores)


def _checked(X: Any, groups: Any, tested: Any, names: Sequence[str] | None) -> tuple[Any, np.ndarray, Any]:
    """The matrix (ndarray, or ``csc_array`` without stored zeros), which cells are tested, and names of the genes."""
    import pandas as pd
    import scipy.sparse as sp

    if names is None:
        names = X.columns if hasattr(X, "iloc") else None
    X = X if sp.issparse(X) else in_memory(X)
    if sp.issparse(X):
        X = sp.csc_array(X, copy=True)
        X.sum_duplicates()
        X.eliminate_zeros()
    n, G = X.shape
    if np.isnan(X.data if sp.issparse(X) else X).any():
        raise InputError("X holds NaN: impute it, or leave those genes out", code="not-finite", parameter="X")
    labels = np.asarray(groups)
    check_length("groups", labels, n)
    kinds = pd.unique(labels)
    if len(kinds) != 2 or pd.isna(kinds).any():
        raise InputError(
            f"there are {len(kinds)} groups instead of two: pass labels == label to test it against all others",
            code="not-two-groups",
            parameter="groups",
        )
    if tested is None:
        tested = max(kinds)
    elif tested not in kinds:
        raise InputError(
            f"{tested!r} is not a group: choose from {list(kinds)}", code="unknown-group", parameter="tested"
        )
    index = pd.RangeIndex(G) if names is None else pd.Index(names)
    check_length("names", index, G, "genes")
    return X, labels == tested, index


def _gene_blocks(X: Any) -> Iterator[tuple[slice, sp.csc_array]]:
    """Blocks of genes in float64, sparse by columns; a dense matrix is never copied as a whole."""
    import scipy.sparse as sp

    n, G = X.shape
    size = max(1, VALUES_PER_BLOCK // n)
    for start in range(0, G, size):
        genes = slice(start, min(start + size, G))
        yield genes, sp.csc_array(X[:, genes], dtype=np.float64)


def _table(index: Any, change: np.ndarray, *, p_value: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    adjusted = np.minimum(p_value * len(index), 1.0)
    values = {"log_fold_change": change, **columns, "p_value": p_value, "p_adjusted": adjusted}
    return pd.DataFrame(values, index=index)
