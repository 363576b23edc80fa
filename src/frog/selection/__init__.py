"""Which weights are trained: scores, expressions of scores, units, thresholds.

scores       the registry: one function per score
expression   "gradient * relevance^-1": powers of scores, multiplied
keep         choosing among the weights that pruning left
guard        what is never chosen: dead rows and columns, weights without gradient
units        scores of rows, columns and blocks
choose       one matrix, or all of them under one threshold
"""
