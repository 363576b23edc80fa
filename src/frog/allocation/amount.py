"""How much to tune and for how long: formulas of the spectra, each with what is known of it.

All start from the size of the weights, RMS(W) = sqrt(sum_l ||W_l||_F^2 / P) over the P targeted
weights, since a learning rate of AdamW is the size of a step of one weight. The constants were
set by runs at several budgets (docs/recommend.md); none is tuned to one model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from frog.types import Amount, Bound, Extent, LayerReport, Settings, Stop, Workload

FULL_RATE = 0.0016
"""Full tuning's learning rate over RMS(W), where the user gives none."""

STEP = 0.05
"""Learning rate over RMS(W) up to which nothing was lost, of what is learnt or what was known."""

RATE_CAP = 0.15
"""Learning rate over RMS(W) beyond which no weight is to train."""

BITS_PER_WEIGHT = 2.0
LEAST = 0.001

DEAR = 0.5
"""Share from which tuning all weights takes less memory: 12 bytes a weight against 24."""

CHANGE = 0.01
"""Relative change, times sqrt(share), from which on the old task suffered."""

SPECTRAL_MARGIN = 2.0
WEIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What the formulas see of the targeted layers: their parameters, and the size of those."""

    params: int
    rms: float


def size_of(layers: Sequence[LayerReport]) -> Size:
    """Size of the targeted layers; one without a norm counts as a parameter and not in RMS."""
    rows = sorted(layers, key=lambda x: (x.position, x.name))
    normed = [(x.values.get("norm", math.nan), x.params) for x in rows]
    normed = [(norm, count) for norm, count in normed if math.isfinite(norm) and norm >= 0]
    weights = sum(count for _, count in normed)
    rms = math.sqrt(math.fsum(norm for norm, _ in normed) / weights) if weights else math.nan
    return Size(params=sum(x.params for x in rows), rms=rms if rms > 0 else math.nan)


def amount_of(size: Size, work: Workload, *, untrained: bool = False) -> Amount:
    """The smallest budget that nothing speaks against.

    share = max(step, data, 0.1 %), at most 1; or all of an ``untrained`` model.

    >>> found = amount_of(Size(params=10**7, rms=0.05), Workload(full_rate=1e-4))
    >>> round(found.share, 4), [x.name for x in found.bounds if x.decides]
    (0.04, ['step'])
    """
    full = work.full_rate if work.full_rate is not None else FULL_RATE * size.rms
    if not size.params:
        return Amount(
            share=0.0, count=0, params=0, rms=math.nan, full_rate=full, rate=math.nan,
            rate_cap=math.nan, optimizer_bytes=0, delta_bytes=0, reason="no matrix is to be tuned",
        )  # fmt: skip
    bounds = _bounds(size, work, full)
    share = 1.0 if untrained else max(LEAST, *(x.share for x in bounds))
    count = min(max(1, round(share * size.params)), size.params)
    bounds = tuple(replace(x, decides=not untrained and x.share == share) for x in bounds)
    cap = RATE_CAP * size.rms
    reached = full / share
    return Amount(
        share=share,
        count=count,
        params=size.params,
        rms=size.rms,
        full_rate=full,
        rate=min(reached, cap) if math.isfinite(cap) else reached,
        rate_cap=cap,
        optimizer_bytes=WEIGHT * count,
        delta_bytes=WEIGHT * count,
        bounds=bounds,
        reason=_reason(bounds, share, untrained),
    )


def _bounds(size: Size, work: Workload, full: float) -> tuple[Bound, ...]:
    step = full / (STEP * size.rms)
    step = min(step, 1.0) if math.isfinite(step) else FULL_RATE / STEP
    given = "as given" if work.full_rate is not None else f"{FULL_RATE:g} RMS(W), none was given"
    found = [
        Bound(
            name="step",
            share=step,
            formula=f"full rate / ({STEP:g} RMS(W))",
            text=f"a share b needs the full rate / b; with the full rate {full:.2g} ({given}) and "
            f"weights of size {size.rms:.3g}, a smaller share needs steps beyond {STEP:g} of them",
            evidence="measured on three small models: smaller shares learnt less and forgot more "
            "(docs/recommend.md)",
        )
    ]
    if work.bits:
        found.append(
            Bound(
                name="data",
                share=min(1.0, work.bits / (BITS_PER_WEIGHT * size.params)),
                formula="bits of the data / (2 bits x weights)",
                text=f"{work.bits:,.0f} bits of labels or tokens need as many weights as hold "
                "them, at 2 bits a weight",
                evidence="published: 2 bits a parameter (Allen-Zhu & Li 2024, arXiv:2404.05405), "
                "and what holds less than the data falls behind (Schulman et al. 2025, LoRA "
                "Without Regret); one bit a token is assumed; checked on one small language model",
            )
        )
    return tuple(found)


def _reason(bounds: Sequence[Bound], share: float, untrained: bool) -> str:
    if untrained:
        return "the model is untrained: all of it"
    deciding = next((x for x in bounds if x.decides), None)
    if deciding is None:
        return f"the least that is ever recommended, {share:.1%}"
    dear = "; from half of the weights on, tuning all of them takes less memory"
    return f"the smallest budget that nothing speaks against: {deciding.text}" + (
        dear if share >= DEAR else ""
    )


# ------------------------------------------------------------------------------- extent


def extent_of(
    layers: Sequence[LayerReport], amount: Amount, work: Workload, settings: Settings
) -> Extent:
    """What to watch while tuning, and how far the weights will have moved.

    After T steps of AdamW at the rate r, warmed up and falling linearly, a weight has moved by
    between r sqrt(T / 3) (steps of random sign) and r T / 2 (all one way); of the model that is
    sqrt(share) r ... / RMS(W), and the limit is 0.01 / sqrt(share).
    """
    if not amount.count or not math.isfinite(amount.rate / amount.rms):
        nan = math.nan
        return Extent(steps_low=nan, steps_high=nan, change_low=nan, change_high=nan,
                      reason="nothing is tuned" if not amount.count else "no weight has a size",
                      alpha=_alpha_ranges(layers, settings))  # fmt: skip
    step = math.sqrt(amount.share) * amount.rate / amount.rms
    limit = min(0.5, CHANGE / math.sqrt(amount.share))
    low, high = 2 * limit / step, 3 * (limit / step) ** 2
    low, high = min(low, high), max(low, high)
    change_low = change_high = math.nan
    if work.steps is not None:
        change_low, change_high = expected_change(step, work.steps)
    return Extent(
        steps_low=low,
        steps_high=high,
        change_low=change_low,
        change_high=change_high,
        stops=_stops(layers, limit),
        alpha=_alpha_ranges(layers, settings),
        reason=f"at the rate {amount.rate:.2g} the limit of the change, {limit:.2g}, is reached "
        f"after some {low:.0f} (all steps one way) to {high:.0f} steps (random signs); a longer "
        "run needs a smaller rate, or the loss on the old task may suffer",
    )


def expected_change(step: float, steps: int) -> tuple[float, float]:
    """Relative change after ``steps`` of relative size ``step``: random signs, and all one way.

    >>> low, high = expected_change(0.01, 300)
    >>> round(low, 3), round(high, 3)
    (0.1, 1.5)
    """
    one_way, random = step * steps / 2, step * math.sqrt(steps / 3)
    return min(random, one_way), max(random, one_way)


def _stops(layers: Sequence[LayerReport], limit: float) -> tuple[Stop, ...]:
    share = spectral_share(layers)
    return (
        Stop(
            watch="loss on held-out data",
            limit=math.nan,
            text="stop when it has not fallen for two evaluations: the first rule",
            evidence="measured: of the spectral summaries none turned before it in eleven runs "
            "that over-trained (docs/what-summaries-prove.md)",
        ),
        Stop(
            watch="relative change",
            limit=limit,
            text="||dW||_F / ||W||_F over all tuned layers: slow down beyond it",
            evidence="measured on three small models: within it no run lost more than 0.023 of its "
            "old score, beyond it every one lost 0.08 and more (docs/recommend.md)",
        ),
        Stop(
            watch="spectral share",
            limit=share,
            text=f"||dW||_2 / ||dW||_F of a layer, {SPECTRAL_MARGIN:g} times that of independent "
            "entries; for a choice of weights, not for full tuning",
            evidence="measured on three small models: random choices at good rates stayed below",
        ),
        Stop(
            watch="intruder dimensions",
            limit=0.0,
            text="new leading directions that no old one resembles: none at a good rate",
            evidence="measured: none in 21 of 26 runs at a share of 1 to 30 %, many at smaller "
            "ones; Shuttleworth et al. 2024, arXiv:2410.21228",
        ),
        Stop(
            watch="alpha",
            limit=2.0,
            text="of a tuned layer: not below 2, nor out of its interval before tuning",
            evidence="published reading of alpha; in our runs it did not cross 2, and turned in "
            "healthy runs too: a fuse, no stopping rule",
        ),
    )


def spectral_share(layers: Sequence[LayerReport]) -> float:
    """Limit for the spectral share: twice the median of 1/sqrt(m) + 1/sqrt(n), at most 1.

    (sqrt(m) + sqrt(n)) / sqrt(m n) is the share of a change of independent entries.
    """
    shares = sorted(sum(1 / math.sqrt(size) for size in x.shape) for x in layers if all(x.shape))
    if not shares:
        return math.nan
    middle = len(shares) // 2
    median = shares[middle] if len(shares) % 2 else 0.5 * (shares[middle - 1] + shares[middle])
    return min(1.0, SPECTRAL_MARGIN * median)


def _alpha_ranges(
    layers: Sequence[LayerReport], settings: Settings
) -> Mapping[str, tuple[float, float]]:
    """The range that the alpha of each tuned layer should keep: its interval, else its band."""
    usual = settings.usual_alpha
    found = {}
    for layer in sorted(layers, key=lambda x: (x.position, x.name)):
        for pair in (("alpha_low", "alpha_high"), ("alpha_band_low", "alpha_band_high")):
            low, high = (layer.values.get(name, math.nan) for name in pair)
            if math.isfinite(low) and math.isfinite(high):
                alpha = layer.values.get("alpha", math.nan)
                if usual is not None and alpha >= usual[0]:
                    low = max(low, usual[0])
                found[layer.name] = (low, high)
                break
    return found
