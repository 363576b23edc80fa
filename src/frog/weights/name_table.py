"""The name table: what a tensor's name says of it. A model family is one row here.

Patterns match the end of a name (without ``.weight``), on the border of a component. The first
row that matches wins; rows that name more components come before rows that name fewer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """Names that end so have this role; ``averaged`` says whether they enter model means."""

    pattern: re.Pattern[str]
    role: str
    averaged: bool = True


class Table:
    """Rows in order of precedence; what was found is kept, for names differ mostly in numbers."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = tuple(rows)
        self._found: dict[str, Row | None] = {}

    def find(self, name: str) -> Row | None:
        """The first row whose pattern matches the end of the name (without ``.weight``)."""
        # No pattern asks which layer or expert it is; a number at the end may matter (mlp.0).
        key = _INNER_NUMBER.sub("0", name)
        if key not in self._found:
            found = (row for row in self._rows if row.pattern.search(key))
            self._found[key] = next(found, None)
        return self._found[key]


_INNER_NUMBER = re.compile(r"(?<=[.])\d+(?=[.])")


def _rows(*rows: tuple[str, str], averaged: bool = True) -> Table:
    return Table([Row(_ending(pattern), role, averaged) for pattern, role in rows])


def _ending(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[.])(?:{pattern})$")


BIAS = re.compile(r"(?:^|[._])bias(?:es)?(?:_[a-z]+(?:_l\d+(?:_reverse)?)?)?$")
"""Also ``gate_up_proj_bias`` (2-D in GPT-OSS) and ``bias_ih_l0``."""

BUFFERS = _rows(
    (r"running_(mean|var)|num_batches_tracked", "buffer"),
    (
        r"position_ids|token_type_ids|inv_freq|e_score_correction_bias|attn\.(masked_)?bias",
        "buffer",
    ),
    (r"(sin|cos)_cached|causal_mask|relative_(position|coords)_(index|table)|attn_mask", "buffer"),
)

STATES = _rows(
    (r"A_log|A|D|dt_bias|time_(decay|first|faaaa|maa_\w+|mix_\w+|shift)", "state"),
    (r"sinks", "scalar"),
    (
        r"logit_(scale|bias)|layer_scale\w*|gamma_[12]|ls[12](\.gamma)?|(lambda|scale)[12]?",
        "scalar",
    ),
    (r"(\w+_)?(cls|mask|class|dist|distillation|reg|register|query|pad|sep)_tokens?", "token"),
    (r"class_embedding|image_newline|\w*_separator|(\w+\.)?\w*embedding\.cls", "token"),
)

POSITIONS = _rows(
    (
        r"wpe|(\w+_)?(embed_positions?|positions_embed)|embed_pos|(\w+_)?pos_embeddings|pos(ition(al)?)?_embed(ding)?s?",
        "position",
    ),
    (r"(\w+_)?position(al)?_embeddings?(\.\w+)?|(\w+_)?pos_embed(\.\w+)?", "position"),
    (r"relative_attention_bias|relative_position_bias(_table)?|rel_pos_[hw]", "position"),
    (r"(rel_pos|pos)_emb(edding)?s?|position_bias|distance_embedding", "position"),
)

NORMS = re.compile(
    r"(norm|(^|\.|_)ln(_?\w+)?$|layernorm|rmsnorm|(^|\.)bn\d*$|batch_?norm|(^|\.)ln_?f)", re.I
)

APART = _rows(
    (r"embed_tokens|word_embeddings|tok_embeddings|token_embedding|wte|embed_in", "embedding"),
    (r"token_type_embeddings|segment_embeddings|shared|embed_tokens_per_layer", "embedding"),
    (r"embedding_projection|embeddings_project|embed_proj", "projection"),
    (r"\w*embedding_(hidden_mapping_in|dense|transformation)", "projection"),
    (r"lm_head|embed_out|proj_out|output_projection|decoder_head|generator|unembed", "head"),
    (r"(cls|lm_head|predictions)(\.predictions)?\.decoder|cls\.seq_relationship", "head"),
    (r"(?![qkvr]_)\w+_head|predict_\w+|score|qa_outputs|vocab_projector|regressor", "head"),
    (r"(classifiers?|classification_head)(\.out_proj)?", "head"),
    (r"(\w+_)?(embed|embeds|emb|embedding|embeddings)(_table|_layer)?|embed_\w+", "embedding"),
    (r"codebooks?|transformer\.w", "embedding"),
    (r"(mlp|feed_forward|ffn|block_sparse_moe|moe|mixer)\.gate(\.wg)?", "router"),
    (r"router(\.(classifier|layer|weight|wg|gate))?|shared_expert_gate", "router"),
    averaged=False,
)
"""Measured, outside the model means."""

