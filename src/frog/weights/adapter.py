"""LoRA adapters of PEFT: pairs of factors, alone or added to the model they were trained on."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frog.errors import ModelError, UnsupportedFormat
from frog.weights import checkpoint
from frog.weights.loader import ProductLoader
from frog.weights.safetensors_file import read_file
from frog.weights.stored import AdapterPair, StoredTensor, TensorList

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
ROWS_AT_A_TIME = 1024

_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?"
)
_CHANGED_BASE = ("pissa", "olora", "loftq", "corda")
"""Ways of starting LoRA that also change the base: the product is not the whole update."""


def list_adapter(folder: Path) -> TensorList:
    """The update scale * B @ A of every adapted tensor, and the tensors trained in full.

    The scale is alpha / r, or alpha / sqrt(r) with ``use_rslora``. The matrix B @ A has outputs
    as rows, whatever the base's layout (``fan_in_fan_out``). Source: Hu et al. 2021,
    arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA).
    """
    config = checkpoint.read_json(folder / CONFIG)
    kind = str(config.get("peft_type", "nothing")).upper()
    if kind != "LORA":
        raise UnsupportedFormat(
            f"{folder / CONFIG}: peft_type must be LORA, got {kind}; merge the adapter with PEFT "
            "(merge_and_unload) and measure the result"
        )
    factors, others = _sorted_out(_read_weights(folder))
    adapters: list[AdapterPair] = []
    for module, sides in factors.items():
        if len(sides) != 2:
            have, lack = ("A", "B") if "A" in sides else ("B", "A")
            raise ModelError(
                f"{folder}: '{module}' has lora_{have} but no lora_{lack}; "
                "download or save the adapter again"
            )
        pair, why = _pair(module, sides, config, folder)
        if pair is not None:
            adapters.append(pair)
        else:
            others += [dataclasses.replace(x, unsupported=why) for x in sides.values()]
    if not adapters and not others:
        raise ModelError(f"{folder}: the adapter holds no tensors; download or save it again")
    return TensorList(
        path=str(folder),
        format="peft lora",
        tensors=tuple(others),
        config=config,
        adapters=tuple(adapters),
        notes=tuple(_remarks(config)),
    )


def add_adapter(base: TensorList, adapter: TensorList) -> TensorList:
    """The base model with W + scale * B @ A in place of every adapted W, one matrix at a time.

    Tensors that the adapter holds in full replace those of the base. :class:`ModelError` where
    a name or a shape of the adapter is not in the base.
    """
    config = adapter.config or {}
    refused = [x for x in adapter.tensors if x.unsupported]
    if config.get("use_dora") or config.get("layer_replication") or refused:
        why = "DoRA" if config.get("use_dora") else "layers or parameters that need PEFT"
        raise UnsupportedFormat(
            f"{adapter.path} cannot be added to its base here ({why}): merge it with PEFT "
            "(merge_and_unload) and measure the result"
        )
    places = {name: i for i, x in enumerate(base.tensors) for name in (x.name, *x.aliases)}
    wanted = [x.target for x in adapter.adapters] + [x.name for x in adapter.tensors]
    found = {name: _place(name, places) for name in wanted}
    missing = [name for name, at in found.items() if at is None]
    if missing:
        raise ModelError(
            f"{len(missing)} of {len(wanted)} tensors of {adapter.path} are not in {base.path}: "
            f"{checkpoint.some(missing)}. Name the model that the adapter was trained on"
            f"{_trained_on(config)}"
        )
    tensors = list(base.tensors)
    turned = bool(config.get("fan_in_fan_out"))
    for tensor in adapter.tensors:
        at = found[tensor.name] or 0
        if tensor.shape != tensors[at].shape:
            raise ModelError(
                f"'{tensor.name}' must have the shape {tensors[at].shape} of {base.path}, "
                f"got {tensor.shape} in {adapter.path}{_trained_on(config)}"
            )
        kept = tensors[at]
        tensors[at] = dataclasses.replace(
            tensor, name=kept.name, aliases=kept.aliases, owner=kept.owner
        )
    # After the replacements: PEFT saves a copy of an adapted embedding beside its factors.
    for pair in adapter.adapters:
        at = found[pair.target] or 0
        tensors[at] = _added(tensors[at], pair, turned)
    return TensorList(
        path=f"{base.path} + {adapter.path}",
        format=f"{base.format} + {adapter.format}",
        tensors=tuple(tensors),
        config=base.config,
        notes=base.notes + adapter.notes,
    )


def _read_weights(folder: Path) -> Sequence[StoredTensor]:
    """The adapter's tensors from safetensors, else from a torch file."""
    path = folder / "adapter_model.safetensors"
    if path.is_file():
        return read_file(path)
    path = folder / "adapter_model.bin"
    if path.is_file():
        from frog.weights import torch_file  # torch is slow to import: only for its own files

        return torch_file.list_torch_file(path).tensors
    raise ModelError(
        f"{folder} has {CONFIG} but neither adapter_model.safetensors nor adapter_model.bin; "
        "download or save the adapter again"
    )


