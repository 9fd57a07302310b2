"""`imputome.impute`: AnnData -> recipe -> estimator -> new layer and provenance."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.imputation import Imputation, Output
from imputome.core.imputer import Imputer, check_parameters
from imputome.core.scales import Scale
from imputome.errors import InputError, MissingExtraError
from imputome.inspection.advice import advised_method
from imputome.inspection.state import InputReport
from imputome.methods import DEFAULT, WITHOUT_EXTRAS, get
from imputome.result.adapt import (
    Purpose,
    check_scale_of,
    chosen_link,
    covariate_columns,
    to_data,
)
from imputome.result.record import Input, Record

if TYPE_CHECKING:
    from anndata import AnnData

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Run:
    """A fitted method with all that is worth keeping of how it came about."""

    imputation: Imputation
    estimator: Imputer
    report: InputReport
    scale: Scale
    keep_observed: bool
    seconds: float
    messages: tuple[str, ...]
    outputs: tuple[Output, ...] = ()
    further: dict[str, Any] = field(default_factory=dict)  # fields of the record that only the caller knows
    layer: str | None = None  # that was imputed

    @property
    def size(self) -> str:
        """Number of rows and columns in the words of the kind of data."""
        rows, columns = ("cells", "genes") if self.imputation.data.kind == "counts" else ("samples", "features")
        return f"{self.imputation.shape[0]:,} {rows} x {self.imputation.shape[1]:,} {columns}"

    def record(self) -> Record:
        """What is kept of the result."""
        result = self.imputation
        record = Record(
            method=self.estimator.name,
            input=Input(self.report.state, result.data.kind, self.layer, self.report.where),
            scale=self.scale,
            params=self.estimator.get_params(),
            random_state=getattr(self.estimator, "random_state", 0),
            versions={name: version(name) for name in ("imputome", "numpy", "scipy", "anndata")},
            transform=self.estimator.link,
            keep_observed=self.keep_observed,
            posterior=self.estimator.posterior,
            unusable_cells=tuple(result.unusable.obs_names.astype(str)),
            unusable_genes=tuple(result.unusable.var_names.astype(str)),
            unusable_filled_with=result.unusable.fallback,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory(),
            convergence=result.status,
            history={name: np.asarray(values) for name, values in result.history.items()},
        )
        return replace(record.listing(result, outputs=self.outputs), **self.further)


def run_method(
    adata: AnnData,
    estimator: Imputer,
    *,
    layer: str | None = None,
    covariates: Iterable[str] | None = None,
    keep_observed: bool | None = None,
    scale: Scale | None = None,
    transform: str | None = None,
    outputs: tuple[Output, ...] = (),
    report: InputReport | None = None,
    purpose: Purpose = "impute",
    progress: Progress | None = None,
) -> Run:
    """Inspect the input (unless its report is given), fit, and return the lazy result with its story, unwritten."""
    data, report, out_scale = to_data(adata, estimator.info, layer=layer, scale=scale, report=report, purpose=purpose)
    messages = list(report.warnings)
    estimator.link, said = chosen_link(data, estimator.info, transform)
    messages += said
    check_scale_of(outputs, out_scale)
    if covariates is not None:
        if not estimator.info.covariates:
            raise InputError(f"{estimator.name} does not use covariates: leave them out")
        data = replace(data, covariates=covariate_columns(adata, list(covariates)))
    if progress is not None:
        progress(0.0, "")
        estimator.progress = progress
    begun = time.perf_counter()
    result = estimator.fit_transform(data)
    seconds = time.perf_counter() - begun
    if result.status.message and not result.status.converged:
        messages.append(f"{estimator.name}: {result.status.message}")
    keeps = result.keeps_observed if keep_observed is None else keep_observed
    return Run(result, estimator, report, out_scale, keeps, seconds, tuple(messages), outputs, layer=layer)


def make_estimator(method: str, *, params: dict[str, Any] | None, posterior: bool | None, random_state: int) -> Imputer:
    """The unfitted estimator; unknown parameters are refused by name."""
    cls = get(method)
    allowed = cls.parameter_defaults()
    given = dict(params or {})
    if posterior is not None:
        if posterior and "posterior" not in allowed:
            raise InputError(f"{method} has no posterior step: its values are not rates of counts")
        if "posterior" in allowed:
            given["posterior"] = posterior
    if "random_state" in allowed:
        given.setdefault("random_state", random_state)
    check_parameters(cls, given)
    # NumPy's numbers would not go into the record of the result
    return cls(**{name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()})


def refuse_with_auto(**given: Any) -> None:
    """Refuse what only some methods have, by the name it is given under, where the method is still to be found."""
    for name, value in given.items():
        if value:
            raise InputError(
                f"{name} is not for every method, and auto is to find one: leave it out, or name the method"
            )


def default_method(report: InputReport) -> str:
    """The method for those who name none: of real values the one that is advised (`advised_method`).

    Raises
    ------
    InputError
        The input cannot be imputed by any.
    MissingExtraError
        It needs an optional dependency; the message says what works without.
    """
    if report.errors:
        raise InputError(report.errors[0])
    name = DEFAULT[report.kind]
    if report.kind == "real":
        n, G = report.shape
        name = advised_method(n, G, report.n_nan / (n * G))[0] or name
    try:
        get(name)
    except MissingExtraError as error:
        raise MissingExtraError(f"{error}, or pass method='{WITHOUT_EXTRAS}', which needs no more") from error
    return name


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    import resource
    import sys

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def check_memory(n: int, G: int) -> None:
    """Refuse a dense layer that would take more than half of the machine's memory."""
    needed = 4 * n * G
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > total // 2:
        raise InputError(
            f"a dense layer of {n:,} x {G:,} takes {needed / 2**30:.1f} GiB of the {total / 2**30:.1f} GiB here: pass "
            "genes=... for some genes, or use the command line, which writes it in pieces"
        )
