"""Where the normalisations of a transformer block stand, told by their names.

A *scheme* says which normalisation stands before the attention and before the feed-forward,
behind the output of either, or behind the sum with the stream (post-norm models). A family with
new names is one row here; names that no row explains give no gain, and a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Names (without ``.weight``) of a block's normalisations by place; "" where there is none.

    ``attention`` and ``feed`` stand before the readers of the sub-block; ``o`` and ``down``
    behind its output, before it is added to the stream; ``after_attention`` and ``after_feed``
    behind the sum: the *next* readers see their gain. ``beside`` stand elsewhere. ``parallel``
    blocks feed both sub-blocks from the same stream. ``types`` restricts the scheme to
    configurations of these types, ``mark`` to blocks with a tensor of this name.
    """

    attention: str = ""
    feed: str = ""
    o: str = ""
    down: str = ""
    after_attention: str = ""
    after_feed: str = ""
    beside: tuple[str, ...] = ()
    parallel: bool = False
    types: str = ""
    mark: str = ""

    @property
    def names(self) -> set[str]:
        """The names that a block of this scheme has."""
        before, after = (self.attention, self.feed), (self.after_attention, self.after_feed)
        return {x for x in (*before, self.o, self.down, *after, *self.beside) if x}

    @property
    def post(self) -> bool:
        """Whether the stream itself is normalised at the end of each sub-block."""
        return bool(self.after_attention)


def _before(attention: str, feed: str, *, parallel: bool = False, types: str = "") -> Scheme:
    return Scheme(attention=attention, feed=feed, parallel=parallel, types=types)


def _after(attention: str, feed: str, *, types: str = "") -> Scheme:
    return Scheme(after_attention=attention, after_feed=feed, types=types)


_INPUT, _MIDDLE = "input_layernorm", "post_attention_layernorm"
_NEOX = "attention.query_key_value"
_PRE_TYPES = r"whisper|opt|mbart|m2m_100|nllb\S*|pegasus\w*|blenderbot\w*|xglm|speech_to_text\w*"

SCHEMES = (
    # behind the outputs as well: Gemma 2 and 3, GLM 4, OLMo 2 (only behind)
    Scheme(
        attention=_INPUT, o=_MIDDLE, feed="pre_feedforward_layernorm",
        down="post_feedforward_layernorm",
    ),
    Scheme(attention=_INPUT, o="post_self_attn_layernorm", feed=_MIDDLE, down="post_mlp_layernorm"),
    Scheme(o=_MIDDLE, down="post_feedforward_layernorm"),
    # GPT-NeoX has Llama's names; its configuration says whether the two halves are parallel
    Scheme(attention=_INPUT, feed=_MIDDLE, mark=_NEOX, parallel=True),
    _before(_INPUT, _MIDDLE),
    _before("ln_attn", "ln_mlp", parallel=True),
    _before(_INPUT, _INPUT, parallel=True),
    _before("ln_1", "ln_2"),
    _before("ln_1", "ln_1", parallel=True),
    _before("attention_norm", "ffn_norm"),
    _before("attn_norm", "mlp_norm"),
    _before("norm_1", "norm_2"),
    _before("norm_attn_norm.norm_1", "norm_attn_norm.norm_2"),
    _before("layernorm_before", "layernorm_after"),
    _before("layer_norm1", "layer_norm2"),
    _before("attention.LayerNorm", "intermediate.LayerNorm"),
    _before("layer.0.layer_norm", "layer.1.layer_norm", types=r"\w*t5\w*"),
    Scheme(
        attention="layer.0.layer_norm", feed="layer.2.layer_norm", beside=("layer.1.layer_norm",),
        types=r"\w*t5\w*",
    ),
    Scheme(attention="norm1", feed="norm2", mark="attn.qkv"),
    Scheme(beside=("norm1", "norm2")),  # before or behind: torch's own layers can do both
    Scheme(attention="norm"),  # state spaces: one sub-block
    _after("attention.output.LayerNorm", "output.LayerNorm"),
    _after("sa_layer_norm", "output_layer_norm"),
    _before("self_attn_layer_norm", "final_layer_norm", types=_PRE_TYPES),
    _after("self_attn_layer_norm", "final_layer_norm", types=r"bart|marian"),
)  # fmt: skip
"""Tried in this order: the first whose names are all there."""

CROSS = re.compile(r"encoder_attn|EncDecAttention|cross_?attn|cross_?attention", re.I)
"""Attention to another tower, and its normalisation."""

WITHIN = re.compile(
    r"(^|[._])(q|k|q_a|kv_a|query|key)_?(norm|layernorm|ln)$|q_layernorm|k_layernorm"
)
"""Normalisations inside the attention: of queries and keys, head by head."""

ADDS_ONE = re.compile(
    r"gemma[23]?(_text)?|paligemma|recurrent_gemma|vaultgemma|t5gemma2?|nemotron"
    r"|qwen3_(next|5)(_moe)?(_text)?"
)
"""Configuration types whose normalisations multiply by 1 + weight."""

FINAL = re.compile(
    r"(^|[.])(norm|ln_f|norm_f|final_layer_?norm|final_norm|layer_?norm|post_layernorm|ln_post)$"
)
"""The normalisation at the end of a stack."""


def scheme_of(stems: Set[str], norms: Set[str], config: Mapping[str, Any]) -> Scheme | None:
    """The scheme of blocks with tensors ``stems``, of which ``norms`` are normalisations, or None.

    >>> scheme_of(set(), {"ln_1", "ln_2"}, {}).feed
    'ln_2'
    """
    kind = str(config.get("model_type", ""))
    ours = {stem for stem in norms if not CROSS.search(stem) and not WITHIN.search(stem)}
    for scheme in SCHEMES:
        if scheme.names != ours or (scheme.mark and scheme.mark not in stems):
            continue
        if scheme.types and not re.fullmatch(scheme.types, kind):
            continue
        if scheme.mark == _NEOX:
            return replace(scheme, parallel=bool(config.get("use_parallel_residual", True)))
        return scheme
    return None
