"""The certificate of a run as text of at most 80 columns."""

from __future__ import annotations

import math
import textwrap

from frog.types import Certificate

SHOWN_ALARMS = 12
"""Alarms that are printed in full; the file holds all."""


def certificate_text(certificate: Certificate, *, width: int = 80) -> str:
    """A certificate as plain text, at most ``width`` columns wide (long names are whole)."""
    lines = [*_head(certificate)]
    if certificate.worst:
        lines += ["", *_table(certificate)]
    if certificate.alarms:
        lines += ["", *(str(alarm) for alarm in certificate.alarms[:SHOWN_ALARMS])]
        rest = len(certificate.alarms) - SHOWN_ALARMS
        if rest > 0:
            lines.append(f"and {rest} more, in the file")
    folded = (line if line.startswith(" ") else _folded(line, width) for line in lines)
    return "\n".join(folded)


def _head(certificate: Certificate) -> list[str]:
    count = len(certificate.alarms)
    told = "no alarm" if not count else f"{count} alarm{'s' * (count > 1)}"
    lines = [
        f"Certificate of {certificate.model}: {certificate.steps:,} steps, "
        f"{certificate.trainable:,} trainable weights, {told}"
    ]
    if certificate.stopped:
        lines.append("The guards asked the run to stop.")
    if certificate.slow != 1.0:
        lines.append(f"Learning rate at the end: {certificate.slow:.3g} times what was asked for.")
    if certificate.touched:
        lines.append(
            f"NOT the bits of before, outside the selection: {', '.join(certificate.touched[:4])}"
            + (f" and {len(certificate.touched) - 4} more" if len(certificate.touched) > 4 else "")
        )
    open_ = f"; {certificate.unchecked:,} not checkable" if certificate.unchecked else ""
    checked = f"{certificate.untouched:,} weights outside the selection have their bits of before"
    lines.append(f"{checked}{open_}.")
    if not math.isnan(certificate.cost):
        start, check = (certificate.seconds.get(x, 0.0) for x in ("start", "check"))
        lines.append(
            f"Guards took {100 * certificate.cost:.2g} % of the run's time, {start:.2g} s before "
            f"it and {check:.2g} s for the check of the bits."
        )
    return lines


def _table(certificate: Certificate) -> list[str]:
    """A line a quantity, the layer of the worst value under it."""
    lines = [f"{'worst of the run':<38}{'health':>9}{'worst':>11}{'limit':>10}{'step':>8}"]
    for row in certificate.worst:
        beyond = "" if row.used <= 1.0 else "!"
        numbers = f"{_short(row.before):>9}{_short(row.value) + beyond:>11}{_short(row.limit):>10}"
        lines.append(f" {f'{row.guard}: {row.kind}':<37}{numbers}{row.step:>8}")
        if row.layer:
            lines.append(f"     {row.layer}")
    return lines


def _folded(line: str, width: int) -> str:
    return textwrap.fill(
        line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
