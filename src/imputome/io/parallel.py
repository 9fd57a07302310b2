"""Imputing by several processes or machines: each worker reads some rows, imputes them and writes them.

The fitted model goes to the workers as a folder beside the output, so all of them need the same disk. A worker that is
killed costs the rows that it was at: they are imputed again by another, and written to the same place.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.workers import dask_client
from imputome.errors import ImputomeError, InputError
from imputome.methods import load
from imputome.result.adapt import to_data
from imputome.result.genes import imputed_by_model, with_others
from imputome.result.matrices import Finite

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from imputome.core.data import Data
    from imputome.core.imputer import Imputer
    from imputome.inspection.state import InputReport
    from imputome.result.genes import Matched

ATTEMPTS = 3  # at the same rows, before they are given up


@dataclass(frozen=True)
class RowWork:
    """What a worker has to know to impute some rows: plain values, because they go to other processes."""

    source: str  # the input, .h5ad or .zarr
    layer: str | None
    report: InputReport
    model: str  # the folder of the fitted model
    matched: Matched | None  # where the genes of the input are in the model; None if it was fitted on them
    target: str  # the .zarr that is written
    layers: Mapping[Any, str]  # output -> name of its layer
    how: Mapping[str, Any]  # genes, scale and keep_observed, as `Imputation.rows` takes them
    # what the rows in themselves do not show, of all of them: fields of `Data`
    bounds: tuple[float, float] = (-np.inf, np.inf)
    library_size: np.ndarray | None = None
    covariates: pd.DataFrame | None = None

    def data_of(self, adata: AnnData, start: int, stop: int) -> Data:
        """The rows from ``start`` to ``stop``, which ``adata`` holds, as they were in the data of the fit or plan."""
        data = to_data(adata, self.report, layer=self.layer, rows=np.arange(start, stop))
        library, covariates = self.library_size, self.covariates
        return replace(
            data,
            bounds=self.bounds,
            library_size=None if library is None else library[start:stop],
            covariates=None if covariates is None else covariates.iloc[start:stop],
        )


@dataclass(frozen=True)
class Workers:
    """Who imputes and writes the rows of a ``.zarr``: a `imputome.io.store.RowWriter`."""

    estimator: Imputer
    source: Path
    layer: str | None
    report: InputReport
    data: Data  # of all rows
    matched: Matched | None = None
    number: int = 0  # of processes of this machine
    scheduler: str = ""  # address of the scheduler of a cluster, whose workers are used instead

    def write(
        self, target: Path, layers: Mapping[Any, str], how: Mapping[str, Any], ranges: Sequence[tuple[int, int]]
    ) -> Iterator[int]:
        """Impute and write the rows of each of ``ranges``; gives the number of rows written after each."""
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            model = Path(folder) / "model"
            self.estimator.save(model)
            source = str(self.source.resolve())
            about = source, self.layer, self.report, str(model), self.matched, str(target.resolve())
            data = self.data
            work = RowWork(*about, layers, how, data.bounds, data.library_size, data.covariates)
            with dask_client(self.number, self.scheduler) as client:
                yield from _carried_out(client, work, ranges, "scheduler" if self.scheduler else "workers")


def _carried_out(client: Any, work: RowWork, ranges: Sequence[tuple[int, int]], asked_by: str) -> Iterator[int]:
    """Run the work on the workers of ``client``, for which the user asked by the option ``asked_by``."""
    from distributed import as_completed

    shared = client.submit(_as_it_is, work, pure=False)  # a result can be made again where its worker died
    futures = [client.submit(impute_rows, shared, *rows, pure=False, retries=ATTEMPTS - 1) for rows in ranges]
    done = 0
    for future in as_completed(futures, loop=client.loop):
        if future.status != "finished":
            error = future.exception()
            client.cancel(futures)
            if isinstance(error, ImputomeError):
                raise error
            text = f"a worker failed ({error or future.status}), so nothing was written: look at its log, or impute "
            option: dict[str, Any] = {asked_by: ...}
            raise InputError(f"{text}without {{{asked_by}}}", code="worker-failed", **option)
        done += future.result()
        yield done


def _as_it_is(work: RowWork) -> RowWork:
    return work


# -- in a worker -------------------------------------------------------------------------------------------------------
def impute_rows(work: RowWork, start: int, stop: int) -> int:
    """Impute and write some rows; returns their number."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=_threads()):
        adata, estimator = _opened(work.source, work.layer), _loaded(work.model)
        part = adata[start:stop].to_memory()
        data = work.data_of(part, start, stop)
        if work.matched is None:
            result = estimator.applied(data)
        else:
            result = imputed_by_model(data, estimator, work.matched)
        result = with_others(result, part, work.report)
        for output, name in work.layers.items():
            values = Finite(result, estimator.name, np.float32).rows(slice(None), output=output, **work.how)
            _layer(work.target, name)[start:stop] = values
    return stop - start


def _threads() -> int:
    from distributed import get_worker

    try:
        return int(get_worker().state.nthreads)
    except ValueError:  # not in a worker
        return 1


@lru_cache(maxsize=1)
def _opened(source: str, layer: str | None) -> AnnData:
    """The input with the matrix that is imputed, and nothing else that takes time to read."""
    from imputome.io.reading import read

    adata = read(source, backed=None)
    for name in [name for name in adata.layers if name != layer]:
        del adata.layers[name]
    for place in (adata.obsm, adata.varm, adata.obsp, adata.varp, adata.uns):
        place.clear()
    return adata


@lru_cache(maxsize=1)
def _loaded(model: str) -> Imputer:
    return load(model)


def _layer(target: str, name: str) -> Any:
    import zarr

    return zarr.open_array(f"{target}/layers/{name}", mode="r+")
