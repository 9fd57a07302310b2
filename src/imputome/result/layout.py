"""Where a result goes in an AnnData: names of its layers, checks before the computation, and writing it in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from imputome.core.imputation import Output
from imputome.core.imputer import Imputer
from imputome.errors import InputError
from imputome.result.matrices import check_finite, imputed_features
from imputome.result.record import all_places, layer_names, places_to_remove

if TYPE_CHECKING:
    from anndata import AnnData

    from imputome.result.run import Run


# columns <key>_<name> of var and obs that methods write
GENE_COLUMNS = (
    *("center", "fitted_total", "imputed", "n_predictors", "noise", "posterior_power", "posterior_shape"),
    *("prior_power", "prior_shape", "share", "total_factor", "training_total"),
)
CELL_COLUMNS = ("library_size",)
MAX_KEY = 200  # bytes in the name of a result


def default_key(estimator: Imputer) -> str:
    """Name of the result where the user gives none: the method, with ``_posterior`` where that step was added."""
    added = estimator.posterior and not estimator.parameter_defaults().get("posterior")
    return f"{estimator.name}_posterior" if added else estimator.name


def checked_key(adata: AnnData, key: str) -> str:
    """The name of a result, checked: files must be able to hold a layer of that name, and terminals to show it."""
    if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY:  # a zarr store makes folders of these names
        text = f"the key {key[:20]!r}... is too long: give a name of {MAX_KEY} letters at most"
        raise InputError(text, code="bad-key", parameter="key_added")
    if not key.strip() or "/" in key or key in (".", "..") or not key.isprintable():
        text = f"the key {key!r} cannot name a layer: give at least one letter, and neither '/' nor control characters"
        raise InputError(text, code="bad-key", parameter="key_added")
    if not isinstance(adata.uns.get("imputome", {}), Mapping):
        raise InputError("uns['imputome'] holds no records of imputome: rename or delete it first", code="uns-taken")
    return key


def checked_outputs(estimator: Imputer, outputs: Iterable[str]) -> tuple[Output, ...]:
    """Check, before any computation, that a method has the outputs asked for; each once, without ``"value"``."""
    if isinstance(outputs, str):
        outputs = (outputs,)
    names = tuple(dict.fromkeys(name for name in outputs if name != "value"))
    if not names:
        return ()
    from imputome.core.posterior import PosteriorModel

    defaults = estimator.parameter_defaults()
    offered: frozenset[str] = estimator.outputs_without_step
    if estimator.posterior:
        offered |= PosteriorModel.posterior_outputs
    elif defaults.get("posterior"):
        offered -= {"lower", "upper"}  # only the posterior step gives them, and it is switched off
    for name in names:
        if name not in offered:
            known = ", ".join(sorted(offered - {"value"})) or "none"
            text = f"{estimator.name} has no output {name!r}; its outputs beside the value: {known}"
            if name in PosteriorModel.posterior_outputs and "posterior" in defaults and not estimator.posterior:
                fitted = hasattr(estimator, "feature_names_")  # a saved model cannot be given the step
                text += f"; the posterior step gives it: {'fit the model with' if fitted else 'pass'} {{posterior}}"
                raise InputError(text, code="output-needs-posterior", posterior=True)
            raise InputError(text, code="no-output", parameter="outputs")
    return names  # type: ignore[return-value]


def check_free(
    adata: AnnData, key: str, outputs: Iterable[str] = (), *, room: str = "layers", overwrite: bool = False
) -> None:
    """Check, before any computation, that a result can be written under a name.

    ``room`` is where the matrices go, ``"layers"`` or ``"obsm"``. With ``overwrite`` an earlier result of that name may
    be replaced, but another result is never replaced by an output, and what imputome did not write is never replaced.
    """
    names = list(layer_names(key, outputs).values())
    records = adata.uns.get("imputome", {})
    places_to_remove(key, records)  # refuses a record that cannot be read
    written = all_places(records)
    columns = [("var", f"{key}_{name}") for name in GENE_COLUMNS] + [("obs", f"{key}_{name}") for name in CELL_COLUMNS]
    for element, name in [*((room, name) for name in names), ("obsm", f"X_{key}"), *columns]:
        if name not in getattr(adata, element):
            continue
        if (element, name) not in written:
            text = f"{element}[{name!r}] exists already and is no result of imputome, so it is never replaced: "
            raise InputError(f"{text}pass another {{key_added}}", code="not-a-result", key_added=...)
        if element not in ("obs", "var") and not overwrite:
            text = f"{element}[{name!r}] exists already: pass {{overwrite}} to replace it, or another {{key_added}}"
            raise InputError(text, code="key-exists", overwrite=True, key_added=...)
    other = next((name for name in names[1:] if name in records), None)
    if other is not None:
        text = f"{other!r} is the name of another result: pass another {{key_added}}"
        raise InputError(text, code="name-of-another-result", key_added=...)


def store(
    adata: AnnData, run: Run, key: str, *, genes: np.ndarray | None, keep_observed: bool | None, copy: bool
) -> AnnData | None:
    """Compute the values and write the result into an AnnData in memory, or into a copy, which is returned.

    A layer cannot hold the values of some ``genes`` (positions) only. They go to ``obsm`` as a DataFrame, or to a layer
    of the copy, which then has only these genes.
    """
    import pandas as pd

    result = run.imputation
    # methods differ in the precision that they compute in, and files have float32 only
    dtype = np.float64 if result.data.X.dtype == np.float64 else np.float32
    values = {
        name: result.to_array(genes=genes, output=output, scale=run.scale, keep_observed=keep_observed).astype(
            dtype, copy=False
        )
        for output, name in layer_names(key, run.outputs).items()
    }
    columns = adata.var_names if genes is None else adata.var_names[genes]
    used = imputed_features(result)
    used = used if used is None or genes is None else used[genes]
    for matrix in values.values():
        check_finite(matrix, run.estimator.name, adata.obs_names, columns, used=used)
    if result.latent is not None:
        check_finite(result.latent, run.estimator.name, adata.obs_names)
    target, element = adata, "layers" if genes is None or copy else "obsm"
    if copy:
        target = adata.copy() if genes is None else adata[:, genes].copy()
    for part, name in places_to_remove(key, target.uns.get("imputome", {})):  # an earlier result of that name
        if part in ("obs", "var"):
            getattr(target, part).drop(columns=[name], errors="ignore", inplace=True)
        else:
            getattr(target, part).pop(name, None)
    for name, matrix in values.items():
        if element == "obsm":
            target.obsm[name] = pd.DataFrame(matrix, index=adata.obs_names, columns=columns)
        else:
            target.layers[name] = matrix
    if result.latent is not None:
        target.obsm[f"X_{key}"] = result.latent
    for name, per_gene in result.gene_columns.items():
        target.var[f"{key}_{name}"] = per_gene if genes is None or not copy else per_gene[genes]
    for name, per_cell in result.cell_columns.items():
        target.obs[f"{key}_{name}"] = per_cell
    record = run.record()
    if genes is not None:
        record = replace(record, genes=tuple(adata.var_names[genes].astype(str)), stored_in=(element,))
    target.uns["imputome"] = {**target.uns.get("imputome", {}), key: record.to_uns()}
    return target if copy else None