TOP_HEADS = re.compile(
    r"^(?:module\.|model\.)?(?:fc|linear|head|heads\.head|output|classifier\.\d+)$"
)
"""Heads only where they stand at the top of a model: inside a block they are ordinary."""

EXPERTS = re.compile(
    r"(?:^|[.])(?:(?:shared_)?experts|moe)[.](gate_up_proj|gate_proj|up_proj|down_proj|w1|w2|w3)$"
    r"|(?:moe|mlp)[.](input_linear|output_linear)$"
)
"""Stacks of experts: 3-D tensors, one matrix (or a gate and an up matrix) per expert."""

STACKED_ROWS = re.compile(r"(?:^|[.])experts[.]mlp[.](w1|v1|w2)$")
"""Experts one below the other in a 2-D tensor (DBRX)."""

EXPERT = re.compile(r"(?:^|[.])experts[.]\d+[.]")
"""One expert stored by itself."""

LORA = re.compile(r"(?:^|[.])lora_(?:embedding_)?[AB](?:[.]\w+)?$")
"""A factor of an adapter inside a live model; the product is measured from an adapter folder."""

FUSED_QKV = _ending(
    r"qkv(_proj)?|query_key_value|c_attn|[wW]qkv|W_pack|in_proj_weight|in_proj_qkvz?"
    r"|to_kv"
)

_SEPARATE = (
    r"{x}_(proj|lin|head)(_weight)?|(\w+_)?{word}(_proj|_net|_global)?|[wW]{x}|(to|project)_{x}"
    r"|(\w*[aA]ttention|attn|mlstm_layer)\.{x}"
)

INSIDE = _rows(
    # attention: latent (DeepSeek), linear (Qwen3-Next), then the plain forms
    (r"q_a_proj|wq_a", "q_down"),
    (r"q_b_proj|wq_b", "q_up"),
    (r"kv_a_proj_with_mqa|kv_a_proj|wkv_a", "kv_down"),
    (r"kv_b_proj|wkv_b", "kv_up"),
    (r"indexer\.\w+", "indexer"),
    (r"in_proj_ba|in_proj_[ab]|[ab]_proj|f_proj|f_[ab]_proj|[if]gate_preact", "rates"),
    (r"g_proj|g_[ab]_proj|output_gate|gate_attn|ogate_preact", "o_gate"),
    (r"in_proj_z", "z"),
    *((_SEPARATE.format(x=x, word=word), x) for x, word in (("q", "query"), ("k", "key"))),
    (_SEPARATE.format(x="v", word="value"), "v"),
    (r"c_q|q_attn", "q"),
    (r"kv_proj|to_kv|c_kv", "kv"),
    (r"(DenseReluDense|mlp|ffn)\.[wW]o", "down"),
    (r"mixer\.out_proj|mamba\.out_proj", "out"),
    (r"(\w*Self|EncDec)Attention\.o|o_proj|out_lin|wo|attention\.o|to_out(\.0)?", "o"),
    (r"(attn|attention|self_attn|cross_attn|encoder_attn|linear_attn)\.out_proj", "o"),
    (r"(attn|attention)\.(c_proj|proj|dense|wo|o)|attention\.output\.dense|attn\.out", "o"),
    (r"attention_out|attn_out|(attn|attention)\.output", "o"),
    (r"self_attention\.dense|crossattention\.output\.dense|out_proj|Wo", "o"),
    # between a vision tower and its reader: before the feed-forward, whose names it borrows
    (r"\w*merger\w*(\.\d+)?\.(mlp\.\d+|linear_fc\d|mlp|proj|\w+_proj)", "projection"),
    (r"visual\.proj|patch_merger\.\w+", "projection"),
    # feed-forward
    (r"gate_up_proj|Wi|wi_fused", "gate_up"),
    (r"gate_proj|w1|wi_0|ffn_gate|linear_v|dense_gated|fc1_g", "gate"),
    (r"up_proj|w3|wi_1|wi|c_fc|fc_in|dense_h_to_4h|intermediate\.dense|ffn\.lin1|w_in", "up"),
    (r"((\w*\.)?(mlp|ffn|feed_forward|ff))\.(lin1|fc1|fc_1|linear_1|linear1|w_1|0)|pwconv1", "up"),
    (r"intermediate_dense|feed_forward\.intermediate|dense_in|proj_up", "up"),
    (r"output_dense|feed_forward\.output|dense_out|proj_down|ffn_output|ff_out", "down"),
    (r"shared_mlp\.input_linear", "gate_up"),
    (r"shared_mlp\.output_linear", "down"),
    (r"proj_up_gate", "gate"),
    (r"down_proj|w2|fc_out|dense_4h_to_h|ffn\.lin2|w_out", "down"),
    (r"((\w*\.)?(mlp|ffn|feed_forward|ff))\.(lin2|fc2|fc_2|linear_2|linear2|w_2|2|c_proj)", "down"),
    (r"output\.dense|pwconv2", "down"),
    # state spaces
    (r"in_proj", "in"),
    (r"x_proj", "x"),
    (r"dt_proj", "dt"),
    # between towers, and after them
    (r"pooler(\.dense)?|transform\.dense|(head|classifier|lm_head)\.dense", "pooler"),
    (r"projection_head|prediction_head", "pooler"),
    (r"(visual|text|vision|multi_modal|mm|image|audio|modality|embedding|\w*)_?project(ion|or)"
     r"(\.(linear(_\d)?|linear\d|proj(_\d)?|\d+))?", "projection"),
    (r"reduction", "projection"),
)  # fmt: skip

