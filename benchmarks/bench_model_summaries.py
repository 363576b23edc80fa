"""Do summaries of a model's spectra order models by test error? Families, checkpoints, controls.

    PYTHONPATH=src:. python benchmarks/bench_model_summaries.py [--write]

Three kinds of evidence: published spectral tables of model families with published errors (shared
data ``ww-trends``), weights at hand, and training runs of ``training_runs.py`` with a measured
checkpoint every epoch (minutes of CPU time, kept, resumable). Prints the tables; ``--write`` also
puts them into ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch

import frog
from benchmarks.layer_keys import with_projections
from benchmarks.measuring import heading
from benchmarks.published_errors import GPT2, PYTORCHCV, TORCHVISION, Member
from benchmarks.rank_statistics import correlate, holm, partial, pooled
from benchmarks.tasks import DATA, ResNet, resnet_weights
from benchmarks.training_runs import RUNS, run

RESULT = Path(__file__).parent / "results" / "model-summaries_epyc-avx512_2026-11.md"
TABLES = DATA / "ww-trends"
SUMMARIES = (
    "alpha",
    "alpha_weighted",
    "log_norm",
    "log_spectral_norm",
    "log_alpha_norm",
    "stable_rank",
)
OSMR = {
    "alpha": "alpha_compound",
    "alpha_weighted": "alpha_weighted_compound",
    "log_norm": "lognorm_compound",
    "log_spectral_norm": "logspectralnorm_compound",
    "log_alpha_norm": "logpnorm_compound",
    "stable_rank": "softrank_compound",
}
"""Columns of the one table of averages; ``compound`` is the mean over layers."""
SETTINGS = frog.Settings(bootstrap=0, curves=False, min_evals=16)
Values = dict[str, list[float]]


# ------------------------------------------------------------------------------ families


def families() -> dict[str, tuple[tuple[Member, ...], Values]]:
    """Members and, per summary, their values; a mean over layers each."""
    averages = pd.read_csv(TABLES / "osmr_df_all.csv").set_index("modelname")
    found = {}
    for name, members in TORCHVISION.items():
        rows = [layer_means(member.name) for member in members]
        found[name] = members, {s: [row[s] for row in rows] for s in SUMMARIES}
    for name, members in PYTORCHCV.items():
        rows = averages.loc[[member.name for member in members]]
        found[name] = members, {s: rows[column].tolist() for s, column in OSMR.items()}
    return found


def layer_means(model: str) -> dict[str, float]:
    """The mean over layers of a per-layer table, as its authors averaged it."""
    table = pd.read_csv(TABLES / f"{model}.csv")
    layers = table[table.level == "LEVEL.LAYER"]
    return {name: float(layers[name].mean()) for name in SUMMARIES}


def family_tables() -> list[str]:
    found = families()
    lines = [
        "Spearman with the published test error (higher = worse); sign as found. `n` members;",
        "exact two-sided p up to n = 8, else by permutation.",
        "",
        "| family | n | depth | params | " + " | ".join(SUMMARIES) + " |",
        "|---|" + "--:|" * (3 + len(SUMMARIES)),
    ]
    for name, (members, values) in found.items():
        error = [m.error for m in members]
        cells = [_rho([m.depth for m in members], error), _rho([m.params for m in members], error)]
        cells += [_rho(values[s], error) for s in SUMMARIES]
        lines.append(f"| {name} | {len(members)} | " + " | ".join(cells) + " |")
    lines += ["", "Given the number of parameters (partial Spearman, families of at least 5):", ""]
    lines += ["| family | " + " | ".join(SUMMARIES) + " |", "|---|" + "--:|" * len(SUMMARIES)]
    for name, (members, values) in found.items():
        error, params = [m.error for m in members], [m.params for m in members]
        cells = [_r(partial(values[s], error, params)) for s in SUMMARIES]
        if len(members) >= 5:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "", *_pooled_families(found), *_intervals(found), *_gpt2()]


def _pooled_families(found: Mapping[str, tuple[tuple[Member, ...], Values]]) -> list[str]:
    """Means over families: raw, and of what is left when parameters are regressed out."""
    lines = [
        "Mean over families, p by permutation within families, Holm over the six summaries;",
        "`agree`: families in which the sign is that of the mean. The families share authors,",
        "recipes and data: they are no independent sample of anything.",
        "",
        "| | families | mean Spearman | p | p, Holm | agree | mean, given params | agree |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    columns: dict[str, list[tuple[list[float], list[float], list[float]]]] = {}
    for members, values in found.values():
        error, params = [m.error for m in members], [m.params for m in members]
        columns.setdefault("depth", []).append(([m.depth for m in members], error, params))
        columns.setdefault("params", []).append((params, error, params))
        for summary in SUMMARIES:
            columns.setdefault(summary, []).append((values[summary], error, params))
    raw = {name: pooled([(x, y) for x, y, _ in groups]) for name, groups in columns.items()}
    corrected = holm({name: raw[name][1] for name in SUMMARIES})
    for name, groups in columns.items():
        mean, p, count = raw[name]
        rhos = [correlate(x, y).rho for x, y, _ in groups]
        left = [partial(x, y, z) for x, y, z in groups if len(x) >= 5 and name != "params"]
        left = [x for x in left if not math.isnan(x)]
        rest = float(np.mean(left)) if left else math.nan
        lines.append(
            f"| {name} | {count} | {_r(mean)} | {_p(p)} | {_p(corrected.get(name, math.nan))} "
            f"| {_agree(rhos, mean)} | {_r(rest)} | {_agree(left, rest)} |"
        )
    return [*lines, ""]


def _intervals(found: Mapping[str, tuple[tuple[Member, ...], Values]]) -> list[str]:
    lines = [
        "Alpha-hat, family by family, with what its few members allow to say (a bootstrap interval",
        "over 4 or 5 members that all agree has no width and no meaning):",
        "",
        "| family | n | Spearman [95 %] | Kendall | p | depth alone | params alone "
        "| alpha-hat with params |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, (members, values) in found.items():
        error = [m.error for m in members]
        c = correlate(values["alpha_weighted"], error)
        lines.append(
            f"| {name} | {c.n} | {c.cell()} | {_r(c.tau)} | {_p(c.p)} "
            f"| {_rho([m.depth for m in members], error)} "
            f"| {_rho([m.params for m in members], error)} "
            f"| {_rho(values['alpha_weighted'], [m.params for m in members])} |"
        )
    return [*lines, ""]


def _gpt2() -> list[str]:
    small, medium = (layer_means(member.name) for member in GPT2)
    lines = [
        "GPT-2, two members (perplexity 37.5 and 26.4): no correlation, only which is lower.",
        "",
        "| | " + " | ".join(SUMMARIES) + " |",
        "|---|" + "--:|" * len(SUMMARIES),
    ]
    for name, row in (("small", small), ("medium", medium)):
        lines.append(f"| {name} | " + " | ".join(f"{row[s]:.3g}" for s in SUMMARIES) + " |")
    return [*lines, ""]


# ------------------------------------------------------------------------ weights at hand


def at_hand() -> list[str]:
    """FROG's summaries of trained CIFAR ResNets, of the distiller states, and of fresh ones."""
    lines = [
        "| model | test error, % | " + " | ".join(SUMMARIES) + " |",
        "|---|--:|" + "--:|" * len(SUMMARIES),
    ]
    for name, (error, model) in models_at_hand().items():
        summary = frog.analyze(model, SETTINGS).summary
        cells = [f"{summary[s]:.3g}" for s in SUMMARIES]
        lines.append(f"| {name} | {error} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def models_at_hand() -> dict[str, tuple[str, Any]]:
    folder = DATA / "distiller-resnet20"
    deeper = torch.load(
        DATA / "resnet-cifar10/resnet32-d509ac18.th", map_location="cpu", weights_only=True
    )["state_dict"]
    found: dict[str, tuple[str, Any]] = {
        "ResNet20, trained": ("8.27", resnet_weights()),
        "ResNet32, trained": ("7.37", {k.removeprefix("module."): v for k, v in deeper.items()}),
    }
    for n, name in ((3, "ResNet20"), (5, "ResNet32")):
        for seed in (0, 1):
            torch.manual_seed(seed)
            found[f"{name}, untrained, seed {seed}"] = "90", ResNet(n)
    states = {
        "dense": "7.9",
        "ch_regularized_dense": "8.1",
        "4D_regularized_5Lremoved": "7.9",
        "4D_regularized_5Lremoved_finetuned": "unusable",
    }
    for state, error in states.items():
        found[f"distiller ResNet20, {state}"] = (
            error,
            folder / f"checkpoint_trained_{state}.safetensors",
        )
    torch.manual_seed(0)
    found["distiller ResNet20, untrained"] = "90", with_projections().state_dict()
    return found


# -------------------------------------------------------------------------- training runs


def within_runs() -> list[str]:
    """Every run: correlation over epochs of each summary with the test error, and the time."""
    lines = [
        "| run | epochs | test error, first, best, last | epoch | " + " | ".join(SUMMARIES) + " |",
        "|---|--:|---|" + "--:|" * (1 + len(SUMMARIES)),
    ]
    for name in RUNS:
        epochs = run(name)
        error = [e["test_error"] for e in epochs]
        cells = [_rho([e["epoch"] for e in epochs], error)]
        cells += [_rho(_over(epochs, s), error) for s in SUMMARIES]
        shown = " ".join(f"{100 * x:.1f}" for x in (error[0], min(error), error[-1]))
        lines.append(f"| {name} | {len(epochs) - 1} | {shown} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The same, given the epoch (partial Spearman; `–`: the summary rises or falls at every",
        "epoch, so it cannot be told from a clock):",
        "",
    ]
    lines += ["| run | " + " | ".join(SUMMARIES) + " |", "|---|" + "--:|" * len(SUMMARIES)]
    for name in RUNS:
        epochs = run(name)
        error, time = [e["test_error"] for e in epochs], [e["epoch"] for e in epochs]
        cells = [_r(partial(_over(epochs, s), error, time)) for s in SUMMARIES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def between_runs() -> list[str]:
    """The last epochs of all MLP runs side by side, and the correlation over the healthy ones."""
    lines = [
        "| run | train loss | test loss | test error, % | " + " | ".join(SUMMARIES) + " |",
        "|---|" + "--:|" * (3 + len(SUMMARIES)),
    ]
    first = run(next(iter(RUNS)))[0]
    rows = [("mlp, untrained", first)]
    rows += [(name, run(name)[-1]) for name, recipe in RUNS.items() if recipe.net == "mlp"]
    for name, last in rows:
        cells = [f"{last['summary'][s]:.3g}" for s in SUMMARIES]
        lines.append(
            f"| {name} | {last['train_loss']:.3f} | {last['test_loss']:.3f} "
            f"| {100 * last['test_error']:.1f} | " + " | ".join(cells) + " |"
        )
    healthy = [
        run(n)[-1]
        for n, r in RUNS.items()
        if r.net == "mlp" and r.examples == 3000 and not r.shuffled_labels
    ]
    everyone = [last for _, last in rows]
    for title, group in (("all of these", everyone), ("seven healthy runs", healthy)):
        error = [last["test_error"] for last in group]
        cells = [correlate([last["summary"][s] for last in group], error).cell() for s in SUMMARIES]
        lines.append(f"| **Spearman with test error, {title}** | | | | " + " | ".join(cells) + " |")
    return [*lines, ""]


def turning() -> list[str]:
    """When each summary turns, against when the test loss does."""
    lines = [
        "Epoch of the smallest test loss, and epochs at which each summary turns for good (highest",
        "or lowest value of the run, smoothed over 3 epochs, with 5 % of its range on both sides;",
        "`–`: it never turns). `rise`: last over smallest test loss. `alpha`: mean over layers at",
        "the first epoch, at the smallest test loss, at the last epoch.",
        "",
        "| run | epochs | test loss turns | rise | alpha | " + " | ".join(SUMMARIES) + " |",
        "|---|--:|--:|--:|---|" + "--:|" * len(SUMMARIES),
    ]
    for name in RUNS:
        epochs = run(name)
        loss = [e["test_loss"] for e in epochs]
        least = int(np.nanargmin(loss))
        alphas = _over(epochs, "alpha")
        path = ", ".join(f"{alphas[i]:.2f}" for i in (0, least, -1))
        turned = str(least) if least < len(loss) - 1 else "–"
        cells = [turn(_over(epochs, s)) for s in SUMMARIES]
        lines.append(
            f"| {name} | {len(loss) - 1} | {turned} | {loss[-1] / loss[least]:.2f} | {path} | "
            + " | ".join(cells)
            + " |"
        )
    return [*lines, ""]


def turn(values: Sequence[float]) -> str:
    """Epochs at which a smoothed series changes direction for good, by 5 % of its range."""
    x = np.array(values, float)
    if np.isnan(x).any() or len(x) < 5:
        return "–"
    smooth = np.convolve(x, np.ones(3) / 3, "valid")
    span = smooth.max() - smooth.min()
    found = [
        i + 1
        for i in range(1, len(smooth) - 1)
        if (smooth[i] == smooth[i:].max() == smooth[: i + 1].max()
            or smooth[i] == smooth[i:].min() == smooth[: i + 1].min())
        and abs(smooth[-1] - smooth[i]) > 0.05 * span
        and abs(smooth[0] - smooth[i]) > 0.05 * span
    ]  # fmt: skip
    return ", ".join(map(str, found)) or "–"


def _over(epochs: Sequence[Mapping[str, Any]], summary: str) -> list[float]:
    return [e["summary"].get(summary, math.nan) for e in epochs]


# ----------------------------------------------------------------------------------- page


def _rho(x: Sequence[float], y: Sequence[float]) -> str:
    return _r(correlate(x, y).rho)


def _agree(rhos: Sequence[float], mean: float) -> str:
    known = [x for x in rhos if not math.isnan(x)]
    return f"{sum(x * mean > 0 for x in known)}/{len(known)}" if known else "–"


def _r(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def report_lines() -> list[str]:
    spent = sum(
        json.loads(file.read_text())["cpu_seconds"]
        for file in (Path(__file__).parent / ".work/training-runs").glob("*.json")
    )
    runs = within_runs()  # makes what is missing
    return [
        heading(
            "Summaries of a model against its test error",
            "one thread",
            note=f"; training runs: {spent:.0f} s of CPU time",
        ),
        "What it proves and what not: docs/what-summaries-prove.md.",
        "",
        "## Families, published spectral tables",
        "",
        *family_tables(),
        "## Weights at hand, FROG's own numbers (`min_evals` 16)",
        "",
        *at_hand(),
        "## Training runs, every epoch a checkpoint: correlation with the test error",
        "",
        *runs,
        "## Between runs: the last epoch, with controls",
        "",
        *between_runs(),
        "## Does a summary turn before the test loss does?",
        "",
        *turning(),
    ]


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
