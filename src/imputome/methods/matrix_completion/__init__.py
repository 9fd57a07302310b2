"""Nuclear-norm matrix completion: scIALM (Liu, Wang & Gao 2024), and robust PCA on the same loop."""

from imputome.methods.matrix_completion.solver import Solution, complete, robust_pca

__all__ = ["Solution", "complete", "robust_pca"]
