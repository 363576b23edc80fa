"""What a fit and the looks at the null say about a layer, in words.

Two kinds of evidence. The *looks* compare a layer with random matrices of its own shape: they say
whether it was trained at all. The *thresholds* 2 and 6 on alpha are an empirical scale of trained
layers; they belong to the estimator ``ks`` on the full window and are never applied to another.

A verdict is *certain* or *possible*; a possible one carries ``possibly`` in its word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from frog.numerics.null_table import normal_score
from frog.numerics.random_matrix import LEVEL
from frog.types import Finding, LayerReport, NullLook, PowerLawFit, Settings
from frog.types.reports import USUAL_ALPHA

OVER_TRAINED, OVER_PARAMETERISED = USUAL_ALPHA
MODEL_LEVEL = 0.01
"""Share of untrained models that the joint test takes for trained."""

ENOUGH_LAYERS = 10
"""Layers too small for a verdict of their own that together make one certain: of trained layers of
16 rows and more fewer than half stay inside all looks, so ten that do are none of those."""

TINY = 1e-12  # of a share: beyond it the table knows nothing

TOWARDS = {"stable_rank": "low", "spikes": "high", "alpha": "low"}
"""On which side of its null a look shows correlations. The other side is a spectrum *flatter* than
random, which orthogonal initialisation makes as well as training: there it is only possible."""

NAMES = {
    "stable_rank": "stable rank",
    "spikes": "eigenvalues beyond the bulk",
    "alpha": "alpha",
    "alpha_hill": "shape-fair alpha",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a verdict on one layer rests on.

    ``fit`` is the tail, with its interval; ``null`` the looks; ``hill`` the shape-fair alpha
    against its own null and ``randomness`` its degree (1: like random, lower: heavier tail);
    ``traps`` the finding of correlation traps, where the matrix was shuffled.
    """

    fit: PowerLawFit
    null: Mapping[str, NullLook]
    hill: NullLook | None = None
    randomness: float = math.nan
    traps: Finding | None = None

    @property
    def heavier_than_random(self) -> bool:
        """Whether the shape-fair alpha lies below its null: correlations, whatever ``ks`` says."""
        return self.hill is not None and self.hill.value < self.hill.low

    @property
    def like_random(self) -> bool:
        """Whether the shape-fair alpha lies inside its null."""
        return self.hill is not None and self.hill.low <= self.hill.value <= self.hill.high


