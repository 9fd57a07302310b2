"""Imputation by nearest rows (Troyanskaya et al. 2001)."""
