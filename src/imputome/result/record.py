"""The records that results leave in ``uns["imputome"]``, found again."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from imputome.errors import InputError
from imputome.result.layout import layer_names

if TYPE_CHECKING:
    from anndata import AnnData


def find_record(adata: AnnData, key: str | None = None) -> tuple[str, Mapping[str, Any]]:
    """Key and record of a result; None means the only one.

    Raises
    ------
    InputError
        No result, none of that key, or several to choose from.
    """
    records = adata.uns.get("imputome", {})
    if not isinstance(records, Mapping) or not records:
        raise InputError("uns['imputome'] holds no result: impute first (imputome.impute, imputome impute)")
    if key is None:
        if len(records) > 1:
            raise InputError(f"there are {len(records)} results: pass key=... (--key) with one of {', '.join(records)}")
        key = next(iter(records))
    if key not in records:
        raise InputError(f"there is no result {key!r}{meant(key, records)}; results here: {', '.join(records)}")
    return key, records[key]


def find_verdict(key: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the check of a result found; a result that was not checked is refused."""
    if "verdict" not in record:
        raise InputError(f"the result {key!r} was not checked: impute with check=True (--check)")
    return record["verdict"]


def imputed_from(record: Mapping[str, Any]) -> str | None:
    """Name of the layer that was imputed; None for ``X``."""
    where = str(record["input"]["where"])
    return str(ast.literal_eval(where[len("layers[") : -1])) if where.startswith("layers[") else None


def imputed_layer(adata: AnnData, layer: str) -> tuple[str, str] | None:
    """The result that wrote ``layer`` and which of its outputs it is (``"value"`` is the result itself), or None."""
    records = adata.uns.get("imputome", {})
    if not isinstance(records, Mapping):
        return None
    for key, record in records.items():
        for output, name in layer_names(key, record.get("outputs", ())).items():
            if name == layer:
                return key, output
    return None


def meant(name: str, names: Any) -> str:
    """``, did you mean ...?`` where one of ``names`` is close to ``name``, else nothing."""
    close = get_close_matches(str(name), [str(one) for one in names], n=1)
    if not close:  # in another case, such as the genes of mouse and man
        lower = {str(one).lower(): str(one) for one in names}
        close = [lower[str(name).lower()]] if str(name).lower() in lower else []
    return f", did you mean {close[0]!r}?" if close else ""
