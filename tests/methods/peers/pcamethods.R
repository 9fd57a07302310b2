suppressMessages(library(pcaMethods))
Z <- as.matrix(read.csv("z.csv", header = FALSE, na.strings = "nan"))
complete <- as.matrix(read.csv("complete.csv", header = FALSE))
hidden <- is.na(Z)
save <- function(values, name) write.table(format(values, digits = 17), name, quote = FALSE, row.names = FALSE, col.names = FALSE)
bpca <- function(rank, steps) completeObs(pca(Z, method = "bpca", nPcs = rank, center = FALSE, scale = "none",
  maxSteps = steps, threshold = 0, verbose = FALSE))[hidden]
save(bpca(15, 10), "bpca_15_10.csv")
save(bpca(15, 300), "bpca_15_300.csv")
save(bpca(15, 1000), "bpca_15_1000.csv")
save(completeObs(pca(Z, method = "ppca", nPcs = 5, center = FALSE, scale = "none", seed = 1, threshold = 1e-12,
  maxIterations = 20000))[hidden], "ppca_5.csv")
filled <- c()
for (column in 1:8) {
  one <- complete
  one[, column] <- Z[, column]
  filled <- c(filled, completeObs(llsImpute(one, k = 10))[hidden[, column], column])
}
save(filled, "lls_10.csv")
