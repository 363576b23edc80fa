"""Made-up records of any size with everything that a page can show: nothing in them is measured."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from frog.types import Comparison, Finding, LayerReport, ModelReport, NullLook, Series, Settings
from frog.types.comparisons import LayerChange, Origin
from frog.types.flow import DepthProfile, Overlap, Pair, Pathway, Ranked

ROLES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
VERDICTS = (("trained",),) * 8 + (
    ("trained", "possibly over-parameterised"),
    ("trained", "over-trained"),
    ("untrained", "over-parameterised"),
)


def a_report(blocks: int = 4, *, seed: int = 0, flow: bool = True) -> ModelReport:
    """A model of so many blocks of seven matrices, an embedding, a head and a few skipped ones."""
    draw = random.Random(seed)
    layers = [_layer(draw, "model.embed_tokens.weight", "embedding", None, averaged=False)]
    for block in range(blocks):
        for role, stem in ROLES.items():
            layers.append(_layer(draw, f"model.layers.{block}.{stem}.weight", role, block))
    layers.append(_layer(draw, "lm_head.weight", "head", None, averaged=False))
    for block in range(blocks):
        layers.append(_skipped(f"model.layers.{block}.input_layernorm.weight"))
    measured = [layer for layer in layers if layer.skipped is None]
    alphas = [layer.values["alpha"] for layer in measured if layer.averaged]
    summary: dict[str, int | float] = {
        "alpha": sum(alphas) / len(alphas),
        "alpha_median": sorted(alphas)[len(alphas) // 2],
        "alpha_weighted": 4.5,
        "log_norm": 2.5,
        "stable_rank": 40.0,
        "D": 0.07,
        "layers_fitted": len(alphas),
        "layers_averaged": len(alphas),
        "layers_measured": len(measured),
        "layers_total": len(layers),
    }
    return ModelReport(
        path="models/made-up",
        digest="0123456789abcdef0123456789abcdef",
        format="safetensors",
        frog_version="0.0.0",
        settings=Settings(),
        layers=tuple(layers),
        findings=tuple(_finding(layer) for layer in measured),
        summary=summary,
        notes=("every number in this report is made up",),
        ranking=_ranking(measured),
        profiles=_profiles(measured),
        pairs=_pairs(draw, blocks) if flow else (),
        pathways=_pathways(blocks) if flow else (),
    )


def a_comparison(blocks: int = 4, *, weights: bool = True, seed: int = 0) -> Comparison:
    """The made-up model before and after; without weights what needs them is missing."""
    before, after = a_report(blocks, seed=seed), a_report(blocks, seed=seed + 1)
    draw = random.Random(seed)
    pairs = list(zip(before.measured, after.measured, strict=True))
    changes = tuple(_change(draw, a, b, weights=weights) for a, b in pairs)
    origin = Origin(
        path="models/made-up",
        digest="00ff" * 8,
        format="safetensors",
        settings=before.settings,
        weights=weights,
    )
    summary: dict[str, int | float] = {}
    for name in ("alpha", "alpha_weighted", "log_norm", "stable_rank"):
        old, new = before.summary[name], after.summary[name]
        summary |= {f"{name}_before": old, f"{name}_after": new, f"{name}_change": new - old}
    drifted = changes[3]
    return Comparison(
        before=origin,
        after=replace(origin, path="models/made-up-tuned", digest="ff00" * 8),
        frog_version="0.0.0",
        layers=changes,
        only_before={"model.old.weight": "no tensor of this name after"},
        only_after={"model.new.weight": "no tensor of this name before"},
        findings=(
            Finding(
                kind="drift",
                certainty="certain",
                severity="warning",
                layer=drifted.name,
                value=0.5,
                threshold=0.3,
                text=f"{drifted.name} moved by 0.5 of its norm",
            ),
        ),
        summary=summary,
        verdict="One layer moved far; the others are as they were.",
        notes=("made up",),
    )


def a_series(members: int = 5, blocks: int = 4) -> Series:
    """Checkpoints of a made-up run."""
    reports = tuple(a_report(blocks, seed=i, flow=False) for i in range(members))
    return Series(
        labels=tuple(f"checkpoint-{100 * i}" for i in range(members)),
        steps=tuple(100.0 * i for i in range(members)),
        reports=reports,
        comparisons=tuple(a_comparison(blocks, seed=i) for i in range(1, members)),
        verdict="Alpha falls over the run and then stays.",
        notes=("made up",),
    )


def _layer(
    draw: random.Random, name: str, role: str, block: int | None, *, averaged: bool = True
) -> LayerReport:
    depth = 0.0 if block is None else 0.6 * math.sin(block / 3)
    alpha = draw.gauss(3.6, 0.8) + depth + (1.5 if role == "v" else 0.0)
    eigenvalues = [20.0 * (i + 1) ** (-1 / (alpha - 1)) for i in range(256)]
    side = 2048 if role not in ("gate", "up", "down") else 5504
    verdicts = draw.choice(VERDICTS)
    return LayerReport(
        name=name,
        kind="linear",
        role=role,
        block=block,
        shape=(side, 2048),
        dtype="bfloat16",
        params=side * 2048,
        averaged=averaged,
        rule="4 linear",
        values={
            "alpha": alpha,
            "alpha_low": alpha - abs(draw.gauss(0.5, 0.2)),
            "alpha_high": alpha + abs(draw.gauss(0.9, 0.4)),
            "alpha_without_top": alpha + draw.gauss(0, 0.1),
            "sigma": 0.3,
            "D": abs(draw.gauss(0.06, 0.02)),
            "goodness": math.nan,
            "xmin": eigenvalues[60],
            "num_pl_spikes": 60.0,
            "alpha_weighted": alpha * math.log10(eigenvalues[0]),
            "norm": sum(eigenvalues),
            "log_norm": math.log10(sum(eigenvalues)),
            "lambda_max": eigenvalues[0],
            "log_spectral_norm": math.log10(eigenvalues[0]),
            "stable_rank": sum(eigenvalues) / eigenvalues[0],
            "entropy": draw.uniform(0.7, 0.95),
        },
        null={
            "stable_rank": NullLook(
                name="stable_rank", value=40.0, percentile=0.0, low=90.0, high=101.0
            ),
            "alpha": NullLook(name="alpha", value=alpha, percentile=12.0, low=3.1, high=12.3),
        },
        fit_status="ok",
        verdicts=verdicts,
        curve={
            "eigenvalue": eigenvalues,
            "survival": [(i + 1) / 2048 for i in range(256)],
            "bulk_edge": eigenvalues[90],
            "xmin": eigenvalues[60],
            "alpha": alpha,
        },
        seconds=draw.random(),
    )


def _skipped(name: str) -> LayerReport:
    return LayerReport(
        name=name, kind="vector", role="norm", block=None, shape=(2048,), dtype="bfloat16",
        params=2048, averaged=False, skipped="a vector: a matrix has two axes",
    )  # fmt: skip


def _finding(layer: LayerReport) -> Finding:
    word = layer.verdicts[-1]
    possible = word.startswith("possibly ")
    kind = word.removeprefix("possibly ")
    return Finding(
        kind=kind,
        certainty="possible" if possible else "certain",
        severity="info" if possible or kind == "trained" else "warning",
        layer=layer.name,
        value=layer.values["alpha"],
        threshold=6.0,
        text=f"{layer.name} is {word}: alpha {layer.values['alpha']:.3g}",
    )


def _ranking(layers: list[LayerReport]) -> tuple[Ranked, ...]:
    order = sorted(layers, key=lambda layer: -layer.values["alpha"])[:20]
    return tuple(
        Ranked(layer=x.name, place=i + 1, score=x.values["alpha"] / 10, reason="a high alpha")
        for i, x in enumerate(order)
    )


def _profiles(layers: list[LayerReport]) -> tuple[DepthProfile, ...]:
    profiles = []
    for role in ROLES:
        members = [x for x in layers if x.role == role]
        profiles.append(
            DepthProfile(
                role=role,
                metric="alpha",
                blocks=tuple(x.block or 0 for x in members),
                values=tuple(x.values["alpha"] for x in members),
                slope=0.01,
                slope_low=-0.02,
                slope_high=0.04,
                roughness=0.7,
                outside=0.1,
            )
        )
    return tuple(profiles)


def _tensor(block: int, role: str) -> str:
    return f"model.layers.{block}.{ROLES[role]}.weight"


def _pairs(draw: random.Random, blocks: int) -> tuple[Pair, ...]:
    wires = []
    for block in range(blocks):
        wires += [("v", "o", block, "ov", head) for head in range(4)]
        wires += [("q", "k", block, "qk", head) for head in range(4)]
        wires += [("o", "gate", block, "residual", None), ("o", "up", block, "residual", None)]
        wires += [("gate", "down", block, "activation", None)]
        wires += [("up", "down", block, "activation", None)]
    pairs = [_pair(draw, _tensor(b, w), _tensor(b, r), kind, h) for w, r, b, kind, h in wires]
    for block in range(blocks - 1):
        for writer in ("o", "down"):
            for reader in ("q", "k", "v"):
                names = _tensor(block, writer), _tensor(block + 1, reader)
                pairs.append(_pair(draw, *names, "residual", None))
    return tuple(pairs)


def _pair(draw: random.Random, writer: str, reader: str, kind: str, head: int | None) -> Pair:
    z = draw.expovariate(1 / 6)
    overlap = Overlap(value=0.05 + 0.01 * z, expected=0.05, spread=0.01, z=z)
    return Pair(
        writer=writer, reader=reader, kind=kind, k=16, dimension=2048,
        overlaps={"plain": overlap, "trimmed": overlap}, head=head, gain=0.02, weight=z * 0.02,
    )  # fmt: skip


def _pathways(blocks: int) -> tuple[Pathway, ...]:
    names = [_tensor(b, role) for b in range(blocks) for role in ("v", "o", "up", "down")]
    other = [_tensor(b, role) for b in range(blocks) for role in ("v", "o", "gate", "down")]
    return tuple(
        Pathway(layers=tuple(x), heads=(None,) * len(x), weight=0.4, weakest=0.1)
        for x in (names, other)
    )


def _change(
    draw: random.Random, before: LayerReport, after: LayerReport, *, weights: bool
) -> LayerChange:
    change = {name: after.values[name] - before.values[name] for name in before.values}
    drift = abs(draw.gauss(0.05, 0.03)) if weights else math.nan
    why = dict.fromkeys(("drift", "rotation_left", "rotation_right", "intruders"), "needs weights")
    return LayerChange(
        name=before.name,
        role=before.role,
        block=before.block,
        shape=before.shape,
        params=before.params,
        before=before.values,
        after=after.values,
        change=change,
        alpha_change_low=change["alpha"] - 0.6,
        alpha_change_high=change["alpha"] + 0.6,
        drift=drift,
        spectral_share=0.2 if weights else math.nan,
        rotation_left=drift / 2,
        rotation_right=drift / 3,
        intruders=0.0 if weights else math.nan,
        scale=draw.choice(["", "", "", "", "", "collapse", "compensated"]),
        scale_z=draw.gauss(0, 2),
        verdicts_before=before.verdicts,
        verdicts_after=after.verdicts,
        missing={} if weights else why,
        curve_before=before.curve,
        curve_after=after.curve,
    )
