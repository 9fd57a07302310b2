"""Plots for notebooks, public as `imputome.pl`: each takes an AnnData with a result and returns matplotlib Axes."""

from imputome.report.compared import before_after, embedding
from imputome.report.judged import reliability, scores, verdict, zeros
from imputome.report.training import history

__all__ = ["before_after", "embedding", "history", "reliability", "scores", "verdict", "zeros"]
