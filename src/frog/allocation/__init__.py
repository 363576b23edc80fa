"""How much of each matrix is trained.

rules     the registry: (layers, knobs) -> density of every layer, 1 = its even share
fill      densities -> whole counts: floors, caps, exact sums
plan      (layers, budget, rule) -> plan, with the reason for every count
standard  measured values made comparable among like matrices
odds      the registry of ways to draw layers: (layers) -> probabilities of whole units
rates     learning-rate ratios per layer, into the plan
actions   what is worth doing with each layer, and how sure that is
levels    compression: which unit gets which bit width or sparsity
amount    how much to tune and for how long: formulas of the spectra
"""
