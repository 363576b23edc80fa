"""Checkpoints on disk in safetensors: one file, an index of shards, a model folder.

Nothing is read but headers; tensors are mapped when asked for, so memory holds the pages that
were touched and no more. What a damaged file can do is refuse to open: every fault is a
:class:`ModelError` that names the file, what was expected, and what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frog.errors import ModelError, UnsupportedFormat
from frog.weights.quantised import fold_quantised
from frog.weights.safetensors_file import AGAIN, first_line, read_file
from frog.weights.stored import StoredTensor, TensorList

INDEX = ".index.json"
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})\.safetensors")

_OTHER_FORMATS = {
    ".gguf": "GGUF; use the original checkpoint, or convert it to safetensors",
    ".h5": "TensorFlow; load it with from_tf=True in transformers 4 and save it as safetensors",
    ".msgpack": "Flax; load it with from_flax=True in transformers 4 and save it as safetensors",
    ".onnx": "ONNX; use the checkpoint that it was exported from",
    ".npz": "NumPy; pass the arrays as a mapping of names to arrays in Python",
    ".tflite": "TensorFlow Lite; use the checkpoint that it was converted from",
}


def list_safetensors(path: Path) -> TensorList:
    """The tensors of one ``.safetensors`` file, in the order of their bytes."""
    return checkpoint_list(path, "safetensors", read_file(path), read_config(path.parent, path))


def list_index(path: Path) -> TensorList:
    """The tensors of all shards that a ``*.safetensors.index.json`` names, shard by shard."""
    weight_map = read_weight_map(path)
    shards = sorted(set(weight_map.values()))
    notes: list[str] = []
    tensors = _read_shards([path.parent / x for x in shards], weight_map, path, notes)
    config = read_config(path.parent, path)
    return checkpoint_list(path, "safetensors, sharded", tensors, config, tuple(notes))


def list_folder(folder: Path) -> TensorList:
    """The tensors of a model folder, from safetensors where there are any, else from ``.bin``."""
    files = sorted(x for x in folder.iterdir() if x.is_file())
    names = {x.name for x in files}
    indices = [x for x in files if x.name.endswith(".safetensors" + INDEX)]
    weights = [x for x in files if x.suffix == ".safetensors"]
    # Same order of preference as transformers: the whole file, then the index, then pickles.
    if "model.safetensors" in names:
        listed = list_safetensors(folder / "model.safetensors")
    elif "model.safetensors" + INDEX in names:
        listed = list_index(folder / ("model.safetensors" + INDEX))
    elif len(indices) == 1:
        listed = list_index(indices[0])
    elif len(weights) == 1 and not SHARD.fullmatch(weights[0].name):
        listed = list_safetensors(weights[0])
    elif weights:
        listed = _list_loose(folder, weights)
    else:
        listed = _list_pickles(folder, files)
    return TensorList(
        path=str(folder),
        format=listed.format,
        tensors=listed.tensors,
        config=listed.config if listed.config is not None else read_config(folder),
        notes=listed.notes,
    )


def checkpoint_list(
    path: Path,
    format: str,
    tensors: Sequence[StoredTensor],
    config: Mapping[str, Any] | None,
    notes: tuple[str, ...] = (),
) -> TensorList:
    """A :class:`TensorList` in which packed tensors are replaced by what they stand for."""
    folded, remarks = fold_quantised(tensors, config)
    return TensorList(
        path=str(path), format=format, tensors=folded, config=config, notes=notes + remarks
    )


def read_config(folder: Path, weights: Path | None = None) -> dict[str, Any] | None:
    """``config.json`` of a model folder; None where there is none.

    Beside a single weights file it counts only where the file has a model's usual name: another
    file in the same folder need not belong to the config.
    """
    if weights is not None and not weights.name.startswith(("model", "pytorch_model")):
        return None
    path = folder / "config.json"
    return read_json(path) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object; anything else is a :class:`ModelError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: expected a JSON object, got {first_line(error)}; {AGAIN}"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, got {type(value).__name__}; {AGAIN}")
    return value


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard file name; names that lead out of the folder are refused."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: expected 'weight_map' with tensor names and files; {AGAIN}")
    for name, shard in weight_map.items():
        # A name with a folder in it could point anywhere on the machine.
        plain = isinstance(shard, str) and Path(shard).name == shard and "\0" not in shard
        if not plain or shard in ("", ".."):
            raise ModelError(
                f"{index}: the shard of '{name}' must be a file name in the same folder, "
                f"got {first_line(shard)!r}; {AGAIN}"
            )
    check_present(index, sorted(set(weight_map.values())))
    return weight_map


def check_present(index: Path, shards: Sequence[str]) -> None:
    """Every shard that ``index`` names exists, else :class:`ModelError` with those missing."""
    absent = [x for x in shards if not (index.parent / x).is_file()]
    if absent:
        raise ModelError(
            f"{index} names {len(shards)} shards, {len(absent)} of them missing in the folder: "
            f"{some(absent)}; download the missing files"
        )


def check_mapped(index: Path, weight_map: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Every tensor of the index is in the shard that the index gives for it."""
    wrong = [name for name, shard in weight_map.items() if found.get(name) != shard]
    if wrong:
        shard = weight_map[wrong[0]]
        raise ModelError(
            f"{index} expects '{wrong[0]}' in {shard}, but it is not there "
            f"({len(wrong)} such tensors); index and shards do not belong together: "
            "download both again"
        )


