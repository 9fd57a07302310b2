"""Count autoencoders: the default for counts, ZiPo (paper 001) and the DCA family."""

from __future__ import annotations

from imputome.core.imputation import Output
from imputome.core.info import MethodInfo

_OUTPUTS: frozenset[Output] = frozenset(
    {"value", "rate", "expected_count", "normalized", "variance", "dropout_probability"}
)

COUNT_AUTOENCODER_INFO = MethodInfo(
    "count_autoencoder",
    "the default for counts: count autoencoder averaged with Poisson factors, and the cell's own counts",
    frozenset({"counts"}),
    source="doi:10.1101/2024.11.20.624552",
    extra="deep",
    outputs=frozenset({"value", "rate"}),
    stochastic=True,
    covariates=True,
)
ZIPO_INFO = MethodInfo(
    "zipo",
    "ZiPo: count autoencoder with predicted library size, adjustable zero inflation, sparse first layer",
    frozenset({"counts"}),
    source="doi:10.1101/2024.11.20.624552",
    extra="deep",
    outputs=_OUTPUTS,
    stochastic=True,
    covariates=True,
)
DCA_INFO = MethodInfo(
    "dca",
    "DCA: deep count autoencoder with a zero-inflated negative binomial",
    frozenset({"counts"}),
    source="doi:10.1038/s41467-018-07931-2",
    extra="deep",
    outputs=_OUTPUTS,
    stochastic=True,
    covariates=True,
)
DCA_PAPER001_INFO = MethodInfo(
    "dca_paper001",
    "DCA with the settings that ZiPo was compared with",
    frozenset({"counts"}),
    source="doi:10.1101/2024.11.20.624552",
    extra="deep",
    outputs=_OUTPUTS - {"dropout_probability"},
    stochastic=True,
    covariates=True,
)
ZIP_DCA_INFO = MethodInfo(
    "zip_dca",
    "DCA with a zero-inflated Poisson distribution",
    frozenset({"counts"}),
    source="doi:10.1101/2024.11.20.624552",
    extra="deep",
    outputs=_OUTPUTS,
    stochastic=True,
    covariates=True,
)
TUNED_DCA_INFO = MethodInfo(
    "tuned_dca",
    "DCA with ZiPo's encoder and training schedule",
    frozenset({"counts"}),
    source="doi:10.1101/2024.11.20.624552",
    extra="deep",
    outputs=_OUTPUTS - {"dropout_probability"},
    stochastic=True,
    covariates=True,
)
