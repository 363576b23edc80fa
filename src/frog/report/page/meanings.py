"""What a finding means for a person, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from frog.types import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """A kind of finding in words: why it matters, what to do."""

    why: str
    do: str


MEANINGS = {
    "trained": Meaning(
        why="Its spectrum lies outside what random matrices of its shape show.",
        do="Nothing to do.",
    ),
    "untrained": Meaning(
        why="No look can tell it from a random matrix of its shape.",
        do="See whether it took part in the training: frozen, unused, or new for the next task.",
    ),
    "over-parameterised": Meaning(
        why="Little of what the matrix could hold has been learnt into it, as far as its "
        "spectrum shows.",
        do="A candidate for more training, or for a lower rank, pruning or fewer bits; measure "
        "quality on your own task before and after.",
    ),
    "over-trained": Meaning(
        why="A very heavy tail: a few directions dominate, more so than in layers that "
        "generalise well.",
        do="Train it less: freeze it, lower its learning rate or raise its weight decay; measure "
        "on held-out data whether that helps.",
    ),
    "correlation-trap": Meaning(
        why="After its entries were shuffled, eigenvalues still leave the bulk: a few entries "
        "are far larger than the rest.",
        do="Look at its largest entries; a lower learning rate or clipped gradients avoid them.",
    ),
    "scale-outlier": Meaning(
        why="Its scale differs from its neighbours of the same role far more than they differ "
        "among themselves.",
        do="See whether a neighbouring normalisation makes up for it; quantise it with care.",
    ),
    "scale-collapse": Meaning(
        why="Its scale or rank changed dramatically while the others hardly changed.",
        do="Look for a failed merge, a wrong conversion or diverged training; restore this layer "
        "from the model before.",
    ),
    "nonfinite": Meaning(
        why="It holds NaN or Inf, so nothing can be measured.",
        do="Repair the checkpoint, or go back to an earlier one.",
    ),
    "unreadable": Meaning(
        why="It could not be read, so nothing was measured.",
        do="Fetch the file again, or convert it to a supported format.",
    ),
    "drift": Meaning(
        why="It moved far from where it was, in proportion to its norm.",
        do="Intended? Otherwise lower its learning rate or train fewer of its weights.",
    ),
    "intruder-dimensions": Meaning(
        why="New leading directions that no old one resembles; they often go with forgetting.",
        do="Check the tasks that the model could do before; lower the rate, raise the rank.",
    ),
    "pathway-lost": Meaning(
        why="A heavy path between layers is no longer there.",
        do="Check the tasks that the model could do before.",
    ),
}
UNKNOWN = Meaning(why="", do="")

CONDITIONS = (
    "over-parameterised",
    "possibly over-parameterised",
    "fine",
    "possibly over-trained",
    "over-trained",
    "unjudged",
)
SEVERITIES = ("error", "warning", "info")
MARKS = {"error": "✖", "warning": "▲", "info": "●"}


def meaning(finding: Finding) -> Meaning:
    """What a finding means; empty for a kind that is not known here."""
    return MEANINGS.get(finding.kind, UNKNOWN)
