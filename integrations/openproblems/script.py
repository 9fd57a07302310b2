"""Denoise a training file of Open Problems with imputome: layers["counts"] in, layers["denoised"] out."""

import anndata as ad

import imputome

# Viash puts the values of a run in the place of this block.
## VIASH START
par = {
    "input_train": "resources_test/task_denoising/cxg_immune_cell_atlas/train.h5ad",
    "output": "denoised.h5ad",
    "method": "count_autoencoder",
    "seed": 0,
}
meta = {"name": "imputome"}
## VIASH END

print("Read the training counts", flush=True)
train = ad.read_h5ad(par["input_train"])

print(f"Denoise with {par['method']} of imputome {imputome.__version__}", flush=True)
imputome.impute(
    train,
    layer="counts",
    kind="counts",
    method=par["method"],
    key_added="denoised",
    random_state=par["seed"],
    # genes are in the columns, whatever their names look like, and all of them are scored
    accept_orientation=True,
    feature_type="all",
    keep_summary_rows=True,
)

print("Write the denoised counts", flush=True)
# expected counts at the depth of the training part: the metrics bring them to the depth of the test part themselves
output = ad.AnnData(
    layers={"denoised": train.layers["denoised"]},
    obs=train.obs[[]],
    var=train.var[[]],
    uns={"dataset_id": train.uns["dataset_id"], "method_id": meta["name"]},
)
output.write_h5ad(par["output"], compression="gzip")
