"""Which ranking of layers agrees with what layers turn out to be worth? Every candidate, each key.

    PYTHONPATH=src:. python benchmarks/bench_layer_ranking.py [--write]

Keys: a published layer-wise pruning sensitivity (ResNet20, shared data ``distiller-resnet20``), and
those of ``layer_keys.py``, measured here (minutes of CPU time, kept, resumable). Prints the tables;
``--write`` also puts them into ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pandas as pd

import frog
from benchmarks import layer_keys
from benchmarks.layer_keys import DAMAGED, TUNED, measure, tuning_gain
from benchmarks.measuring import heading
from benchmarks.rank_statistics import Correlation, correlate, holm, partial, pooled
from benchmarks.tasks import DATA, minilm_folder, resnet_weights
from frog.metrics.ranking import AUTO, RANKINGS
from frog.types import LayerReport, ModelReport

RESULT = Path(__file__).parent / "results" / "layer-ranking_epyc-avx512_2026-11.md"
CONTROLS = ("params", "aspect", "depth", "random")
MIRRORS = ("alpha_low", "stable_rank_low")
"""Another candidate reversed: its test is the same two-sided one and counts once for Holm."""

SETTINGS = frog.Settings(bootstrap=0, curves=False, min_evals=16, randomize=1)
"""Convolutions of a CIFAR ResNet have 16 to 64 eigenvalues: fitted, though no trustworthy alpha."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """What layers turned out to be worth: ``values`` by name; ``kind`` damage or tuning."""

    name: str
    kind: str
    model: str
    values: Mapping[str, float]


def reports() -> dict[str, ModelReport]:
    """FROG's measurement of every model that has a key: no data, no forward pass."""
    models = {
        "distiller": DATA / "distiller-resnet20/checkpoint_trained_dense.safetensors",
        "resnet20": resnet_weights(),
        "minilm": minilm_folder(),
        "stories": layer_keys.stories_model(),
    }
    return {name: frog.analyze(model, SETTINGS) for name, model in models.items()}


def published() -> list[Key]:
    """Sensitivities of the published table: loss and accuracy, several sparsities, area."""
    keys = []
    for way, suffix in (("weights", ""), ("filters", "_filter_wise")):
        rows: dict[str, dict[float, tuple[float, float]]] = {}
        file = DATA / f"distiller-resnet20/resnet20-cifar_sensitivity{suffix}.csv"
        with file.open() as lines:
            for row in csv.DictReader(lines):
                layer = row["parameter"].removeprefix("module.")
                level = round(float(row["sparsity"]), 2)
                rows.setdefault(layer, {})[level] = float(row["loss"]), float(row["top1"])
        rows.pop("fc.weight", None)  # FROG leaves heads out of a ranking
        levels = sorted(next(iter(rows.values())))
        wanted = (0.5, 0.7, 0.9) if way == "weights" else (0.25, 0.45)
        for level in wanted:
            fall = {name: by[0.0][1] - by[level][1] for name, by in rows.items()}
            keys.append(_published(f"{way} {level:.0%}, accuracy", fall))
        for what, column, sign in (("loss", 0, 1), ("accuracy", 1, -1)):
            area = {
                name: sign * (np.mean([by[x][column] for x in levels]) - by[0.0][column])
                for name, by in rows.items()
            }
            keys.append(_published(f"{way}, area, {what}", area))
    return keys


def _published(name: str, values: Mapping[str, float]) -> Key:
    return Key(name=f"published: {name}", kind="damage", model="distiller", values=dict(values))


def measured(found: Mapping[str, ModelReport]) -> list[Key]:
    """The keys that are measured here, each made where it is not kept yet."""
    keys = []
    sizes = {m: {x.name: x.params for x in report.layers} for m, report in found.items()}
    for name, (_, hows) in DAMAGED.items():
        if name == "distiller-ch":
            continue  # only tells from which weights the published table comes
        known = measure(name)
        for how in hows:
            values = {k.split("|")[0]: v for k, v in known.items() if k.endswith(f"|{how}")}
            model = "distiller" if name.startswith("distiller") else name
            keys.append(Key(name=f"{name}: {how}", kind="damage", model=model, values=values))
    for name in TUNED:
        known = measure(name)
        layers = dict.fromkeys(k.split("|")[0] for k in known if "|" in k)
        values = {layer: tuning_gain(known, layer) for layer in layers}
        model = {"signs": "resnet20", "shakespeare": "stories", "sentiment": "minilm"}[name]
        keys.append(Key(name=f"{model} to {name}: gain", kind="tuning", model=model, values=values))
        each = {layer: values[layer] / sizes[model][layer] for layer in values}
        keys.append(
            Key(name=f"{model} to {name}: gain per weight", kind="frugal", model=model, values=each)
        )
    return keys