def _sorted_out(
    tensors: Iterable[StoredTensor],
) -> tuple[dict[str, dict[str, StoredTensor]], list[StoredTensor]]:
    """Module -> its two factors, and the tensors that are no factors, under the base's names."""
    factors: dict[str, dict[str, StoredTensor]] = {}
    others: list[StoredTensor] = []
    for tensor in tensors:
        name = tensor.name.removeprefix(PREFIX)
        match = _FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match["module"], {})[match["side"]] = tensor
            continue
        if ".original_module." in name:
            continue  # the base's own values, beside the trained ones of modules_to_save
        why = tensor.unsupported
        if "lora_magnitude_vector" in name:
            why = "magnitudes of DoRA, one per row: not a matrix"
        elif "trainable_tokens" in name:
            why = "rows of an embedding (trainable tokens): not a whole matrix"
        name = re.sub(r"\.modules_to_save(\.default)?(?=\.)", "", name).replace(".base_layer.", ".")
        others.append(dataclasses.replace(tensor, name=name, unsupported=why))
    return factors, others


def _pair(
    module: str, sides: Mapping[str, StoredTensor], config: Mapping[str, Any], folder: Path
) -> tuple[AdapterPair | None, str]:
    """The update of one module, or None and why it is none."""
    up, down = sides["B"], sides["A"]
    rank = down.shape[0] if down.shape else 0
    if config.get("target_parameters") and rank != _setting(module, "r", config, folder):
        return None, "LoRA of a stack of experts (target_parameters) is not supported"
    if up.unsupported or down.unsupported:
        return None, up.unsupported or down.unsupported or ""
    if len(down.shape) > 2 and any(size != 1 for size in up.shape[2:]):
        return None, "LoRA of a convolution whose B has a kernel is not supported"
    if len(up.shape) < 2 or len(down.shape) < 2 or up.shape[1] != rank:
        raise ModelError(
            f"{folder}: B must be (outputs, rank) and A (rank, inputs), got {up.shape} and "
            f"{down.shape} for '{module}'; download or save the adapter again"
        )
    expected = _setting(module, "r", config, folder)
    if rank != expected:
        raise ModelError(
            f"{folder}: '{module}' must have rank {expected:g} by {CONFIG}, got {rank}; config "
            "and weights do not belong together: download both again"
        )
    alpha = _setting(module, "lora_alpha", config, folder)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    # (outputs, rank, 1, 1) and (rank, inputs, kernel): the unfolded convolution.
    up, down = _flat(up), _flat(down)
    if "lora_embedding_" in down.name:
        # Factors of an embedding are stored for (dimension, entries), its weight is the other way.
        up, down = _turned(down), _turned(up)
    target = f"{module}.weight"
    return AdapterPair(name=f"{module}.lora", target=target, up=up, down=down, scale=scale), ""


