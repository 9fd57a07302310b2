"""Hiding values so that methods can be judged: every scheme takes data and a generator and returns a `Split`.

`SCHEMES` names them all. A new scheme is one function, in `splits_counts` or `splits_real`, and one line here.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from imputome.core.data import Data, Kind
from imputome.core.holdout import hide_entries, hide_values, take_out, thin, thin_overdispersed
from imputome.core.scales import counts_to_scale
from imputome.errors import InputError
from imputome.evaluation import splits as splits_counts
from imputome.evaluation import splits as splits_real

if TYPE_CHECKING:
    import scipy.sparse as sp


@dataclass(frozen=True)
class Split:
    """What a method is fitted on, and what it is then judged by.

    Attributes
    ----------
    scheme : name of the scheme.
    train : the data to fit on, with names.
    apply : rows to impute with the fitted method (row splits); None means the rows of ``train``.
    i, j, truth : positions (in ``apply``, or else ``train``) and values of the hidden entries; None under thinning.
    test : (n, G) ``csr_array``, the molecules split off by thinning, judged over all entries; None where entries are
        hidden.
    ratio : depth of ``test`` over that of ``train``: a rate at training depth is scored times this.
    fraction : share of entries, or of molecules, that was really hidden.
    leaky : whether the scheme lets the training part see what is hidden (``as_published`` protocols).
    """

    scheme: str
    train: Data
    apply: Data | None = None
    i: np.ndarray | None = None
    j: np.ndarray | None = None
    truth: np.ndarray | None = None
    test: sp.csr_array | None = None
    ratio: float = 1.0
    fraction: float = 0.0
    leaky: bool = False


def row_split(
    n: int, rng: np.random.Generator, *, test: float = 0.2, labels: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows at random, in equal proportions within each label.

    Parameters
    ----------
    n : number of rows.
    test : share of the rows that are test rows; their number is ``round(test * n)``.
    labels : (n,) of anything that can be compared; missing labels are a class of their own. Each class gives its share
        of the test rows rounded down, and those with the largest remainders (ties at random) one more.

    Returns
    -------
    train, test : positions of the rows, each sorted.

    Raises
    ------
    InputError
        One of the two parts would be empty, or there is not one label for each row.
    """
    import pandas as pd

    check_share("test", test)
    n_test = round(test * n)
    if not 0 < n_test < n:
        raise InputError(f"test={test:g} of {n} rows leaves a part without rows: choose another share")
    if labels is None:
        codes, sizes = np.zeros(n, dtype=np.int64), np.array([n])
    else:
        if len(labels) != n:
            raise InputError(f"{len(labels)} labels were given for {n} rows: give one for each")
        codes = pd.factorize(np.asarray(labels, dtype=object), use_na_sentinel=False)[0]
        sizes = np.bincount(codes)
    exact = sizes * n_test / n
    wanted = np.floor(exact + 1e-9).astype(np.int64)
    order = np.lexsort((rng.random(len(sizes)), -np.round(exact - wanted, 9)))
    wanted[order[: n_test - wanted.sum()]] += 1
    chosen = np.zeros(n, dtype=bool)
    for code, number in enumerate(wanted):
        chosen[rng.choice(np.flatnonzero(codes == code), size=number, replace=False)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def check_share(name: str, value: Any, *, one: bool = False) -> None:
    """Refuse what is no share between 0 and 1 (1 itself is one only with ``one``)."""
    number = isinstance(value, int | float | np.number)
    if not number or not (0 < value < 1 or (one and value == 1)):
        raise InputError(f"{name}={value!r} is no share to hide: choose a number between 0 and 1")


# -- entries -----------------------------------------------------------------------------------------------------------
def random(data: Data, rng: np.random.Generator, *, fraction: float = 0.1, per_gene: bool = False) -> Split:
    """Hide ``round(fraction * number)`` of the nonzeros, each as likely as any other.

    With ``per_gene`` that share of each gene's nonzeros is hidden; genes with three nonzeros or fewer keep them (the
    protocol of scIALM).
    """
    X = _counts("random", data)
    check_share("fraction", fraction)
    if not per_gene:
        return _entries("random", data, *hide_entries(X, fraction, rng))
    hidden = np.zeros(X.nnz, dtype=bool)
    by_gene, starts = _positions_by_gene(X)
    for start, stop in itertools.pairwise(starts.tolist()):
        if stop - start > 3:
            size = round(fraction * (stop - start))
            hidden[by_gene[start + rng.choice(stop - start, size=size, replace=False)]] = True
    return _entries("random", data, *take_out(X, hidden))


def double_exponential(data: Data, rng: np.random.Generator, *, fraction: float = 0.5) -> Split:
    """Hide each nonzero of gene j with probability exp(-lambda mean_j^2), so that low genes lose more.

    mean_j is the mean of ln(1 + count) over the nonzeros of gene j, and lambda makes the expected share of hidden
    nonzeros equal to ``fraction``; the realised share differs by chance.
    """
    X = _counts("double_exponential", data)
    probability = gene_probabilities(X, fraction)
    hidden = rng.random(X.nnz) < probability[X.indices]
    return _entries("double_exponential", data, *take_out(X, hidden))


def gene_probabilities(X: sp.csr_array, fraction: float) -> np.ndarray:
    """(G,) probabilities exp(-lambda mean_j^2) of `double_exponential`; the root is found to about 1e-12.

    Raises
    ------
    InputError
        No lambda >= 0 gives that expected share of hidden nonzeros.
    """
    from scipy.optimize import brentq

    check_share("fraction", fraction)
    G = X.shape[1]
    size = np.bincount(X.indices, minlength=G)
    total = np.bincount(X.indices, weights=np.log1p(X.data, dtype=np.float64), minlength=G)
    squared = (total / np.maximum(size, 1)) ** 2
    share = size / max(X.nnz, 1)

    def excess(rate: float) -> float:
        return float(share @ np.exp(-rate * squared)) - fraction

    upper = 1.0
    while excess(upper) > 0 and upper < 1e12:
        upper *= 2
    if excess(upper) > 0:
        lowest = excess(upper) + fraction
        raise InputError(
            f"double_exponential cannot hide only {fraction:g} of these nonzeros: raise the fraction over {lowest:.3g}"
        )
    return np.exp(-brentq(excess, 0.0, upper, xtol=1e-15, rtol=1e-14) * squared)


def median(data: Data, rng: np.random.Generator, *, scale: Literal["counts", "log1p"] = "counts") -> Split:
    """Hide every nonzero at or below the median of the nonzeros; nothing is random.

    The share is what the data make it: where most nonzeros are 1, all ones are hidden (see ``Split.fraction``).

    Parameters
    ----------
    scale : ``"counts"`` as in the published code, or ``"log1p"``, values log-normalised per 10,000 of the library.
    """
    X = _counts("median", data)
    if scale not in ("counts", "log1p"):
        raise InputError(f'scale={scale!r} is no scale of the median: choose "counts" or "log1p"')
    values = X.data
    if scale == "log1p":
        values = counts_to_scale(X.data.astype(np.float64), np.repeat(data.depth, np.diff(X.indptr)), "log1p")
    return _entries("median", data, *take_out(X, values <= np.median(values)))


# -- molecules ---------------------------------------------------------------------------------------------------------
def binomial(data: Data, rng: np.random.Generator, *, fraction: float = 0.1) -> Split:
    """Split off each molecule with probability ``fraction`` (scheme ``thin``): the default for judging denoising.

    The parts are independent where counts are Poisson; see `negative_binomial` where they are not.
    """
    X = _counts("thin", data)
    check_share("fraction", fraction)
    return _molecules("thin", data, *thin(X, 1 - fraction, rng), fraction)


def negative_binomial(
    data: Data, rng: np.random.Generator, *, fraction: float = 0.1, overdispersion: Any = "gene"
) -> Split:
    """Split off molecules so that the parts of overdispersed counts are independent (scheme ``thin_nb``).

    Where an entry is NB of mean m and variance m + phi m^2, its kept share is drawn from Beta(keep / phi,
    (1 - keep) / phi) with keep = 1 - fraction, then its molecules binomially (`thin_overdispersed`).

    Parameters
    ----------
    overdispersion : phi, one number or one for each of G genes; ``"gene"`` or ``"global"`` estimates it by
        `moment_overdispersion`. Independence holds as far as phi is right: the estimate also counts differences
        between kinds of cells, so pass phi from a model with the structure in it where there is one.
    """
    X = _counts("thin_nb", data)
    check_share("fraction", fraction)
    if isinstance(overdispersion, str):
        if overdispersion not in ("gene", "global"):
            raise InputError(f'overdispersion={overdispersion!r}: pass "gene", "global", a number or one for each gene')
        phi = moment_overdispersion(data, pooled=overdispersion == "global")
    else:
        phi = np.asarray(overdispersion, dtype=np.float64)
        if phi.shape not in ((), (X.shape[1],)):
            raise InputError(f"overdispersion has shape {phi.shape}: pass one number or one for each of {X.shape[1]}")
        if not (np.isfinite(phi).all() and (phi >= 0).all()):
            raise InputError("overdispersion must be finite and not negative: pass 0 for Poisson genes")
    phi = np.broadcast_to(phi, X.shape[1])
    return _molecules("thin_nb", data, *thin_overdispersed(X, 1 - fraction, phi, rng), fraction)


def moment_overdispersion(data: Data, *, pooled: bool = False) -> np.ndarray:
    """(G,) overdispersion phi of each gene by moments, at least 0.

    phi = sum_i ((x - m)^2 - m) / sum_i m^2 with m_ij = depth_i * total_j / sum of depths, the mean of a gene that
    differs between cells by depth alone; ``pooled`` sums over genes too and gives all the same. A gene that is a large
    part of the depth is estimated too low, since it moves the depth with it.
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


# -- pieces ------------------------------------------------------------------------------------------------------------
def _counts(scheme: str, data: Data) -> sp.csr_array:
    if data.kind != "counts":
        raise InputError(f"{scheme} hides counts, and these data are real-valued: choose mcar or another real scheme")
    if data.X.nnz == 0:
        raise InputError(f"{scheme} has nothing to hide: every count is zero")
    return data.X


def _positions_by_gene(X: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``X.data`` grouped by gene, and where each gene's group starts (G + 1)."""
    import scipy.sparse as sp

    index = np.int32 if X.nnz < 2**31 else np.int64
    by_gene = sp.csr_array((np.arange(X.nnz, dtype=index), X.indices, X.indptr), shape=X.shape).tocsc()
    return by_gene.data, by_gene.indptr


def _entries(scheme: str, data: Data, train: sp.csr_array, i: np.ndarray, j: np.ndarray, truth: np.ndarray) -> Split:
    if len(i) == 0:
        raise InputError(f"{scheme} would hide no entry of {data.X.nnz:,}: raise the fraction")
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
    gone = sp.csr_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=known.shape)
    left = sp.csr_array(known - known.multiply(gone))
    left.eliminate_zeros()
    return left.astype(bool)


