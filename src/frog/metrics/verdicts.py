"""What a fit and the looks at the null say about a layer, in words.

Two kinds of evidence. The *looks* compare a layer with random matrices of its own shape: they say
whether it was trained at all. The *thresholds* 2 and 6 on alpha are an empirical scale of trained
layers; they belong to the estimator ``ks`` on the full window and are never applied to another.

A verdict is *certain* or *possible*; a possible one carries ``possibly`` in its word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from frog.types import Finding, NullLook, PowerLawFit, Settings

OVER_TRAINED = 2.0
OVER_PARAMETERISED = 6.0
TOWARDS = {"stable_rank": "low", "spikes": "high", "alpha": "low"}
"""On which side of its null a look shows correlations. The other side is a spectrum *flatter* than
random, which orthogonal initialisation makes as well as training: there it is only possible."""

NAMES = {"stable_rank": "stable rank", "spikes": "eigenvalues beyond the bulk", "alpha": "alpha"}


def judge(
    name: str, fit: PowerLawFit, null: Mapping[str, NullLook], settings: Settings
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """Verdict words and findings of one layer.

    ``trained``: certain when a look lies outside its null on the side of correlations, possible
    when only on the other side. ``untrained`` and ``over-parameterised``: no look can tell the
    layer from a random matrix (one too small for a fit: only possibly ``untrained``).
    ``over-parameterised`` also when alpha > 6, ``over-trained`` when alpha < 2: certain when the
    bootstrap interval of alpha lies wholly beyond (the stability band holds the truth in one of
    six cases and makes nothing certain: docs/design-notes/002); ``over-trained`` is only possible
    where random matrices of the shape have such an alpha too. Without looks and without a fit
    there is no verdict.

    >>> look = NullLook(name="stable_rank", value=9.0, percentile=0.0, low=90.0, high=99.0)
    >>> from frog.types import FitStatus
    >>> fit = PowerLawFit(estimator="ks", status=FitStatus.TOO_FEW)
    >>> words, findings = judge("layer", fit, {"stable_rank": look}, Settings())
    >>> words, findings[0].text
    (('trained',), 'layer is trained: stable rank 9 (random: 90 to 99)')
    """
    found = _from_looks(name, fit, null)
    if _thresholds_hold(fit, settings):
        found = _strongest(found + _from_alpha(name, fit, null))
    words: list[str] = []
    for finding in found:
        prefix = "possibly " if finding.certainty == "possible" else ""
        words += [prefix + kind for kind in _words_of(finding)]
    return tuple(words), tuple(found)


# ----------------------------------------------------------------------- from the looks


def _from_looks(name: str, fit: PowerLawFit, null: Mapping[str, NullLook]) -> list[Finding]:
    if not null:
        return []
    outside = [look for look in null.values() if look.outside]
    if outside:
        return [_trained(name, outside)]
    return [_like_random(name, fit, null)]


def _trained(name: str, outside: list[NullLook]) -> Finding:
    shown = [look for look in outside if _side(look) == TOWARDS[look.name]]
    if shown:
        text = f"{name} is trained: {_listed(shown)}"
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


def _like_random(name: str, fit: PowerLawFit, null: Mapping[str, NullLook]) -> Finding:
    """The finding of a layer that no look can tell from a random matrix."""
    seen = _listed(list(null.values()))
    look = next(iter(null.values()))
    # min_evals stops the fit of small layers; a failed fit of a large one leaves two good looks
    small = fit.status.name == "TOO_FEW"
    if small:
        text = (
            f"{name} cannot be told from a random matrix of its shape: {seen}; "
            "it is small, so a trained one can look like this too"
        )
    else:
        text = (
            f"{name} cannot be told from a random matrix of its shape: {seen}; "
            "it is untrained, or there was nothing for it to learn"
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
    return fit.ok and fit.estimator == settings.estimator == "ks" and settings.window == "full"


def _from_alpha(name: str, fit: PowerLawFit, null: Mapping[str, NullLook]) -> list[Finding]:
    low, high = fit.low, fit.high
    look = null.get("alpha")
    as_random = look is not None and not look.outside
    if fit.alpha > OVER_PARAMETERISED:
        kind, bound, side = "over-parameterised", OVER_PARAMETERISED, "above"
        certain = low > OVER_PARAMETERISED
    elif fit.alpha < OVER_TRAINED:
        kind, bound, side = "over-trained", OVER_TRAINED, "below"
        certain = high < OVER_TRAINED and not as_random
    else:
        return []
    text = f"{name} is {'' if certain else 'possibly '}{kind}: alpha {fit.alpha:.3g}"
    if not math.isnan(low):
        text += f" (interval {low:.3g} to {high:.3g})"
    text += f" is {side} {bound:g}"
    if look is not None and (as_random or side == "above"):
        text += f"; random matrices of this shape have {look.low:.3g} to {look.high:.3g}"
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


def _strongest(findings: list[Finding]) -> list[Finding]:
    """One finding of a kind: the certain one, else the first."""
    kept: dict[str, Finding] = {}
    for finding in findings:
        other = kept.get(finding.kind)
        if other is None or (other.certainty, finding.certainty) == ("possible", "certain"):
            kept[finding.kind] = finding
    return list(kept.values())
