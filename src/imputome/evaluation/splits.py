"""Schemes that hide part of the data, so that a method can be tested on values that it has not seen.

Each scheme is one function of `Data` and a random generator that returns a `Split`. `SCHEMES` lists them all; a new
scheme is one function and one line there. Schemes for counts hide nonzero entries or split off molecules. Schemes for
real values hide known values, and all take the options ``**rows``:

rows="test" hides values in test rows only, and trains on the other rows; rows="all" hides values in all rows. ``test``
(default 0.2) and ``labels`` choose the test rows, as in `row_split`.

Letters: ``n`` cells or samples, ``G`` genes or features.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from imputome.core.data import Data, Kind
from imputome.core.holdout import hide_entries, hide_values, take_out, thin, thin_overdispersed
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation.arguments import check_choice, check_length, check_share
from imputome.evaluation.patterns import at_rates, repeated_gaps, repeated_holes
from imputome.inspection.tails import rank_scores

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = [
    "SCHEMES",
    "UNMASKED",
    "Scheme",
    "Split",
    "make_split",
    "normalized_before",
    "row_split",
    "scheme_options",
    "seed_for",
]

UNMASKED = "none"  # scheme that hides nothing: methods are judged by analyses of what they make of all data

KIND_NAME: dict[Kind, str] = {"counts": "counts", "real": "real values"}


@dataclass(frozen=True)
class Split:
    """The data that a method is fitted on, and the held-out part that it is tested on."""

    scheme: str
    train: Data
    apply: Data | None = None  # rows to impute with the fitted method, if they are not the rows of `train`
    i: np.ndarray | None = None  # (m,) positions of the hidden entries in `apply`, or in `train`; None under thinning
    j: np.ndarray | None = None
    truth: np.ndarray | None = None  # (m,) their values
    test: sp.csr_array | None = None  # (n, G) molecules that thinning split off; scores use all its entries
    ratio: float = 1.0  # depth of `test` over that of `train`: a rate at training depth is multiplied by it
    fraction: float = 0.0  # share of the entries, or of the molecules, that was really hidden
    leaky: bool = False  # the training part contains information about the hidden values (protocol as_published)


class Scheme(NamedTuple):
    """One line of `SCHEMES`: the function, the kind of data that it takes, and what it hides."""

    function: Callable[..., Split]
    kind: Kind
    description: str


# -- counts: entries ---------------------------------------------------------------------------------------------------
def random(data: Data, rng: np.random.Generator, *, fraction: float = 0.1, per_gene: bool = False) -> Split:
    """Hide ``round(fraction * number)`` of the nonzeros, all with the same probability.

    With ``per_gene``, this share of each gene's nonzeros is hidden, rounded down; genes with three nonzeros or fewer
    keep theirs (the published code of paper 002).
    """
    X = _counts("random", data)
    check_share("fraction", fraction)
    if not per_gene:
        return _entries("random", data, *hide_entries(X, fraction, rng))
    hidden = np.zeros(X.nnz, dtype=bool)
    by_gene, starts = _positions_by_gene(X)
    for start, stop in itertools.pairwise(starts.tolist()):
        if stop - start > 3:
            size = int(fraction * (stop - start))
            hidden[by_gene[start + rng.choice(stop - start, size=size, replace=False)]] = True
    return _entries("random", data, *take_out(X, hidden))


def double_exponential(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.5,
    mean: Literal["log1p", "published_code"] = "log1p",
) -> Split:
    """Hide each nonzero of gene j with probability exp(-lambda mean_j^2): weakly expressed genes lose more.

    mean_j is the mean of ln(1 + count) over the nonzeros of gene j, as paper 000 says; with ``mean="published_code"``
    it is ln(mean count of the nonzeros), as its code has it: 0 for a gene whose counts are all 1, which then loses all
    of them. lambda is chosen so that the expected share of hidden nonzeros is ``fraction``; the realised share varies
    at random.
    """
    X = _counts("double_exponential", data)
    check_choice("mean", mean, ("log1p", "published_code"))
    probability = gene_probabilities(X, fraction, mean=mean)
    hidden = rng.random(X.nnz) < probability[X.indices]
    return _entries("double_exponential", data, *take_out(X, hidden))


def gene_probabilities(X: sp.csr_array, fraction: float, *, mean: str = "log1p") -> np.ndarray:
    """(G,) probabilities exp(-lambda mean_j^2) of `double_exponential`; lambda is solved to about 1e-12."""
    from scipy.optimize import brentq

    check_share("fraction", fraction)
    G = X.shape[1]
    size = np.bincount(X.indices, minlength=G)
    values = X.data.astype(np.float64)
    values = np.log1p(values) if mean == "log1p" else values
    level = np.bincount(X.indices, weights=values, minlength=G) / np.maximum(size, 1)
    squared = (level if mean == "log1p" else np.log(np.where(size > 0, level, 1.0))) ** 2
    share = size / max(X.nnz, 1)

    def excess(rate: float) -> float:
        return float(share @ np.exp(-rate * squared)) - fraction

    upper = 1.0
    while excess(upper) > 0 and upper < 1e12:
        upper *= 2
    if excess(upper) > 0:
        raise InputError(
            f"double_exponential cannot hide as little as {fraction:g} of these nonzeros: pass {{fraction}} above "
            f"{excess(upper) + fraction:.3g}",
            code="fraction-out-of-reach",
            fraction=...,
        )
    return np.exp(-brentq(excess, 0.0, upper, xtol=1e-15, rtol=1e-14) * squared)


def median(data: Data, rng: np.random.Generator, *, scale: Literal["counts", "log1p"] = "counts") -> Split:
    """Hide every nonzero at or below the median of the nonzeros; nothing is random.

    The data decide the share: if most nonzeros are 1, all ones are hidden (see ``Split.fraction``). ``scale`` is that
    of the median: counts as in the published code, or log-normalised values (per 10,000 molecules).
    """
    X = _counts("median", data)
    check_choice("scale", scale, ("counts", "log1p"))
    values = X.data
    if scale == "log1p":
        values = counts_to_scale(X.data.astype(np.float64), np.repeat(data.depth, np.diff(X.indptr)), "log1p")
    return _entries("median", data, *take_out(X, values <= np.median(values)))


# -- counts: molecules -------------------------------------------------------------------------------------------------
def binomial(data: Data, rng: np.random.Generator, *, fraction: float = 0.1) -> Split:
    """Split off each molecule with probability ``fraction`` (scheme ``thin``): the default for testing denoising.

    Both parts are independent if counts are Poisson; see `negative_binomial` for other counts.
    """
    X = _counts("thin", data)
    check_share("fraction", fraction)
    return _molecules("thin", data, *thin(X, 1 - fraction, rng), fraction)


def negative_binomial(
    data: Data, rng: np.random.Generator, *, fraction: float = 0.1, overdispersion: Any = "gene"
) -> Split:
    """Split off molecules so that both parts of overdispersed counts are independent (scheme ``thin_nb``).

    If an entry is negative binomial with mean m and variance m + phi m^2, the share that stays is drawn from Beta(keep
    / phi, (1 - keep) / phi) with keep = 1 - fraction, then the molecules binomially (`thin_overdispersed`).
    ``overdispersion`` is phi, a number or (G,); "gene" and "global" estimate it with `moment_overdispersion`. The parts
    are independent only as far as phi is right: the estimate includes differences between cell types, so pass phi from
    a model that contains the types if there is one.
    """
    X = _counts("thin_nb", data)
    check_share("fraction", fraction)
    if isinstance(overdispersion, str):
        check_choice("overdispersion", overdispersion, ("gene", "global"))
        phi = moment_overdispersion(data, pooled=overdispersion == "global")
    else:
        phi = np.asarray(overdispersion, dtype=np.float64)
        if phi.shape not in ((), (X.shape[1],)) or not np.isfinite(phi).all() or (phi < 0).any():
            raise InputError(
                f"overdispersion must be at least 0 and finite: pass a number, or one for each of {X.shape[1]} genes",
                code="parameter-value",
                parameter="overdispersion",
            )
    phi = np.broadcast_to(phi, X.shape[1])
    return _molecules("thin_nb", data, *thin_overdispersed(X, 1 - fraction, phi, rng), fraction)


def moment_overdispersion(data: Data, *, pooled: bool = False) -> np.ndarray:
    """(G,) overdispersion phi of each gene by the method of moments, at least 0.

    phi = sum_i ((x - m)^2 - m) / sum_i m^2 with m_ij = depth_i * total_j / sum of depths, the mean of a gene that
    differs between cells by depth alone. ``pooled`` sums over genes too and gives all genes the same phi. For a gene
    that is a large part of the depth the estimate is too low, because the depth rises and falls with the gene.
    """
    X, depth = data.X, data.depth
    G = X.shape[1]
    share = data.gene_totals / max(depth.sum(), 1e-300)
    values = X.data.astype(np.float64)
    squares = np.bincount(X.indices, weights=values * values, minlength=G)
    values *= np.repeat(depth, np.diff(X.indptr))
    crossed = np.bincount(X.indices, weights=values, minlength=G)
    expected = (depth @ depth) * share * share
    surplus = squares - 2 * share * crossed + expected - share * depth.sum()
    if pooled:
        surplus, expected = np.full(G, surplus.sum()), np.full(G, expected.sum())
    return np.maximum(surplus / np.where(expected > 0, expected, np.inf), 0.0)


# -- real values -------------------------------------------------------------------------------------------------------
def mcar(data: Data, rng: np.random.Generator, *, fraction: float = 0.1, **rows: Any) -> Split:
    """Hide a share of the known values completely at random."""
    everything = np.broadcast_to(True, data.shape)
    return _hide("mcar", data, rng, lambda _: everything, fraction, **rows)


def features(data: Data, rng: np.random.Generator, *, fraction: float = 0.05, **rows: Any) -> Split:
    """Hide whole features: all values of ``round(fraction * G)`` features in the test rows.

    No method could learn a feature that is hidden in every row. So ``rows="all"`` also hides it in the test rows only,
    but keeps these among the training rows.
    """
    check_share("fraction", fraction)
    G = data.shape[1]
    number = round(fraction * G)
    if not 0 < number < G:
        raise InputError(
            f"features would hide {number} of {G} features: pass another {{fraction}}",
            code="nothing-to-hide",
            fraction=...,
        )

    def candidates(test_rows: np.ndarray) -> np.ndarray:
        chosen = np.zeros(data.shape, dtype=bool)
        chosen[np.ix_(test_rows, rng.choice(G, size=number, replace=False))] = True
        return chosen

    return _hide("features", data, rng, candidates, 1.0, **rows)


def high_gc(
    data: Data, rng: np.random.Generator, *, gc: Any = None, fraction: float = 0.5, top: float = 0.1, **rows: Any
) -> Split:
    """Hide a share of the values of the genes with the highest GC content, where sequencing coverage is distorted.

    ``gc`` is a mapping or Series: GC content by gene name, in any unit; genes without one are not hidden. ``top`` is
    the share of the genes with GC content that counts as high.
    """
    check_share("top", top)
    if gc is None:
        raise InputError("high_gc needs the GC content of the genes: pass {gc}", code="gc-missing", gc=...)
    table = dict(gc.items())
    content = np.array([table.get(name, np.nan) for name in data.var_names], dtype=np.float64)
    known = np.flatnonzero(~np.isnan(content))
    if len(known) == 0:
        raise InputError(
            f"no gene has GC content: pass {{gc}} with the gene names of the data, such as {data.var_names[0]!r}",
            code="gc-names-differ",
            gc=...,
        )
    highest = known[np.argsort(-content[known], kind="stable")[: max(1, round(top * len(known)))]]

    def candidates(_: np.ndarray) -> np.ndarray:
        chosen = np.zeros(data.shape, dtype=bool)
        chosen[:, highest] = True
        return chosen

    return _hide("high_gc", data, rng, candidates, fraction, **rows)


def low_values(
    data: Data, rng: np.random.Generator, *, fraction: float = 0.5, quantile: float = 0.1, **rows: Any
) -> Split:
    """Hide a share of the lowest values: those below a quantile of the whole matrix of z-scores.

    As published (Qiu et al. 2020): the quantile, and the mean and standard deviation (divisor: number of known values)
    of each feature, come from all rows. A feature that does not vary has z = 0.
    """
    check_share("quantile", quantile)

    def candidates(_: np.ndarray) -> np.ndarray:
        z = np.where(_known(data), data.X, np.nan).astype(np.float64)
        count = np.maximum((~np.isnan(z)).sum(axis=0), 1)
        z -= np.nansum(z, axis=0) / count
        sd = np.sqrt(np.nansum(z * z, axis=0) / count)
        z /= np.where(sd > 0, sd, 1.0)
        return z < np.nanquantile(z, quantile)

    return _hide("low_values", data, rng, candidates, fraction, **rows)


def low_coverage(
    data: Data, rng: np.random.Generator, *, coverage: Any = None, fraction: float = 0.5, reads: float = 6, **rows: Any
) -> Split:
    """Hide a share of the values that are based on fewer than ``reads`` reads (methylation sequencing).

    ``coverage`` (n, G) is the number of reads behind each value; NaN means unknown, and such values are not hidden. The
    data must still contain values of low coverage: read them without a minimum, or there is no truth to compare with.
    """
    import scipy.sparse as sp

    if coverage is None:
        raise InputError(
            "low_coverage needs the number of reads behind each value: pass {coverage}",
            code="coverage-missing",
            coverage=...,
        )
    if sp.issparse(coverage):
        coverage = coverage.toarray()
    depth = np.asarray(coverage)
    if depth.shape != data.shape:
        message = f"coverage has shape {depth.shape}, the data {data.shape}: they must be the same"
        raise InputError(message, code="shape-mismatch", parameter="coverage")
    return _hide("low_coverage", data, rng, lambda _: depth < reads, fraction, **rows)


def blocks(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.1,
    by: Literal["samples", "features", "both"] = "both",
    **rows: Any,
) -> Split:
    """Hide values in the pattern of those that are missing, where whole blocks are missing.

    For merged arrays, panels, and proteins that a batch did not measure. By "features", the holes of a random feature
    are repeated in another one, which then is missing in whole groups of samples, training rows too (`repeated_gaps`).
    By "samples", the holes of a random sample are repeated in another one (`repeated_holes`), where other samples have
    most of what it has. "both" hides half of the values in each way, or all in the one that is possible. Fewer values
    than the share ``fraction`` are hidden if too little would be left to learn from.
    """
    check_share("fraction", fraction)
    check_choice("by", by, ("samples", "features", "both"))

    def candidates(test_rows: np.ndarray) -> np.ndarray:
        known = _known(data)
        number = fraction * known.sum()
        by_samples = by_features = np.zeros(known.shape, dtype=bool)
        if by != "features":
            wanted = number * len(test_rows) / len(known)
            by_samples = repeated_holes(known, wanted / (1 + (by == "both")), rng, recipients=test_rows)
        if by != "samples":
            by_features = repeated_gaps(known, number / (1 + by_samples.any()), rng)
        return by_samples | by_features

    return _hide("blocks", data, rng, candidates, 1.0, True, **rows)


def rates(data: Data, rng: np.random.Generator, *, fraction: float = 0.1, low: float = 0.0, **rows: Any) -> Split:
    """Hide a share of the values, most in the samples and features that lack most (`at_rates`).

    With ``low`` above 0, low values are hidden more often: the odds of a value are multiplied by exp(-low * z), z the
    rank of the value in its feature, scaled to mean 0 and variance 1. `imputome.inspection.tails.low_strength` finds
    the number for data in which values seem to be missing because they are low.
    """
    check_share("fraction", fraction)
    if not (np.isfinite(low) and low >= 0):
        raise InputError(f"low={low!r} must be 0 or more", code="parameter-value", parameter="low")

    def candidates(test_rows: np.ndarray) -> np.ndarray:
        known = _known(data)
        lowness = -low * rank_scores(data.X, known) if low else None
        return at_rates(known, fraction * known[test_rows].sum(), rng, rows=test_rows, lowness=lowness)

    return _hide("rates", data, rng, candidates, 1.0, **rows)


# -- the table, and splits by name -------------------------------------------------------------------------------------
SCHEMES: dict[str, Scheme] = {
    "random": Scheme(random, "counts", "a share of the nonzeros, or of each gene's (per_gene)"),
    "double_exponential": Scheme(double_exponential, "counts", "nonzeros, those of low genes more often"),
    "median": Scheme(median, "counts", "every nonzero at or below the median of nonzeros"),
    "thin": Scheme(binomial, "counts", "a share of the molecules (binomial count splitting)"),
    "thin_nb": Scheme(negative_binomial, "counts", "molecules of overdispersed counts, independently"),
    "mcar": Scheme(mcar, "real", "a share of the values, completely at random"),
    "features": Scheme(features, "real", "whole features in the test rows"),
    "high_gc": Scheme(high_gc, "real", "half of the values of the genes with the highest GC content"),
    "low_values": Scheme(low_values, "real", "half of the values under a low quantile"),
    "low_coverage": Scheme(low_coverage, "real", "half of the values that rest on few reads"),
    "blocks": Scheme(blocks, "real", "values in the pattern of missing blocks: what other samples, or features, lack"),
    "rates": Scheme(rates, "real", "values, most in the samples and features that lack most"),
}


def scheme_options(name: str) -> dict[str, Any]:
    """The options of a scheme of `SCHEMES` and their defaults.

    Examples
    --------
    >>> scheme_options("random")
    {'fraction': 0.1, 'per_gene': False}
    """
    if name == UNMASKED:
        return {}
    if name not in SCHEMES:
        message = f"there is no scheme {name!r}: choose one of {', '.join(SCHEMES)}"
        raise InputError(message, code="unknown-scheme", parameter="scheme")
    functions = [SCHEMES[name].function, *([_hide] if SCHEMES[name].kind == "real" else [])]
    parameters = [known for function in functions for known in inspect.signature(function).parameters.values()]
    return {known.name: known.default for known in parameters if known.kind is known.KEYWORD_ONLY}


def make_split(
    name: str, data: Data, *, rng: np.random.Generator, fraction: float | None = None, **options: Any
) -> Split:
    """Hide part of the data by a scheme; the data themselves are not changed.

    Parameters
    ----------
    name : str
        A name in `SCHEMES`, or ``"none"`` (`UNMASKED`): then nothing is hidden, and the training part is the data.
    data : Data
        n cells x G genes of counts, or n samples x G features of real values.
    rng : numpy.random.Generator
        The same state gives the same split.
    fraction : float, optional
        Share to hide, between 0 and 1; by default the scheme's own.
    **options : object
        Further options of the scheme: `scheme_options` lists them, its function describes them.

    Returns
    -------
    Split
        The training part and the held-out part.

    Raises
    ------
    InputError
        No such scheme, data of the other kind, an option that the scheme does not have, or nothing to hide.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.data import as_data
    >>> data = as_data(np.array([[5, 0, 3], [2, 8, 0]]), kind="counts")
    >>> split = make_split("thin", data, rng=np.random.default_rng(0), fraction=0.5)
    >>> (split.train.X + split.test).toarray().astype(int).tolist()  # each molecule is in one of the two parts
    [[5, 0, 3], [2, 8, 0]]
    """
    known = scheme_options(name)
    check_kind_of_scheme(name, data.kind)
    if fraction is not None:
        options["fraction"] = fraction
    for option in options:
        if option not in known:
            message = f"the scheme {name} has no option {option!r}; options: {', '.join(known)}"
            raise InputError(message, code="unknown-option", parameter=option)
    if name == UNMASKED:
        nowhere = np.empty(0, dtype=np.int64)
        return Split(UNMASKED, data, i=nowhere, j=nowhere, truth=np.empty(0))
    return SCHEMES[name].function(data, rng, **options)


def normalized_before(split: Split, data: Data) -> Split:
    """The split with the library sizes from before counts were hidden: the leaky protocol of the papers.

    Papers 000 (section 4.4) and 002 (section 2.5) normalise first and hide then, so that the library size of a cell
    still counts what is hidden in it. With this split, log1p of the training part is the matrix that paper 000 trains
    on, and counts over library sizes the one that paper 002 completes; the counts stay integers. ``data`` are those
    that were split.

    Examples
    --------
    >>> import numpy as np
    >>> from imputome.core.data import as_data
    >>> data = as_data(np.array([[5, 0, 3], [2, 8, 0]]), kind="counts")
    >>> split = make_split("random", data, rng=np.random.default_rng(0), fraction=0.5)
    >>> split.train.depth.tolist(), normalized_before(split, data).train.depth.tolist()
    ([8.0, 0.0], [8.0, 10.0])
    """
    if split.test is not None or data.kind != "counts":
        text = f"the scheme {split.scheme} splits off molecules or is for real values: the protocol needs hidden counts"
        raise InputError(f"{text}, such as those of random", code="protocol-scheme", parameter="split")
    return replace(split, train=replace(split.train, library_size=data.depth), leaky=True)


def seed_for(*axes: Any, base: int = 0) -> int:
    """A seed below 2^53 (so that JSON keeps it exact) made of names and numbers in a fixed order, such as dataset and
    trial.

    It is the same on every machine: the text of each name goes through SHA-256, because Python's own hash of a text
    differs between processes. ``base`` is the user's seed.

    Examples
    --------
    >>> seed_for("pbmc", "thin", 0) == seed_for("pbmc", "thin", 0) != seed_for("pbmc", "thin", 1)
    True
    """
    digests = [hashlib.sha256(str(axis).encode()).digest() for axis in axes]
    words = [int.from_bytes(digest[:16], "little") for digest in digests]
    return int(np.random.SeedSequence([base, *words]).generate_state(1, np.uint64)[0] >> np.uint64(11))


def row_split(
    n: int, rng: np.random.Generator, *, test: float = 0.2, labels: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of ``n`` rows split at random into training and ``round(test * n)`` test rows, both sorted.

    With ``labels``, each class gives its share of the test rows, rounded down; missing labels are a class of their own.
    The classes with the largest remainders (ties at random) give one more.
    """
    import pandas as pd

    check_share("test", test)
    n_test = round(test * n)
    if not 0 < n_test < n:
        raise InputError(
            f"test={test:g} of {n} rows leaves one part without rows: pass another {{test}}",
            code="nothing-to-hide",
            test=...,
        )
    if labels is None:
        codes, sizes = np.zeros(n, dtype=np.int64), np.array([n])
    else:
        check_length("labels", labels, n, "rows")
        codes = pd.factorize(np.asarray(labels, dtype=object), use_na_sentinel=False)[0]
        sizes = np.bincount(codes)
    exact = sizes * n_test / n
    from_class = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((rng.random(len(sizes)), -np.round(exact - from_class, 9)))
    from_class[order[: n_test - from_class.sum()]] += 1
    chosen = np.zeros(n, dtype=bool)
    for code, number in enumerate(from_class):
        chosen[rng.choice(np.flatnonzero(codes == code), size=number, replace=False)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


# -- steps that schemes share ------------------------------------------------------------------------------------------
def check_kind_of_scheme(scheme: str, kind_of_data: Kind) -> None:
    """Check that a scheme hides data of this kind; `UNMASKED` takes both."""
    kind = kind_of_data if scheme == UNMASKED else SCHEMES[scheme].kind
    if kind_of_data != kind:
        others = ", ".join(name for name, known in SCHEMES.items() if known.kind == kind_of_data)
        raise InputError(
            f"the scheme {scheme} is for {KIND_NAME[kind]}, but the data are {KIND_NAME[kind_of_data]}: use {others}",
            code="scheme-of-other-kind",
            parameter="scheme",
        )


def _counts(scheme: str, data: Data) -> sp.csr_array:
    check_kind_of_scheme(scheme, data.kind)
    if data.X.nnz == 0:
        raise InputError(f"the scheme {scheme} has nothing to hide: every count is zero", code="all-zero")
    return data.X


def _positions_by_gene(X: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``X.data`` grouped by gene, and where each gene's group starts (G + 1)."""
    import scipy.sparse as sp

    index = np.int32 if X.nnz < 2**31 else np.int64
    by_gene = sp.csr_array((np.arange(X.nnz, dtype=index), X.indices, X.indptr), shape=X.shape).tocsc()
    return by_gene.data, by_gene.indptr


def _entries(scheme: str, data: Data, train: sp.csr_array, i: np.ndarray, j: np.ndarray, truth: np.ndarray) -> Split:
    """The split of a scheme that hides entries of counts."""
    if len(i) == 0:
        raise InputError(
            f"{scheme} would hide none of {data.X.nnz:,} nonzeros: pass a larger {{fraction}}",
            code="nothing-to-hide",
            fraction=...,
        )
    library = data.library_size
    if library is not None:
        library = library - np.bincount(i, weights=truth, minlength=data.shape[0])
    observed = data.observed
    if isinstance(observed, np.ndarray):
        observed = observed.copy()
        observed[i, j] = False
    elif observed is not None:
        observed = _without(observed, i, j)
    return Split(
        scheme=scheme,
        train=replace(data, X=train, observed=observed, library_size=library),
        i=i,
        j=j,
        truth=truth,
        fraction=len(i) / data.X.nnz,
    )


def _without(observed: Any, i: np.ndarray, j: np.ndarray) -> sp.csr_array:
    """A sparse mask with some of its entries taken out."""
    import scipy.sparse as sp

    known = sp.csr_array(observed).astype(np.int8)
    hidden = sp.csr_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=known.shape)
    left = sp.csr_array(known - known.multiply(hidden))
    left.eliminate_zeros()
    return left.astype(bool)


def _molecules(scheme: str, data: Data, kept: sp.csr_array, rest: sp.csr_array, fraction: float) -> Split:
    """The split of a scheme that splits off molecules."""
    ones = np.ones(data.shape[1])
    total, left = data.X @ ones, kept @ ones
    library = data.library_size
    if library is not None:  # molecules of genes that are not in the matrix: the same share of them is kept
        library = left + (1 - fraction) * np.maximum(library - total, 0)
    return Split(
        scheme=scheme,
        train=replace(data, X=kept, library_size=library),
        test=rest,
        ratio=fraction / (1 - fraction),
        fraction=float(1 - left.sum() / total.sum()),
    )


def _hide(
    scheme: str,
    data: Data,
    rng: np.random.Generator,
    candidates: Callable[[np.ndarray], np.ndarray],
    fraction: float,
    in_training_rows: bool = False,
    *,
    rows: Literal["test", "all"] = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide ``fraction`` of the known values in ``candidates(test rows)``, a mask of shape (n, G).

    With ``in_training_rows``, what the mask holds of them is taken out of the training rows too, and not scored.
    """
    check_kind_of_scheme(scheme, data.kind)
    check_choice("rows", rows, ("test", "all"))
    check_share("fraction", fraction, allow_one=scheme in ("features", "blocks", "rates"))
    every_row = np.arange(data.shape[0])
    train_rows, test_rows = every_row, every_row
    if rows == "test" or scheme == "features":
        train_rows, test_rows = row_split(data.shape[0], rng, test=test, labels=labels)
    elif labels is not None:
        raise InputError(
            f'labels stratify test rows, and {scheme} with rows="all" has none: leave labels out',
            code="labels-without-test-rows",
            parameter="labels",
        )
    where = test_rows if rows == "test" else every_row
    target = data if rows == "all" else data.subset(rows=where)
    known = _known(target)
    chosen = candidates(test_rows)
    X, i, j, truth = hide_values(target.X, fraction, rng, among=chosen[where] & known)
    if len(i) == 0:
        raise InputError(
            f"{scheme} would hide none of {known.sum():,} values: pass a larger {{fraction}} or threshold",
            code="nothing-to-hide",
            fraction=...,
        )
    observed = target.observed
    if observed is not None:
        observed = np.array(observed, dtype=bool)
        observed[i, j] = False
    masked = replace(target, X=X, observed=observed)
    train = masked if rows == "all" else data.subset(rows=train_rows)
    if in_training_rows and rows == "test":
        train = replace(train, X=np.where(chosen[train_rows], np.nan, train.X).astype(train.X.dtype, copy=False))
    return Split(
        scheme=scheme,
        train=train,
        apply=None if rows == "all" else masked,
        i=i,
        j=j,
        truth=truth,
        fraction=len(i) / known.sum(),
    )


def _known(data: Data) -> np.ndarray:
    known = ~np.isnan(data.X)
    return known if data.observed is None else known & np.asarray(data.observed, dtype=bool)
