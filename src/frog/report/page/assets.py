"""Templates, styles, scripts and plotly.js: what every page carries inside itself."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from frog.report.words import brief, count, number, percent, printable, quantity, times
from frog.serial.plain import null

STYLES = ("base.css", "sections.css", "table.css", "drawer.css", "print.css")
SCRIPTS = (
    "core.js",
    "colours.js",
    "plots.js",
    "map.js",
    "depth.js",
    "scatter.js",
    "table.js",
    "spectrum.js",
    "graph.js",
    "drawer.js",
    "findings.js",
    "compare.js",
    "series.js",
    "start.js",
)
ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@cache
def environment() -> Environment:
    """The templates; every value is escaped, control characters in it are spelt out."""
    made = Environment(
        loader=PackageLoader("frog.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters.update(brief=brief, number=number, percent=percent, quantity=quantity, times=times)
    made.globals.update(count=count)
    return made


@cache
def styles() -> Markup:
    """The style sheets, joined."""
    return Markup("\n".join(_text("css", name) for name in STYLES))


@cache
def scripts() -> Markup:
    """The scripts, joined into one scope of their own."""
    parts = "\n".join(_text("js", name) for name in SCRIPTS)
    return Markup(f'(() => {{\n"use strict";\n{parts}\n}})();')


@cache
def plotly_packed() -> Markup:
    """plotly.js as the package holds it, gzip in base64: 2.0 MB where the script has 4.8 MB.

    A browser unpacks it by itself (DecompressionStream). No time stamp inside: the same bytes
    every time.
    """
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return Markup(base64.b64encode(gzip.compress(script, 9, mtime=0)).decode())


def json_block(data: Any) -> Markup:
    """Plain values as JSON that is safe inside a script element: no ``<`` is left in it.

    >>> json_block({"name": "</script>", "value": float("nan")})
    Markup('{"name":"\\\\u003c/script\\\\u003e","value":null}')
    """
    text = json.dumps(_printable(null(data)), separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(ESCAPED))


def _text(folder: str, name: str) -> str:
    return files("frog.report.page").joinpath(folder, name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """A value as a template writes it: lone surrogates and control characters are spelt out."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(null(value))
    return value


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
