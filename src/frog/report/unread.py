"""What could not be read, for the terminal and the page alike."""

from __future__ import annotations

import math

from frog.types import Finding, ModelReport


def unread_findings(report: ModelReport) -> list[Finding]:
    """Matrices that could not be read, in the form of findings: they belong beside them."""
    return [
        Finding(
            kind="unreadable",
            certainty="certain",
            severity="error",
            layer=layer.name,
            value=math.nan,
            threshold=math.nan,
            text=f"{layer.name} {layer.skipped}",
        )
        for layer in report.failed
        if layer.skipped is not None
    ]
