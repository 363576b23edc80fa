"""What was tuned and how, as a section of a model card."""

from __future__ import annotations

import math

from frog.types import SparseDelta


def card_section(delta: SparseDelta) -> str:
    """Markdown for a README.md of the tuned model: base, extent, method.

    >>> print(card_section(SparseDelta(path="org/base", tensors=())).splitlines()[0])
    ## Sparse fine-tuning
    """
    params = sum(math.prod(part.shape) for part in delta.tensors)
    share = f" ({delta.count / params:.3%} of these)" if params else ""
    lines = [
        "## Sparse fine-tuning",
        "",
        f"- Base model: `{delta.path}`",
        f"- Changed weights: {delta.count:,} in {len(delta.tensors)} tensors{share}",
        "- All other weights are the bits of the base model.",
    ]
    for key, value in delta.facts.items():
        lines.append(f"- {key.replace('_', ' ').capitalize()}: {value}")
    undo = "Tuned with FROG; `frog delta revert` gives the base model back, bit for bit."
    return "\n".join([*lines, "", undo, ""])
