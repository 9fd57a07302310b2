# Rscript pca_methods.R MASKED.csv RESULT.csv METHOD
#
# What a method of pcaMethods (ppca, bpca, svdImpute, or lls) makes of a table with the features in its rows, for
# `imputome score`; docs/score.md has the commands and the figures. Debian: apt-get install r-bioc-pcamethods
suppressPackageStartupMessages(library(pcaMethods))
arguments <- commandArgs(trailingOnly = TRUE)
values <- t(as.matrix(read.csv(arguments[1], row.names = 1, check.names = FALSE)))  # samples in the rows
set.seed(0)
fit <- if (arguments[3] == "lls") {
  llsImpute(values, k = 50, allVariables = TRUE)
} else {
  pca(values, method = arguments[3], nPcs = 10)
}
write.csv(t(completeObs(fit)), arguments[2])
