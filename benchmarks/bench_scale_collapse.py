"""Scale collapse: is a planted one found, and is a healthy change left alone?

    PYTHONPATH=src:. python benchmarks/bench_scale_collapse.py [--choices 100] [--only SECTION,...]

Partners are really fine-tuned (``partners.py``), never copies. Needs the packages of the extra
``demo`` and the data beside the checkout. Writes a table to ``results/``.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from safetensors.torch import load_file

import frog
from benchmarks.measuring import heading, load_average
from benchmarks.partners import RECIPES, base_of, partner
from benchmarks.tasks import KEPT, SHARED
from frog.metrics import collapse
from frog.metrics.measure import measure
from frog.numerics.views import plain
from frog.types import LayerReport, WeightMatrix

SETTINGS = frog.Settings(bootstrap=0, curves=False)
RUN = frog.Run(jobs=1, device="cpu", cache=KEPT / "measured")
OUT = Path(__file__).parent / "results" / "scale-collapse_epyc-avx512_2026-11.md"
BASES = {"minilm": "minilm", "resnet": "resnet20", "stories": "stories"}
DISTILLER = SHARED / "data/distiller-resnet20"
GROUPS = {"hot": "ten times the learning rate", "later": "tuned after the limits were set"}
KINDS = ("x 0.1", "x 10", "top 10 %")
State = dict[str, torch.Tensor]


def base_for(name: str) -> Path:
    """What a partner was tuned from."""
    return base_of(BASES[name.split("-")[0]])


@cache
def report_of(path: Path) -> frog.ModelReport:
    """The measurement of a model without what is drawn; kept on disk."""
    return frog.analyze(path, SETTINGS, run=RUN)


def rows_of(path: Path) -> dict[str, LayerReport]:
    return {x.name: x for x in report_of(path).measured}


def flagged(before: Mapping[str, LayerReport], after: Mapping[str, LayerReport]) -> dict:
    pairs = [(before[name], row) for name, row in after.items() if name in before]
    return {n: s for n, s in collapse.against_reference(pairs).items() if s.flagged}


# ------------------------------------------------------------------------------ planted


class Held:
    """A matrix in memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def load(self) -> np.ndarray:
        return self.values

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.values.shape[axis], size):
            part = slice(start, start + size)
            yield self.values[part] if axis == 0 else self.values[:, part]

    def fingerprint(self) -> str:
        return str(hash(self.values.tobytes()))


@cache
def matrices_of(path: Path) -> dict[str, WeightMatrix]:
    return {x.name: x for x in frog.inspect(path).matrices}


@cache
def planted(path: Path, name: str, kind: str) -> LayerReport:
    """The row of one layer after the damage, stored in float32 as a checkpoint would be."""
    matrix = matrices_of(path)[name]
    damaged = damage(np.asarray(matrix.loader.load(), np.float64), kind)
    held = replace(
        matrix, loader=Held(damaged.astype(np.float32)), view=plain(matrix.shape), kind="linear"
    )
    row, _ = measure(held, SETTINGS)
    return replace(rows_of(path)[name], values=row.values)


def damage(matrix_mn: np.ndarray, kind: str) -> np.ndarray:
    if kind != KINDS[2]:
        return matrix_mn * (0.1 if kind == KINDS[0] else 10.0)
    left, values, right = np.linalg.svd(matrix_mn, full_matrices=False)
    kept = max(1, round(0.1 * len(values)))
    return (left[:, :kept] * values[:kept]) @ right[:kept]


def detection(choices: int) -> Iterator[str]:
    yield "## Planted in one layer of a really tuned partner\n"
    yield (
        f"{choices} random choices of (seed of the partner, layer) a kind; the damaged layer is "
        "measured anew, the partner is compared with its base. *others*: healthy layers flagged "
        "beside it. *within*: found in the damaged partner alone, by its neighbours in depth, "
        "among the layers of roles that are judged there.\n"
    )
    yield "| partner | kind | found | others flagged | within one model |"
    yield "|---|---|--:|--:|--:|"
    for start, names in (
        ("MiniLM on SST-2", ("minilm-a", "minilm-b", "minilm-long")),
        ("ResNet20 on hand signs", ("resnet-a", "resnet-b", "resnet-long")),
        ("stories260k on Shakespeare", ("stories-a", "stories-b")),
    ):
        rng = np.random.default_rng(20261124)
        for kind in KINDS:
            yield f"| {start} | {kind} | {_detected(names, kind, choices, rng)} |"
    yield ""


