"""Layers most worth tuning, in order, with the reason in words.

A candidate ranking is a function from layers to scores, higher = more worth tuning, with the
decorator ``@ranking``; trivial ones (parameters, depth, random) are members too, as controls. How
each fares against measured keys: docs/design-notes/008-ranking-layers.md.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from frog.registry import Registry
from frog.types import LayerReport, NullLook, Ranked

AUTO = "entropy"
"""What ``by="auto"`` means: design note 008 says on what evidence, and how weak that is."""

Scores = Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """One way to order layers: ``words`` say what comes first, ``source`` who proposed it."""

    name: str
    words: str
    source: str
    function: Callable[[Sequence[LayerReport]], Scores]

    def __call__(self, layers: Sequence[LayerReport]) -> Scores:
        """A score for every layer, higher = more worth tuning, NaN where it has none."""
        return self.function(layers)

    @property
    def meaning(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


RANKINGS: Registry[Ranking] = Registry("ranking")


def ranking(
    name: str, *, words: str, source: str
) -> Callable[[Callable[[Sequence[LayerReport]], Scores]], Callable[..., Scores]]:
    """Register a function ``(layers) -> scores`` as a ranking and give it back unchanged.

    ``words`` complete the sentence "place 1 by ...", such as "largest alpha".
    """

    def register(function: Callable[[Sequence[LayerReport]], Scores]) -> Callable[..., Scores]:
        RANKINGS.add(name, Ranking(name=name, words=words, source=source, function=function))
        return function

    return register


def rank(layers: Iterable[LayerReport], *, by: str | Ranking = "auto") -> tuple[Ranked, ...]:
    """The measured layers in order of how much tuning them is expected to give, first one first.

    Embeddings, heads, skipped and failed layers are left out. A layer for which the ranking has
    no number comes last, with a NaN score and the reason. Ties go by position in the listing. The
    order of ``layers`` does not matter. Raises :class:`~frog.errors.UnknownName` for an unknown
    ``by``; a :class:`Ranking` is accepted too.

    >>> def layer(name, params):
    ...     return LayerReport(name=name, kind="linear", role="up", block=0, shape=(params, 1),
    ...                        dtype="float32", params=params)
    >>> [ranked.layer for ranked in rank([layer("a", 8), layer("b", 9)], by="params")]
    ['b', 'a']
    """
    chosen = by if isinstance(by, Ranking) else RANKINGS[AUTO if by == "auto" else by]
    candidates = sorted(
        (x for x in layers if x.averaged and x.skipped is None and not x.failed),
        key=lambda layer: (layer.position, layer.name),
    )
    scores = [float(score) for score in chosen(candidates)]
    # sorted() is stable: ties keep the order of the listing
    order = sorted(range(len(scores)), key=lambda i: _descending(scores[i]))
    count = len(order)
    return tuple(
        Ranked(
            layer=candidates[i].name,
            place=place,
            score=scores[i],
            reason=_reason(candidates[i], scores[i], chosen, f"place {place} of {count}"),
        )
        for place, i in enumerate(order, start=1)
    )


def _descending(score: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(score) else (False, -score)


# ----------------------------------------------------------------------------- in words


def _reason(layer: LayerReport, score: float, chosen: Ranking, place: str) -> str:
    """Why this place: the ranking, then the layer's own numbers."""
    if math.isnan(score):
        first = f"last, without a score by {chosen.words}"
        if layer.fit_status not in ("", "ok"):
            first += f" (no alpha: {layer.fit_status.replace('_', ' ')})"
    else:
        first = f"{place} by {chosen.words}"
    what = layer.role or layer.kind
    block = "" if layer.block is None else f" of block {layer.block}"
    shape = " x ".join(map(str, layer.shape))
    facts = [f"{what}{block}, {shape}", *_facts(layer)]
    judged = [word for word in layer.verdicts if word != "nonfinite"]
    if judged:
        facts.append("judged " + ", ".join(judged))
    return f"{first}: {'; '.join(facts)}"


def _facts(layer: LayerReport) -> list[str]:
    facts = []
    alpha = _value(layer, "alpha")
    if not math.isnan(alpha):
        low, high = _value(layer, "alpha_low"), _value(layer, "alpha_high")
        interval = "" if math.isnan(low + high) else f"interval {low:.3g} to {high:.3g}"
        facts.append(f"alpha {alpha:.3g}{_aside(interval, _random(layer.null.get('alpha')))}")
    stable = _value(layer, "stable_rank")
    if not math.isnan(stable):
        facts.append(f"stable rank {stable:.3g}{_aside(_random(layer.null.get('stable_rank')))}")
    even = _value(layer, "entropy")
    if not math.isnan(even):
        facts.append(f"evenness of the spectrum {even:.3g} of 1")
    return facts


def _random(look: NullLook | None) -> str:
    return "" if look is None else f"random: {look.low:.3g} to {look.high:.3g}"


def _aside(*remarks: str) -> str:
    said = "; ".join(remark for remark in remarks if remark)
    return f" ({said})" if said else ""


# --------------------------------------------------------------------------- candidates


def _value(layer: LayerReport, name: str) -> float:
    return float(layer.values.get(name, math.nan))


def _ratio(value: float, to: float) -> float:
    """NaN where there is nothing to divide by: a merged file can hold anything."""
    return value / to if to > 0 else math.nan


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _between(value: float, low: float, high: float) -> float:
    """Place of a value in its null: 0 at the lower limit, 1 at the upper one, on a log scale."""
    if not (value > 0 and 0 < low < high):
        return math.nan
    return math.log(value / low) / math.log(high / low)


