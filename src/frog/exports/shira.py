"""A delta as a SHiRA adapter: single weights added to the base, loaded by plain peft.

The format (peft 0.17 and later, ``ShiraConfig``): for every linear layer r (m + n) values, float32,
and their rows and columns, int32, with one r for all layers; r (m + n) must not exceed m n.
Layers with fewer changed entries are filled up with zeros at entry (0, 0), which adds nothing.
Source of the method: Bhardwaj et al. 2024, "Sparse high rank adapters", NeurIPS.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from frog.errors import UsageError
from frog.types import SparseDelta, TensorDelta

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


class Base(Protocol):
    """A tensor of the base: its stored codes."""

    name: str
    aliases: tuple[str, ...]

    @property
    def codes(self) -> Any:
        """A function that gives the stored array."""
        ...


@dataclass(frozen=True, slots=True)
class _Layer:
    module: str
    indices: torch.Tensor
    values: torch.Tensor
    shape: tuple[int, int]
    inexact: int
    error: float

    @property
    def rank(self) -> int:
        """The least r whose r (m + n) values hold all entries."""
        return max(1, -(-len(self.values) // sum(self.shape)))


def write_shira(delta: SparseDelta, base: Any, base_name: str, out: Path) -> list[str]:
    """Write the adapter folder ``out`` and say in a few lines what is in it.

    ``base`` lists the tensors of the model that the delta was made for. The values are chosen so
    that base + value, added as peft adds them, gives the tuned bits; where rounding leaves none,
    the error is told. Raises :class:`~frog.errors.UsageError` for changed tensors that are no
    weights of linear layers, and for deltas that are too dense for the format.
    """
    if out.exists():
        raise UsageError(f"{out}: must not exist yet: choose another, or remove it first")
    if not delta.count:
        raise UsageError("the delta is empty: there is nothing to export")
    known = {name: x for x in base.tensors for name in (x.name, *x.aliases)}
    odd = [x.tensor for x in delta.tensors if len(x.shape) != 2 or not x.tensor.endswith(".weight")]
    if odd:
        raise UsageError(
            f"a SHiRA adapter holds weights of linear layers only, but {', '.join(odd[:3])} "
            "changed too: export as merged, or leave these out when tuning"
        )
    layers = [_layer(part, known[part.tensor]) for part in delta.tensors]
    rank = max(layer.rank for layer in layers)
    dense = [x.module for x in layers if rank * sum(x.shape) > math.prod(x.shape)]
    if dense:
        raise UsageError(
            f"a SHiRA adapter of rank {rank} is larger than {dense[0]} itself: the delta is too "
            "dense; export as merged"
        )
    _write(layers, rank, base_name, out)
    held = sum(rank * sum(x.shape) for x in layers)
    size = (out / "adapter_model.safetensors").stat().st_size
    lines = [
        f"SHiRA adapter, r {rank}: {delta.count:,} changed weights in {len(layers)} layers, "
        f"{held - delta.count:,} places of filling, {size:,} bytes",
        f"PeftModel.from_pretrained(base, {str(out)!r}) loads it",
    ]
    inexact = sum(layer.inexact for layer in layers)
    if inexact:
        error = max(layer.error for layer in layers)
        lines.append(f"{inexact:,} weights differ by rounding, at most {error:.3g}")
    else:
        lines.append("base + adapter gives the tuned weights bit for bit")
    return lines


def _layer(part: TensorDelta, tensor: Base) -> _Layer:
    words = np.ascontiguousarray(np.array(tensor.codes())).reshape(-1).view(part.xor.dtype)
    old_bits = words[part.index]
    kind = DTYPES.get(part.dtype)
    if kind is None:
        raise UsageError(f"{part.tensor} is {part.dtype}: SHiRA adds to floating-point weights")
    old, new = _as(old_bits, kind), _as(old_bits ^ part.xor, kind)
    values = (new.double() - old.double()).float()
    # Rounding may miss by a bit: one of the neighbours of the difference then hits.
    for step in (-math.inf, math.inf):
        miss = _added(old, values) != new
        if not miss.any():
            break
        near = torch.nextafter(values, torch.full_like(values, step))
        values = torch.where(miss & (_added(old, near) == new), near, values)
    made = _added(old, values)
    wrong = made != new
    n = part.shape[1]
    flat = torch.from_numpy(part.index.astype(np.int64))
    return _Layer(
        module=part.tensor.removesuffix(".weight"),
        indices=torch.stack([flat // n, flat % n]).int(),
        values=values,
        shape=(part.shape[0], n),
        inexact=int(wrong.sum()),
        error=float((made.double() - new.double()).abs().max()),
    )


def _added(old: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Dense += sparse as peft does it: rounded once to the dtype of the base."""
    place = torch.arange(len(old))[None]
    result = old.clone()
    result += torch.sparse_coo_tensor(place, values, (len(old),), check_invariants=False)
    return result


def _as(bits: np.ndarray, kind: torch.dtype) -> torch.Tensor:
    signed = bits.view(f"i{bits.dtype.itemsize}")
    return torch.from_numpy(np.ascontiguousarray(signed)).view(kind)


def _write(layers: Sequence[_Layer], rank: int, base_name: str, out: Path) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for layer in layers:
        filled = rank * sum(layer.shape) - len(layer.values)
        prefix = f"base_model.model.{layer.module}"
        tensors[f"{prefix}.shira_weight"] = torch.cat([layer.values, torch.zeros(filled)])
        nowhere = torch.zeros(2, filled, dtype=torch.int32)
        tensors[f"{prefix}.shira_indices"] = torch.cat([layer.indices, nowhere], dim=1)
    config = {
        "peft_type": "SHIRA",
        "base_model_name_or_path": base_name,
        "r": rank,
        "mask_type": "random",
        "target_modules": [layer.module for layer in layers],
        "inference_mode": True,
        "task_type": None,
    }
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as inside:
        folder = Path(inside) / out.name
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        folder.rename(out)
