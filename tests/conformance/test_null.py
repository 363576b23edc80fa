"""Random matrices pass as random, trained layers do not.

Dense matrices and a dense eigenvalue solver on purpose: the table comes from another sampler.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from safetensors import safe_open

from frog.metrics.verdicts import Evidence, judge
from frog.numerics.powerlaw import fit_power_law
from frog.numerics.random_matrix import looks
from frog.types import FitStatus, PowerLawFit, Settings

SHAPES = (
    (64, 64),
    (50, 300),
    (128, 512),
    (300, 300),
    (256, 2304),
    (384, 384),
    (384, 1536),
    (512, 768),
    (768, 3072),
    (1024, 1024),
)
ENTRIES = {
    "gaussian": lambda rng, shape: 0.02 * rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-0.1, 0.1, shape),
    "signs": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "bfloat16": lambda rng, shape: (
        torch.from_numpy(0.02 * rng.standard_normal(shape)).bfloat16().double().numpy()
    ),
}


def verdicts(matrix_mn: np.ndarray, estimator: str = "ks") -> tuple[tuple[str, ...], list[str]]:
    """Verdict words and the looks that lie outside."""
    shape = matrix_mn.shape
    gram = matrix_mn @ matrix_mn.T if shape[0] <= shape[1] else matrix_mn.T @ matrix_mn
    eigenvalues = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)
    fit = PowerLawFit(estimator=estimator, status=FitStatus.TOO_FEW)
    if min(shape) >= Settings().min_evals:
        fit = fit_power_law(eigenvalues, estimator=estimator, shape=shape)
    null = looks(eigenvalues, shape, fit)
    words, _ = judge("layer", Evidence(fit=fit, null=null), Settings(estimator=estimator))
    return words, [name for name, look in null.items() if look.outside]


def share_trained(shapes, entries: str, count: int, seed: int, estimator: str = "ks") -> float:
    """Share of random matrices that are called trained, for certain."""
    rng = np.random.default_rng(seed)
    words = [
        verdicts(ENTRIES[entries](rng, shape), estimator)[0]
        for shape in shapes
        for _ in range(count)
    ]
    return sum("trained" in found for found in words) / len(words)


@pytest.mark.parametrize("entries", ENTRIES)
def test_random_matrices_are_not_trained(entries):
    assert share_trained(SHAPES[:3], entries, 40, seed=1) <= 0.02


@pytest.mark.slow
def test_at_most_one_in_a_hundred_of_ten_shapes():
    assert share_trained(SHAPES, "gaussian", 100, seed=2) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("entries", [name for name in ENTRIES if name != "gaussian"])
def test_the_law_of_the_entries_does_not_matter(entries):
    assert share_trained(SHAPES[:8], entries, 100, seed=3) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("entries", ["gaussian", "uniform", "signs"])
def test_hill_has_its_own_null(entries):
    assert share_trained(SHAPES[:8], entries, 100, seed=4, estimator="hill") <= 0.01


def test_layers_of_minilm_are_trained(minilm):
    """At least 30 of the 36 linear layers of the encoder, for certain."""
    outside: Counter[str] = Counter()
    trained = []
    with safe_open(minilm / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            tensor = file.get_tensor(name)
            if "encoder.layer" in name and tensor.ndim == 2:
                words, looked = verdicts(tensor.double().numpy())
                trained.append("trained" in words)
                outside.update(looked)
    assert len(trained) == 36
    assert sum(trained) >= 30
    assert outside["stable_rank"] >= 30 and outside["spikes"] >= 30


def test_convolutions_of_resnet20_against_fresh_ones(resnet20):
    """Small matrices: most trained ones are told from noise, fresh ones are not."""
    state = torch.load(resnet20, map_location="cpu", weights_only=True)["state_dict"]
    kernels = [x.double().flatten(1) for x in state.values() if x.ndim == 4]
    fresh = torch.Generator().manual_seed(0)
    trained, untrained = [], []
    for kernel in kernels:
        trained.append("trained" in verdicts(kernel.numpy())[0])
        noise = torch.randn(kernel.shape, generator=fresh, dtype=torch.float64)
        untrained.append("trained" in verdicts(noise.numpy())[0])
    assert len(kernels) == 19
    assert sum(trained) >= 15
    assert sum(untrained) == 0
