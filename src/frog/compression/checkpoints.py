"""Quantised checkpoints: a copy of a model's folder in which some matrices are codes and scales.

The codes are those of :mod:`frog.numerics.rounding`, whatever the format: what a plan was
measured with is what is written. Files are read and written one at a time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from frog.compression.curves import Bits
from frog.compression.formats import CheckpointFormat, Stored
from frog.compression.packed import CompressedTensors
from frog.compression.targets import INDEX, SINGLE, Target, targets, weight_files
from frog.compression.torchao_format import TorchAO
from frog.errors import FrogError, UsageError
from frog.numerics.rounding import Rounded, round_to_nearest
from frog.registry import Registry

NOT_COPIED = (
    "model*.safetensors", INDEX, "pytorch_model*.bin", "pytorch_model*.bin.index.json",
    "tf_model*.h5", "flax_model*.msgpack", "rust_model.ot", "onnx", "openvino", ".git", ".cache",
)  # fmt: skip
"""In the model's folder itself: weights that are written anew, and the same for other programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written: bytes of the files of weights, and of the named matrices in them.

    ``difference`` is the largest ||stored - rounded|| / ||rounded|| of a matrix: what scales lose
    in the type of the weights, 0 for float32.
    """

    path: Path
    format: str
    bytes_before: int
    bytes_after: int
    matrix_bytes_before: int
    matrix_bytes_after: int
    matrix_params: int
    difference: float

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight of the named matrices, scales and zero points included."""
        return 8 * self.matrix_bytes_after / self.matrix_params


FORMATS: Registry[CheckpointFormat] = Registry("format of checkpoints")
for _format in (CompressedTensors(), TorchAO()):
    FORMATS.add(_format.name, _format)


def write_compressed_tensors(
    folder: str | Path, levels: Mapping[str, Bits], out: str | Path
) -> Written:
    """Write ``folder`` with these matrices packed, so that the file shrinks to their bits.

    1 to 8 bits; asymmetric matrices and those of one bit take one bit more, and 8 asymmetric bits
    are refused. All else as :func:`write_checkpoint`.
    """
    return write_checkpoint(folder, levels, out, format=FORMATS["compressed-tensors"])


def write_torchao(folder: str | Path, levels: Mapping[str, Bits], out: str | Path) -> Written:
    """Write ``folder`` with these matrices for torchao, at one byte a weight whatever the bits.

    1 to 8 bits, in both forms. All else as :func:`write_checkpoint`.
    """
    return write_checkpoint(folder, levels, out, format=FORMATS["torchao"])


def write_checkpoint(
    folder: str | Path, levels: Mapping[str, Bits], out: str | Path, *, format: CheckpointFormat
) -> Written:
    """Write a copy of ``folder`` with the matrices of ``levels`` in ``format``.

    ``levels`` maps names of matrices on disk to how they are rounded, each at its own width; all
    other tensors keep their bits. Plain transformers loads ``out``, with the class that
    config.json names as its architecture.

    ``out`` must not exist or be empty, and is whole or absent afterwards. Tokenizer and other files
    come along; weights for other programs (``pytorch_model.bin``, ``onnx``) do not. Raises
    :class:`~frog.errors.UsageError` for an ``out`` that is not free and for matrices that a format
    cannot store (no Linear layer, shared with another, uneven groups, not finite),
    :class:`~frog.errors.ModelError` for a folder that is no whole transformers checkpoint in
    safetensors, :class:`~frog.errors.MissingPackage`, and :class:`~frog.errors.FrogError` where the
    disk is full.
    """
    from safetensors import SafetensorError

    folder, out = Path(folder), Path(out)
    format.need()
    _check_free(folder, out)
    found, kept = targets(folder, levels)
    for target in found:
        format.check(target.name, target.rounding)
    files = weight_files(folder)
    try:
        place = out.resolve()  # "." has no name of its own
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as inside:
            copy = Path(inside) / place.name
            skipped = shutil.ignore_patterns(*NOT_COPIED, *files)
            shutil.copytree(
                folder, copy, ignore=lambda at, xs: skipped(at, xs) if Path(at) == folder else ()
            )
            size, difference = _write_weights(folder, copy, files, found, format)
            _write_config(copy, format.config({x.module: x.rounding for x in found}, kept))
            if place.exists():
                place.rmdir()
            copy.rename(place)
    except (OSError, SafetensorError) as error:
        words = getattr(error, "strerror", None) or error
        raise FrogError(f"{out}: could not be written ({words}); nothing was left behind") from None
    return Written(
        path=out, format=format.name,
        bytes_before=sum((folder / x).stat().st_size for x in files),
        bytes_after=sum((out / x).stat().st_size for x in files),
        matrix_bytes_before=sum(x.size for x in found), matrix_bytes_after=size,
        matrix_params=sum(x.shape[0] * x.shape[1] for x in found), difference=difference,
    )  # fmt: skip


def _check_free(folder: Path, out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out}: must not exist or be an empty folder: choose another")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: its folder must exist, got {out.parent}: make it first")
    if folder.resolve() in out.resolve().parents:
        raise UsageError(f"{out}: lies in the model that is read, {folder}: choose another")


def _write_weights(
    folder: Path, copy: Path, files: tuple[str, ...], found: tuple[Target, ...],
    format: CheckpointFormat,
) -> tuple[int, float]:  # fmt: skip
    """Bytes of the stored matrices and the largest difference, over all files."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    size, whole, difference = 0, 0, 0.0
    places: dict[str, str] = {}
    names = [x.name for x in found]
    for file in files:
        with safe_open(folder / file, framework="pt") as opened:
            metadata = {"format": "pt", **(opened.metadata() or {})}
        tensors, entries = load_file(folder / file), {}
        for target in (x for x in found if x.file == file):
            stored, lost = _stored(tensors.pop(target.name), target, format)
            tensors.update(stored.tensors)
            entries.update(stored.metadata)
            size += sum(x.nbytes for x in stored.tensors.values())
            difference = max(difference, lost)
        save_file(tensors, copy / file, {**metadata, **format.metadata(entries, names)})
        shutil.copymode(folder / file, copy / file)  # safetensors lets the owner alone read it
        places.update(dict.fromkeys(tensors, file))
        whole += sum(x.nbytes for x in tensors.values())
    if (folder / INDEX).is_file() and files != (SINGLE,):
        index = json.loads((folder / INDEX).read_text())
        index["metadata"] = {**(index.get("metadata") or {}), "total_size": whole}
        index["weight_map"] = dict(sorted(places.items()))
        _write_json(index, copy / INDEX)
    return size, difference


def _stored(weight_mn: Tensor, target: Target, format: CheckpointFormat) -> tuple[Stored, float]:
    """The matrix in the format, and what its scales lose in the type of the weights."""
    try:
        exact = round_to_nearest(weight_mn, target.rounding)
    except UsageError as error:
        raise UsageError(f"{target.name}: {error}") from None
    kept = replace(exact, scales=exact.scales.to(weight_mn.dtype))
    return format.store(target.module, kept, target.rounding), _difference(kept, exact)


def _difference(kept: Rounded, exact: Rounded) -> float:
    if kept.scales.dtype == exact.scales.dtype:
        return 0.0
    values = exact.values()
    whole = float(values.norm())
    return float((kept.values().to(values.dtype) - values).norm()) / whole if whole else 0.0


def _write_config(folder: Path, quantization: Mapping[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    _write_json({**config, "quantization_config": quantization}, folder / "config.json")


def _write_json(data: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")