def _read_shards(
    shards: Sequence[Path], weight_map: Mapping[str, str] | None, index: Path, notes: list[str]
) -> list[StoredTensor]:
    """Tensors of several files; a name twice is an error, one not in the index a note."""
    tensors: list[StoredTensor] = []
    found: dict[str, str] = {}
    for shard in shards:
        for tensor in read_file(shard):
            if tensor.name in found:
                raise ModelError(
                    f"tensor '{tensor.name}' is in {found[tensor.name]} and in {shard.name} of "
                    f"{index.parent}; expected once: remove the file that does not belong there"
                )
            found[tensor.name] = shard.name
            tensors.append(tensor)
    if weight_map is not None:
        check_mapped(index, weight_map, found)
        extra = [x for x in found if x not in weight_map]
        if extra:
            notes.append(f"{len(extra)} tensors are in shards but not in the index: {some(extra)}")
    return tensors


def _list_loose(folder: Path, weights: Sequence[Path]) -> TensorList:
    """Shards without an index: read where the set is complete, else an error that says why."""
    matches = [(x, SHARD.fullmatch(x.name)) for x in weights]
    shards = [(x, m) for x, m in matches if m]
    sets = sorted({(m["stem"], int(m["count"])) for _, m in shards})
    models = [x for x in sets if x[0] == "model"] or sets
    if len(models) != 1:
        raise ModelError(
            f"{folder} holds {len(weights)} safetensors files ({some([x.name for x in weights])}) "
            "and no index that joins them; name the one to read"
        )
    stem, count = models[0]
    chosen = {int(m["number"]): x for x, m in shards if (m["stem"], int(m["count"])) == models[0]}
    missing = [str(i) for i in range(1, count + 1) if i not in chosen]
    if missing:
        raise ModelError(
            f"{folder}: expected {count} shards '{stem}-*-of-*', missing number {some(missing)}; "
            "download the missing files"
        )
    notes = [f"no index: read all {count} shards '{stem}-*'"]
    tensors = _read_shards([chosen[i] for i in sorted(chosen)], None, folder / "x", notes)
    return checkpoint_list(
        folder, "safetensors, sharded", tensors, read_config(folder), tuple(notes)
    )


def _list_pickles(folder: Path, files: Sequence[Path]) -> TensorList:
    """A folder without safetensors: torch files, or an error that says what is there instead."""
    names = [x.name for x in files]
    pickles = [x for x in files if x.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    preferred = [x for x in pickles if x.stem == "pytorch_model"]
    index = folder / ("pytorch_model.bin" + INDEX)
    if preferred or len(pickles) == 1 or index.name in names:
        from frog.weights import torch_file  # torch is slow to import: only for its own files

        if not preferred and index.name in names:
            return torch_file.list_torch_index(index)
        return torch_file.list_torch_file((preferred or pickles)[0])
    if pickles:
        raise ModelError(
            f"{folder} holds {len(pickles)} torch files ({some([x.name for x in pickles])}) "
            "and no index that joins them; name the one to read"
        )
    for file in files:
        if file.suffix in _OTHER_FORMATS:
            refuse_other(file)
    inner = sorted(
        {x.parent.name for kind in ("safetensors", "bin") for x in folder.glob(f"*/*.{kind}")}
    )
    hint = f"its folders {some(inner)} do: name one of them" if inner else "name another folder"
    raise ModelError(
        f"{folder} holds no weights (expected *.safetensors or pytorch_model*.bin, "
        f"got {some(names) or 'no files'}); {hint}"
    )


def refuse_other(path: Path) -> None:
    """Raise :class:`UnsupportedFormat` where the ending is that of a format we know and lack."""
    if path.suffix in _OTHER_FORMATS:
        raise UnsupportedFormat(f"{path} is {_OTHER_FORMATS[path.suffix]}")


def some(names: Sequence[str]) -> str:
    """At most five names, and how many more."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
