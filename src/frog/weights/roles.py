"""What a tensor is: one matrix, several, or nothing to measure; by its name and shape.

The rules, in the order in which they are tried (the numbers are in every report):

    0  tensors that a source cannot decode, empty tensors, integers     listed
    1  vectors, norms, biases of any rank, states, buffers              listed
    2  positional embeddings                                            listed, or on request
    3  token embeddings, output heads, routers                          measured, not averaged
    4  linear layers known by name; GPT-2's Conv1D is stored (in, out)  measured
    5  stacks of experts, and experts stored one by one                 one matrix each
    6  convolutions, unfolded to (out, in·k...); depthwise are listed   measured
    7  fused projections and the gates of recurrent layers              one matrix each
    8  what no rule knows                                               measured, with a warning

A rule asks for the parameter, not for the class of its module: file and live model then give the
same. The class helps only where the name says nothing. A transposed convolution is unfolded as
it lies, (in, out·k...): the matrix of the convolution whose adjoint it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from frog.numerics import views
from frog.types import MatrixView
from frog.weights import layouts, name_table
from frog.weights.layouts import Context, Shape, Slices


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One matrix of a tensor; ``suffix`` is empty where the tensor holds only this one."""

    role: str
    kind: str
    view: MatrixView
    suffix: str = ""
    averaged: bool = True
    warning: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a rule says of a tensor: its matrices, or the reason why it has none."""

    rule: str
    role: str
    parts: tuple[Part, ...] = ()
    reason: str | None = None


def read(
    name: str,
    shape: Shape,
    context: Context,
    *,
    dtype: str = "float32",
    owner: str = "",
    include_positions: bool = False,
) -> Reading:
    """Apply the rules to one tensor.

    >>> reading = read("h.0.mlp.c_fc.weight", (64, 256), Context())
    >>> reading.rule, [part.role for part in reading.parts]
    ('4 linear', ['up'])
    """
    stem = _stem(name)
    listed = _not_a_map(name, stem, shape, dtype, owner)
    if listed is not None:
        return listed
    if name_table.POSITIONS.find(stem):
        return _position(shape, include_positions)
    if shape[1:] and len(shape) == 3 and name_table.EXPERTS.search(stem):
        return _experts(name, shape, context)
    if recurrent := name_table.RECURRENT.search(name):
        return _recurrent(name, recurrent[1], shape, context)
    if len(shape) > 2:
        return _kernel(name, stem, shape, context, owner)
    return _plain_or_fused(name, stem, shape, context, owner)


def _stem(name: str) -> str:
    """The name without what wraps a weight: ``.weight``, adapters, weight normalisation."""
    for ending in (".weight", ".weight_v", ".parametrizations.weight.original1"):
        name = name.removesuffix(ending)
    return name.removesuffix(".base_layer").replace("._orig_mod.", ".")


# ------------------------------------------------------------------------ rules 0 and 1


def _not_a_map(name: str, stem: str, shape: Shape, dtype: str, owner: str) -> Reading | None:
    if math.prod(shape) == 0:
        return Reading(rule="0 empty", role="buffer", reason="holds no elements")
    if row := name_table.BUFFERS.find(stem):
        return Reading(rule="1 buffer", role=row.role, reason="a buffer, not a weight")
    if name_table.POSITIONS.find(stem):
        return None
    if dtype == "bool" or dtype.startswith(("int", "uint")):
        return Reading(rule="0 integer", role="buffer", reason=f"holds {dtype}, not weights")
    if row := name_table.STATES.find(stem):
        return Reading(rule="1 state", role=row.role, reason=_WHY_STATE[row.role])
    if name_table.BIAS.search(name):
        return Reading(rule="1 bias", role="bias", reason="a bias adds, it does not map")
    if len(shape) < 2:
        role = "scalar" if math.prod(shape) == 1 else "vector"
        if name_table.NORMS.search(stem) or "norm" in owner.lower():
            role = "norm"
        return Reading(rule="1 vector", role=role, reason="a vector: a matrix has two axes")
    if not name.endswith(".weight") and max(shape) == math.prod(shape):
        return Reading(rule="1 vector", role="vector", reason="a vector, with axes of length one")
    if "norm" in owner.lower() and "Linear" not in owner:
        return Reading(rule="1 norm", role="norm", reason="gains of a normalisation")
    return None


_WHY_STATE = {
    "state": "parameters of a state space: rates, not a map",
    "scalar": "scales of single channels or heads, not a map",
    "token": "a learned token: an input, not a map",
}


_WHY_POSITION = "a table of positions: no map between features"


def _position(shape: Shape, wanted: bool) -> Reading:
    """Rule 2."""
    if len(shape) != 2 or not wanted:
        return Reading(rule="2 position", role="position", reason=_WHY_POSITION)
    part = Part(role="position", kind="embedding", view=views.plain(shape), averaged=False)
    return Reading(rule="2 position", role="position", parts=(part,))


# ------------------------------------------------------------------------ rules 5 and 6


def _experts(name: str, shape: Shape, context: Context) -> Reading:
    """One matrix per expert, and per gate and up; a stack of one keeps its number."""
    return _numbered(layouts.split_experts(name, shape, context))


def _numbered(made: list[tuple[int, str, MatrixView]]) -> Reading:
    several = len({role for _, role, _ in made}) > 1
    parts = tuple(
        Part(
            role=role,
            kind="expert",
            view=view,
            suffix=f"[{number}].{role}" if several else f"[{number}]",
        )
        for number, role, view in made
    )
    return Reading(rule="5 experts", role="experts", parts=parts)


def _kernel(name: str, stem: str, shape: Shape, context: Context, owner: str) -> Reading:
    """Three axes or more."""
    rank = len(shape) - 2
    named = name.endswith((".weight", ".weight_v", ".original1")) or "Conv" in owner
    if not named or rank > 3:
        part = Part(
            role="matrix?",
            kind=f"conv{rank}d" if rank <= 3 else "linear",
            view=views.plain(shape),
            warning=f"no rule knows this {len(shape)}-D tensor: measured as "
            f"{shape[0]} x {math.prod(shape[1:])}, first axis against the others",
        )
        return Reading(rule="8 unknown", role="matrix?", parts=(part,))
    stem_layer = name == context.first_kernel and not name_table.DEPTHWISE.search(stem)
    if shape[1] == 1 and shape[0] > 1 and not stem_layer:
        reason = "depthwise: one small kernel per channel, no matrix between channels"
        return Reading(rule="6 depthwise", role="conv", reason=reason)
    role = "patch" if name_table.PATCH.search(stem) else "conv"
    if role == "conv" and (row := name_table.INSIDE.find(stem)):
        role = row.role
    part = Part(role=role, kind=f"conv{rank}d", view=views.plain(shape))
    return Reading(rule="6 convolution", role=role, parts=(part,))


# --------------------------------------------------------------------- rules 3, 4, 7, 8


def _plain_or_fused(name: str, stem: str, shape: Shape, context: Context, owner: str) -> Reading:
    """Two axes."""
    if stacked := name_table.STACKED_ROWS.search(stem):
        made = layouts.split_stacked_rows(stacked[1], shape, context.tower(name))
        if made:
            return _numbered(made)
    if name_table.FUSED_QKV.search(stem):
        return _slices(layouts.split_qkv(name, stem, shape, context), shape, "qkv")
    if name_table.PATCH.search(stem):
        return _one("4 linear", "patch", "linear", shape)
    if row := name_table.APART.find(stem):
        kind = {"embedding": "embedding", "head": "head"}.get(row.role, "linear")
        return _one("3 apart", row.role, kind, shape, averaged=row.averaged)
    if name_table.TOP_HEADS.search(stem):
        return _one("3 apart", "head", "head", shape, averaged=False)
    if name_table.LORA.search(stem):
        return _one("4 adapter", "lora", "adapter", shape, averaged=False)
    row = name_table.INSIDE.find(stem)
    if row is None and name_table.block_of(name):
        row = name_table.IN_BLOCK.find(stem)
    if row is not None:
        return _known(name, stem, row.role, shape, context)
    if "Embedding" in owner:
        return _one("3 apart", "embedding", "embedding", shape, averaged=False)
    if name_table.GENERIC.search(stem) or owner.endswith("Linear"):
        return _one("4 linear", "linear", "linear", shape)
    part = Part(
        role="matrix?",
        kind="linear",
        view=views.plain(shape),
        warning="no rule knows this name: measured as a plain (out, in) matrix",
    )
    return Reading(rule="8 unknown", role="matrix?", parts=(part,))


def _known(name: str, stem: str, role: str, shape: Shape, context: Context) -> Reading:
    if role == "gate_up":
        return _slices(layouts.split_gate_up(shape), shape, "gate_up")
    if role == "kv" and (made := layouts.split_qkv(name, stem, shape, context)):
        return _slices(made, shape, "kv")
    if role == "q":
        halves = layouts.split_gated_query(stem, shape, context.tower(name))
        if halves is not None:
            return _slices(halves, shape, "q")
    if name_table.EXPERT.search(name):
        return _one("5 experts", role, "expert", shape)
    word = stem.rpartition(".")[2]
    if context.conv1d and word in ("c_proj", "c_fc", "q_attn"):
        part = Part(role=role, kind="linear", view=views.transposed(views.plain(shape)))
        return Reading(rule="4 linear", role=role, parts=(part,))
    return _one("4 linear", role, "linear", shape)


def _recurrent(name: str, kind: str, shape: Shape, context: Context) -> Reading:
    """Rule 7 for LSTM and GRU: roles like ``ih_f``, the forget gate's input matrix."""
    made = layouts.split_gates(name, kind, shape, context)
    if made is None:
        return _one("7 recurrent", kind, "recurrent", shape)
    parts = tuple(
        Part(role=f"{kind}_{letter}", kind="recurrent", view=view, suffix=f"[{letter}]")
        for letter, view in made
    )
    return Reading(rule="7 recurrent", role=kind, parts=parts)


def _slices(made: Slices | None, shape: Shape, whole: str) -> Reading:
    """The slices of a fused tensor; one whole matrix where its layout is not known."""
    if made is None:
        return _one("7 fused", whole, "linear", shape)
    parts = tuple(
        Part(role=role, kind="linear", view=view, suffix=f"[{role}]") for role, view in made
    )
    return Reading(rule="7 fused", role=whole, parts=parts)


def _one(rule: str, role: str, kind: str, shape: Shape, *, averaged: bool = True) -> Reading:
    part = Part(role=role, kind=kind, view=views.plain(shape), averaged=averaged)
    return Reading(rule=rule, role=role, parts=(part,))
