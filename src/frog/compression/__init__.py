"""One measurement, many decisions: what a matrix loses at fewer bits or with fewer weights.

pruning         masks: by magnitude, Wanda, relevance; at an exact count or N of M
live            units (a matrix, a block) of a live model: read, changed, put back bit for bit
inputs          norms of the inputs of each matrix, for Wanda
scores          how much a unit matters: the registry
distortion      how far outputs moved: relative error and angle
curves          distortion of the outputs with one unit changed, in a log that can be resumed
damage          from cells to curves for the allocators, from their choice to a plan
baselines       uniform and random plans of the size of a plan
judging         a plan against these, on data that it was not made on
task_metrics    accuracy, perplexity, Spearman's rho, for judging
planned         a plan of compression as levels by matrix
formats         what a format of quantised checkpoints is: the registry
packed          compressed-tensors: files as small as the bits say
torchao_format  torchao: for its kernels; one byte a weight
targets         what of a checkpoint formats can store, and why not
checkpoints     a model's folder written again with some matrices in a format
"""
