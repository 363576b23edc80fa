"""The file of a delta: small, exact, readable in every version, and sound or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import frog
from frog.errors import ReportError, UsageError
from frog.types import SparseDelta, TensorDelta
from tests.test_fuzz_report import ODD, Placed, places

LIMIT = 9.0
WORDS = {"float64": np.uint64, "float32": np.uint32, "bfloat16": np.uint16, "float8_e5m2": np.uint8}

Shapes = dict[str, tuple[int, ...]]


def stories() -> Shapes:
    """The 35 matrices of a Llama of 260k parameters."""
    sizes = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64), "mlp.gate_proj": (172, 64), "mlp.up_proj": (172, 64),
        "mlp.down_proj": (64, 172),
    }  # fmt: skip
    return {f"model.layers.{i}.{x}.weight": sizes[x] for i in range(5) for x in sizes}


def resnet20() -> Shapes:
    """The 19 convolutions of a ResNet20."""
    found: Shapes = {"conv1.weight": (16, 3, 3, 3)}
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(3):
            first = width // 2 if stage > 1 and block == 0 else width
            found[f"layer{stage}.{block}.conv1.weight"] = (width, first, 3, 3)
            found[f"layer{stage}.{block}.conv2.weight"] = (width, width, 3, 3)
    return found


def minilm() -> Shapes:
    """The 36 matrices of the layers of a MiniLM."""
    sizes = {
        "attention.self.query": (384, 384), "attention.self.key": (384, 384),
        "attention.self.value": (384, 384), "attention.output.dense": (384, 384),
        "intermediate.dense": (1536, 384), "output.dense": (384, 1536),
    }  # fmt: skip
    return {f"encoder.layer.{i}.{x}.weight": sizes[x] for i in range(6) for x in sizes}


TOYS = {"stories": stories, "resnet20": resnet20, "minilm": minilm}


def part(name: str, shape: tuple[int, ...], dtype: str, index: Any, seed: int = 0) -> TensorDelta:
    """Changes at ``index`` with random bits and random digests."""
    rng = np.random.default_rng(seed)
    kind, words = np.int32 if math.prod(shape) < 2**31 else np.int64, WORDS[dtype]
    return TensorDelta(
        tensor=name, shape=shape, dtype=dtype, index=np.asarray(index, dtype=kind),
        xor=rng.integers(1, np.iinfo(words).max, len(index), dtype=words, endpoint=True),
        before=rng.bytes(16).hex(), after=rng.bytes(16).hex(),
    )  # fmt: skip


def drawn(shapes: Shapes, dtype: str, share: float, seed: int = 0) -> SparseDelta:
    """A share of the weights of every tensor, drawn at random."""
    rng = np.random.default_rng(seed)
    parts = [
        part(name, shape, dtype, np.flatnonzero(rng.random(math.prod(shape)) < share), seed + i)
        for i, (name, shape) in enumerate(shapes.items())
    ]
    facts = {"rule": "uniform", "score": "random", "granularity": "entry", "lr": 1e-3}
    return SparseDelta(path="org/base", tensors=tuple(parts), facts=facts)


def same(one: SparseDelta, other: SparseDelta) -> bool:
    """Equal in all that a delta says, to the dtype of the arrays."""

    def plain(delta: SparseDelta) -> list[Any]:
        parts = [
            (x.tensor, x.shape, x.dtype, x.before, x.after,
             [(a.dtype.str, a.tolist()) for a in (x.index, x.xor)])
            for x in delta.tensors
        ]  # fmt: skip
        return [delta.path, dict(delta.facts), *parts]

    return plain(one) == plain(other)


def bytes_a_weight(delta: SparseDelta, folder: Path) -> float:
    delta.save(folder / "size.safetensors")
    return (folder / "size.safetensors").stat().st_size / delta.count


def raw(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the tensors of the file."""
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["frog"]), arrays


def stored(path: Path, header: dict[str, Any] | str, arrays: dict[str, np.ndarray]) -> Path:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, {"frog": text})
    return path


