"""Snakemake wrapper for `imputome impute`: the imputed file, and a record or a report where the rule names one."""

__author__ = "The imputome developers"
__license__ = "BSD-3-Clause"

from shlex import quote

from snakemake.shell import shell

log = snakemake.log_fmt_shell(stdout=True, stderr=True)
extra = snakemake.params.get("extra", "")
further = " ".join(
    f"--{name} {quote(snakemake.output.get(name))}" for name in ("record", "report") if snakemake.output.get(name)
)
# without a name, the first output is the imputed file
output = snakemake.output.get("imputed", snakemake.output[0])

shell(
    "imputome impute {snakemake.input[0]:q} --output {output:q} {further}"
    " --threads {snakemake.threads} --force {extra} {log}"
)