def _detected(names: tuple[str, ...], kind: str, choices: int, rng: np.random.Generator) -> str:
    found = others = compared = inside = judged = 0
    missed: set[str] = set()
    for _ in range(choices):
        name = names[rng.integers(len(names))]
        path, before = partner(name), rows_of(base_for(name))
        after = rows_of(path)
        layer = list(after)[rng.integers(len(after))]
        after = {**after, layer: planted(path, layer, kind)}
        alarms = flagged(before, after)
        found += layer in alarms
        if layer not in alarms:
            missed.add(layer)
        others += len(alarms.keys() - {layer})
        compared += len(after) - 1
        within = collapse.within_model(list(after.values()))
        judged += layer in within
        inside += layer in within and within[layer].flagged
    lost = f" (missed: {', '.join(sorted(missed))})" if missed else ""
    return f"{found} of {choices}{lost} | {others} of {compared} | {inside} of {judged}"


# ------------------------------------------------------------------------------ healthy


def healthy(_: int) -> Iterator[str]:
    yield "## Healthy changes: false alarms\n"
    yield "| pair | layers | largest change of log10 ‖W‖² / λ₁ / effective rank | alarms |"
    yield "|---|--:|--:|---|"
    total: dict[str, list[int]] = {}
    for group, label, before, after in healthy_pairs():
        pairs = [(before[n], after[n]) for n in after if n in before]
        alarms = flagged(before, after)
        count = total.setdefault(group, [0, 0])
        count[0] += len(alarms)
        count[1] += len(pairs)
        told = ", ".join(
            f"{n} ({s.quantity} {s.change:+.2f}, z {s.z:.1f})" for n, s in alarms.items()
        )
        yield f"| {label} | {len(pairs)} | {_largest(pairs)} | {told or '0'} |"
    yield ""
    for group, (alarms, layers) in total.items():
        yield f"- {group}: {alarms} alarms in {layers} layers ({100 * alarms / layers:.2f} %)"
    yield ""


def _largest(pairs: list[tuple[LayerReport, LayerReport]]) -> str:
    both = [(collapse.sizes(b), collapse.sizes(a)) for b, a in pairs]
    names = ("log_norm", "log_spectral_norm", "log_effective_rank")
    found = ([abs(a[n] - b[n]) for b, a in both if not math.isnan(a[n] - b[n])] for n in names)
    return " / ".join(f"{max(x, default=math.nan):.3f}" for x in found)


Rows = dict[str, LayerReport]


def healthy_pairs() -> Iterator[tuple[str, str, Rows, Rows]]:
    """Group, label, before, after."""
    for name in RECIPES:
        if name == "resnet-new":
            continue
        group = GROUPS.get(name.split("-")[1], "tuned")
        yield group, name, rows_of(base_for(name)), rows_of(partner(name))
    yield (
        "tuned",
        "minilm-b against minilm-a",
        rows_of(partner("minilm-a")),
        rows_of(partner("minilm-b")),
    )
    for name in ("minilm-a", "resnet-a", "stories-a"):
        base = base_for(name)
        before, after = load_file(_file(base)), load_file(_file(partner(name)))
        coarse = {k: v.bfloat16() for k, v in after.items()}
        yield "made from tuned", f"{name} as bfloat16", rows_of(base), _rows(coarse, base)
        for times in (1.0, 4.0, 16.0):
            merged = {k: low_rank(before.get(k), v, 8, times) for k, v in after.items()}
            label = f"{name}: rank 8 of its change, x {times:g}, merged"
            yield "made from tuned", label, rows_of(base), _rows(merged, base)
    steps = [partner("resnet-new") / f"checkpoint-{step}" for step in range(0, 491, 49)]
    for first, second in itertools.pairwise(steps):
        label = f"resnet-new, {first.name} to {second.name}"
        yield "training from nothing, epoch to epoch", label, rows_of(first), rows_of(second)
    yield (
        "training from nothing, start to end",
        "resnet-new, whole",
        rows_of(steps[0]),
        rows_of(steps[-1]),
    )


def _file(folder: Path) -> Path:
    return folder / "model.safetensors"


def _rows(state: State, base: Path) -> Rows:
    """Rows of tensors in memory, with the names and roles that the base's folder has."""
    known = matrices_of(base)
    report = frog.analyze(state, SETTINGS, run=frog.Run(jobs=1, device="cpu"))
    return {x.name: replace(x, role=known[x.name].role) for x in report.measured if x.name in known}


