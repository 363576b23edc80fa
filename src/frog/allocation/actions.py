"""From what was measured of a layer to what is worth doing with it.

One action a layer. What is only *possible* is told and changes nothing: the layer keeps its even
share. What is *certain* takes a layer out of the plan, or gives it more; for over-parameterised
layers only as the user has chosen, pruned or tuned harder and never both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from frog.types import ACTIONS, Action, Effect, Finding, LayerReport, ModelReport, Ranked

PRUNED = 0.5
"""Share of a layer that is pruned at degree 1; a proposal, nothing was measured."""

BITS = (8, 4)
"""Bits of a weight at degree 0 and at degree 1."""

USUAL_LOW = 2.0

SOURCES = {
    "mend": (
        "docs/design-notes/006",
        "measured: planted faults are found; NaN and Inf are facts",
    ),
    "train": ("docs/design-notes/003 and 004", "measured: fresh models are told from trained ones"),
    "choose": (
        "docs/design-notes/004",
        "measured: a planted random layer is found; what to do with it was not measured",
    ),
    "prune": (
        "Lu et al. 2024, AlphaPruning, NeurIPS (more where alpha is larger)",
        "a published rule, not measured here: compare before and after on your task",
    ),
    "lower-bits": (
        "FROG; the opposite order of bits hurt one model in our trials",
        "not measured for such layers: compare before and after on your task",
    ),
    "tune-harder": (
        "Zhou et al. 2023, TempBalance, NeurIPS (more where alpha is larger)",
        "a published rule for training from scratch; no split of a budget beat the even one here",
    ),
    "freeze": (
        "Martin & Mahoney 2021, JMLR 22(165) (alpha < 2: over-trained)",
        "a published reading of alpha; that freezing helps was not measured",
    ),
    "tune": (
        "docs/budgets.md; order of layers: docs/design-notes/008",
        "measured on two small models: no split is better than the even one",
    ),
    "leave": ("docs/budgets.md", "the convention of fine-tuning single weights"),
}
"""Whose rule a kind of action is, and what is known of its worth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the actions are made from: a report, who is targeted, and the user's policy.

    ``left_out`` maps names to reasons, ``places`` to places in the ranking of layers.
    """

    report: ModelReport
    left_out: Mapping[str, str]
    places: Mapping[str, Ranked]
    policy: str = "open"
    findings: dict[tuple[str, str], Finding] = field(init=False)

    def __post_init__(self) -> None:
        found: dict[tuple[str, str], Finding] = {}
        for x in self.report.findings:
            key = (x.layer, x.kind)
            if key not in found or (found[key].certainty, x.certainty) == ("possible", "certain"):
                found[key] = x
        object.__setattr__(self, "findings", found)  # frozen: made once, from the report alone

    @property
    def untrained(self) -> bool:
        """Whether the whole model is certainly untrained: then no layer of it is a special one."""
        whole = self.findings.get(("", "untrained"))
        return whole is not None and whole.certainty == "certain"


def actions_of(outlook: Outlook) -> tuple[Action, ...]:
    """One action for every matrix that was or should have been measured; ranked. An untrained
    model gets one for the whole besides.

    By kind (faults first), certain before possible, by degree, by place in the ranking of layers,
    by position in the listing. The order of ``report.layers`` does not matter.
    """
    layers = (x for x in outlook.report.layers if x.skipped is None or x.failed)
    found = [(action_of(layer, outlook), layer) for layer in layers]
    worst = math.inf

    def order(pair: tuple[Action, LayerReport]) -> tuple[int, bool, float, float, int, str]:
        action, layer = pair
        place = outlook.places.get(layer.name)
        return (
            ACTIONS.index(action.kind),
            action.certainty != "certain",
            -action.degree,
            worst if place is None else place.place,
            layer.position,
            layer.name,
        )

    ranked = [action for action, _ in sorted(found, key=order)]
    whole = outlook.findings.get(("", "untrained"))
    if whole is not None:
        first = next(
            (i for i, x in enumerate(ranked) if x.kind != "mend"),
            len(ranked),
        )
        ranked.insert(first, _train(whole))
    return tuple(ranked)


def in_plan(action: Action) -> bool:
    """Whether the layer of an action trains."""
    if action.kind in ("tune", "tune-harder"):
        return True
    return action.kind in ("choose", "mend") and action.certainty == "possible"


def action_of(layer: LayerReport, outlook: Outlook) -> Action:
    """What is worth doing with one layer; the effect on the budget is not known yet."""
    fault = _fault(layer, outlook)
    if fault is not None:
        return fault
    if layer.name in outlook.left_out:
        return _made("leave", layer, "certain", outlook.left_out[layer.name])
    condition = layer.condition
    certain = not condition.startswith("possibly ")
    if condition.endswith("over-parameterised"):
        return _over_parameterised(layer, certain, outlook)
    if condition.endswith("over-trained"):
        return _over_trained(layer, certain, outlook)
    return _even(layer, outlook)


# ------------------------------------------------------------------------------- faults


def _fault(layer: LayerReport, outlook: Outlook) -> Action | None:
    broken = outlook.findings.get((layer.name, "nonfinite"))
    if broken is not None or layer.failed:
        if broken is None:
            return _made("mend", layer, "certain", layer.skipped or "holds NaN or Inf", degree=1.0)
        return _by(broken, "mend", layer, "NaN or Inf", degree=1.0)
    scale = outlook.findings.get((layer.name, "scale-outlier"))
    if scale is None or layer.name in outlook.left_out:
        return None
    if scale.certainty == "certain" and scale.value == 0:
        whole = Effect(removed=layer.params)
        made = _by(scale, "prune", layer, "weights other than zero", degree=1.0)
        return replace(made, effect=whole, evidence="a fact: removing zeros changes nothing")
    return _by(scale, "mend", layer, "decades from its neighbours")


def _train(finding: Finding) -> Action:
    source, evidence = SOURCES["train"]
    return Action(
        kind="train", layer="", certainty=finding.certainty, measure="p of being random",
        value=finding.value, threshold=finding.threshold, degree=1.0,
        reason=f"{finding.text}: there is nothing to choose by; train it whole",
        source=source, evidence=evidence, effect=Effect(),
    )  # fmt: skip


# ------------------------------------------------------------------------- by condition


def _over_parameterised(layer: LayerReport, certain: bool, outlook: Outlook) -> Action:
    finding = outlook.findings.get((layer.name, "over-parameterised"))
    certainty = "certain" if certain else "possible"
    measure, value, threshold = _number(layer, finding)
    reason = finding.text if finding else f"{layer.name} is {layer.condition}"
    degree = degree_of(layer)

    def made(kind: str, why: str) -> Action:
        return _made(kind, layer, certainty, why, degree=degree,
                     number=(measure, value, threshold))  # fmt: skip

    options = {
        "tune": replace(
            made("tune-harder", f"{1 + degree:.2f} times the share of the others"),
            effect=Effect(),
        ),
        "prune": replace(
            made("prune", f"prune {PRUNED * degree:.0%} of it"),
            effect=Effect(removed=round(PRUNED * degree * layer.params)),
        ),
        "bits": replace(
            made("lower-bits", f"keep it in {_bits(degree)} bits"),
            effect=Effect(bits=_bits(degree)),
        ),
    }
    policy = outlook.policy
    if policy == "open" and outlook.untrained:
        why = f"{reason}; so is the whole model"
        return _made("tune", layer, certainty, why, number=(measure, value, threshold))
    if policy == "open":
        made_ = made("choose", f"{reason}. Prune it, lower its bits or tune it harder: your choice")
        return replace(made_, options=tuple(options.values()))
    if not certain and policy != "tune":
        why = f"{reason}; only possible, so neither pruned nor quantised"
        return _made("tune", layer, certainty, why, number=(measure, value, threshold))
    chosen = options[policy]
    return replace(chosen, reason=f"{reason}: {chosen.reason}, as chosen")


def _over_trained(layer: LayerReport, certain: bool, outlook: Outlook) -> Action:
    finding = outlook.findings.get((layer.name, "over-trained"))
    trap = outlook.findings.get((layer.name, "correlation-trap"))
    told = finding or trap
    reason = told.text if told else f"{layer.name} is {layer.condition}"
    alpha = layer.values.get("alpha", math.nan)
    number = ("alpha", alpha, USUAL_LOW)
    if told is not None:
        number = ("alpha" if finding else "correlation traps", told.value, told.threshold)
    if certain:
        return _made("freeze", layer, "certain", f"{reason}: tuning would go on from there",
                     degree=1.0, number=number)  # fmt: skip
    return _made("tune", layer, "possible", f"{reason}; only possible: even share, watch its alpha",
                 number=number)  # fmt: skip


def _even(layer: LayerReport, outlook: Outlook) -> Action:
    finding = outlook.findings.get((layer.name, "trained"))
    if finding is not None:
        measure, value, threshold = _number(layer, finding)
        return _made("tune", layer, finding.certainty, f"{finding.text}: even share",
                     number=(measure, value, threshold))  # fmt: skip
    least, there = outlook.report.settings.min_evals, min(layer.shape, default=0)
    if there < least:
        why = f"too small for a verdict ({there} eigenvalues, {least} wanted): even share"
        return _made("tune", layer, "possible", why, number=("eigenvalues", there, least))
    why = "nothing could be said of it: even share"
    return _made("tune", layer, "possible", why)


# ----------------------------------------------------------------------------- numbers


def degree_of(layer: LayerReport) -> float:
    """How strongly to act on an over-parameterised layer: its ``randomness``, within [0, 1].

    1 where it is not known: no look could tell the layer from a random one.
    """
    value = layer.values.get("randomness", math.nan)
    return 1.0 if math.isnan(value) else min(max(value, 0.0), 1.0)


def _bits(degree: float) -> int:
    most, least = BITS
    return round(most - (most - least) * degree)


def _number(layer: LayerReport, finding: Finding | None) -> tuple[str, float, float]:
    """Which measured number a finding speaks of: that with its value."""
    if finding is None:
        return "", math.nan, math.nan
    known = {"alpha": layer.values.get("alpha", math.nan)}
    known |= {name: look.value for name, look in layer.null.items()}
    known["alpha_hill"] = layer.values.get("alpha_hill", math.nan)
    name = next((k for k, v in known.items() if v == finding.value), "look at the null")
    return name.replace("_", " "), finding.value, finding.threshold


def _by(
    finding: Finding, kind: str, layer: LayerReport, measure: str, degree: float = 0.5
) -> Action:
    return _made(kind, layer, finding.certainty, finding.text, degree=degree,
                 number=(measure, finding.value, finding.threshold))  # fmt: skip


def _made(
    kind: str,
    layer: LayerReport,
    certainty: str,
    reason: str,
    *,
    degree: float = 0.0,
    number: tuple[str, float, float] = ("", math.nan, math.nan),
) -> Action:
    source, evidence = SOURCES[kind]
    measure, value, threshold = number
    return Action(
        kind=kind, layer=layer.name, certainty=certainty, measure=measure, value=float(value),
        threshold=float(threshold), degree=degree, reason=reason, source=source, evidence=evidence,
        effect=Effect(),
    )  # fmt: skip


# ----------------------------------------------------------------------------- effects


def with_effects(
    actions: Sequence[Action], counts: Mapping[str, int], params: Mapping[str, int], share: float
) -> tuple[Action, ...]:
    """The actions with what each does to the budget: ``counts`` of weights that train by layer,
    ``params`` of all targeted layers, ``share`` an even one."""
    return tuple(_effective(x, counts, params, share, set(params)) for x in actions)


def _effective(
    action: Action,
    counts: Mapping[str, int],
    params: Mapping[str, int],
    share: float,
    targeted: Collection[str],
) -> Action:
    count = counts.get(action.layer, 0)
    even = round(share * params[action.layer]) if action.layer in targeted else 0
    effect = replace(
        action.effect,
        trainable=count,
        change=count - even,
        optimizer_bytes=WEIGHT * count,
        delta_bytes=WEIGHT * count,
    )
    options = tuple(_as_option(x, even) for x in action.options)
    return replace(action, effect=effect, options=options)


def _as_option(option: Action, even: int) -> Action:
    """An alternative's own effect: what it would train if it were chosen, at an even share."""
    count = round((1 + option.degree) * even) if option.kind == "tune-harder" else 0
    effect = replace(
        option.effect, trainable=count, change=count - even,
        optimizer_bytes=WEIGHT * count, delta_bytes=WEIGHT * count,
    )  # fmt: skip
    return replace(option, effect=effect)


WEIGHT = 8
"""Bytes a trained weight costs, in AdamW's state (two float32) and in a delta (int32 + XOR)."""
