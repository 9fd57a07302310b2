"""Whether the names of a matrix say that its genes are in the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imputome.errors import Message

if TYPE_CHECKING:
    import pandas as pd

FEW_GENES = 3  # so many names of genes may be names of samples, such as cell lines without a gene

_GENE = re.compile(
    r"ENS[A-Z]{0,4}[GT]\d{8,}(\.\d+)?"
    r"|ACTB|GAPDH|MALAT1|B2M|EEF1A1|Actb|Gapdh|Malat1|B2m|Eef1a1"
    r"|RP[LS]\d+[A-Z]?\d*|Rp[ls]\d+[a-z]?\d*|MT-[A-Z0-9]+|mt-[A-Z][A-Za-z0-9]+"
    r"|(ZNF|TMEM|CCDC|LINC|ANKRD)\d+|(Zfp|Tmem|Ccdc|Ankrd)\d+|FAM\d+[A-Z]\d*|Fam\d+[a-z]\d*|SLC\d+A\d+|Slc\d+a\d+"
    r"|AT[1-5CM]G\d{5}|Y[A-P][LR]\d{3}[WC](-[A-Z])?|FBgn\d{7}|WBGene\d{8}|[NX][MR]_\d{6,}(\.\d+)?"
    r"|C\d+orf\d+|cg\d{8}|ILMN_\d+|\d+(_[a-z])?_at"  # probes of arrays
)
_BARCODE = re.compile(r"(?:^|[^A-Za-z])[ACGT]{10,}(?:x?$|[^A-Za-z])")


def first_three(names: Sequence[Any]) -> str:
    """The first names, for a message."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def orientation(obs_names: pd.Index | None, var_names: pd.Index | None) -> tuple[Message | None, bool]:
    """What to say if this looks like genes x cells, and whether it is sure enough to stop.

    A few names of genes among many others are in doubt, because cell lines are named after genes that they lack.
    """
    if obs_names is None or var_names is None:
        return None, False
    genes = [name for name in map(str, obs_names) if _GENE.fullmatch(name)]
    barcodes = [name for name in map(str, var_names) if _BARCODE.search(name)]
    signs, sure = [], False
    if genes and not any(_GENE.fullmatch(str(name)) for name in var_names):
        signs.append(f"obs_names look like genes ({first_three(genes)})")
        sure = len(genes) >= min(FEW_GENES, len(obs_names) / 2)
    if 2 * len(barcodes) > len(var_names) and not any(_BARCODE.search(str(name)) for name in obs_names):
        signs.append(f"var_names look like cell barcodes ({first_three(barcodes)})")
        sure = True
    if not signs:
        return None, False
    text = (
        f"{' and '.join(signs)}, so this looks like genes x cells: pass the other {{genes_in}} for a table, or else "
        "transpose it (adata.T in Python, {transpose} for a file), or pass {accept_orientation} if rows are cells"
    )
    options: dict[str, Any] = {"genes_in": ..., "transpose": ..., "accept_orientation": True}
    return Message(text, code="genes-in-rows", **options), sure
