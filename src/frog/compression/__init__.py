"""One measurement, many decisions: what a matrix loses at fewer bits or with fewer weights.

rounding     round-to-nearest at 1..8 bits, by rows or groups of inputs
pruning      masks: by magnitude, Wanda, relevance; at an exact count or N of M
live         units (a matrix, a block) of a live model: read, changed, put back bit for bit
inputs       norms of the inputs of each matrix, for Wanda
scores       how much a unit matters: the registry
distortion   how far outputs moved: relative error and angle
curves       distortion of the outputs with one unit changed, in a log that can be resumed
damage       from cells to curves for the allocators, from their choice to a plan
baselines    uniform and random plans of the size of a plan
judging      a plan against these, on data that it was not made on
task_metrics accuracy, perplexity, Spearman's rho, for judging
"""
