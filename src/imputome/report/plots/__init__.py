"""Plots for notebooks, public as `imputome.pl`: each takes an AnnData with a result and returns matplotlib Axes."""

from imputome.report.plots.checks import history, reliability, scores, verdict, zeros
from imputome.report.plots.compared import before_after, embedding

__all__ = ["before_after", "embedding", "history", "reliability", "scores", "verdict", "zeros"]
