"""Which layer of one model is which of the other: the same name and the same shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from frog.types import LayerReport


class Named(Protocol):
    """What pairing asks of a layer: a row of a report and a handle of a matrix both have it."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """Partners by name, in the order of the second model, and what has none, with the reason."""

    pairs: tuple[tuple[str, str], ...]
    only_before: Mapping[str, str] = field(default_factory=dict)
    only_after: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def pair(before: Sequence[Named], after: Sequence[Named]) -> Pairing:
    """Pair layers of one name and shape; tied ones also by the other name of the same tensor.

    Where the names of one model have a prefix more (``bert.`` before the bare model's), it is
    passed over, and a note says so.
    """
    by_name = {name: layer for layer in before for name in (layer.name, *layer.aliases)}
    prefix = _prefix(by_name, after)
    pairs: list[tuple[str, str]] = []
    taken: set[str] = set()
    only_after: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for layer in after:
        partner = _find(layer, by_name, prefix)
        if partner is None or partner.name in taken:
            only_after[layer.name] = "no layer of this name in the model before"
        elif tuple(partner.shape) != tuple(layer.shape):
            reason = f"shape {_x(partner.shape)} before, {_x(layer.shape)} after"
            only_after[layer.name] = reasons[partner.name] = reason
        else:
            pairs.append((partner.name, layer.name))
            taken.add(partner.name)
    missing = "no layer of this name in the model after"
    alone = [layer.name for layer in before if layer.name not in taken]
    notes = ()
    if prefix:
        side, text = ("after", prefix) if prefix[0] == "+" else ("before", prefix)
        notes = (f"names {side} begin with '{text[1:]}', which those of the other model lack",)
    return Pairing(
        pairs=tuple(pairs),
        only_before={name: reasons.get(name, missing) for name in alone},
        only_after=only_after,
        notes=notes,
    )


def pair_reports(before: Iterable[LayerReport], after: Iterable[LayerReport]) -> Pairing:
    """Pair the measured layers of two reports; what failed in one is listed, with its reason."""
    before, after = list(before), list(after)
    found = pair([x for x in before if x.skipped is None], [x for x in after if x.skipped is None])
    failed_before = {x.name: x.skipped or "" for x in before if x.skipped and x.failed}
    failed_after = {x.name: x.skipped or "" for x in after if x.skipped and x.failed}
    left_out = {x.name: x.skipped for x in (*before, *after) if x.skipped and not x.failed}
    lost_after = {**found.only_after, **failed_after}
    lost_before = {**found.only_before, **failed_before}
    for lost, other, side in (
        (lost_before, failed_after, "after"),
        (lost_after, failed_before, "before"),
    ):
        for name in lost:
            if name in other and "failed" not in lost[name]:
                lost[name] = f"could not be read in the model {side}: {other[name]}"
            elif name in left_out and "failed" not in lost[name]:
                lost[name] = f"not measured in the model {side}: {left_out[name]}"
    return Pairing(
        pairs=found.pairs, only_before=lost_before, only_after=lost_after, notes=found.notes
    )


def _find(layer: Named, by_name: Mapping[str, Named], prefix: str) -> Named | None:
    for name in (layer.name, *layer.aliases):
        for known in (name, *_across(name, prefix)):
            if known in by_name:
                return by_name[known]
    return None


def _across(name: str, prefix: str) -> Iterator[str]:
    """The name as the model before would write it; ``+`` marks a prefix that it lacks."""
    if prefix.startswith("-"):
        yield prefix[1:] + name
    elif prefix and name.startswith(prefix[1:]):
        yield name.removeprefix(prefix[1:])


def _prefix(by_name: Mapping[str, Named], after: Sequence[Named]) -> str:
    """The prefix that brings most names together, ``+`` more after or ``-`` more before; or ``""``.

    Counted over the layers without a partner of their own name, and only where that is most of
    them: one name that happens to end like another is no prefix.
    """
    lonely = [layer.name for layer in after if layer.name not in by_name]
    votes: Counter[str] = Counter()
    ends = {end: name for name in by_name for end in _ends(name)}
    for name in lonely:
        votes.update("+" + name.removesuffix(end) for end in _ends(name) if end in by_name)
        if name in ends:
            votes["-" + ends[name].removesuffix(name)] += 1
    best = votes.most_common(1)
    return best[0][0] if best and 2 * best[0][1] > len(after) else ""


def _ends(name: str) -> Iterator[str]:
    """The name without its first parts: ``a.b.c`` gives ``b.c`` and ``c``."""
    parts = name.split(".")
    for start in range(1, len(parts)):
        yield ".".join(parts[start:])


def _x(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape)
