"""Count autoencoders: the default for counts, ZiPo (paper 001) and the DCA family."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from imputome.core.info import MethodInfo

if TYPE_CHECKING:
    from imputome.core.imputation import Output

_WITHOUT_DROPOUT: frozenset[Output] = frozenset({"value", "rate", "expected_count", "normalized", "variance"})
_OUTPUTS: frozenset[Output] = _WITHOUT_DROPOUT | {"dropout_probability"}
_info = partial(MethodInfo, kinds=frozenset({"counts"}), extra="deep", stochastic=True, covariates=True)
_paper001 = partial(_info, source="doi:10.1101/2024.11.20.624552")

COUNT_AUTOENCODER_INFO = _paper001(
    "count_autoencoder",
    "the default for counts: count autoencoder averaged with two kinds of factors, and the cell's own counts",
    outputs=frozenset({"value", "rate"}),
    latent=True,
)
ZIPO_INFO = _paper001(
    "zipo",
    "ZiPo: count autoencoder with predicted library size, adjustable zero inflation, sparse first layer",
    outputs=_OUTPUTS,
    latent=True,
)
DCA_INFO = _info(
    "dca",
    "DCA: deep count autoencoder with a zero-inflated negative binomial",
    source="doi:10.1038/s41467-018-07931-2",
    outputs=_OUTPUTS,
    latent=True,
)
DCA_PAPER001_INFO = _paper001(
    "dca_paper001", "DCA with the settings that ZiPo was compared with", outputs=_WITHOUT_DROPOUT, latent=True
)
ZIP_DCA_INFO = _paper001("zip_dca", "DCA with a zero-inflated Poisson distribution", outputs=_OUTPUTS, latent=True)
TUNED_DCA_INFO = _paper001(
    "tuned_dca", "DCA with ZiPo's encoder and training schedule", outputs=_WITHOUT_DROPOUT, latent=True
)