def version_1(delta: SparseDelta) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The layout of the first version, written out."""
    arrays, listed = {}, []
    for n, x in enumerate(delta.tensors):
        arrays[f"{n}.index"], arrays[f"{n}.xor"] = x.index, x.xor
        listed.append({"tensor": x.tensor, "shape": list(x.shape), "dtype": x.dtype,
                       "before": x.before, "after": x.after})  # fmt: skip
    header = {"format": "frog-delta", "version": 1, "path": delta.path,
              "facts": dict(delta.facts), "tensors": listed}  # fmt: skip
    return header, arrays


# -------------------------------------------------------------------------------- small


@pytest.mark.parametrize("share", [0.01, 0.05])
@pytest.mark.parametrize("toy", TOYS)
def test_a_changed_weight_takes_at_most_nine_bytes(toy: str, share: float, tmp_path: Path) -> None:
    shapes = TOYS[toy]()
    taken = {x: bytes_a_weight(drawn(shapes, x, share), tmp_path) for x in ("float32", "bfloat16")}
    assert taken["float32"] <= LIMIT, taken
    assert taken["bfloat16"] <= taken["float32"] - 1.9, taken


def test_a_dense_delta_takes_a_byte_beside_the_bits(tmp_path: Path) -> None:
    taken = bytes_a_weight(drawn({"w": (300, 400)}, "float32", 2.0), tmp_path)
    assert 5.0 < taken < 5.01


def test_the_file_holds_few_tensors_whatever_the_model(tmp_path: Path) -> None:
    drawn(minilm(), "bfloat16", 0.001).save(tmp_path / "d.safetensors")
    header, arrays = raw(tmp_path / "d.safetensors")
    assert set(arrays) == {"gap.16", "xor.16", "digests"}
    assert header["tensors"]["name"] == list(minilm())


# -------------------------------------------------------------------------------- exact

EXTREMES = {
    "nothing": (),
    "one weight": (part("w", (64, 64), "float32", [4095]),),
    "the first weight": (part("w", (64, 64), "float32", [0]),),
    "a scalar": (part("w", (), "float64", [0]),),
    "all": (part("w", (17, 9), "bfloat16", range(153)),),
    "a tensor without changes": (part("v", (3,), "float32", []), part("w", (3,), "float32", [1])),
    "an empty tensor": (part("w", (0, 4), "float32", []),),
    "a gap of 8 bits": (part("w", (70_000,), "float32", [0, 255, 510]),),
    "a gap of 9 bits": (part("w", (70_000,), "float32", [0, 256, 511]),),
    "a gap of 16 bits": (part("w", (70_000,), "float32", [0, 65_535]),),
    "a gap of 17 bits": (part("w", (70_000,), "float32", [0, 65_536]),),
    "the last of int32": (part("w", (2**31 - 1,), "float32", [3, 2**31 - 2]),),
    "beyond int32": (part("w", (2**31,), "float32", [3, 2**31 - 1]),),
    "a gap of 33 bits": (part("w", (2**20, 2**20), "float8_e5m2", [5, 2**33, 2**40 - 1]),),
    "every width": tuple(
        part(f"{dtype}.{i}", (2**40,), dtype, [1, 1 + gap, 2 + gap], seed=i)
        for i, (dtype, gap) in enumerate((d, g) for g in (9, 999, 2**20, 2**35) for d in WORDS)
    ),
    "odd names": tuple(part(x, (3,), "float32", [2]) for x in ("", '"', "Größe", "a\nb", "gap.8")),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_come_back(name: str, tmp_path: Path) -> None:
    delta = SparseDelta(path="org/base", tensors=EXTREMES[name], facts={"score": "random"})
    delta.save(tmp_path / "d.safetensors")
    assert same(SparseDelta.load(tmp_path / "d.safetensors"), delta)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reading_gives_back_what_was_written(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parts = []
    for i in range(data.draw(st.integers(0, 5))):
        size = data.draw(st.sampled_from([1, 7, 300, 70_000, 2**33]))
        index = sorted(data.draw(st.sets(st.integers(0, size - 1), max_size=20)))
        parts.append(part(f"t{i}", (size,), data.draw(st.sampled_from(list(WORDS))), index, i))
    path = tmp_path_factory.mktemp("delta") / "d.safetensors"
    delta = SparseDelta(path="", tensors=tuple(parts))
    delta.save(path)
    assert same(SparseDelta.load(path), delta)
    first = path.read_bytes()
    SparseDelta.load(path).save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("change", [
    {"index": np.array([5, 3, 8], dtype=np.int32)}, {"index": np.array([3, 3, 8], dtype=np.int32)},
    {"index": np.array([-1, 3, 8], dtype=np.int32)}, {"index": np.array([1, 3, 9], dtype=np.int32)},
    {"index": np.array([1, 3], dtype=np.int32)}, {"index": np.array([1.0, 3.0, 4.0])},
    {"xor": np.array([1, 2, 3], dtype=np.int32)}, {"before": "abc"}, {"after": "g" * 32},
    {"after": "A" * 32},
])  # fmt: skip
def test_what_could_not_be_read_is_not_written(change: dict[str, Any], tmp_path: Path) -> None:
    sound = part("w", (9,), "float32", [1, 3, 8])
    path = tmp_path / "d.safetensors"
    with pytest.raises(UsageError, match=r"must .*, got .*: make it with"):
        SparseDelta(path="", tensors=(replace(sound, **change),)).save(path)
    with pytest.raises(UsageError, match="once, got 'w' 2 times: make it with"):
        SparseDelta(path="", tensors=(sound, sound)).save(path)
    assert not path.exists()


# -------------------------------------------------------------------------------- version 1


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    delta = drawn(resnet20(), "bfloat16", 0.02)
    path = stored(tmp_path / "old.safetensors", *version_1(delta))
    read = SparseDelta.load(path)
    assert same(read, delta)
    read.save(tmp_path / "new.safetensors")
    assert raw(tmp_path / "new.safetensors")[0]["version"] == 2
    assert same(SparseDelta.load(tmp_path / "new.safetensors"), delta)


def test_a_file_of_version_1_is_applied_and_undone(tmp_path: Path) -> None:
    base = {"a": torch.zeros(3, 4), "b": torch.ones(5).bfloat16()}
    tuned = {"a": base["a"].clone(), "b": base["b"].clone()}
    tuned["a"][1, 2], tuned["b"][4] = 7.0, -0.0
    path = stored(tmp_path / "old.safetensors", *version_1(frog.diff(base, tuned)))
    live = {name: value.clone() for name, value in base.items()}
    frog.apply_delta(live, SparseDelta.load(path))
    assert all(torch.equal(live[name], tuned[name]) for name in base)
    frog.apply_delta(live, SparseDelta.load(path), revert=True)
    assert all(torch.equal(live[name], base[name]) for name in base)


# -------------------------------------------------------------------------------- damage

Change = Callable[[dict[str, Any], dict[str, np.ndarray]], object]


def small() -> SparseDelta:
    """Two tensors with 8-bit gaps, one with 16-bit gaps, words of two widths."""
    parts = (
        part("a", (4, 5), "float32", [0, 7, 19], 1), part("b", (30,), "bfloat16", [3, 4], 2),
        part("c", (40, 50), "float32", [9, 1999], 3),
    )  # fmt: skip
    return SparseDelta(path="base", tensors=parts)


def put(name: str, value: Any) -> Change:
    return lambda _, arrays: arrays.__setitem__(name, value(arrays[name]))


def fact(column: str, value: Any, row: int = 0) -> Change:
    return lambda header, _: header["tensors"][column].__setitem__(row, value)


def old(key: str, value: Any) -> Change:
    return lambda header, _: header["tensors"][0].__setitem__(key, value)


def gaps(*values: int) -> Change:
    """All gaps of 8 bits: three of tensor a, two of b."""
    return put("gap.8", lambda x: np.array(values, dtype=x.dtype))


DAMAGE: dict[str, tuple[Change, str]] = {
    "a gap too long": (gaps(0, 7, 13, 3, 1), "tensors.0: indices must be ascending"),
    "a gap longer than the tensor": (gaps(0, 7, 12, 30, 1), "tensors.1: gaps must be below 30"),
    "a gap of none": (gaps(0, 0, 12, 3, 1), "tensors.0: indices must be ascending"),
    "gaps cut": (put("gap.8", lambda x: x[:-1]), "tensor 'gap.8': must be uint8 of (5,)"),
    "gaps doubled": (put("gap.8", lambda x: np.tile(x, 2)), "got uint8 of (10,)"),
    "gaps wider": (put("gap.8", lambda x: x.astype(np.uint16)), "got uint16 of (5,)"),
    "gaps signed": (put("gap.8", lambda x: x.astype(np.int8)), "got int8 of (5,)"),
    "gaps in a square": (put("gap.16", lambda x: x[None]), "got uint16 of (1, 2)"),
    "no gaps": (lambda _, arrays: arrays.pop("gap.16"), "'gap.16': must be uint16 of (2,), got no"),
    "patterns cut": (put("xor.32", lambda x: x[1:]), "'xor.32': must be uint32 of (5,)"),
    "patterns as floats": (put("xor.32", lambda x: x.view(np.float32)), "got float32"),
    "no patterns": (lambda _, arrays: arrays.pop("xor.16"), "'xor.16': must be uint16 of (2,)"),
    "digests cut": (put("digests", lambda x: x[:-1]), "'digests': must be uint8 of (3, 2, 16)"),
    "digests shortened": (put("digests", lambda x: x[..., :8]), "got uint8 of (3, 2, 8)"),
    "digests signed": (put("digests", lambda x: x.view(np.int8)), "got int8 of (3, 2, 16)"),
    "no digests": (lambda _, arrays: arrays.pop("digests"), "'digests': must be uint8"),
    "a tensor of no one": (
        lambda _, arrays: arrays.update({"gap.64": np.ones(1, dtype=np.uint64)}),
        "'gap.64': must be none, got uint64 of (1,)",
    ),
    "a count too many": (fact("count", 4), "'gap.8': must be uint8 of (6,)"),
    "a count too few": (fact("count", 0), "'gap.8': must be uint8 of (2,)"),
    "a negative count": (fact("count", -3), "tensors.0: count must be a whole number"),
    "a count of 1.0": (fact("count", 3.0), "tensors.0: count must be a whole number"),
    "a true count": (fact("count", True), "tensors.0: count must be a whole number"),
    "a count beyond 64 bits": (fact("count", 2**64), "tensors.0: count must be a whole number"),
    "gaps of 7 bits": (fact("gap_bits", 7), "gap_bits must be 8, 16, 32 or 64, got 7"),
    "gaps of 8.0 bits": (fact("gap_bits", 8.0), "gap_bits must be 8, 16, 32 or 64, got 8.0"),
    "other gaps": (fact("gap_bits", 16), "'gap.16': must be uint16 of (5,), got uint16 of (2,)"),
    "other patterns": (fact("xor_bits", 16), "'xor.16': must be uint16 of (5,)"),
    "patterns of a list": (fact("xor_bits", [32]), "xor_bits must be 8, 16, 32 or 64, got a list"),
    "a smaller tensor": (fact("shape", [4, 4]), "tensors.0: indices must be ascending and lie in"),
    "a shape of no list": (fact("shape", 20), "tensors.0: shape must be a list, got 20"),
    "a negative side": (fact("shape", [-4, -5]), "tensors.0: a side of the shape must be"),
    "half a side": (fact("shape", [4, 5.5]), "tensors.0: a side of the shape must be"),
    "a shape beyond 64 bits": (fact("shape", [2**40, 2**40]), "the number of entries must be"),
    "a name of no text": (fact("name", 7, 1), "tensors.1: tensor must be a text, got 7"),
    "a name twice": (fact("name", "a", 1), "each must be listed once, got 'a' 2 times"),
    "a dtype of no text": (fact("dtype", None, 2), "tensors.2: dtype must be a text, got None"),
    "a row cut": (lambda header, _: header["tensors"]["dtype"].pop(), "lists of one length"),
    "a list missing": (lambda header, _: header["tensors"].pop("count"), "tensors.count: must be"),
    "rows of version 1": (
        lambda header, _: header.update(tensors=[{}]), "tensors.name: must be a list, got None",
    ),
    "a later version": (lambda header, _: header.update(version=3), "at most 2, got 3"),
    "another version": (lambda header, _: header.update(version=1), "must be a list, got a dict"),
}  # fmt: skip

OLD_DAMAGE: dict[str, tuple[Change, str]] = {
    "order": (put("0.index", lambda x: x[::-1]), "tensors.0: indices must be ascending"),
    "range": (put("0.index", lambda x: x + 5), "tensors.0: indices must be ascending"),
    "negative": (put("0.index", lambda x: x - 5), "tensors.0: indices must be ascending"),
    "a difference that wraps": (
        put("0.index", lambda x: np.array([0, 2**31 - 1, 5], dtype=np.int32)), "must be ascending",
    ),
    "length": (put("0.xor", lambda x: x[:-1]), "one bit pattern for each index"),
    "square": (put("0.index", lambda x: x[None]), "one bit pattern for each index"),
    "unsigned": (put("0.index", lambda x: x.astype(np.uint32)), "indices must be signed"),
    "floats": (put("0.xor", lambda x: x.view(np.float32)), "bit patterns unsigned"),
    "no index": (lambda _, arrays: arrays.pop("1.index"), "tensor 1.index must be in the file"),
    "no patterns": (lambda _, arrays: arrays.pop("2.xor"), "tensor 2.xor must be in the file"),
    "no shape": (lambda header, _: header["tensors"][0].pop("shape"), "shape must be a list"),
    "no digest": (old("before", None), "before must be a text, got None"),
    "half a digest": (old("after", "a" * 16), "digest of 32 hexadecimal digits"),
    "no tensors": (lambda header, _: header.pop("tensors"), "must be a list, got None"),
    "a name twice": (old("tensor", "b"), "each must be listed once, got 'b' 2 times"),
    "an item of no dictionary": (
        lambda header, _: header["tensors"].__setitem__(0, 7), "shape must be a list, got None",
    ),
}  # fmt: skip


def damaged(path: Path, kind: str, version: int = 2) -> str:
    """Write a file with one damage; what the refusal must say."""
    if version == 1:
        header, arrays = version_1(small())
    else:
        small().save(path)
        header, arrays = raw(path)
    stored(path, header, arrays)
    assert same(SparseDelta.load(path), small()), "sound before the damage"
    change, told = (OLD_DAMAGE if version == 1 else DAMAGE)[kind]
    change(header, arrays)
    stored(path, header, arrays)
    return told


CASES = [(2, kind) for kind in DAMAGE] + [(1, kind) for kind in OLD_DAMAGE]


@pytest.mark.parametrize(("version", "kind"), CASES)
def test_every_damage_is_refused(version: int, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    told = damaged(path, kind, version)
    with pytest.raises(ReportError) as refused:
        SparseDelta.load(path)
    said = str(refused.value)
    assert told in said and said.startswith(f"{path}: ") and "got" in said, said
    assert "write it again with frog delta diff" in said or "upgrade" in said, said


def test_a_sum_of_gaps_that_wraps_is_refused(tmp_path: Path) -> None:
    size = 2**62
    delta = SparseDelta(path="", tensors=(part("w", (size,), "float32", [1, size - 2, size - 1]),))
    delta.save(tmp_path / "d.safetensors")
    header, arrays = raw(tmp_path / "d.safetensors")
    for values in ([size - 1] * 3, [5, 2**64 - 1, 1], [2**63, 2**63, 3]):
        arrays["gap.64"] = np.array(values, dtype=np.uint64)
        stored(tmp_path / "d.safetensors", header, arrays)
        with pytest.raises(ReportError, match=r"indices must be ascending|gaps must be below"):
            SparseDelta.load(tmp_path / "d.safetensors")


@pytest.mark.parametrize("damage", ["cut", "foreign", "not JSON", "empty"])
def test_a_file_that_is_no_delta_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    small().save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        stored(path, "{" if damage == "not JSON" else "{}", raw(path)[1])
    with pytest.raises(ReportError, match="must be a file"):
        SparseDelta.load(path)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data(), odd=ODD, version=st.sampled_from([1, 2]))
def test_any_header_is_a_delta_or_refused(
    data: st.DataObject, odd: str, version: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("odd") / "d.safetensors"
    small().save(path)
    header, arrays = version_1(small()) if version == 1 else raw(path)
    holder, key = data.draw(st.sampled_from(places(header)))
    holder[key] = Placed(odd)
    mark = "\ue000"
    stored(path, json.dumps(header, default=lambda _: mark).replace(json.dumps(mark), odd), arrays)
    try:
        read = SparseDelta.load(path)
    except ReportError as error:
        assert str(path) in str(error)
        return
    read.save(path)
    assert SparseDelta.load(path).count == read.count
