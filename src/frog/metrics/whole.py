"""The model as a whole: what follows from all layers together, not from any one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from frog.metrics.collapse import with_scale_outliers
from frog.metrics.depth import profiles
from frog.metrics.ranking import rank
from frog.metrics.summary import summarise
from frog.metrics.verdicts import model_findings
from frog.types import Finding, LayerReport, ModelReport


def complete(report: ModelReport) -> ModelReport:
    """Add what all layers say together: the summary, and findings in the order of the listing.

    A function of the layers and their findings alone: a report merged from shards comes out like
    one measured in one go.
    """
    layers, compat = report.layers, report.settings.compat
    findings = model_findings(report.findings, layers)
    if not compat:
        findings = with_scale_outliers(findings, layers, part=report.shard is not None)
    return replace(
        report,
        findings=_in_order(findings, layers),
        summary=summarise(layers, compat=compat),
        ranking=() if compat else rank(layers),
        profiles=() if compat else profiles(layers, report.settings),
    )


def digest_of(layers: Iterable[LayerReport]) -> str:
    """A digest of the measured content: names and bytes of all matrices, in order."""
    joined = hashlib.blake2b(digest_size=16)
    for layer in layers:
        # as a file of ours spells a name that is no Unicode: parts come from files
        joined.update(f"{layer.name} {layer.digest}\n".encode("utf-8", "backslashreplace"))
    return joined.hexdigest()


def _in_order(findings: Iterable[Finding], layers: Sequence[LayerReport]) -> tuple[Finding, ...]:
    place = {layer.name: layer.position for layer in layers}
    return tuple(sorted(findings, key=lambda finding: place.get(finding.layer, -1)))
