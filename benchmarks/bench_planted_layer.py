"""Is a random layer found among trained ones, is a trained one taken for random, is an untrained
model called untrained?

    PYTHONPATH=src:. python benchmarks/bench_planted_layer.py [--seeds 100]

A random layer stands in the place of one of MiniLM's; what is measured depends on that layer
alone, so only it is measured anew (one whole model is, as a check). Needs the packages of the
extra ``demo``; other real weights where they lie beside the checkout.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import contenders
import numpy as np
import torch
from measuring import heading
from safetensors.torch import load_file

import frog
from frog.metrics.measure import measure
from tests.matrices import handle

SHARED = Path(__file__).parents[2] / "shared"
PLACES = {
    (384, 384): "encoder.layer.3.attention.self.value.weight",
    (1536, 384): "encoder.layer.3.intermediate.dense.weight",
    (384, 1536): "encoder.layer.3.output.dense.weight",
}
POOLER = "pooler.dense.weight"
ALONE = frog.Run(jobs=1)
QUICK = frog.Settings(bootstrap=0, curves=False)
State = dict[str, torch.Tensor]
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def normal(scale: float = 0.02) -> Draw:
    """MiniLM's own initialisation is a normal one of 0.02."""
    return lambda rng, shape: (scale * rng.standard_normal(shape)).astype(np.float32)


