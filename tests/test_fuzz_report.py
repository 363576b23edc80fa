"""Any file is either a report or refused with a ReportError that names it: nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frog.errors import ReportError
from frog.serial import report_from_json, report_to_json
from frog.types import ModelReport
from tests.test_serial import STORED

ORIGIN = "folder/r.json"
FAST = settings(max_examples=200, deadline=None, derandomize=True, database=None)
THOROUGH = settings(
    max_examples=10_000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SOUND = STORED.read_bytes()


def nested(depth: int, opening: str, closing: str) -> str:
    return opening * depth + closing * depth


# Values as they stand in the text, so that what json.dumps would never write is among them.
ODD = st.sampled_from(
    [
        "null", "true", "false", "0", "-1", "1.5", "1e999", "-1e999", "NaN", "Infinity",
        "-Infinity", str(2**63), str(2**64), str(-(2**63)), "1" * 400, "1" * 5000, "1e-999",
        '""', '"x"', '"\\ud800"', '"\\udcff\\u0000"', '"1"', '"nan"', '"' + "y" * 500 + '"',
        "[]", "[[]]", "[null]", "[1, 2]", '["a"]', "{}", '{"a": null}', '{"a": {"b": [1]}}',
        nested(400, "[", "]"), nested(5000, "[", "]"),
        nested(900, '{"k":[', "]}"),
    ]
)  # fmt: skip
_KEYS = """format version frog_version source path digest settings estimator min_evals bootstrap
shard summary notes layers findings name kind role block shape dtype params aliases averaged skipped
values null looks alpha percentile low high value fit_status verdicts curve eigenvalue survival
bulk_edge xmin spectrum seconds position certainty threshold text unknown"""
KEYS = st.sampled_from(_KEYS.split())


class Placed:
    """Raw JSON text that takes the place of a value."""

    def __init__(self, text: str) -> None:
        self.text = text


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a nested value."""
    found: list[tuple[Any, Any]] = []
    waiting = [data]
    while waiting:
        item = waiting.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        for key, value in pairs:
            found.append((item, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def written(data: Any, texts: list[str]) -> str:
    """JSON in which the i-th placeholder is the i-th text."""

    def mark(value: Any) -> Any:
        if isinstance(value, Placed):
            texts.append(value.text)
            return f"@@{len(texts) - 1}@@"
        raise TypeError

    whole = json.dumps(data, default=mark)
    for i, text in enumerate(texts):
        whole = whole.replace(f'"@@{i}@@"', text)
    return whole


@st.composite
def changed_reports(draw: st.DrawFn) -> bytes:
    """A sound report of which some values are something else, gone, doubled or renamed."""
    data = json.loads(SOUND)
    data["layers"] = data["layers"][: draw(st.integers(1, 4))]
    for layer in data["layers"]:  # most places would be points of curves
        for key in ("eigenvalue", "survival"):
            if layer["curve"]:
                layer["curve"][key] = layer["curve"][key][:2]
    for _ in range(draw(st.integers(1, 4))):
        everywhere = places(data)
        container, key = everywhere[draw(st.integers(0, len(everywhere) - 1))]
        what = draw(st.sampled_from(["odd", "odd", "odd", "gone", "renamed", "added", "swapped"]))
        if what == "gone":
            del container[key]
        elif what == "renamed" and isinstance(container, dict):
            container[draw(KEYS | st.text(max_size=3))] = container.pop(key)
        elif what == "added" and isinstance(container, dict):
            container[draw(KEYS)] = Placed(draw(ODD))
        elif what == "swapped":
            other, place = everywhere[draw(st.integers(0, len(everywhere) - 1))]
            if not isinstance(other[place], dict | list):
                container[key] = other[place]
        else:
            container[key] = Placed(draw(ODD))
    return written(data, []).encode("utf-8", "surrogatepass")


@st.composite
def doubled_keys(draw: st.DrawFn) -> bytes:
    """A report in which a key stands twice."""
    text = SOUND.decode()
    key = draw(KEYS)
    at = text.find(f'"{key}":')
    if at < 0:
        return text.encode()
    return (text[:at] + f'"{key}": {draw(ODD)}, ' + text[at:]).encode()


@st.composite
def bitten_files(draw: st.DrawFn) -> bytes:
    """A report of which some bytes were changed, or the end cut off, or with a byte-order mark."""
    whole = bytearray(SOUND)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(whole) - 1))
        whole[at] = draw(st.integers(0, 255) | st.sampled_from(b'{}[]":,0123456789eE.-'))
    start = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0"]))
    return start + bytes(whole[: draw(st.integers(0, len(whole)) | st.just(len(whole)))])


FILES = changed_reports() | changed_reports() | doubled_keys() | bitten_files() | st.binary(
    max_size=40
) | ODD.map(lambda text: text.encode("utf-8", "surrogatepass"))  # fmt: skip


def read_or_refuse(content: bytes) -> None:
    try:
        report = report_from_json(content, ORIGIN)
    except ReportError as error:
        assert str(error).startswith(ORIGIN)
        assert len(str(error)) < 1000
        str(error).encode("utf-8", "backslashreplace")
        return
    assert isinstance(report, ModelReport)
    text = report_to_json(report)  # what could be read can be written, and read again
    assert report_to_json(report_from_json(text, ORIGIN)) == text


@FAST
@given(FILES)
def test_any_file_is_a_report_or_refused(content: bytes) -> None:
    read_or_refuse(content)


@pytest.mark.slow
@THOROUGH
@given(FILES)
def test_any_file_is_a_report_or_refused_thoroughly(content: bytes) -> None:
    read_or_refuse(content)
