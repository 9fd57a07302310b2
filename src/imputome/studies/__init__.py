"""Studies: hide values, impute them with several methods, score the results, and collect the scores in tables."""