def low_rank(
    before: torch.Tensor | None, after: torch.Tensor, rank: int, times: float
) -> torch.Tensor:
    """The base plus the leading directions of the change, as a merged adapter would be."""
    if before is None or before.ndim < 2 or min(before.shape[0], before[0].numel()) <= rank:
        return after
    if after.shape[0] > 4096:  # adapters leave the token embedding alone
        return before
    moved = (after - before).reshape(len(before), -1).double()
    left, values, right = torch.linalg.svd(moved, full_matrices=False)
    product = (left[:, :rank] * values[:rank] * times) @ right[:rank]
    return before + product.reshape(before.shape).to(before.dtype)


# --------------------------------------------------------------------------- one model


def single(_: int) -> Iterator[str]:
    yield "## Healthy single models: `scale-outlier` of `analyze`\n"
    yield "| model | layers | alarms | zero layers told |"
    yield "|---|--:|---|--:|"
    alarms = layers = 0
    for label, path in single_models().items():
        report = report_of(path)
        found = [x for x in report.findings if x.kind == collapse.OUTLIER]
        zero = [x for x in found if x.severity == "info"]
        real = [f"{x.layer} ({x.value:+.2f})" for x in found if x.severity != "info"]
        pruned = "pruned" in label
        alarms += 0 if pruned else len(real)
        layers += 0 if pruned else len(report.measured)
        yield f"| {label} | {len(report.measured)} | {', '.join(real) or '0'} | {len(zero)} |"
    yield f"\n{alarms} alarms in {layers} layers ({100 * alarms / layers:.2f} %), "
    yield "the two pruned states left out: their unlike layers are what was done to them.\n"


def tables(_: int) -> Iterator[str]:
    """The same rule on published tables of larger models, of which only norms are given."""
    yield "## Published tables of healthy models (`ww-trends`): the norm among its neighbours\n"
    alarms, layers = [], 0
    for file in sorted((SHARED / "data/ww-trends").glob("[grv]*.csv")):
        found = collapse.within_model(_published_rows(file))
        layers += len(found)
        alarms += [
            f"{file.stem} layer {n} ({s.change:+.2f})" for n, s in found.items() if s.flagged
        ]
    yield f"{len(alarms)} alarms in {layers} layers: {', '.join(alarms) or 'none'}.\n"


def _published_rows(file: Path) -> list[LayerReport]:
    """Layers of one table in order; those of GPT-2 repeat in four roles."""
    with file.open() as opened:
        listed = [x for x in csv.DictReader(opened) if x["level"] == "LEVEL.LAYER"]
    listed = [x for x in listed if float(x["N"]) < 20_000]  # token embeddings
    rows = []
    for place, x in enumerate(listed):
        role = "conv" if "CONV2D" in x["layer_type"] else "dense"
        if file.stem.startswith("gpt2"):
            role = ("qkv", "o", "up", "down")[(place - 1) % 4] if place else "position"
        shape = (int(float(x["N"])), int(float(x["M"])))
        # tables hold log10 of the norm itself, FROG that of its square
        values = {"log_norm": 2 * float(x["log_norm"]), "norm": float(x["norm"]) ** 2}
        rows.append(
            LayerReport(
                name=x["layer_id"], kind="linear", role=role, block=None, shape=shape,
                dtype="float32", params=shape[0] * shape[1], values=values, position=place,
            )
        )  # fmt: skip
    return rows


def single_models() -> dict[str, Path]:
    cifar = SHARED / "data/resnet-cifar10"
    found = {
        "MiniLM": base_of("minilm"),
        "ResNet20": base_of("resnet20"),
        "ResNet32": cifar / "resnet32-d509ac18.th",
        "stories260k": base_of("stories"),
        "distiller ResNet20, dense": DISTILLER / "checkpoint_trained_dense.safetensors",
        "distiller ResNet20, group lasso":
            DISTILLER / "checkpoint_trained_ch_regularized_dense.safetensors",
        "LeNet-5": SHARED / "data/lenet-mnist/lenet_epoch12_test_acc0.991.pth",
        "grokking, 5-digit addition": SHARED / "data/grokking/5_digit_addition_infinite.pth",
        "distiller ResNet20, pruned": PUBLISHED[0],
        "distiller ResNet20, pruned and tuned": PUBLISHED[1],
    }  # fmt: skip
    return found | {name: partner(name) for name in RECIPES if name != "resnet-new"}


# ------------------------------------------------------------------------- compensation


