"""Gaussian copula for real-valued data: `imputome.methods.gaussian_copula.estimator.GaussianCopula`."""
