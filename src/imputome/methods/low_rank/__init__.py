"""Low-rank imputation of real values: iterative SVD (Troyanskaya et al. 2001), soft-impute (Mazumder et al. 2010)."""
