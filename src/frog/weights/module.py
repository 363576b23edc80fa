"""Live models: a ``torch.nn.Module`` or a mapping of names to tensors, listed without a copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from frog.errors import ModelError
from frog.weights.dtypes import SAFETENSORS_TYPES, storage_type
from frog.weights.quantised import fold_quantised
from frog.weights.stored import StoredTensor, TensorList

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that data-parallel training and torch.compile put before every name."""

BESIDE = "_frog_beside"
"""Marks parameters that train beside the weights they belong to: no part of the model."""

PACKED_BUFFERS = ("qweight", "weight_packed", "weight", "W_q")
"""Buffers in which layers for inference keep codes."""

# The code of a live tensor as numpy sees it, where numpy has no type of that name.
_CODE_VIEWS = {
    name: getattr(torch, "uint16" if name == "bfloat16" else "uint8")
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
} | {"float8_e8m0fnu": torch.uint8}


def list_module(model: nn.Module) -> TensorList:
    """The parameters of a module in the order of registration; shared ones once, with aliases.

    Buffers are no parameters and are left out. :class:`ModelError` where a parameter has no
    data (meta device) or is spread over processes.
    """
    owners = {name: type(child).__name__ for name, child in model.named_modules()}
    stored = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if hasattr(parameter, BESIDE):
            continue
        owner = owners.get(name.rpartition(".")[0], "")
        stored.append((torch_key(parameter), stored_torch(name, parameter, owner)))
    beside = _beside(model, {tensor.name for _, tensor in stored})
    if not stored and not beside:
        raise ModelError(f"{type(model).__name__} has no parameters: there is nothing to measure")
    tensors, notes = strip_wrappers(join_ties([*stored, *beside]))
    config = _module_config(model)
    if any(".lora_A." in x.name for x in tensors):
        notes = (
            *notes,
            "holds LoRA factors: save the adapter and name its folder to measure B @ A",
        )
    folded, remarks = fold_quantised(tensors, config)
    left = {tensor.codes for _, tensor in beside}
    return TensorList(
        path=type(model).__name__,
        format="module",
        # What lies beside the parameters counts only as part of a packed weight.
        tensors=tuple(
            x for x in folded if x.codes not in left or (x.unsupported or "").startswith("packed")
        ),
        config=config,
        notes=notes + remarks,
        buffers=_running_statistics(model),
    )


def list_state_dict(state: Mapping[str, Any]) -> TensorList:
    """The tensors (torch or numpy) of a state dict; whatever else is in it becomes a note."""
    return _listed(state, "state dict", "state dict")


def list_mapping(
    state: Mapping[Any, Any], path: str, format: str, config: Mapping[str, Any] | None = None
) -> TensorList:
    """As :func:`list_state_dict`, for a state dict that was read from ``path``."""
    return _listed(state, path, format, config)


def join_ties(stored: Iterable[tuple[Hashable, StoredTensor]]) -> list[StoredTensor]:
    """One tensor per place in memory: the first name is kept, the others become aliases."""
    first: dict[Hashable, int] = {}
    tensors: list[StoredTensor] = []
    for key, tensor in stored:
        at = first.setdefault(key, len(tensors)) if key is not None else len(tensors)
        if at == len(tensors):
            tensors.append(tensor)
        else:
            aliases = (*tensors[at].aliases, tensor.name)
            tensors[at] = dataclasses.replace(tensors[at], aliases=aliases)
    return tensors


def strip_wrappers(tensors: list[StoredTensor]) -> tuple[list[StoredTensor], tuple[str, ...]]:
    """Names without the prefixes of wrappers, where all names have them; and notes."""
    notes: list[str] = []
    while True:
        names = [n for x in tensors for n in (x.name, *x.aliases)]
        prefix = next((p for p in WRAPPERS if names and all(n.startswith(p) for n in names)), None)
        if prefix is None:
            return tensors, tuple(notes)
        cut = len(prefix)
        tensors = [
            dataclasses.replace(x, name=x.name[cut:], aliases=tuple(a[cut:] for a in x.aliases))
            for x in tensors
        ]
        notes.append(f"the prefix '{prefix}' was removed from all names")


def torch_key(tensor: torch.Tensor) -> Hashable:
    """Equal for two names of one tensor: device, address, layout; None where it has no bytes."""
    if tensor.layout != torch.strided or tensor.numel() == 0 or not _plain(tensor):
        return id(tensor)
    place = (str(tensor.device), tensor.data_ptr()) if not tensor.is_meta else id(tensor)
    return place, tuple(tensor.shape), tensor.stride(), str(tensor.dtype)