def uniform(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """As torch initialises a linear layer."""
    bound = 1.0 / math.sqrt(shape[1])
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def truncated(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal, drawn again beyond two standard deviations."""
    drawn = rng.standard_normal(shape)
    while (far := np.abs(drawn) > 2.0).any():
        drawn[far] = rng.standard_normal(int(far.sum()))
    return (0.02 * drawn).astype(np.float32)


def bfloat16(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal, rounded to bfloat16."""
    return torch.from_numpy(normal()(rng, shape)).bfloat16().float().numpy()


KINDS: dict[str, Draw] = {
    "normal 0.02": normal(),
    "5 % smaller": normal(0.019),
    "5 % larger": normal(0.021),
    "20 % smaller": normal(0.016),
    "20 % larger": normal(0.024),
    "uniform, as torch": uniform,
    "truncated normal": truncated,
    "normal, bfloat16": bfloat16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=100)
    seeds = parser.parse_args().seeds
    title = "A random layer among trained ones, and untrained models"
    print(heading(title, note=f"; seeds 0 to {seeds - 1}"))
    started = time.time()
    planted(seeds)
    whole_model()
    trained()
    models(seeds)
    print(f"All in {time.time() - started:.0f} s.")


# ---------------------------------------------------------------------------- planted


def planted(seeds: int) -> None:
    print("## Planted: certainly over-parameterised\n")
    print("| drawn | " + " | ".join(f"{m} x {n}" for m, n in PLACES) + " |")
    print("|---" + "|--:" * len(PLACES) + "|")
    for number, (name, draw) in enumerate(KINDS.items()):
        cells = []
        for shape, place in PLACES.items():
            found = sum(
                "over-parameterised" in verdicts(draw(generator(seed, number), shape), place)
                for seed in range(seeds)
            )
            cells.append(f"{found} of {seeds}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print()


def generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number])


def verdicts(array: np.ndarray, place: str) -> tuple[str, ...]:
    """The verdict words of an array in the place of a layer, at the default settings."""
    return measure(handle(array, name=place), frog.Settings(curves=False))[0].verdicts


def whole_model() -> None:
    """All three planted at once into the whole model: what else changes."""
    state = minilm()
    before = frog.analyze(state, run=ALONE)
    for number, (shape, place) in enumerate(PLACES.items()):
        state[place] = torch.from_numpy(normal()(generator(0, number), shape))
    after = frog.analyze(state, run=ALONE)
    pairs = zip(before.measured, after.measured, strict=True)
    changed = [x.name for x, y in pairs if x.condition != y.condition]
    print("The three at once in the whole model; layers whose class changes: ", end="")
    print(", ".join(f"`{name}`" for name in changed) + ".")
    share = "params_over_parameterised"
    print(f"Share of parameters over-parameterised: {before.summary[share]:.4f} before, "
          f"{after.summary[share]:.4f} after.\n")  # fmt: skip


# ---------------------------------------------------------------------------- trained


def trained() -> None:
    print("## Trained linear layers: how many are called certainly over-parameterised\n")
    print("Left out: MiniLM's pooler, which the sentence model does not use and never trained.\n")
    print(
        "| model | linear layers | of 50 rows and more | certain | which |\n|---|--:|--:|--:|---|"
    )
    total = wrong = 0
    for name, state in real_models():
        report = frog.analyze(state, frog.Settings(curves=False), run=ALONE)
        layers = [x for x in report.measured if not x.kind.startswith("conv")]
        layers = [x for x in layers if x.name != POOLER]
        called = [x.name for x in layers if "over-parameterised" in x.verdicts]
        large = sum(min(x.shape) >= 50 for x in layers)
        total, wrong = total + len(layers), wrong + len(called)
        print(f"| {name} | {len(layers)} | {large} | {len(called)} | {', '.join(called)} |")
    print(f"| all | {total} | | {wrong} | |\n")
    words = verdicts(minilm()[POOLER].numpy(), POOLER)
    print(f"The pooler, left out: {', '.join(words)}.\n")


def real_models() -> Iterator[tuple[str, object]]:
    """Names and weights of the trained models at hand."""
    yield "all-MiniLM-L6-v2", minilm()
    folder = Path(__file__).parent / ".work"
    for path in sorted(folder.glob("*/model.safetensors")):
        if "new" not in path.parent.name:  # trained from nothing for a few steps only
            yield f"fine-tuned: {path.parent.name}", load_file(path)
    data = SHARED / "data"
    for name in ("grokking/5_digit_addition_infinite.pth",
                 "lenet-mnist/lenet_epoch12_test_acc0.991.pth"):  # fmt: skip
        if (data / name).exists():
            yield name.split("/")[0], str(data / name)
    for path in sorted((data / "distiller-resnet20").glob("*.safetensors")):
        yield f"distiller: {path.stem}", str(path)
    for path in sorted((data / "resnet-cifar10").glob("*.th")):
        yield path.stem.split("-")[0], str(path)


# ----------------------------------------------------------------------------- models


def models(seeds: int) -> None:
    print("## Whole models: the joint finding `untrained`\n")
    print("| model | runs | certainly untrained | possibly | no finding |\n|---|--:|--:|--:|--:|")
    for path in sorted((SHARED / "data/resnet-cifar10").glob("*.th")):
        name, state = path.stem.split("-")[0], resnet_state(path)
        joint(f"{name}, trained", [state])
        joint(f"{name}, fresh", (fresh_resnet(state, seed) for seed in range(seeds)))
    joint("MiniLM, trained", [minilm()])
    joint("MiniLM, fresh", (fresh_minilm(seed) for seed in range(min(seeds, 5))))
    print()


def joint(name: str, states: Iterator[State] | list[State]) -> None:
    tally = {"certain": 0, "possible": 0, "": 0}
    for state in states:
        report = frog.analyze(state, QUICK, run=ALONE)
        found = [x.certainty for x in report.findings if (x.layer, x.kind) == ("", "untrained")]
        tally[found[0] if found else ""] += 1
    runs = sum(tally.values())
    print(f"| {name} | {runs} | " + " | ".join(str(x) for x in tally.values()) + " |", flush=True)


def minilm() -> State:
    """The tensors of all-MiniLM-L6-v2."""
    return load_file(contenders.minilm_folder() / "model.safetensors")


def fresh_minilm(seed: int) -> State:
    """MiniLM's architecture with the initialisation of transformers."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(contenders.minilm_folder())
    return dict(AutoModel.from_config(config).state_dict())


def resnet_state(path: Path) -> State:
    state: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)[
        "state_dict"
    ]
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def fresh_resnet(state: State, seed: int) -> State:
    """Tensors of the same shapes: Kaiming normal for convolutions, torch's uniform for linears."""
    torch.manual_seed(seed)
    made = {}
    for name, tensor in state.items():
        new = torch.zeros_like(tensor)
        if tensor.ndim == 4:
            torch.nn.init.kaiming_normal_(new)
        elif tensor.ndim == 2:
            torch.nn.init.kaiming_uniform_(new, a=math.sqrt(5))
        elif name.endswith(("weight", "running_var")):
            new = torch.ones_like(tensor)
        made[name] = new
    return made


if __name__ == "__main__":
    main()
