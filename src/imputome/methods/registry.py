"""The methods of this package by name, each with the places of its `MethodInfo` and of its class.

The `MethodInfo` is in the ``__init__.py`` of the method's folder, which imports nothing heavy, so that methods can be
listed without importing torch or numba.
"""

from __future__ import annotations

# name -> (MethodInfo, class), each as "module:name" below imputome.methods
METHODS: dict[str, tuple[str, str]] = {
    "no_imputation": ("controls:NO_IMPUTATION_INFO", "controls.estimators:NoImputation"),
    "gene_mean": ("controls:GENE_MEAN_INFO", "controls.estimators:GeneMean"),
    "gene_mean_posterior": ("controls:GENE_MEAN_POSTERIOR_INFO", "controls.estimators:GeneMeanPosterior"),
    "poisson_nmf": ("controls:POISSON_NMF_INFO", "controls.estimators:PoissonNMF"),
    "random": ("controls:RANDOM_INFO", "controls.estimators:RandomDraws"),
    "mean": ("controls:MEAN_INFO", "controls.estimators:FeatureMean"),
    "median": ("controls:MEDIAN_INFO", "controls.estimators:FeatureMedian"),
    "autoencoder": ("autoencoder:AUTOENCODER_INFO", "autoencoder.estimator:PlainAutoencoder"),
    "knn": ("knn:KNN_INFO", "knn.estimator:KNN"),
    "svd": ("low_rank:SVD_INFO", "low_rank.estimator:IterativeSVD"),
    "soft_impute": ("low_rank:SOFT_IMPUTE_INFO", "low_rank.estimator:SoftImpute"),
    "ppca": ("low_rank:PPCA_INFO", "low_rank.probabilistic_pca:PPCA"),
    "bpca": ("low_rank:BPCA_INFO", "low_rank.probabilistic_pca:BPCA"),
    "lls": ("regression:LLS_INFO", "regression.lls:LLS"),
    "iterative_ridge": ("regression:ITERATIVE_RIDGE_INFO", "regression.chained:IterativeRidge"),
    "miss_forest": ("regression:MISS_FOREST_INFO", "regression.chained:MissForest"),
    "gaussian_copula": ("gaussian_copula:GAUSSIAN_COPULA_INFO", "gaussian_copula.estimator:GaussianCopula"),
    "ialm": ("ialm:IALM_INFO", "ialm.estimator:IALM"),
    "count_autoencoder": ("count_autoencoder:COUNT_AUTOENCODER_INFO", "count_autoencoder.estimator:CountAutoencoder"),
    "count_factors": ("count_factors:COUNT_FACTORS_INFO", "count_factors.estimator:CountFactors"),
    "zipo": ("count_autoencoder:ZIPO_INFO", "count_autoencoder.zipo:Zipo"),
    "dca": ("count_autoencoder:DCA_INFO", "count_autoencoder.dca:DCA"),
    "dca_paper001": ("count_autoencoder:DCA_PAPER001_INFO", "count_autoencoder.dca:DCAPaper001"),
    "zip_dca": ("count_autoencoder:ZIP_DCA_INFO", "count_autoencoder.dca:ZipDCA"),
    "tuned_dca": ("count_autoencoder:TUNED_DCA_INFO", "count_autoencoder.dca:TunedDCA"),
    "alra": ("low_rank:ALRA_INFO", "low_rank.alra:ALRA"),
    "magic": ("smoothing:MAGIC_INFO", "smoothing.magic:Magic"),
    "knn_smoothing": ("smoothing:KNN_SMOOTHING_INFO", "smoothing.knn_smoothing:KNNSmoothing"),
    "drimpute": ("clusters:DRIMPUTE_INFO", "clusters.drimpute:DrImpute"),
    "scimpute": ("clusters:SCIMPUTE_INFO", "clusters.scimpute:ScImpute"),
    "scvi": ("scvi:SCVI_INFO", "scvi.estimator:ScVI"),
    "deepimpute": ("deepimpute:DEEPIMPUTE_INFO", "deepimpute.estimator:DeepImpute"),
    "saver": ("saver:SAVER_INFO", "saver.estimator:Saver"),
    "beta_vae": ("beta_vae:BETA_VAE_INFO", "beta_vae.estimator:BetaVAE"),
}