def stored_torch(name: str, tensor: torch.Tensor, owner: str = "") -> StoredTensor:
    """A live torch tensor as a :class:`StoredTensor`; nothing is copied but from a GPU."""
    word = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta:
        raise ModelError(
            f"{name} {tuple(tensor.shape)} is on the meta device and has no data: load the weights "
            "before measuring, or name the folder of the checkpoint"
        )
    if hasattr(tensor, "full_tensor"):
        raise ModelError(
            f"{name} is spread over processes ({type(tensor).__name__}): gather it first with "
            "full_tensor(), or measure the saved checkpoint"
        )
    kind = storage_type(word)
    why = _refusal(tensor) or (kind.unsupported if kind else f"storage type {word} not supported")
    if kind is None:
        kind = SAFETENSORS_TYPES["U8"]
    return StoredTensor(
        name=name,
        shape=tuple(tensor.shape),
        dtype=word,
        codes=_torch_codes(tensor, word),
        decode=kind.decode,
        owner=owner,
        unsupported=why,
    )


def _beside(model: nn.Module, parameters: set[str]) -> list[tuple[Hashable, StoredTensor]]:
    """Scales and codes that quantised layers keep outside their parameters, by their saved names.

    Asked for only where something is packed: a state dict may be costly to make.
    """
    packed = any(not x.is_floating_point() and x.ndim > 1 for x in model.parameters()) or any(
        name.rpartition(".")[2] in PACKED_BUFFERS for name, _ in model.named_buffers()
    )
    if not packed:
        return []
    return [
        (torch_key(value), stored_torch(name, value))
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor) and name not in parameters
    ]


def _running_statistics(model: nn.Module) -> tuple[StoredTensor, ...]:
    """What normalisations divide by: no parameters, but the gain of a BatchNorm needs them."""
    found = [
        stored_torch(name, buffer)
        for name, buffer in model.named_buffers()
        if name.endswith((".running_mean", ".running_var")) and not buffer.is_meta
    ]
    return tuple(strip_wrappers(found)[0])


def _torch_codes(tensor: torch.Tensor, word: str) -> Callable[[], np.ndarray]:
    """A function that gives the codes of a tensor: a view on a CPU, a copy from elsewhere."""

    def codes() -> np.ndarray:
        plain = tensor.detach().cpu()
        seen_as = _CODE_VIEWS.get(word)
        return (plain if seen_as is None else plain.view(seen_as)).numpy()

    return codes


def _refusal(tensor: torch.Tensor) -> str | None:
    """Why a tensor that has data is not a plain array of numbers, or None."""
    if tensor.layout != torch.strided:
        return f"sparse storage ({str(tensor.layout).removeprefix('torch.')}) is not supported"
    if tensor.is_quantized:
        return "quantised torch tensors are not supported: dequantize() the model first"
    if not _plain(tensor):
        return f"tensors of the class {type(tensor).__name__} are not supported: dequantise first"
    return None


def _plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds its own numbers: wrappers hide packed codes behind a shape."""
    kind = type(tensor)
    own_dispatch = getattr(kind, "__torch_dispatch__", None)
    return own_dispatch is getattr(torch.Tensor, "__torch_dispatch__", None)


def _listed(
    state: Mapping[Any, Any], path: str, format: str, config: Mapping[str, Any] | None = None
) -> TensorList:
    stored: list[tuple[Hashable, StoredTensor]] = []
    ignored: list[str] = []
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            stored.append((torch_key(value), stored_torch(name, value)))
        elif isinstance(name, str) and isinstance(value, np.ndarray) and value.dtype != object:
            stored.append((_numpy_key(value), _stored_numpy(name, value)))
        else:
            ignored.append(str(name))
    if not stored:
        keys = ", ".join(ignored[:5]) or "nothing"
        raise ModelError(f"{path} holds no tensors: expected names mapped to tensors, got {keys}")
    tensors, notes = strip_wrappers(join_ties(stored))
    if ignored:
        some = ", ".join(ignored[:5]) + (", ..." if len(ignored) > 5 else "")
        notes = (*notes, f"{len(ignored)} entries are no tensors and were left out: {some}")
    folded, remarks = fold_quantised(tensors, config)
    return TensorList(
        path=path, format=format, tensors=folded, config=config, notes=notes + remarks
    )


def _stored_numpy(name: str, array: np.ndarray) -> StoredTensor:
    """A numpy array as a :class:`StoredTensor`; types that torch does not know are refused."""
    kind = storage_type(array.dtype.name)
    why = kind.unsupported if kind else f"storage type {array.dtype.name} is not supported"
    return StoredTensor(
        name=name,
        shape=array.shape,
        dtype=array.dtype.name,
        codes=lambda: array,
        unsupported=why,
    )


def _numpy_key(array: np.ndarray) -> Hashable:
    if array.size == 0:
        return id(array)
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str


def _module_config(model: nn.Module) -> dict[str, Any] | None:
    """The config of a transformers model (or of the model inside a wrapper) as a dict."""
    inner: Any = model
    while not hasattr(inner, "config") and any(hasattr(inner, w[:-1]) for w in WRAPPERS):
        inner = next(getattr(inner, w[:-1]) for w in WRAPPERS if hasattr(inner, w[:-1]))
    config = getattr(inner, "config", None)
    to_dict = getattr(config, "to_dict", None)
    if callable(to_dict):
        value = to_dict()
        return dict(value) if isinstance(value, Mapping) else None
    return dict(config) if isinstance(config, Mapping) else None