@ranking("alpha_high", words="largest alpha", source="Zhou et al. 2023, TempBalance, NeurIPS")
def alpha_high(layers: Sequence[LayerReport]) -> Scores:
    """Largest alpha first: the least trained layers have most left to learn."""
    return [_value(layer, "alpha") for layer in layers]


@ranking("alpha_low", words="smallest alpha", source="Lu et al. 2024, AlphaPruning, NeurIPS")
def alpha_low(layers: Sequence[LayerReport]) -> Scores:
    """Smallest alpha first: the layers that carry most of what was learnt."""
    return [-_value(layer, "alpha") for layer in layers]


@ranking("alpha_in_null", words="alpha most like that of random matrices of its shape",
         source="FROG")  # fmt: skip
def alpha_in_null(layers: Sequence[LayerReport]) -> Scores:
    """Place of alpha - 1 in its null, on a log scale: alpha_high made fair to shape."""
    return [
        _between(look.value - 1, look.low - 1, look.high - 1) if look is not None else math.nan
        for look in (layer.null.get("alpha") for layer in layers)
    ]


@ranking("randomness", words="upper half of the spectrum most like a random matrix's",
         source="FROG")  # fmt: skip
def randomness(layers: Sequence[LayerReport]) -> Scores:
    """The column ``randomness``, largest first: 1 falls as a random matrix does."""
    return [_value(layer, "randomness") for layer in layers]


@ranking("stable_rank_high", words="largest stable rank for its shape", source="FROG")
def stable_rank_high(layers: Sequence[LayerReport]) -> Scores:
    """Stable rank over what random matrices of the shape have, largest first."""
    return [
        _ratio(look.value, _root(look.low * look.high)) if look is not None else math.nan
        for look in (layer.null.get("stable_rank") for layer in layers)
    ]


@ranking("stable_rank_low", words="smallest stable rank for its shape", source="FROG")
def stable_rank_low(layers: Sequence[LayerReport]) -> Scores:
    """Stable rank over what random matrices of the shape have, smallest first."""
    return [-score for score in stable_rank_high(layers)]


@ranking("entropy", words="most even spectrum",
         source="the column: WeightWatcher 0.7.7; its use here: design note 008")  # fmt: skip
def entropy(layers: Sequence[LayerReport]) -> Scores:
    """Evenness of the spectrum, largest first."""
    return [_value(layer, "entropy") for layer in layers]


@ranking("spikes", words="largest share of eigenvalues beyond the bulk",
         source="Spectrum: Hartford et al. 2024, arXiv:2406.06623")  # fmt: skip
def spikes(layers: Sequence[LayerReport]) -> Scores:
    """Share of eigenvalues beyond the Marchenko-Pastur edge: a signal-to-noise ratio."""
    return [
        _ratio(look.value, min(layer.shape, default=0)) if look is not None else math.nan
        for layer, look in ((layer, layer.null.get("spikes")) for layer in layers)
    ]


@ranking("frobenius", words="largest Frobenius share", source="FROG")
def frobenius(layers: Sequence[LayerReport]) -> Scores:
    """Frobenius share ||W_l||_F / sum ||W||_F, largest first."""
    norms = [_root(_value(layer, "norm")) for layer in layers]
    total = math.fsum(norm for norm in norms if not math.isnan(norm))
    return [_ratio(norm, total) for norm in norms]


@ranking("rms", words="largest entries", source="FROG")
def rms(layers: Sequence[LayerReport]) -> Scores:
    """Root mean square of the entries, largest first."""
    return [_root(_ratio(_value(layer, "norm"), layer.params)) for layer in layers]


@ranking("log_spectral_norm", words="largest spectral norm",
         source="Martin, Peng & Mahoney 2021, Nature Communications 12:4122")  # fmt: skip
def log_spectral_norm(layers: Sequence[LayerReport]) -> Scores:
    """Logarithm of the largest eigenvalue, largest first."""
    return [_value(layer, "log_spectral_norm") for layer in layers]


@ranking("alpha_weighted", words="largest alpha-hat",
         source="Martin, Peng & Mahoney 2021, Nature Communications 12:4122")  # fmt: skip
def alpha_weighted(layers: Sequence[LayerReport]) -> Scores:
    """Alpha times the logarithm of the largest eigenvalue, largest first."""
    return [_value(layer, "alpha_weighted") for layer in layers]


@ranking("params", words="most parameters", source="control")
def params(layers: Sequence[LayerReport]) -> Scores:
    """Number of parameters, most first: knows nothing of the weights."""
    return [float(layer.params) for layer in layers]


@ranking("aspect", words="most elongated shape", source="control")
def aspect(layers: Sequence[LayerReport]) -> Scores:
    """Aspect ratio max(m, n) / min(m, n), largest first: knows nothing of the weights."""
    return [_ratio(max(x.shape, default=0), min(x.shape, default=0)) for x in layers]


@ranking("depth", words="latest in the listing", source="control")
def depth(layers: Sequence[LayerReport]) -> Scores:
    """Position in the listing, last first: knows nothing of the weights."""
    return [float(layer.position) for layer in layers]


@ranking("random", words="chance", source="control")
def random(layers: Sequence[LayerReport]) -> Scores:
    """A number drawn from the layer's name: knows nothing at all."""
    return [_drawn(layer.name) for layer in layers]


def _drawn(name: str) -> float:
    digest = hashlib.blake2b(name.encode("utf-8", "backslashreplace"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56
