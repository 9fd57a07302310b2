"""Pictures draw what they are given."""

from __future__ import annotations

import numpy as np

from imputome import datasets
from imputome.report.plots.demo import demo_figure


def test_demo_figure(tmp_path):
    adata = datasets.pbmc68k()
    adata.layers["half"] = adata.X.toarray() / 2
    figure = demo_figure(adata, key="half", genes=["CD79A", "NKG7"], title="a title " * 40)
    place = adata.var_names.get_loc("CD79A")
    before, after = (np.asarray(axes.collections[0].get_array()) for axes in figure.axes[:2])
    counts = adata.X[:, [place]].toarray().ravel()
    assert np.count_nonzero(before) == np.count_nonzero(counts)
    np.testing.assert_allclose(after, np.sort(counts / 2))
    assert figure.axes[0].collections[0].get_clim() == figure.axes[1].collections[0].get_clim()
    assert f"{np.mean(counts == 0):.0%}" in figure.axes[0].get_title()
    figure.savefig(tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
