"""Pictures draw what they are given."""

from __future__ import annotations

import numpy as np

from imputome import datasets
from imputome.report.plots.demo import demo_figure


def test_demo_figure(tmp_path):
    adata = datasets.pbmc68k()
    adata.layers["half"] = adata.X.toarray() / 2
    scores = [{"name": f"m{k}", "control": k == 0, "poisson_loss": 0.1 * k} for k in range(3)]
    figure = demo_figure(scores, np.arange(5.0), np.arange(5.0), adata, key="half", gene="CD79A")
    bars = figure.axes[0]
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["m2", "m1", "m0"]
    assert [patch.get_width() for patch in bars.patches] == [0.2, 0.1, 0.0]
    assert "81%" in figure.axes[2].get_title()
    figure.savefig(tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