def _setting(module: str, key: str, config: Mapping[str, Any], folder: Path) -> float:
    """``r`` or ``lora_alpha`` of one module: the first pattern that ends its name, or the default.

    Patterns are regular expressions for the end of the name, from a dot on, as in PEFT.
    """
    value = config.get(key, 8)
    patterns = config.get({"r": "rank_pattern", "lora_alpha": "alpha_pattern"}[key]) or {}
    try:
        for pattern, own in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                value = own
                break
        number = float(value)
    except (re.error, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / CONFIG}: {key} or its pattern is damaged ({error})") from error
    if not math.isfinite(number) or (key == "r" and number < 1):
        raise ModelError(f"{folder / CONFIG}: {key} must be a positive number, got {number}")
    return number


def _flat(tensor: StoredTensor) -> StoredTensor:
    """A tensor with all axes but the first as one."""
    shape = tensor.shape[0], math.prod(tensor.shape[1:])
    return dataclasses.replace(tensor, shape=shape, codes=lambda: tensor.codes().reshape(shape))


def _turned(tensor: StoredTensor) -> StoredTensor:
    """A 2-D tensor with rows and columns exchanged."""
    shape = tensor.shape[1], tensor.shape[0]
    return dataclasses.replace(tensor, shape=shape, codes=lambda: tensor.codes().T)


def _remarks(config: Mapping[str, Any]) -> list[str]:
    notes = []
    if config.get("fan_in_fan_out"):
        notes.append("the base stores (inputs, outputs); the updates are (outputs, inputs)")
    if config.get("use_dora"):
        notes.append("DoRA: the updates are those of the direction, before rows are rescaled")
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(_CHANGED_BASE):
        notes.append(f"started with {start}, which changed the base: the updates are to that base")
    return notes


# ----------------------------------------------------------------------- base and adapter


def _place(name: str, places: Mapping[str, int]) -> int | None:
    """Index of the base's tensor: the same name, or one of them with a prefix more.

    Checkpoints of a bare model lack the prefix (``transformer.``) that the model under a head has.
    """
    if name in places:
        return places[name]
    short = name
    while "." in short:
        short = short.partition(".")[2]
        # A bare "weight" or "proj.weight" would match by chance.
        if short.count(".") >= 2 and short in places:
            return places[short]
    longer = {i for known, i in places.items() if known.endswith("." + name)}
    return longer.pop() if len(longer) == 1 else None


def _added(base: StoredTensor, pair: AdapterPair, fan_in_fan_out: bool) -> StoredTensor:
    """The base tensor plus the product, formed when asked for."""
    if base.unsupported:
        raise UnsupportedFormat(f"'{base.name}' of the base cannot be read: {base.unsupported}")
    m, n = pair.up.shape[0], pair.down.shape[1]
    upright = base.shape[0] == m and math.prod(base.shape[1:]) == n if base.shape else False
    across = base.shape == (n, m)
    if not upright and not across:
        raise ModelError(
            f"'{base.name}' must be {(m, n)} for the adapter, got {base.shape}: "
            "name the model that the adapter was trained on"
        )
    embedding = "lora_embedding_" in pair.up.name
    turned = across and (not upright or (fan_in_fan_out and not embedding))
    wide = base.dtype == "float64"
    return dataclasses.replace(
        base,
        dtype="float64" if wide else "float32",
        codes=_sum(base, pair, turned),
        decode=_identity,
    )


def _sum(base: StoredTensor, pair: AdapterPair, turned: bool) -> Callable[[], np.ndarray]:
    def codes() -> np.ndarray:
        weights = np.array(base.decode(base.codes()), order="C")
        target_mn = weights.T if turned else weights.reshape(pair.up.shape[0], -1)
        start = 0
        for slab in ProductLoader(pair).blocks(0, ROWS_AT_A_TIME):
            target_mn[start : start + len(slab)] += slab
            start += len(slab)
        return weights

    return codes


def _identity(values: np.ndarray) -> np.ndarray:
    return values


def _trained_on(config: Mapping[str, Any]) -> str:
    name = config.get("base_model_name_or_path")
    return f" (its config says: {name})" if isinstance(name, str) and name else ""
