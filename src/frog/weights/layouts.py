"""How fused tensors hold their matrices: thirds, heads, groups, experts, gates.

Each layout is a function of (shape, tower configuration) that gives the slices, or None where
the numbers do not fit: then the tensor stays one matrix, which is honest, if coarser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from frog.numerics import views
from frog.types import MatrixView

Config = Mapping[str, Any]
Shape = tuple[int, ...]
Slices = list[tuple[str, MatrixView]]
"""Role and view of every matrix in a tensor."""


@dataclass(frozen=True)
class Context:
    """What the rules may know beside a tensor's own name and shape."""

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    config: Config = field(default_factory=dict)

    def tower(self, name: str) -> Config:
        """The configuration of the tower that a tensor belongs to, over the whole model's."""
        for word, key in (("vis", "vision_config"), ("audio", "audio_config")):
            if word in name and isinstance(self.config.get(key), Mapping):
                return self.config[key]
        for key in ("text_config", "llm_config", "language_config"):
            if isinstance(self.config.get(key), Mapping):
                return {**self.config, **self.config[key]}
        return self.config

    def sibling(self, name: str, old: str, new: str) -> Shape | None:
        """Shape of the tensor whose name differs only in its last ``old``."""
        head, found, tail = name.rpartition(old)
        return self.shapes.get(head + new + tail) if found else None

    @cached_property
    def conv1d(self) -> bool:
        """Whether the model is built of GPT-2's Conv1D, whose weights are stored (in, out).

        The shape of the fused projection tells: it is (i, 3i) there, (3i, i) in a Linear.
        """
        return any(
            len(shape) == 2 and shape[1] == 3 * shape[0]
            for name, shape in self.shapes.items()
            if name.endswith("c_attn.weight")
        )

    @cached_property
    def first_kernel(self) -> str | None:
        """The first convolution over images: with one input channel, a stem, not depthwise."""
        return next((name for name, shape in self.shapes.items() if len(shape) >= 4), None)


# ---------------------------------------------------------------------- fused attention


def split_qkv(name: str, stem: str, shape: Shape, context: Context) -> Slices | None:
    """The q, k, v (and z) matrices of a fused projection; None where the layout is not known."""
    config = context.tower(name)
    model_type = str(config.get("model_type", ""))
    for types, tensor, layout in QKV_LAYOUTS:
        if re.fullmatch(types, model_type) and re.search(rf"(?:^|[._])(?:{tensor})$", stem):
            return layout(shape, config)
    return None


def _concatenated(shape: Shape, config: Config) -> Slices | None:
    """(q | k | v) rows, with fewer key heads where the configuration says so.

    The heads decide, not the shape: (heads + 2 keys)·d can be 3n by chance.
    """
    m, n = shape
    heads, keys = _heads(config), _key_heads(config)
    if not heads:
        return _thirds(shape, config) if m == 3 * n else None
    size, rest = divmod(m, heads + 2 * keys)
    if rest:
        return None
    cuts = (0, heads * size, (heads + keys) * size, m)
    return [(r, views.fused(shape, 0, cuts[i], cuts[i + 1])) for i, r in enumerate("qkv")]


def _thirds(shape: Shape, config: Config) -> Slices | None:
    """Three square matrices; another shape may mean fewer key heads, and is left whole."""
    del config
    if shape[0] != 3 * shape[1]:
        return None
    return [(role, views.third(shape, i)) for i, role in enumerate("qkv")]