def compensation(_: int) -> Iterator[str]:
    yield "## Rescaling that the next normalisation gain undoes\n"
    yield (
        "Through `frog.compare` on the tuned partner. *alone*: the matrix is scaled and nothing "
        "else, which must stay a collapse. *undone*: its normalisation takes the factor back.\n"
    )
    yield "| model | how | collapse, alone | compensated, undone |"
    yield "|---|---|--:|--:|"
    for label, name, how in (
        ("ResNet20", "resnet-a", batch_norm_weight),
        ("ResNet20", "resnet-a", batch_norm_statistics),
        ("stories260k", "stories-a", rms_norm),
        ("MiniLM", "minilm-a", layer_norm),
    ):
        counts = np.zeros(4, dtype=int)
        base = load_model(base_for(name))
        for layers, alone, undone in how(load_model(partner(name))):
            for place, state, wanted in ((0, alone, "collapse"), (2, undone, "compensated")):
                made = frog.compare(base, state, settings=SETTINGS, run=RUN)
                assert isinstance(made, frog.Comparison)
                scales = {x.name: x.scale for x in made.layers}
                counts[place] += sum(scales[layer] == wanted for layer in layers)
                counts[place + 1] += len(layers)
        told = f"{counts[0]} of {counts[1]} | {counts[2]} of {counts[3]}"
        yield f"| {label} | {how.__doc__.splitlines()[0].rstrip('.')} | {told} |"
    yield ""


Case = tuple[list[str], State, State]
FACTORS = (0.1, 10.0)


def load_model(folder: Path) -> State:
    return load_file(_file(folder))


def batch_norm_weight(state: State) -> Iterator[Case]:
    """Convolution x c, weight of its BatchNorm / c."""
    for conv, norm in _convolutions(state):
        for c in FACTORS:
            alone = {**state, conv: state[conv] * c}
            yield [conv], alone, {**alone, f"{norm}.weight": state[f"{norm}.weight"] / c}


def batch_norm_statistics(state: State) -> Iterator[Case]:
    """Convolution x c, its BatchNorm's running statistics follow."""
    for conv, norm in _convolutions(state):
        for c in FACTORS:
            alone = {**state, conv: state[conv] * c}
            follow = {
                f"{norm}.running_mean": state[f"{norm}.running_mean"] * c,
                f"{norm}.running_var": state[f"{norm}.running_var"] * c**2,
            }
            yield [conv], alone, {**alone, **follow}


def _convolutions(state: State) -> Iterator[tuple[str, str]]:
    for name in state:
        if "conv" in name and name.endswith("weight"):
            yield name, name.removesuffix(".weight").replace("conv", "bn")


def rms_norm(state: State) -> Iterator[Case]:
    """All readers of an RMSNorm x c, its weight / c."""
    for name in (x for x in state if x.endswith("layernorm.weight")):
        block = name.rsplit(".", 2)[0]
        after = ("q_proj", "k_proj", "v_proj") if "input" in name else ("gate_proj", "up_proj")
        readers = [x for x in state if x.startswith(block + ".") and x.split(".")[-2] in after]
        for c in FACTORS:
            alone = {**state, **{x: state[x] * c for x in readers}}
            yield readers, alone, {**alone, name: state[name] / c}


def layer_norm(state: State) -> Iterator[Case]:
    """Feed-forward input x c, weight of the LayerNorm before it / c."""
    for block in range(6):
        reader = f"encoder.layer.{block}.intermediate.dense.weight"
        name = f"encoder.layer.{block}.attention.output.LayerNorm.weight"
        for c in FACTORS:
            alone = {**state, reader: state[reader] * c}
            yield [reader], alone, {**alone, name: state[name] / c}


# ---------------------------------------------------------------------------- published

PUBLISHED = tuple(
    DISTILLER / f"checkpoint_trained_4D_regularized_5Lremoved{end}.safetensors"
    for end in ("", "_finetuned")
)


