"""Every registered method: name, where it lives, what it is. Listing them imports none of them."""

from __future__ import annotations

from imputome.methods.base import Kind, MethodInfo, Output

_COUNTS: frozenset[Kind] = frozenset({"counts"})
_REAL: frozenset[Kind] = frozenset({"real"})
_BOTH = _COUNTS | _REAL
_COUNT_OUTPUTS: frozenset[Output] = frozenset(
    {"value", "rate", "expected_count", "normalized", "variance", "dropout_probability"}
)

METHODS: tuple[tuple[str, str, MethodInfo], ...] = (
    (
        "no_imputation",
        "imputome.methods.controls:NoImputation",
        MethodInfo("no_imputation", "the counts as they are", _COUNTS, keeps_observed=True, control=True),
    ),
    (
        "gene_mean",
        "imputome.methods.controls:GeneMean",
        MethodInfo("gene_mean", "library size x share of the gene in all molecules", _COUNTS, control=True),
    ),
    (
        "gene_mean_posterior",
        "imputome.methods.controls:GeneMeanPosterior",
        MethodInfo(
            "gene_mean_posterior",
            "the cell's own counts shrunk towards the gene mean (gamma-Poisson)",
            _COUNTS,
            source="doi:10.1038/s41592-018-0033-z",
            outputs=frozenset({"value", "rate", "variance", "lower", "upper"}),
            stochastic=True,
            control=True,
        ),
    ),
    (
        "poisson_nmf",
        "imputome.methods.controls:PoissonNMF",
        MethodInfo(
            "poisson_nmf",
            "non-negative factors under the Poisson (KL) loss",
            _COUNTS,
            source="doi:10.1038/44565",
            new_rows="projection",
            stochastic=True,
            control=True,
        ),
    ),
    (
        "random",
        "imputome.methods.controls:RandomDraws",
        MethodInfo(
            "random",
            "random draws from the gene's own values",
            _BOTH,
            keeps_observed=True,
            stochastic=True,
            control=True,
        ),
    ),
    (
        "mean",
        "imputome.methods.controls:FeatureMean",
        MethodInfo("mean", "mean of the feature", _REAL, scale="input", keeps_observed=True, control=True),
    ),
    (
        "median",
        "imputome.methods.controls:FeatureMedian",
        MethodInfo("median", "median of the feature", _REAL, scale="input", keeps_observed=True, control=True),
    ),
    (
        "autoencoder",
        "imputome.methods.autoencoder.estimator:PlainAutoencoder",
        MethodInfo(
            "autoencoder",
            "plain autoencoder on log-normalised counts, its error at the nonzeros only",
            _COUNTS,
            source="doi:10.1016/j.csbj.2023.07.041",
            keeps_observed=True,
            extra="deep",
            outputs=frozenset({"value", "rate", "expected_count"}),
            stochastic=True,
        ),
    ),
    (
        "knn",
        "imputome.methods.neighbors.knn:KNN",
        MethodInfo(
            "knn",
            "weighted mean over the 10 nearest rows that have the value",
            _REAL,
            source="doi:10.1093/bioinformatics/17.6.520",
            scale="input",
            keeps_observed=True,
            new_rows="neighbors",
        ),
    ),
    (
        "svd",
        "imputome.methods.low_rank.svd:IterativeSVD",
        MethodInfo(
            "svd",
            "missing values filled by a truncated SVD again and again",
            _REAL,
            source="doi:10.1093/bioinformatics/17.6.520",
            scale="input",
            keeps_observed=True,
            new_rows="projection",
            stochastic=True,
        ),
    ),
    (
        "soft_impute",
        "imputome.methods.low_rank.soft_impute:SoftImpute",
        MethodInfo(
            "soft_impute",
            "nuclear-norm shrinkage, its strength chosen on held-out entries",
            _REAL,
            source="pmid:21552465",
            scale="input",
            keeps_observed=True,
            new_rows="projection",
            stochastic=True,
        ),
    ),
    (
        "gaussian_copula",
        "imputome.methods.gaussian_copula.estimator:GaussianCopula",
        MethodInfo(
            "gaussian_copula",
            "the default for real values: the conditional mean of what is missing under a Gaussian copula, stacked",
            _REAL,
            source="doi:10.1214/07-AOAS107",
            scale="input",
            keeps_observed=True,
            outputs=frozenset({"value", "variance", "lower", "upper"}),
            stochastic=True,
            draws=True,
        ),
    ),
    (
        "ialm",
        "imputome.methods.matrix_completion.estimator:IALM",
        MethodInfo(
            "ialm",
            "scIALM: nuclear-norm matrix completion by an inexact augmented Lagrangian",
            _BOTH,
            source="pmid:38274995",
            keeps_observed=True,
            new_rows="projection",
            stochastic=True,
        ),
    ),
    (
        "count_autoencoder",
        "imputome.methods.count_autoencoder.default:CountAutoencoder",
        MethodInfo(
            "count_autoencoder",
            "the default for counts: count autoencoder averaged with Poisson factors, and the cell's own counts",
            _COUNTS,
            source="doi:10.1101/2024.11.20.624552",
            extra="deep",
            outputs=frozenset({"value", "rate"}),
            stochastic=True,
            covariates=True,
        ),
    ),
    (
        "zipo",
        "imputome.methods.count_autoencoder.estimator:Zipo",
        MethodInfo(
            "zipo",
            "ZiPo: count autoencoder with predicted library size, adjustable zero inflation, sparse first layer",
            _COUNTS,
            source="doi:10.1101/2024.11.20.624552",
            extra="deep",
            outputs=_COUNT_OUTPUTS,
            stochastic=True,
            covariates=True,
        ),
    ),
    (
        "dca",
        "imputome.methods.count_autoencoder.presets:DCA",
        MethodInfo(
            "dca",
            "DCA: deep count autoencoder with a zero-inflated negative binomial",
            _COUNTS,
            source="doi:10.1038/s41467-018-07931-2",
            extra="deep",
            outputs=_COUNT_OUTPUTS,
            stochastic=True,
            covariates=True,
        ),
    ),
    (
        "dca_paper001",
        "imputome.methods.count_autoencoder.presets:DCAPaper001",
        MethodInfo(
            "dca_paper001",
            "DCA with the settings that ZiPo was compared with",
            _COUNTS,
            source="doi:10.1101/2024.11.20.624552",
            extra="deep",
            outputs=_COUNT_OUTPUTS - {"dropout_probability"},
            stochastic=True,
            covariates=True,
        ),
    ),
    (
        "zip_dca",
        "imputome.methods.count_autoencoder.presets:ZipDCA",
        MethodInfo(
            "zip_dca",
            "DCA with a zero-inflated Poisson distribution",
            _COUNTS,
            source="doi:10.1101/2024.11.20.624552",
            extra="deep",
            outputs=_COUNT_OUTPUTS,
            stochastic=True,
            covariates=True,
        ),
    ),
    (
        "tuned_dca",
        "imputome.methods.count_autoencoder.presets:TunedDCA",
        MethodInfo(
            "tuned_dca",
            "DCA with ZiPo's encoder and training schedule",
            _COUNTS,
            source="doi:10.1101/2024.11.20.624552",
            extra="deep",
            outputs=_COUNT_OUTPUTS - {"dropout_probability"},
            stochastic=True,
            covariates=True,
        ),
    ),
    (
        "beta_vae",
        "imputome.methods.beta_vae.estimator:BetaVAE",
        MethodInfo(
            "beta_vae",
            "beta variational autoencoder, imputing by iteration; shift correction for values missing because low",
            _REAL,
            source="doi:10.1093/gigascience/giaa082",
            scale="input",
            keeps_observed=True,
            extra="deep",
            outputs=frozenset({"value", "variance"}),
            stochastic=True,
            draws=True,
        ),
    ),
)
