"""Where a result goes in an AnnData: its layers, what stands beside them, and what is forgotten with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from imputome.core.imputation import Output
from imputome.core.imputer import Imputer
from imputome.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.result.run import Run


def layer_names(key: str, outputs: Iterable[str] = ()) -> dict[Any, str]:
    """Output -> layer: the value has the key's own name, what comes beside it ``<key>_<output>``."""
    return {"value": key, **{name: f"{key}_{name}" for name in map(str, outputs)}}


def default_key(estimator: Imputer) -> str:
    """Name of the layer where the user gives none."""
    added = estimator.posterior and not estimator.parameter_defaults().get("posterior")
    return f"{estimator.name}_posterior" if added else estimator.name


def checked_key(adata: AnnData, key: str) -> str:
    """The key, if a file can hold it and the record of results can take it."""
    if not key.strip() or "/" in key or key in (".", ".."):
        raise InputError(f"the key {key!r} cannot name a layer: leave out '/' and give at least one letter")
    if not isinstance(adata.uns.get("imputome", {}), Mapping):
        raise InputError("uns['imputome'] holds something else than imputome's records: rename or delete it first")
    return key


def checked_outputs(estimator: Imputer, outputs: Iterable[str]) -> tuple[Output, ...]:
    """The outputs wanted beside the value, refused before anything is computed where the method does not have them."""
    if isinstance(outputs, str):
        outputs = (outputs,)
    wanted = tuple(dict.fromkeys(name for name in outputs if name != "value"))
    if not wanted:
        return ()
    from imputome.core.posterior import PosteriorModel

    defaults = estimator.parameter_defaults()
    offered: frozenset[str] = estimator.info.outputs
    if estimator.posterior:
        offered |= PosteriorModel.posterior_outputs
    elif defaults.get("posterior"):
        offered -= {"lower", "upper"}  # the posterior step, switched off here, is what gives them
    for name in wanted:
        if name not in offered:
            there = ", ".join(sorted(offered - {"value"})) or "none"
            fix = ""
            if name in PosteriorModel.posterior_outputs and "posterior" in defaults and not estimator.posterior:
                fix = "; the posterior step gives it: pass posterior=True (--posterior)"
            raise InputError(f"{estimator.name} has no output {name!r}, its outputs beside the value: {there}{fix}")
    return wanted  # type: ignore[return-value]


def check_free(
    adata: AnnData, key: str, outputs: Iterable[str] = (), *, room: str = "layers", overwrite: bool = False
) -> None:
    """Refuse names that are taken: by anything without ``overwrite``, by another result in any case."""
    names = list(layer_names(key, outputs).values())
    for where, name in [*((room, name) for name in names), ("obsm", f"X_{key}")]:
        if name in getattr(adata, where) and not overwrite:
            raise InputError(
                f"{where}[{name!r}] exists already: pass overwrite=True (--force) to replace it, or another key_added "
                "(--key-added)"
            )
    other = next((name for name in names[1:] if name in adata.uns.get("imputome", {})), None)
    if other is not None:
        raise InputError(f"{other!r} is the name of another result: pass another key_added (--key-added)")


def store(
    adata: AnnData, run: Run, key: str, *, genes: np.ndarray | None, keep_observed: bool | None, copy: bool
) -> AnnData | None:
    """Make the values and put them and all that goes with them into ``adata``, or into a copy that is returned.

    Some genes only do not fit a layer: they go to ``obsm`` as a DataFrame, or to a layer of the copy with these genes.
    """
    import pandas as pd

    result = run.imputation
    values = {
        name: result.to_array(genes=genes, output=output, scale=run.scale, keep_observed=keep_observed)
        for output, name in layer_names(key, run.outputs).items()
    }
    target = adata
    if copy:
        target = adata.copy() if genes is None else adata[:, genes].copy()
    _forget(target, key)
    for name, matrix in values.items():
        if genes is not None and not copy:
            target.obsm[name] = pd.DataFrame(matrix, index=adata.obs_names, columns=adata.var_names[genes])
        else:
            target.layers[name] = matrix
    if result.latent is not None:
        target.obsm[f"X_{key}"] = result.latent
    for name, per_gene in result.gene_columns.items():
        target.var[f"{key}_{name}"] = per_gene if genes is None or not copy else per_gene[genes]
    for name, per_cell in result.cell_columns.items():
        target.obs[f"{key}_{name}"] = per_cell
    record: dict[str, Any] = run.provenance()
    if genes is not None:
        record["genes"] = [str(name) for name in adata.var_names[genes]]
    target.uns["imputome"] = {**target.uns.get("imputome", {}), key: record}
    return target if copy else None


def _forget(adata: AnnData, key: str) -> None:
    """Take out what an earlier result of that key left beside its layer."""
    records = adata.uns.get("imputome", {})
    if key not in records:
        return
    record = records[key]
    adata.obsm.pop(f"X_{key}", None)
    for name in layer_names(key, record.get("outputs", ())).values():
        if name == key or name not in records:
            adata.layers.pop(name, None)
            adata.obsm.pop(name, None)
    for table, kind in ((adata.var, "gene_columns"), (adata.obs, "cell_columns")):
        table.drop(columns=[f"{key}_{name}" for name in record.get(kind, ())], errors="ignore", inplace=True)