def _conv1d(shape: Shape, config: Config) -> Slices | None:
    """GPT-2: (i, 3i), or as a Linear (3i, i); with cross-attention (i, 2i) holds k and v."""
    m, n = shape
    if m == 3 * n:
        return _thirds(shape, config)
    roles = {3: "qkv", 2: "kv"}.get(n // m)
    if roles is None or n % m:
        return None
    return [
        (role, views.transposed(views.fused(shape, 1, i * m, (i + 1) * m)))
        for i, role in enumerate(roles)
    ]


def _per_head(shape: Shape, config: Config) -> Slices | None:
    """Rows (head, q k v, d)."""
    heads = _heads(config)
    if not heads or shape[0] % (3 * heads):
        return None
    d = shape[0] // (3 * heads)
    return [(role, views.grouped(shape, heads, i * d, (i + 1) * d)) for i, role in enumerate("qkv")]


def _falcon(shape: Shape, config: Config) -> Slices | None:
    """Groups of heads with one key each (40B), one key for all (7B), or per head (RW)."""
    heads = _heads(config)
    if not heads:
        return None
    if config.get("new_decoder_architecture"):
        groups = int(config.get("num_kv_heads") or heads)
    elif config.get("multi_query", True):
        groups = 1
    else:
        return _per_head(shape, config)
    return _shared_keys(shape, heads, groups)


def _shared_keys(shape: Shape, heads: int, groups: int) -> Slices | None:
    """Groups of rows: the queries of some heads, then the key and the value that they share."""
    share = heads // groups
    d, rest = divmod(shape[0], groups * (share + 2))
    if rest or heads % groups:
        return None
    cuts = (0, share * d, (share + 1) * d, (share + 2) * d)
    return [
        (role, views.grouped(shape, groups, cuts[i], cuts[i + 1])) for i, role in enumerate("qkv")
    ]


def _bigcode(shape: Shape, config: Config) -> Slices | None:
    if not config.get("multi_query", True):
        return _per_head(shape, config)
    heads = _heads(config)
    return _concatenated(shape, {"num_attention_heads": heads, "num_key_value_heads": 1})


def _internlm(shape: Shape, config: Config) -> Slices | None:
    heads, keys = _heads(config), _key_heads(config)
    return _shared_keys(shape, heads, keys) if heads and keys else None


def _codegen(shape: Shape, config: Config) -> Slices | None:
    """Four groups of rows (the cores that it was trained on): q, v, k."""
    del config
    if shape[0] % 12:
        return None
    size = shape[0] // 12
    return [(r, views.grouped(shape, 4, i * size, (i + 1) * size)) for i, r in enumerate("qvk")]


def _key_value(shape: Shape, config: Config) -> Slices | None:
    del config
    if shape[0] % 2:
        return None
    half = shape[0] // 2
    return [("k", views.fused(shape, 0, 0, half)), ("v", views.fused(shape, 0, half, 2 * half))]


def _linear_qkv(shape: Shape, config: Config) -> Slices | None:
    """Qwen3.5's linear attention: q and k of the key heads, v of the value heads."""
    names = ("linear_num_key_heads", "linear_key_head_dim")
    heads, d = (config.get(x) for x in names)
    if not (isinstance(heads, int) and isinstance(d, int)) or shape[0] <= 2 * heads * d:
        return None
    cuts = (0, heads * d, 2 * heads * d, shape[0])
    return [(r, views.fused(shape, 0, cuts[i], cuts[i + 1])) for i, r in enumerate("qkv")]


def _key_head_groups(shape: Shape, config: Config) -> Slices | None:
    """Qwen3-Next's linear attention: per key head q, k, and its value heads' v and z."""
    names = ("key_heads", "value_heads", "key_head_dim", "value_head_dim")
    numbers = [config.get(f"linear_{x}" if "dim" in x else f"linear_num_{x}") for x in names]
    if not all(isinstance(x, int) and x > 0 for x in numbers):
        return None
    groups, values, dk, dv = (int(x) for x in numbers)  # type: ignore[arg-type]
    width = values // groups * dv
    cuts = (0, dk, 2 * dk, 2 * dk + width, 2 * dk + 2 * width)
    if groups * cuts[-1] != shape[0] or values % groups:
        return None
    return [
        (role, views.grouped(shape, groups, cuts[i], cuts[i + 1])) for i, role in enumerate("qkvz")
    ]


Layout = Callable[[Shape, Config], Slices | None]

QKV_LAYOUTS: tuple[tuple[str, str, Layout], ...] = (
    (r"falcon|RefinedWeb|RefinedWebModel", r"query_key_value", _falcon),
    (r"bloom|gpt_neox|gpt_neox_japanese|persimmon|fuyu", r"query_key_value", _per_head),
    (r"gpt_bigcode", r"c_attn", _bigcode),
    (r".*", r"c_attn", _conv1d),
    (r"qwen3_next\w*|qwen3_5\w*", r"in_proj_qkvz", _key_head_groups),
    (r"qwen3_5\w*", r"in_proj_qkv", _linear_qkv),
    (r"phi3\w*|phi4\w*|phimoe|gte", r"qkv_proj", _concatenated),
    (r"minimax", r"qkv_proj", _per_head),
    (r"codegen", r"qkv_proj", _codegen),
    (r"internlm2\w*", r"wqkv", _internlm),
    (r"mpt|dbrx", r"Wqkv", _concatenated),
    (r".*", r"Wqkv", _thirds),  # the convention of flash-attention
    (r"jetmoe", r"kv_proj", _key_value),
    (r".*", r"to_kv", _key_value),
    (r"baichuan", r"W_pack", _thirds),
    (r".*", r"in_proj_weight", _thirds),
    # Every vision tower with as many keys as queries reshapes attn.qkv to (3, heads, d).
    (r".*", r"(?:attn|attention)[.]qkv", _thirds),
)
"""Model type, end of the tensor's name, layout; the first row that fits."""


def split_gated_query(stem: str, shape: Shape, config: Config) -> Slices | None:
    """Qwen3-Next's q_proj: per head, the query and then the gate of its output."""
    model_type = str(config.get("model_type", ""))
    heads, d = _heads(config), config.get("head_dim")
    if not (stem.endswith("q_proj") and re.match(r"qwen3_next|qwen3_5", model_type)):
        return None
    if not heads or not isinstance(d, int) or shape[0] != 2 * heads * d:
        return None
    return [
        ("q", views.grouped(shape, heads, 0, d)),
        ("q_gate", views.grouped(shape, heads, d, 2 * d)),
    ]


# ------------------------------------------------------------------------- feed-forward


def split_gate_up(shape: Shape) -> Slices | None:
    """The two halves of a fused projection: the gate, then what it gates."""
    if shape[0] % 2:
        return None
    half = shape[0] // 2
    return [("gate", views.fused(shape, 0, 0, half)), ("up", views.fused(shape, 0, half, 2 * half))]


def split_experts(name: str, shape: Shape, context: Context) -> list[tuple[int, str, MatrixView]]:
    """(expert, role, view) of every matrix in a stack of experts (E, ., .)."""
    word = name.rsplit(".weight", 1)[0].rpartition(".")[2]
    role = EXPERT_ROLES[word]
    swapped = _swapped(name, word, shape, context)
    result: list[tuple[int, str, MatrixView]] = []
    for number in range(shape[0]):
        view = views.expert(shape, number, swapped=swapped)
        if role != "gate_up" or shape[2 if swapped else 1] % 2:
            result.append((number, role, view))
            continue
        axis = 2 if swapped else 1
        size = shape[axis]
        if _interleaved(name, context):
            pair = [views.part(view, axis, i, size, 2) for i in (0, 1)]
        else:
            pair = [views.part(view, axis, i * size // 2, (i + 1) * size // 2) for i in (0, 1)]
        result += [(number, "gate", pair[0]), (number, "up", pair[1])]
    return result


def split_stacked_rows(
    word: str, shape: Shape, config: Config
) -> list[tuple[int, str, MatrixView]]:
    """DBRX: experts one below the other in (E·ff, i), the down matrices transposed; [] unknown."""
    nested = config.get("ffn_config")
    experts = _first(nested, ("moe_num_experts",)) if isinstance(nested, Mapping) else 0
    if not experts or shape[0] % experts:
        return []
    role = {"w1": "gate", "v1": "up", "w2": "down"}[word]
    result = []
    for number in range(experts):
        view = views.pick(views.regrid(views.plain(shape), 0, (experts, -1)), 0, number)
        result.append((number, role, views.transposed(view) if role == "down" else view))
    return result


EXPERT_ROLES = {
    "gate_up_proj": "gate_up",
    "input_linear": "gate_up",
    "gate_proj": "gate",
    "w1": "gate",
    "up_proj": "up",
    "w3": "up",
    "down_proj": "down",
    "output_linear": "down",
    "w2": "down",
}

_PARTNERS = {"gate_up_proj": "down_proj", "up_proj": "down_proj", "gate_proj": "down_proj"}


def _swapped(name: str, word: str, shape: Shape, context: Context) -> bool:
    """Whether experts are stored (E, in, out).

    The partner's shape tells: stored (out, in), what goes in at the first projection comes out
    of the second. Model types decide only where a partner is missing.
    """
    if word == "down_proj":
        for first in ("gate_up_proj", "up_proj", "gate_proj"):
            if (other := context.sibling(name, word, first)) is not None:
                return _is_swapped(other, shape)
    elif word in _PARTNERS:
        other = context.sibling(name, word, _PARTNERS[word])
        if other is not None:
            return _is_swapped(shape, other)
    return bool(re.match(r"gpt_oss|llama4|aria", str(context.tower(name).get("model_type", ""))))


def _is_swapped(first: Shape, second: Shape) -> bool:
    """Shapes (E, ., .) of the first and second projection: True for (in, out)."""
    if len(first) != 3 or len(second) != 3:
        return False
    straight = first[2] == second[1] and first[1] in (second[2], 2 * second[2])
    turned = first[1] == second[2] and first[2] in (second[1], 2 * second[1])
    return turned and not straight


def _interleaved(name: str, context: Context) -> bool:
    """Whether gate and up alternate: GPT-OSS and its kin, whose experts have biases."""
    model_type = str(context.tower(name).get("model_type", ""))
    return model_type in ("gpt_oss", "openai_privacy_filter") or (
        not model_type and f"{name}_bias" in context.shapes
    )


# ---------------------------------------------------------------------------- recurrent


def split_gates(name: str, kind: str, shape: Shape, context: Context) -> Slices | None:
    """The gates of an LSTM (i, f, g, o) or a GRU (r, z, n), for ``kind`` ih or hh."""
    # What multiplies the state tells the hidden size: hr where the state is projected, else hh.
    hidden = context.sibling(name, f"_{kind}", "_hr")
    recurrent = context.sibling(name, f"_{kind}", "_hh")
    width = hidden[1] if hidden else recurrent[1] if recurrent else 0
    letters = {4 * width: "ifgo", 3 * width: "rzn"}.get(shape[0]) if width else None
    if letters is None:
        return None
    return [
        (letter, views.fused(shape, 0, i * width, (i + 1) * width))
        for i, letter in enumerate(letters)
    ]


def _heads(config: Config) -> int:
    return _first(config, ("num_attention_heads", "n_head", "num_heads", "n_heads"))


def _key_heads(config: Config) -> int:
    nested = config.get("attn_config")
    own = _first(config, ("num_key_value_heads", "num_kv_heads"))
    inner = _first(nested, ("kv_n_heads",)) if isinstance(nested, Mapping) else 0
    return own or inner or _heads(config)


def _first(config: Config, names: tuple[str, ...]) -> int:
    return next((config[x] for x in names if isinstance(config.get(x), int)), 0)
