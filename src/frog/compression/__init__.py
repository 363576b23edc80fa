"""One measurement, many decisions: what a matrix loses at fewer bits or with fewer weights.

rounding     round-to-nearest at 1..8 bits, by rows or groups of inputs
pruning      masks: by magnitude, Wanda, relevance; at an exact count or N of M
live         units (a matrix, a block) of a live model: read, changed, put back bit for bit
inputs       norms of the inputs of each matrix, for Wanda
scores       how much a unit matters: the registry
curves       distortion of the outputs with one unit changed, in a log that can be resumed
planned      a plan of compression as levels by matrix
"""