def judge(
    name: str, evidence: Evidence, settings: Settings
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Verdict words and findings of one layer.

    ``trained``: certain when a look lies outside its null on the side of correlations; possible
    when only on the other side, or when only the shape-fair alpha lies outside its null.
    ``untrained`` and ``over-parameterised``: nothing can tell the layer from a random matrix (one
    too small for a fit: only possibly ``untrained``). ``over-parameterised`` also when alpha > 6:
    certain when the bootstrap interval lies wholly beyond *and* the shape-fair alpha is no heavier
    than random (in a long matrix alpha is above 6 by shape alone). ``over-trained`` when
    alpha < 2: certain when the interval lies wholly below *and* neither alpha's null nor that of
    the shape-fair alpha has such values; possible where there are correlation traps, which sound
    models have too (docs/design-notes/004). The stability band holds the truth in one of six cases
    and makes nothing certain (docs/design-notes/002). Without looks and without a fit there is
    no verdict.

    >>> look = NullLook(name="stable_rank", value=9.0, percentile=0.0, low=90.0, high=99.0)
    >>> from frog.types import FitStatus
    >>> fit = PowerLawFit(estimator="ks", status=FitStatus.TOO_FEW)
    >>> evidence = Evidence(fit=fit, null={"stable_rank": look})
    >>> words, findings = judge("layer", evidence, Settings())
    >>> words, findings[0].text
    (('trained',), 'layer is trained: stable rank 9 (random: 90 to 99)')
    """
    found = _from_looks(name, evidence)
    if _thresholds_hold(evidence.fit, settings):
        found = _strongest(found + _from_alpha(name, evidence))
    words: list[str] = []
    for finding in found:
        prefix = "possibly " if finding.certainty == "possible" else ""
        words += [prefix + kind for kind in _words_of(finding)]
    if evidence.traps is not None:
        found.append(evidence.traps)
        words.append("possibly over-trained")  # a trap is a fact, what it means is not
    return tuple(_certain_first(words)), tuple(found)


# ----------------------------------------------------------------------- from the looks


def _from_looks(name: str, evidence: Evidence) -> list[Finding]:
    if not evidence.null:
        return []
    outside = [look for look in evidence.null.values() if look.outside]
    if outside:
        return [_trained(name, outside, evidence.randomness)]
    hill = evidence.hill
    if hill is not None and hill.outside:
        return [_by_shape_fair_alpha(name, hill, evidence.randomness)]
    return [_like_random(name, evidence)]


def _by_shape_fair_alpha(name: str, hill: NullLook, randomness: float) -> Finding:
    heavier = hill.value < hill.low
    what = "possibly trained" if heavier else "no random matrix, but flatter than one"
    return Finding(
        kind="trained",
        certainty="possible",
        severity="info",
        layer=name,
        value=hill.value,
        threshold=hill.low if heavier else hill.high,
        text=f"{name} is {what}: {_listed([hill])}{_degree(randomness)}; "
        "no other look can tell it from a random matrix",
    )


def _degree(randomness: float) -> str:
    if math.isnan(randomness):
        return ""
    return f"; randomness {randomness:.2f} (1: as random)"


def _trained(name: str, outside: list[NullLook], randomness: float) -> Finding:
    shown = [look for look in outside if _side(look) == TOWARDS[look.name]]
    if shown:
        text = f"{name} is trained: {_listed(shown)}{_degree(randomness)}"
    else:
        shown = outside
        text = (
            f"{name} is no random matrix, but flatter than one: {_listed(shown)}; "
            "training can do this, orthogonal initialisation does it too"
        )
    first = shown[0]
    return Finding(
        kind="trained",
        certainty="certain" if _side(first) == TOWARDS[first.name] else "possible",
        severity="info",
        layer=name,
        value=first.value,
        threshold=first.low if _side(first) == "low" else first.high,
        text=text,
    )


def _like_random(name: str, evidence: Evidence) -> Finding:
    """The finding of a layer that no look can tell from a random matrix."""
    fit, null = evidence.fit, evidence.null
    seen = _listed(list(null.values()))
    look = next(iter(null.values()))
    # min_evals stops the fit of small layers; a failed fit of a large one leaves two good looks
    small = fit.status.name == "TOO_FEW"
    if small:
        text = (
            f"{name} cannot be told from a random matrix of its shape: {seen}"
            f"{_degree(evidence.randomness)}; it is small, so a trained one can look like this too"
        )
    else:
        text = (
            f"{name} cannot be told from a random matrix of its shape: {seen}"
            f"{_degree(evidence.randomness)}; it is untrained, or there was nothing for it to learn"
        )
    return Finding(
        kind="untrained" if small else "over-parameterised",
        certainty="possible" if small else "certain",
        severity="info" if small else "warning",
        layer=name,
        value=look.value,
        threshold=look.low,
        text=text,
    )


def _side(look: NullLook) -> str:
    return "low" if look.value < look.low else "high"


def _listed(looks: list[NullLook]) -> str:
    return ", ".join(
        f"{NAMES[look.name]} {look.value:.3g} (random: "
        + (f"{look.low:.3g})" if look.low == look.high else f"{look.low:.3g} to {look.high:.3g})")
        for look in looks
    )


# -------------------------------------------------------------------------- from alpha


def _thresholds_hold(fit: PowerLawFit, settings: Settings) -> bool:
    return fit.ok and fit.estimator == settings.estimator and settings.usual_alpha is not None


def _from_alpha(name: str, evidence: Evidence) -> list[Finding]:
    fit, look = evidence.fit, evidence.null.get("alpha")
    low, high = fit.low, fit.high
    as_random = look is not None and not look.outside
    doubt = ""
    if fit.alpha > OVER_PARAMETERISED:
        kind, bound, side = "over-parameterised", OVER_PARAMETERISED, "above"
        certain = low > OVER_PARAMETERISED
        if certain and evidence.heavier_than_random:
            certain, doubt = False, f"yet{_degree(evidence.randomness)[1:]}"
    elif fit.alpha < OVER_TRAINED:
        kind, bound, side = "over-trained", OVER_TRAINED, "below"
        certain = high < OVER_TRAINED and not as_random
        if certain and evidence.like_random:
            certain, doubt = False, "yet its shape-fair alpha is that of a random matrix"
    else:
        return []
    text = f"{name} is {'' if certain else 'possibly '}{kind}: alpha {fit.alpha:.3g}"
    if not math.isnan(low):
        text += f" (interval {low:.3g} to {high:.3g})"
    text += f" is {side} {bound:g}"
    if look is not None and (as_random or side == "above"):
        text += f"; random matrices of this shape have {look.low:.3g} to {look.high:.3g}"
    if doubt:
        text += f"; {doubt}"
    finding = Finding(
        kind=kind,
        certainty="certain" if certain else "possible",
        severity="warning" if certain else "info",
        layer=name,
        value=fit.alpha,
        threshold=bound,
        text=text,
    )
    return [finding]


# ----------------------------------------------------------------------------- together


def _words_of(finding: Finding) -> tuple[str, ...]:
    """A layer like a random matrix is untrained in one reading, over-parameterised in another."""
    like_random = finding.kind == "over-parameterised" and "random matrix" in finding.text
    return ("untrained", finding.kind) if like_random else (finding.kind,)


def _certain_first(words: list[str]) -> list[str]:
    """Each word once; none as possible that is certain too."""
    kept = dict.fromkeys(words)
    return [x for x in kept if x.removeprefix("possibly ") == x or x[9:] not in kept]


def _strongest(findings: list[Finding]) -> list[Finding]:
    """One finding of a kind: the certain one, else the first."""
    kept: dict[str, Finding] = {}
    for finding in findings:
        other = kept.get(finding.kind)
        if other is None or (other.certainty, finding.certainty) == ("possible", "certain"):
            kept[finding.kind] = finding
    return list(kept.values())


# --------------------------------------------------------------------------- the model


def model_findings(findings: Iterable[Finding], layers: Sequence[LayerReport]) -> list[Finding]:
    """The findings of the layers, and what they say of the model: whether it is untrained.

    One of the model that was there before (in the report of a part) is made anew.
    """
    kept = [x for x in findings if (x.layer, x.kind) != ("", "untrained")]
    untrained = untrained_model(layers)
    return kept if untrained is None else [*kept, untrained]


def untrained_model(layers: Sequence[LayerReport]) -> Finding | None:
    """``untrained`` for a model none of whose layers, singly or together, differs from noise.

    Three tests over the L layers with looks (equal ones once), each at a third of 1 %, two-sided:
    the most extreme stable rank (p at most level / L), the number of layers outside any look
    (binomial with the level of the looks), and the sum of the normal scores of the stable ranks
    over sqrt(L). A trained model fails all three; one with a few trained layers the first. Certain
    with a layer that is certainly untrained by itself, or with ten layers; else possible.
    Source: Stouffer et al. 1949, The American Soldier, vol. 1 (the sum of scores).

    >>> untrained_model([]) is None
    True
    """
    judged = [x for x in layers if "stable_rank" in x.null]
    judged = [x for x in judged if math.isfinite(x.null["stable_rank"].percentile)]
    # copies tell nothing new: torch.nn.TransformerEncoder begins with equal layers
    judged = list({x.digest or x.name: x for x in judged}.values())
    if len(judged) < 2:
        return None
    shares = [min(max(x.null["stable_rank"].percentile / 100.0, TINY), 1.0 - TINY) for x in judged]
    extreme = min(1.0, len(judged) * min(2.0 * min(p, 1.0 - p) for p in shares))
    outside = sum(any(look.outside for look in x.null.values()) for x in judged)
    count = _at_least(outside, len(judged), LEVEL)
    score = sum(normal_score(p) for p in shares) / math.sqrt(len(judged))
    joint = math.erfc(abs(score) / math.sqrt(2.0))
    p = min(1.0, 3.0 * min(extreme, count, joint))
    if p < MODEL_LEVEL:
        return None
    certain = len(judged) >= ENOUGH_LAYERS or any("untrained" in x.verdicts for x in judged)
    return Finding(
        kind="untrained",
        certainty="certain" if certain else "possible",
        severity="warning" if certain else "info",
        layer="",
        value=p,
        threshold=MODEL_LEVEL,
        text=f"the model is {'' if certain else 'possibly '}untrained: its {len(judged)} layers "
        f"together cannot be told from random matrices of their shapes (p = {p:.2g}; {outside} "
        "outside the limits of a single layer); a very short training can leave it like this too",
    )


def _at_least(count: int, total: int, p: float) -> float:
    """Probability of ``count`` or more of ``total`` with a share p each."""
    below = sum(math.comb(total, i) * p**i * (1.0 - p) ** (total - i) for i in range(count))
    return max(0.0, 1.0 - below)
