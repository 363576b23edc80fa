"""Write docs/reference/metrics.md from the registry: `python tools/make_reference.py`."""

from __future__ import annotations

from pathlib import Path

from frog.metrics import METRICS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "metrics.md"

HEAD = """\
# Metrics

Every column of the report, from the registry (`python tools/make_reference.py` writes this page;
a test compares it). Notation: W is the m x n matrix as stored, sigma_1 >= ... >= sigma_r its
singular values, r = min(m, n), N = max(m, n), lambda_k = sigma_k^2. Logarithms are to base 10. A
number that does not exist for a matrix is `null` in files and NaN in Python, never -1.

*Scale* says what multiplying W by c does: the power of c that the value is multiplied by, `log`
for adding 2 log10 c, `alpha-log` for adding 2 alpha log10 c, `none` for no law.

| column | symbol | meaning | better | scale | source |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The text of the page."""
    rows = [
        f"| `{name}` | {metric.symbol.replace('|', chr(92) + '|')} | {metric.meaning} "
        f"| {metric.better} | {metric.degree} | {metric.source} |\n"
        for name, metric in METRICS.items()
    ]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    TARGET.write_text(page())
    print(f"wrote {TARGET}")