def published(_: int) -> Iterator[str]:
    yield "## The published pair: a pruned ResNet20 before and after fine-tuning\n"
    theirs = json.loads((DISTILLER / "published_ww_metrics.json").read_text())
    before, after = (theirs[path.name] for path in PUBLISHED)
    ours = [_means_of_slices(path) for path in PUBLISHED]
    pooled = [_alphas_of_pooled_slices(path) for path in PUBLISHED]
    yield "| mean: before, after, change | published | here | here, kernel slices pooled |"
    yield "|---|--:|--:|--:|"
    for name in ("norm", "lognorm", "alpha", "alpha_weighted"):
        row = [
            f"{a[name]:.3f}, {b[name]:.3f}, {b[name] - a[name]:+.3f}" if name in a else ""
            for a, b in ((before, after), ours, pooled)
        ]
        yield f"| {name} | {' | '.join(row)} |"
    made = frog.compare(*PUBLISHED, settings=SETTINGS, run=RUN)
    assert isinstance(made, frog.Comparison)
    yield (
        "\n`norm` and `lognorm` here: the Frobenius norm, not squared, and its log10, over all "
        "kernel slices that are not zero; `alpha` and `alpha_weighted`: FROG's, with at least 10 "
        "eigenvalues. The published ones are of WeightWatcher 0.2, whose conventions are not "
        "reproduced: direction and size of the changes can be compared, the values cannot. Pooled "
        "kernel slices are those of `--compat weightwatcher`, over the layers that have a fit: "
        "mean alpha moves with how a convolution is unfolded and how few eigenvalues it has.\n"
    )
    yield "| flagged layer | quantity | decades | z | scale |"
    yield "|---|---|--:|--:|---|"
    rows = rows_of(PUBLISHED[0]), rows_of(PUBLISHED[1])
    scales = flagged(*rows)
    for layer in made.layers:
        if layer.name in scales:
            s = scales[layer.name]
            told = f"{s.quantity} | {s.change:+.2f} | {s.z:.1f} | {layer.scale}"
            yield f"| {layer.name} | {told} |"
    yield ""
    for note in made.notes:
        yield f"- {note}"
    yield f"- verdict: {made.verdict}\n"


def _means_of_slices(path: Path) -> dict[str, float]:
    """Means of the Frobenius norm and its logarithm over kernel slices; alphas from FROG."""
    norms: list[float] = []
    for tensor in load_file(path).values():
        if tensor.ndim == 4:
            slices = tensor.double().flatten(2).norm(dim=(0, 1))
            norms += [float(x) for x in slices]
        elif tensor.ndim == 2:
            norms.append(float(tensor.double().norm()))
    there = [x for x in norms if x > 0]
    few = replace(SETTINGS, min_evals=10)
    summary = frog.analyze(path, few, run=RUN).summary
    return {
        "norm": float(np.mean(there)),
        "lognorm": float(np.mean(np.log10(there))),
        "alpha": float(summary["alpha"]),
        "alpha_weighted": float(summary["alpha_weighted"]),
    }


def _alphas_of_pooled_slices(path: Path) -> dict[str, float]:
    """Means over fitted layers in WeightWatcher's conventions, without its -1 for the others."""
    layers = frog.analyze(
        path, frog.Settings(compat="weightwatcher", bootstrap=0), run=RUN
    ).measured
    columns = {
        name: np.array([x.values.get(name, np.nan) for x in layers])
        for name in ("alpha", "alpha_weighted")
    }
    return {name: float(np.nanmean(column)) for name, column in columns.items()}


# ------------------------------------------------------------------------------- partners


def made(_: int) -> Iterator[str]:
    yield "## The partners\n"
    yield "| name | steps | learning rate | seed | test score before | after |"
    yield "|---|--:|--:|--:|--:|--:|"
    for name in RECIPES:
        about = json.loads((partner(name) / "about.json").read_text())
        told = f"{about['score_before']:.3f} | {about['score']:.3f}"
        yield f"| {name} | {about['steps']} | {about['lr']:g} | {about['seed']} | {told} |"
    yield "\nScores: accuracy; for stories260k the loss per token.\n"


SECTIONS: dict[str, Callable[[int], Iterator[str]]] = {
    "partners": made,
    "planted": detection,
    "healthy": healthy,
    "single": single,
    "tables": tables,
    "compensation": compensation,
    "published": published,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choices", type=int, default=100)
    parser.add_argument("--only", default=",".join(SECTIONS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    how = f"load {load_average()} at the start"
    lines = [
        heading("Scale collapse: detection and false alarms", how, note="; seed 20261124"),
        f"Limits: |z| > {collapse.Z_LIMIT:g} and a change beyond "
        f"{json.dumps(collapse.CHANGE_LIMIT)} decades; within one model "
        f"{json.dumps(collapse.NEIGHBOUR_LIMIT)}. Why these: docs/design-notes/006.\n",
    ]
    for name in given.only.split(","):
        for line in SECTIONS[name](given.choices):
            print(line, flush=True)
            lines.append(line)
    lines.append(f"Took {time.perf_counter() - started:.0f} s, the partners' training apart.")
    if given.only == ",".join(SECTIONS):
        OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