def _molecules(scheme: str, data: Data, kept: sp.csr_array, rest: sp.csr_array, fraction: float) -> Split:
    ones = np.ones(data.shape[1])
    total, left = data.X @ ones, kept @ ones
    library = data.library_size
    if library is not None:  # of the molecules of genes that are not here the same share would have been kept
        library = left + (1 - fraction) * np.maximum(library - total, 0)
    return Split(
        scheme=scheme,
        train=replace(data, X=kept, library_size=library),
        test=rest,
        ratio=fraction / (1 - fraction),
        fraction=float(1 - left.sum() / total.sum()),
    )


Rows = Literal["test", "all"]


def mcar(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.1,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the known values completely at random."""
    everything = np.broadcast_to(True, data.shape)
    return _hide("mcar", data, rng, lambda _: everything, fraction, rows, test, labels)


def features(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.05,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide whole features: all values that ``round(fraction * G)`` features have in the test rows.

    A feature hidden in every row could not be learned, so ``rows="all"`` hides it in the test rows as well, which then
    stay among the training rows.
    """
    check_share("fraction", fraction)
    G = data.shape[1]
    number = round(fraction * G)
    if not 0 < number < G:
        raise InputError(f"features would hide {number} of {G} features: choose another fraction")

    def aim(test_rows: np.ndarray) -> np.ndarray:
        chosen = np.zeros(data.shape, dtype=bool)
        chosen[np.ix_(test_rows, rng.choice(G, size=number, replace=False))] = True
        return chosen

    return _hide("features", data, rng, aim, 1.0, rows, test, labels)


def high_gc(
    data: Data,
    rng: np.random.Generator,
    *,
    gc: Any = None,
    fraction: float = 0.5,
    top: float = 0.1,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the values of the genes with the highest GC content, whose coverage sequencing distorts.

    Parameters
    ----------
    gc : mapping or Series, GC content by gene name, in any unit; genes without one are left alone.
    top : share, of the genes with a GC content, that counts as high.
    """
    check_share("top", top)
    if gc is None:
        raise InputError("high_gc needs the GC content of the genes: pass gc={gene: content, ...}")
    table = dict(gc.items())
    content = np.array([table.get(name, np.nan) for name in data.var_names], dtype=np.float64)
    known = np.flatnonzero(~np.isnan(content))
    if len(known) == 0:
        raise InputError(f"no gene has a GC content: does the table use the names of the data ({data.var_names[0]!r})?")
    highest = known[np.argsort(-content[known], kind="stable")[: max(1, round(top * len(known)))]]

    def aim(_: np.ndarray) -> np.ndarray:
        chosen = np.zeros(data.shape, dtype=bool)
        chosen[:, highest] = True
        return chosen

    return _hide("high_gc", data, rng, aim, fraction, rows, test, labels)


def low_values(
    data: Data,
    rng: np.random.Generator,
    *,
    fraction: float = 0.5,
    quantile: float = 0.1,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the lowest values: those under one quantile of the whole matrix, z-scored feature by feature.

    As published (Qiu et al. 2020): mean and standard deviation (divisor: number of known values) of each feature, and
    the quantile, are of all rows; a feature that does not vary has z = 0.
    """
    check_share("quantile", quantile)

    def aim(_: np.ndarray) -> np.ndarray:
        z = np.where(_known(data), data.X, np.nan).astype(np.float64)
        count = np.maximum((~np.isnan(z)).sum(axis=0), 1)
        z -= np.nansum(z, axis=0) / count
        spread = np.sqrt(np.nansum(z * z, axis=0) / count)
        z /= np.where(spread > 0, spread, 1.0)
        return z < np.nanquantile(z, quantile)

    return _hide("low_values", data, rng, aim, fraction, rows, test, labels)


def low_coverage(
    data: Data,
    rng: np.random.Generator,
    *,
    coverage: Any = None,
    fraction: float = 0.5,
    reads: float = 6,
    rows: Rows = "test",
    test: float = 0.2,
    labels: Any = None,
) -> Split:
    """Hide a share of the values that rest on fewer than ``reads`` reads (methylation sequencing).

    The data must still hold these values: read them without a coverage rule, or there is no truth to compare with.

    Parameters
    ----------
    coverage : (n, G) number of reads under each value; NaN means unknown, and such a value is left alone.
    """
    import scipy.sparse as sp

    if coverage is None:
        raise InputError("low_coverage needs the reads under each value: pass coverage=, a matrix like the data")
    if sp.issparse(coverage):
        coverage = coverage.toarray()
    depth = np.asarray(coverage)
    if depth.shape != data.shape:
        raise InputError(f"coverage has shape {depth.shape}, the data {data.shape}: they must be the same")
    return _hide("low_coverage", data, rng, lambda _: depth < reads, fraction, rows, test, labels)


def _hide(
    scheme: str,
    data: Data,
    rng: np.random.Generator,
    aim: Callable[[np.ndarray], np.ndarray],
    fraction: float,
    rows: Rows,
    test: float,
    labels: Any,
) -> Split:
    """Hide ``fraction`` of the known values that ``aim(test rows)``, a mask of shape (n, G), points at."""
    if data.kind != "real":
        raise InputError(f"{scheme} hides real values, and these data are counts: choose random, thin or another")
    if rows not in ("test", "all"):
        raise InputError(f'rows={rows!r} are no rows to hide values in: choose "test" or "all"')
    check_share("fraction", fraction, one=scheme == "features")
    everywhere = np.arange(data.shape[0])
    train_rows, test_rows = everywhere, everywhere
    if rows == "test" or scheme == "features":
        train_rows, test_rows = row_split(data.shape[0], rng, test=test, labels=labels)
    elif labels is not None:
        raise InputError(f'labels stratify the test rows, and {scheme} with rows="all" has none: leave them out')
    where = test_rows if rows == "test" else everywhere
    target = data if rows == "all" else data.subset(rows=where)
    known = _known(target)
    X, i, j, truth = hide_values(target.X, fraction, rng, among=aim(test_rows)[where] & known)
    if len(i) == 0:
        raise InputError(f"{scheme} found no value to hide among {known.sum():,}: raise the fraction or the threshold")
    observed = target.observed
    if observed is not None:
        observed = np.array(observed, dtype=bool)
        observed[i, j] = False
    masked = replace(target, X=X, observed=observed)
    return Split(
        scheme=scheme,
        train=masked if rows == "all" else data.subset(rows=train_rows),
        apply=None if rows == "all" else masked,
        i=i,
        j=j,
        truth=truth,
        fraction=len(i) / known.sum(),
    )


def _known(data: Data) -> np.ndarray:
    known = ~np.isnan(data.X)
    return known if data.observed is None else known & np.asarray(data.observed, dtype=bool)


__all__ = ["SCHEMES", "Scheme", "Split", "make_split", "row_split", "scheme_options", "seed_for", "trials"]


class Scheme(NamedTuple):
    """A way of hiding values: the function, the kind of data it takes, and one line on what it hides."""

    function: Callable[..., Split]
    kind: Kind
    description: str


SCHEMES: dict[str, Scheme] = {
    "random": Scheme(splits_counts.random, "counts", "a share of the nonzeros, or of each gene's (per_gene)"),
    "double_exponential": Scheme(splits_counts.double_exponential, "counts", "nonzeros, those of low genes more often"),
    "median": Scheme(splits_counts.median, "counts", "every nonzero at or below the median of nonzeros"),
    "thin": Scheme(splits_counts.binomial, "counts", "a share of the molecules (binomial count splitting)"),
    "thin_nb": Scheme(splits_counts.negative_binomial, "counts", "molecules of overdispersed counts, independently"),
    "mcar": Scheme(splits_real.mcar, "real", "a share of the values, completely at random"),
    "features": Scheme(splits_real.features, "real", "whole features in the test rows"),
    "high_gc": Scheme(splits_real.high_gc, "real", "half of the values of the genes with the highest GC content"),
    "low_values": Scheme(splits_real.low_values, "real", "half of the values under a low quantile"),
    "low_coverage": Scheme(splits_real.low_coverage, "real", "half of the values that rest on few reads"),
}


def scheme_options(name: str) -> dict[str, Any]:
    """The options of a scheme with their defaults; an unknown scheme is refused by name."""
    if name not in SCHEMES:
        raise InputError(f"there is no scheme {name!r}: choose one of {', '.join(SCHEMES)}")
    parameters = inspect.signature(SCHEMES[name].function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def make_split(
    name: str, data: Data, *, rng: np.random.Generator, fraction: float | None = None, **options: Any
) -> Split:
    """Hide values by the scheme called ``name``; the data are left as they are.

    Parameters
    ----------
    fraction : share to hide; None takes the scheme's default.
    options : see the scheme's function.

    Raises
    ------
    InputError
        No such scheme, data of the other kind, an option that the scheme does not have, or nothing that can be hidden.
    """
    allowed = scheme_options(name)
    scheme = SCHEMES[name]
    if data.kind != scheme.kind:
        others = ", ".join(other for other, known in SCHEMES.items() if known.kind == data.kind)
        what = {"counts": "counts", "real": "real values"}
        raise InputError(f"{name} hides {what[scheme.kind]}, and these are {what[data.kind]}: choose one of {others}")
    if fraction is not None:
        options["fraction"] = fraction
    for option in options:
        if option not in allowed:
            raise InputError(f"{name} has no option {option!r}; its options: {', '.join(allowed)}")
    return scheme.function(data, rng, **options)


def trials(
    scheme: str, data: Data, *, n: int = 10, seed: int = 0, axes: Sequence[str] = (), **options: Any
) -> Iterator[tuple[int, int, Split]]:
    """Repeat a scheme; yields (trial, its seed, split).

    ``axes`` are the names that tell this series from others, such as the dataset; the scheme's name is added. A trial
    depends on these, on ``seed`` and on its number only: not on ``n``, nor on what ran before it.
    """
    for trial in range(n):
        own = seed_for(*axes, scheme, trial, base=seed)
        yield trial, own, make_split(scheme, data, rng=np.random.default_rng(own), **options)


def seed_for(*axes: Any, base: int = 0) -> int:
    """A seed below 2^53 (JSON keeps it exact) from names and numbers in a fixed order, the same on every machine.

    The text of each goes through SHA-256: Python's own hash of a text changes from process to process.
    """
    digests = [hashlib.sha256(str(axis).encode()).digest() for axis in axes]
    words = [int.from_bytes(digest[:16], "little") for digest in digests]
    return int(np.random.SeedSequence([base, *words]).generate_state(1, np.uint64)[0] >> np.uint64(11))
