"""Learning rates by layer: a ratio for each matrix of a plan, from its alpha.

Off by default: no benefit was shown here (docs/learning-rate.md).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from frog.allocation.rules import standard_alpha
from frog.allocation.standard import BAND
from frog.errors import UnknownName, UsageError
from frog.types import Allotment, LayerReport, ModelReport, Plan

KINDS = ("sigmoid", "linear")
NOTE = "learning-rate ratios by alpha: "
_EXPERT = re.compile(r"^(.*\.experts?)\b[.\[]")


def with_ratios(
    plan: Plan, report: ModelReport, kind: str = "sigmoid", *, strength: float, tau: float
) -> Plan:
    """The plan with the ``lr_ratio`` of every layer set; what stood there is replaced.

    With z, alpha standardised among the plan's matrices of equal shape (|z| <= 3, an uncertain one
    pulled to 0) and s the strength:

        sigmoid   10^(s (1 / (1 + exp(-tau z)) - 1/2))
        linear    1 + (10^(s/2) - 1) z / 3 for z >= 0, 1 + (1 - 10^(-s/2)) z / 3 below

    Both are 1 at z = 0 and lie within 10^(-s/2) and 10^(s/2); a layer without alpha gets 1. A
    negative strength turns the sign around. Matrices in one tensor, and the experts of one layer,
    which some models fuse, get one ratio, from the mean z by size.
    """
    if kind not in KINDS:
        raise UnknownName("kind of learning rates by layer", kind, KINDS)
    if not math.isfinite(strength) or abs(strength) > 2:
        raise UsageError(
            f"strength must lie in -2..2 (decades between the layers at most), got {strength!r}"
        )
    if not (math.isfinite(tau) and tau > 0):
        raise UsageError(f"tau must be above 0, got {tau!r}")
    known = {layer.name: layer for layer in report.layers}
    missing = [layer.name for layer in plan.layers if layer.name not in known]
    if missing:
        raise UsageError(
            f"the report must have every matrix of the plan, lacks {missing[0]}: take the report "
            "that the plan was made from"
        )
    z = _together(plan.layers, [known[layer.name] for layer in plan.layers])
    ratios = _sigmoid(z, strength, tau) if kind == "sigmoid" else _linear(z, strength)
    layers = tuple(
        replace(layer, lr_ratio=float(ratio))
        for layer, ratio in zip(plan.layers, ratios, strict=True)
    )
    how = f"{kind}, strength {strength:g}" + (f", tau {tau:g}" if kind == "sigmoid" else "")
    between = f"{min(ratios):.3f} to {max(ratios):.3f}" if layers else "no layers"
    rest = tuple(note for note in plan.notes if not note.startswith(NOTE))
    return replace(plan, layers=layers, notes=(*rest, f"{NOTE}{how}; {between}"))


def _together(layers: Sequence[Allotment], measured: Sequence[LayerReport]) -> np.ndarray:
    """z of each layer, (L,), one for all that may share a vector; 0 where alpha is unknown."""
    z = np.nan_to_num(standard_alpha(measured), nan=0.0)
    sizes = np.array([float(layer.params) for layer in layers])
    groups: dict[str, list[int]] = defaultdict(list)
    for place, layer in enumerate(layers):
        expert = _EXPERT.match(layer.name)
        groups[expert[1] if expert else layer.name.partition("[")[0]].append(place)
    for places in groups.values():
        if len(places) > 1:
            z[places] = np.average(z[places], weights=sizes[places])
    return z


def _sigmoid(z: np.ndarray, strength: float, tau: float) -> np.ndarray:
    # (1 + tanh(x / 2)) / 2 is the sigmoid, without overflow
    return np.power(10.0, strength * 0.5 * np.tanh(0.5 * tau * z))


def _linear(z: np.ndarray, strength: float) -> np.ndarray:
    high, low = 10.0 ** (strength / 2), 10.0 ** (-strength / 2)
    return np.where(z >= 0, 1.0 + (high - 1.0) * z / BAND, 1.0 + (1.0 - low) * z / BAND)