def provenance() -> list[str]:
    """Which of two checkpoints the published table belongs to: the same damage, measured here."""
    table = next(k for k in published() if k.name.endswith("weights, area, loss")).values
    lines = ["| checkpoint | Spearman of our loss at 80 % with the published area |", "|---|--:|"]
    for name in ("distiller-dense", "distiller-ch"):
        own = {k.split("|")[0]: v for k, v in measure(name).items()}
        both = [layer for layer in table if layer in own]
        found = correlate([own[x] for x in both], [table[x] for x in both])
        lines.append(f"| {name} | {found.cell()} |")
    return lines


# ---------------------------------------------------------------------------- comparison


def scores_of(report: ModelReport, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Every candidate's score of the layers of a key, by name."""
    wanted = set(names)
    layers: Sequence[LayerReport] = [x for x in report.layers if x.name in wanted and x.averaged]
    return {
        name: dict(zip((x.name for x in layers), ranking(layers), strict=True))
        for name, ranking in RANKINGS.items()
    }


def against(key: Key, report: ModelReport) -> dict[str, Correlation]:
    """Correlation of every candidate with a key."""
    scores = scores_of(report, key.values)
    found = {}
    for name, by_layer in scores.items():
        layers = list(by_layer)
        found[name] = correlate([by_layer[x] for x in layers], [key.values[x] for x in layers])
    return found


def table_of(key: Key, report: ModelReport) -> list[str]:
    """One key: rho with its interval, exact p, Holm over candidates, and given the controls."""
    found = against(key, report)
    corrected = holm({n: c.p for n, c in found.items() if n not in (*CONTROLS, *MIRRORS)})
    scores = scores_of(report, key.values)
    lines = [
        f"### {key.name} (n = {len(scores['params'])})",
        "",
        "| ranking | n | Spearman [95 %] | p | p, Holm | given params | aspect | depth |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in sorted(found, key=lambda n: -abs(found[n].rho) if found[n].n >= 4 else 9.0):
        c, layers = found[name], list(scores[name])
        rest = [
            partial(*([by[x] for x in layers] for by in (scores[name], key.values, scores[given])))
            if name != given
            else math.nan
            for given in ("params", "aspect", "depth")
        ]
        last = _last(name, corrected)
        lines.append(
            f"| {name} | {c.n} | {c.cell()} | {_p(c.p)} | {last} | "
            + " | ".join(map(_r, rest))
            + " |"
        )
    return [*lines, ""]


def overview(keys: Sequence[Key], found: Mapping[str, ModelReport]) -> list[str]:
    """All keys side by side, and the mean over keys of each kind, one key per model and kind."""
    heads = [k.name for k in keys]
    lines = ["| ranking | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    columns = {k.name: against(k, found[k.model]) for k in keys}
    for name in RANKINGS:
        cells = [_r(columns[head][name].rho) for head in heads]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


INDEPENDENT = {
    "damage": ("published: weights, area, loss", "resnet20: noise", "minilm: prune-50",
               "stories: prune-50"),
    "tuning": ("resnet20 to signs: gain", "stories to shakespeare: gain",
               "minilm to sentiment: gain"),
}  # fmt: skip
"""One key a model: several keys of one model are no several witnesses."""


def together(keys: Sequence[Key], found: Mapping[str, ModelReport]) -> list[str]:
    """Mean Spearman over the independent keys of a kind, with a permutation p within each key."""
    lines = ["| ranking | damage | p | p, Holm | tuning | p | p, Holm |", "|---|" + "--:|" * 6]
    cells: dict[str, list[tuple[float, float]]] = {name: [] for name in RANKINGS}
    for kind in ("damage", "tuning"):
        chosen = [k for k in keys if k.name in INDEPENDENT[kind]]
        assert len(chosen) == len(INDEPENDENT[kind]), [k.name for k in keys]
        scores = [scores_of(found[k.model], k.values) for k in chosen]
        for name in RANKINGS:
            pairs = [
                (list(s[name].values()), [k.values[x] for x in s[name]])
                for s, k in zip(scores, chosen, strict=True)
            ]
            mean, p, _ = pooled(pairs)
            cells[name].append((mean, p))
    corrected = [
        holm({n: c[i][1] for n, c in cells.items() if n not in (*CONTROLS, *MIRRORS)})
        for i in range(2)
    ]
    known = {name: 0.0 if math.isnan(c[1][0]) else abs(c[1][0]) for name, c in cells.items()}
    for name in sorted(cells, key=lambda n: -known[n]):
        parts = []
        for i, (mean, p) in enumerate(cells[name]):
            last = _last(name, corrected[i])
            parts += [_r(mean), _p(p), last]
        lines.append(f"| {name} | " + " | ".join(parts) + " |")
    return [*lines, ""]


def imagenet() -> list[str]:
    """The published sensitivity of ResNet18 on ImageNet against ww-trends' columns of it.

    No weights are at hand: WeightWatcher 0.2's numbers, a mean over kernel positions. Its table
    leaves the first convolution out, and lists the others in the order of execution.
    """
    table = pd.read_csv(DATA / "ww-trends/resnet18.csv")
    rows = table[(table.level == "LEVEL.LAYER") & (table.layer_type == "CONV2D")]
    losses = pd.read_csv(DATA / "distiller-resnet20/resnet18-imagenet_sensitivity.csv")
    wanted = [x for x in losses.parameter.unique() if "layer" in x]
    # each convolution in order of execution; a shortcut's comes after its block's two
    assert len(wanted) == len(rows), (len(wanted), len(rows))
    area = losses.groupby("parameter").loss.mean() - losses.loss.min()
    key = [float(area[x]) for x in wanted]
    slices = table[table.level == "LEVEL.SLICE"].groupby("layer_id").NxM.sum()
    columns: dict[str, list[float]] = {
        name: rows[name].tolist()
        for name in ("alpha", "alpha_weighted", "log_norm", "log_spectral_norm", "stable_rank")
    }
    columns |= {
        "params": [float(slices[i]) for i in rows.layer_id],
        "depth": [float(i) for i in range(len(rows))],
    }
    lines = ["| column | n | Spearman [95 %] | p | given params |", "|---|--:|--:|--:|--:|"]
    for name, values in columns.items():
        c = correlate(values, key)
        rest = math.nan if name == "params" else partial(values, key, columns["params"])
        lines.append(f"| {name} | {c.n} | {c.cell()} | {_p(c.p)} | {_r(rest)} |")
    return [*lines, ""]


Group = tuple[Mapping[str, Mapping[str, float]], Key, list[str]]


def groups_of(key: Key, report: ModelReport) -> list[Group]:
    """The layers of a key in groups of one shape, of 4 or more."""
    scores = scores_of(report, key.values)
    shapes: dict[tuple[int, ...], list[str]] = {}
    for layer in report.layers:
        if layer.name in scores["params"]:
            shapes.setdefault(layer.shape, []).append(layer.name)
    return [(scores, key, names) for names in shapes.values() if len(names) >= 4]


def over_groups(name: str, groups: Sequence[Group]) -> tuple[float, float, int]:
    """Mean Spearman of one ranking over groups, its p, and how many groups had one."""
    return pooled([([s[name][x] for x in g], [k.values[x] for x in g]) for s, k, g in groups])


def within_shapes(keys: Sequence[Key], found: Mapping[str, ModelReport]) -> list[str]:
    """The same, only among layers of one shape: neither size nor aspect ratio can help there."""
    columns: dict[str, list[Group]] = {}
    for kind, chosen in INDEPENDENT.items():
        for key in (k for k in keys if k.name in chosen):
            groups = groups_of(key, found[key.model])
            columns.setdefault(f"all {kind} keys", []).extend(groups)
            if kind == "tuning":
                columns[key.name.removesuffix(": gain")] = groups
    tuning = [k for k in columns if not k.startswith("all")]
    columns["ResNet20 and stories"] = [g for k in tuning if "minilm" not in k for g in columns[k]]
    cells = {n: {head: over_groups(n, g) for head, g in columns.items()} for n in RANKINGS}
    free = [n for n in RANKINGS if n not in (*CONTROLS, *MIRRORS)]
    corrected = {head: holm({n: cells[n][head][1] for n in free}) for head in columns}
    heads = [f"{h} ({max(c[h][2] for c in cells.values())} groups)" for h in columns]
    lines = [
        "Mean Spearman over groups of 4 or more layers of one shape (p by permutation within them;",
        "p, Holm).",
        "",
        "| ranking | " + " | ".join(heads) + " |",
        "|---|" + "--:|" * len(heads),
    ]
    for name in RANKINGS:
        if name not in ("params", "aspect"):
            row = [
                f"{_r(cells[name][h][0])} ({_p(cells[name][h][1])}; {_last(name, corrected[h])})"
                for h in columns
            ]
            lines.append(f"| {name} | " + " | ".join(row) + " |")
    return [*lines, ""]


def gains(keys: Sequence[Key]) -> list[str]:
    """The tuning keys themselves: how far they agree with themselves, and what is to be ranked."""
    lines = ["| key | rho of the two halves of the test set | rho of two seeds |", "|---|--:|--:|"]
    for name in TUNED:
        known = measure(name)
        layers = list(dict.fromkeys(k.split("|")[0] for k in known if "|" in k))
        halves = [[best_fall(known, x, half=half) for x in layers] for half in (0, 1)]
        seeds = [[best_fall(known, x, seed=seed) for x in layers] for seed in (0, 1)]
        lines.append(f"| {name} | {correlate(*halves).cell()} | {correlate(*seeds).cell()} |")
    lines.append("")
    for key in (k for k in keys if k.kind == "tuning"):
        order = sorted(key.values, key=lambda x: -key.values[x])
        lines += [f"**{key.name}**: " + ", ".join(f"{x} {key.values[x]:.3f}" for x in order), ""]
    return lines


def best_fall(
    known: Mapping[str, list[float]],
    layer: str,
    *,
    half: int | None = None,
    seed: int | None = None,
) -> float:
    """Largest fall of the loss over rates, of one half or one seed alone; NaN where not run."""
    picked = slice(None) if half is None else slice(half, half + 1)
    runs: dict[str, list[float]] = {}
    for key in known:
        if key.startswith(f"{layer}|") and seed in (None, int(key.split("|")[1])):
            fall = np.mean(known["before"][picked]) - np.mean(known[key][picked])
            runs.setdefault(key.split("|")[2], []).append(float(fall))
    return max((float(np.mean(falls)) for falls in runs.values()), default=math.nan)


def _last(name: str, corrected: Mapping[str, float]) -> str:
    if name in CONTROLS:
        return "control"
    return "reverse" if name in MIRRORS else _p(corrected[name])


def _r(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def report_lines() -> list[str]:
    found = reports()
    keys = [*published(), *measured(found)]
    head = [
        heading("Rankings of layers against measured keys", "one thread"),
        "Spearman's rho with a 95 % bootstrap interval over layers; p two-sided by permutation;",
        f"Holm over {len(RANKINGS) - len(CONTROLS) - len(MIRRORS)} candidates, controls and exact",
        "reverses apart; seed 0. A negative rho of a candidate is a positive one of its reverse: p",
        "counts both ways. Alpha columns",
        "with `min_evals` 16, below FROG's default of 50, or most convolutions would have none.",
        f"`auto` is `{AUTO}`.",
        "",
        "## Together: one key a model",
        "",
        *together(keys, found),
        "## Among layers of one shape",
        "",
        *within_shapes(keys, found),
        "## All keys",
        "",
        *overview(keys, found),
        "## ResNet18 on ImageNet: published sensitivity (area, loss), columns of ww-trends",
        "",
        *imagenet(),
        "## From which weights the published table comes",
        "",
        *provenance(),
        "",
        "## The tuning keys",
        "",
        *gains(keys),
        "## Each key",
        "",
    ]
    return head + [line for key in keys for line in table_of(key, found[key.model])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if not DATA.exists():
        raise SystemExit("needs the folder shared/data beside the checkout: see the docstring")
    text = "\n".join(report_lines())
    print(text)
    if given.write:
        RESULT.write_text(text + "\n")


if __name__ == "__main__":
    main()
