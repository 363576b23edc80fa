"""Any file is either a selection or refused with a ReportError that names it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import frog
from frog.errors import ReportError
from tests.cli.runs import weight
from tests.test_fuzz_report import ODD, Placed, places

MARK = "\ue000"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored selection of two matrices."""
    model = {f"b.{i}.weight": torch.tensor(weight(24, 16, seed=i)) for i in range(2)}
    plan = frog.allocate(frog.analyze(model, frog.Settings(bootstrap=0)), 0.05)
    path = tmp_path_factory.mktemp("selection") / "s.safetensors"
    frog.select(model, plan, score="magnitude").save(path)
    return path


def parts(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The header and the tensors of a selection."""
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["frog"]), arrays


def write(path: Path, header: str, arrays: dict[str, np.ndarray]) -> Path:
    save_file(arrays, path, metadata={"frog": header})
    return path


def read(path: Path) -> frog.Selection | None:
    try:
        found = frog.Selection.load(path)
    except ReportError as error:
        assert path.name in str(error)
        return None
    found.save(path.with_name("again.safetensors"))
    assert frog.Selection.load(path.with_name("again.safetensors")).digest == found.digest
    return found


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data(), odd=ODD)
def test_any_header_is_a_selection_or_refused(
    sound: Path, tmp_path: Path, data: st.DataObject, odd: str
) -> None:
    header, arrays = parts(sound)
    holder, key = data.draw(st.sampled_from(places(header)))
    holder[key] = Placed(odd)
    text = json.dumps(header, default=lambda _: MARK).replace(json.dumps(MARK), odd)
    read(write(tmp_path / "odd.safetensors", text, arrays))


def twice(header: dict, arrays: dict) -> None:
    header["chosen"].append(dict(header["chosen"][0]))
    arrays["2"] = arrays["0"]


def floats(header: dict, arrays: dict) -> None:
    arrays["0"] = arrays["0"].astype(np.float32)


def flags(header: dict, arrays: dict) -> None:
    arrays["0"] = np.ones(3, dtype=bool)


def square(header: dict, arrays: dict) -> None:
    arrays["0"] = arrays["0"][None]


def beyond(header: dict, arrays: dict) -> None:
    arrays["0"] = np.append(arrays["0"][:-1], 24 * 16).astype(np.int32)


def other_plan(header: dict, arrays: dict) -> None:
    header["chosen"][0]["name"] = "b.7.weight"


def more_tensors(header: dict, arrays: dict) -> None:
    arrays["9"] = arrays["0"]


def whole_float(header: dict, arrays: dict) -> None:
    header["chosen"][0]["count"] = float(header["chosen"][0]["count"])


def a_true_seed(header: dict, arrays: dict) -> None:
    header["seed"] = True


def mixed(header: dict, arrays: dict) -> None:
    header["granularity"] = "row"


def three_sides(header: dict, arrays: dict) -> None:
    header["chosen"][0]["shape"].append(1)


@pytest.mark.parametrize("change", [
    twice, floats, flags, square, beyond, other_plan, more_tensors, whole_float, a_true_seed,
    mixed, three_sides,
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(sound: Path, tmp_path: Path, change) -> None:
    header, arrays = parts(sound)
    assert read(write(tmp_path / "s.safetensors", json.dumps(header), arrays)) is not None
    change(header, arrays)
    assert read(write(tmp_path / "s.safetensors", json.dumps(header), arrays)) is None


@pytest.mark.parametrize("word", ["Infinity", "-Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("key", ["seed", "count", "shape", "facts"])
def test_words_that_are_no_json_are_refused(
    sound: Path, tmp_path: Path, word: str, key: str
) -> None:
    header, arrays = parts(sound)
    first = header["chosen"][0]
    if key == "seed":
        header["seed"] = MARK
    elif key == "facts":
        first["facts"]["dead"] = MARK
    else:
        first[key] = MARK if key == "count" else [MARK, 16]
    text = json.dumps(header).replace(json.dumps(MARK), word)
    assert read(write(tmp_path / "s.safetensors", text, arrays)) is None


@pytest.mark.parametrize("odd", ["1" * 400, "null", "true", "1.5", '"x"'])
def test_odd_values_in_every_place_are_read_or_refused(
    sound: Path, tmp_path: Path, odd: str
) -> None:
    header, arrays = parts(sound)
    for number in range(len(places(header))):
        made, _ = parts(sound)
        holder, key = places(made)[number]
        holder[key] = Placed(odd)
        text = json.dumps(made, default=lambda _: MARK).replace(json.dumps(MARK), odd)
        read(write(tmp_path / "odd.safetensors", text, arrays))