IN_BLOCK = _rows(
    (r"(fc|linear|lin|dense)_?1|ffn_layer1", "up"),
    (r"(fc|linear|lin|dense)_?2|ffn_layer2", "down"),
)
"""Generic names that mean a feed-forward pair only inside a block."""

GENERIC = re.compile(
    r"(?:^|[.])(?:fc|linear|lin|dense|net|layers?|mlp|features|classifier|hidden|model)_?\d*"
    r"(?:[.](?:\d+|linear|fc|dense|[a-z]\d+))*$|^(?:\w+[.])*\d+$"
)
"""Names of plain linear layers in models without roles."""

RECURRENT = re.compile(r"(?:^|[.])weight_(ih|hh|hr)(?:_l(\d+)(_reverse)?)?$")

DEPTHWISE = re.compile(r"dw_?conv|depth_?wise|(?:^|[.])dw(?:[.]|$)|(?:^|[.])conv1d$", re.I)

PATCH = _ending(
    r"patch_embed(ding)?s?(\.\w+)?|patch_embed(ding)?s?\.(proj|projection)"
    r"|embeddings\.patch_embeddings(\.projection)?|conv_proj"
)

_CONTAINERS = r"(?:layers?|h|blocks?|resblocks|encoder_layers|decoder_layers|transformer_blocks)"
_STAGED = re.compile(
    r"(?:^|[.])(?:(?:stages?|levels?|layers)[.](\d+)[.](?:layers|blocks)[.](\d+)"
    r"|layer(\d+)[.](\d+)|features[.](\d+)[.](\d+))(?:[.]|$)"
)
_BLOCK = re.compile(rf"(?:^|[.]){_CONTAINERS}[.](\d+)(?:[.]|$)")


def block_of(name: str) -> tuple[int, ...]:
    """Where a tensor stands in depth: (layer,), (stage, layer) or () outside all blocks.

    >>> block_of("encoder.block.3.layer.0.SelfAttention.q"), block_of("layer2.1.conv1")
    ((3,), (2, 1))
    """
    if staged := _STAGED.search(name):
        return tuple(int(x) for x in staged.groups() if x is not None)
    found = _BLOCK.search(name)
    return (int(found[1]),) if found else ()


def stack_of(name: str) -> str | None:
    """The name of the stack of blocks that a tensor stands in, or None outside all stacks.

    >>> stack_of("bert.encoder.layer.3.output.dense.weight")
    'bert.encoder.layer'
    """
    if _STAGED.search(name):
        return None
    found = _BLOCK.search(name)
    return name[: found.start(1) - 1] if found else None
