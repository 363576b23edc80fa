"""Stacks of blocks around a residual stream: transformers, and state-space models alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frog.types import Edge, Gain, Heads, WeightMatrix, Wiring
from frog.weights.gains import Vectors, common_parts, natural_key
from frog.weights.layouts import Context
from frog.weights.name_table import stack_of
from frog.weights.norm_table import CROSS, FINAL, Scheme, scheme_of
from frog.weights.stored import TensorList

ATTENTION = ("q", "k", "v", "q_down", "kv_down", "in", "z", "o_gate")
FEED = ("gate", "up")
"""Roles that read the residual stream."""

WRITERS = ("o", "out", "down")
"""Roles that write into it, in the order of a block."""

_OTHER_EMBEDDING = re.compile(r"token_type|segment|per_layer")
_HEAD_NAME = re.compile(r"(lm_head|embed_out|(^|[.])decoder|vocab_projector|proj_out)[.]weight$")
"""What a head that is tied to the embedding is called."""

_SENSE = re.compile(r"vis|image|audio")
_EXPERT = re.compile(r"\[(\d+)\]|experts?[.](\d+)[.]|(shared)_expert")


@dataclass(frozen=True, slots=True)
class _Block:
    """The matrices of one block by what they do to the stream."""

    number: int
    prefix: str
    attention: tuple[WeightMatrix, ...]
    out: tuple[WeightMatrix, ...]
    feed: tuple[WeightMatrix, ...]
    down: tuple[WeightMatrix, ...]


@dataclass(frozen=True, slots=True)
class _Tower:
    """One stack with what feeds it and what reads its end; ``width`` is that of the stream."""

    name: str
    width: int
    blocks: tuple[_Block, ...]
    scheme: Scheme | None
    embeddings: tuple[WeightMatrix, ...]
    ends: tuple[WeightMatrix, ...]
    embedding_norm: str
    final_norm: str


def towers(
    known: Sequence[WeightMatrix], tensors: TensorList, context: Context, vectors: Vectors
) -> list[Wiring]:
    """The wiring of every stack in the model; [] where there is none."""
    stacks: dict[str, list[WeightMatrix]] = {}
    for matrix in known:
        if (name := stack_of(matrix.name)) is not None:
            stacks.setdefault(name, []).append(matrix)
    stacks = {name: found for name, found in stacks.items() if _width(found)}
    widths = {name: _width(found) for name, found in stacks.items()}
    names = [x.name for x in tensors.tensors]
    outside = [x for x in known if stack_of(x.name) is None]
    made = []
    for name in sorted(stacks, key=natural_key):
        tower, notes = _tower(name, stacks[name], widths, outside, names, context, vectors)
        made.append(_wired(tower, notes, context.tower(name), vectors))
    return made


def _width(found: Iterable[WeightMatrix]) -> int:
    """Width of the stream: the rows of all writers; 0 where they differ or there are none."""
    rows = {x.shape[0] for x in found if x.role in WRITERS and not CROSS.search(x.name)}
    return rows.pop() if len(rows) == 1 else 0


# ----------------------------------------------------------------------- what a tower is


def _tower(
    name: str,
    found: list[WeightMatrix],
    widths: Mapping[str, int],
    outside: Sequence[WeightMatrix],
    names: Sequence[str],
    context: Context,
    vectors: Vectors,
) -> tuple[_Tower, list[str]]:
    width, notes = widths[name], []
    config = context.tower(name)
    blocks = _blocks(name, found, width)
    if any(CROSS.search(x.name) for x in found):
        notes.append(f"flow: {name}: attention to another tower is not wired")
    stems = {_stem(x, name) for x in names if x.startswith(f"{name}.")}
    norms = {
        _stem(x, name)
        for x in vectors
        if x.startswith(f"{name}.") and x.endswith(".weight") and vectors.length(x) == width
    }
    scheme = scheme_of(stems, norms, config)
    if scheme is None and norms:
        shown = ", ".join(sorted(norms)[:4])
        notes.append(
            f"flow: {name}: the order of its normalisations ({shown}) is not known: no gains, and "
            "no edges from attention to feed-forward of the same block"
        )
    elif scheme is not None and not scheme.names - set(scheme.beside):
        notes.append(f"flow: {name}: norm1 and norm2 may stand before or behind: no gains")
    mine = [x for x in outside if _nearest(x.name, width, name, widths, whole="shared" in x.name)]
    poolers = [x for x in mine if x.role == "pooler" and x.shape[1] == width]
    heads = [x for x in mine if x.role == "head" or any(map(_HEAD_NAME.search, x.aliases))]
    embeddings = [x for x in mine if _is_embedding(x, width)]
    plain = [x for x in vectors if stack_of(x) is None and vectors.length(x) == width]
    plain = [x for x in plain if x.endswith(".weight") and _nearest(x, width, name, widths)]
    embedding_norms = [x for x in plain if "embed" in x.lower()]
    finals = [x for x in plain if FINAL.search(x.removesuffix(".weight")) and "embed" not in x]
    pooled = {x.name.rpartition(".dense")[0] for x in poolers}
    finals = [x for x in finals if not any(p and x.startswith(f"{p}.") for p in pooled)]
    readers = poolers or [x for x in heads if x.shape[1] == width and "encoder" not in name]
    if "encoder" in name and not poolers and not any("decoder" in other for other in widths):
        readers = [x for x in heads if x.shape[1] == width]
    return _Tower(
        name=name,
        width=width,
        blocks=blocks,
        scheme=scheme,
        embeddings=tuple(sorted(embeddings, key=lambda x: natural_key(x.name))),
        ends=tuple(sorted(readers, key=lambda x: natural_key(x.name))),
        embedding_norm=embedding_norms[0] if len(embedding_norms) == 1 else "",
        final_norm=finals[0] if len(finals) == 1 else "",
    ), notes


def _is_embedding(matrix: WeightMatrix, width: int) -> bool:
    """Whether it writes tokens (as rows) or patches (a convolution) into the stream."""
    if matrix.role == "patch":
        return matrix.shape[0] == width
    ours = matrix.role == "embedding" and not _OTHER_EMBEDDING.search(matrix.name)
    return ours and matrix.shape[1] == width


def _nearest(
    part: str, width: int, tower: str, widths: Mapping[str, int], *, whole: bool = False
) -> bool:
    """Whether what stands outside all stacks belongs to this one: the longest common beginning.

    Where that does not decide: not to a tower of pictures or sounds if another has the width,
    and the embedding of an encoder-decoder belongs to both.
    """
    fitting = [x for x in widths if widths[x] == width]
    if _SENSE.search(part) is None:
        fitting = [x for x in fitting if not _SENSE.search(x)] or fitting
    best = max(common_parts(part, x) for x in fitting)
    nearest = [x for x in fitting if common_parts(part, x) == best]
    if tower not in nearest:
        return False
    if len(nearest) == 1 or whole:
        return True
    decoders = [x for x in nearest if "decoder" in x]
    return decoders == [tower]


def _blocks(stack: str, found: Sequence[WeightMatrix], width: int) -> tuple[_Block, ...]:
    numbers: dict[int, list[WeightMatrix]] = {}
    for matrix in found:
        numbers.setdefault(int(matrix.name[len(stack) + 1 :].split(".")[0]), []).append(matrix)
    made = []
    for number in sorted(numbers):
        own = [x for x in numbers[number] if not CROSS.search(x.name)]

        def those(roles: Sequence[str], side: int, own: Any = own) -> tuple[WeightMatrix, ...]:
            picked = [x for x in own if x.role in roles and x.shape[side] == width]
            return tuple(sorted(picked, key=lambda x: (roles.index(x.role), natural_key(x.name))))

        made.append(
            _Block(
                number=number,
                prefix=f"{stack}.{number}",
                attention=those(ATTENTION, 1),
                out=those(("o", "out"), 0),
                feed=those(FEED, 1),
                down=those(("down",), 0),
            )
        )
    return tuple(made)


def _stem(name: str, stack: str) -> str:
    """What stands behind the block's number, without ``.weight``."""
    return name[len(stack) + 1 :].partition(".")[2].removesuffix(".weight")


# ----------------------------------------------------------------------- edges and gains


def _wired(tower: _Tower, notes: list[str], config: Mapping[str, Any], vectors: Vectors) -> Wiring:
    edges: list[Edge] = []
    gains: dict[str, tuple[Gain, ...]] = {}
    behind: tuple[WeightMatrix, ...] = tower.embeddings
    parallel = tower.scheme is None or tower.scheme.parallel
    if not tower.embeddings:
        notes.append(f"flow: {tower.name}: no embedding of width {tower.width} was recognised")
    for place, block in enumerate(tower.blocks):
        edges += _residual(behind, block.attention, notes)
        inside, remarks = _circuits(block, config)
        edges += inside
        notes += remarks
        edges += _residual(behind, block.feed, notes)
        if not parallel:
            edges += _residual(block.out, block.feed, notes)
        edges += _activation(block)
        behind = (*block.out, *block.down)
        _block_gains(gains, tower, place, vectors)
    edges += _residual(behind, tower.ends, notes)
    _end_gains(gains, tower, vectors)
    return Wiring(edges=tuple(edges), gains=gains, notes=tuple(notes))


def _residual(
    writers: Sequence[WeightMatrix], readers: Sequence[WeightMatrix], notes: list[str]
) -> list[Edge]:
    """Every writer to every reader, but not expert to expert: their number squared says little."""
    made = []
    for writer in writers:
        for reader in readers:
            if writer.kind == "expert" and reader.kind == "expert":
                notes.append("flow: no edges from the experts of a block to those of the next")
                continue
            made.append(Edge(writer=writer.name, reader=reader.name, kind="residual"))
    return made


def _circuits(block: _Block, config: Mapping[str, Any]) -> tuple[list[Edge], list[str]]:
    """v to o and q against k, per head, where shapes and configuration agree on the heads."""
    by_role: dict[str, list[WeightMatrix]] = {}
    for matrix in (*block.attention, *block.out):
        by_role.setdefault(matrix.role, []).append(matrix)
    four = [by_role.get(role, []) for role in ("q", "k", "v", "o")]
    if not all(four):
        return [], []
    stack = block.prefix.rpartition(".")[0]
    if any(len(found) > 1 for found in four):
        return [], [f"flow: {stack}: several attentions in a block: no edges per head"]
    q, k, v, o = (found[0] for found in four)
    queries = _count(config, stack)
    heads = heads_of(q, k, v, o, queries) if queries else None
    if heads is None:
        number = "not that of the shapes" if queries else "not known (no configuration)"
        return [], [f"flow: {stack}: the number of heads is {number}: no edges per head"]
    return [
        Edge(writer=q.name, reader=k.name, kind="qk", heads=heads),
        Edge(writer=v.name, reader=o.name, kind="ov", heads=heads),
    ], []


def heads_of(
    q: WeightMatrix, k: WeightMatrix, v: WeightMatrix, o: WeightMatrix, queries: int
) -> Heads | None:
    """The heads of an attention, or None where its shapes do not fit this number of them."""
    size, rest = divmod(o.shape[1], queries)
    shared, odd = divmod(v.shape[0], max(size, 1))
    if rest or odd or not shared or queries % shared:
        return None
    if q.shape[0] != queries * size or k.shape[0] != v.shape[0]:
        return None
    return Heads(queries=queries, shared=shared, size=size)


def _count(config: Mapping[str, Any], stack: str) -> int:
    """The configured number of query heads, or 0."""
    own = "decoder_attention_heads" if "decoder" in stack else "encoder_attention_heads"
    words = ("num_attention_heads", "n_head", "num_heads", "n_heads", own)
    return next((config[x] for x in words if isinstance(config.get(x), int)), 0)


def _activation(block: _Block) -> list[Edge]:
    """up and gate to the down matrix of the same feed-forward or the same expert."""
    made = []
    for writer in block.feed:
        for reader in block.down:
            if _expert(writer) == _expert(reader) and writer.shape[0] == reader.shape[1]:
                made.append(Edge(writer=writer.name, reader=reader.name, kind="activation"))
    return made


def _expert(matrix: WeightMatrix) -> str:
    """Which expert a matrix is of; "" where there are none, or one for all."""
    found = _EXPERT.search(matrix.name) if matrix.kind == "expert" else None
    found = found or re.search(r"(shared)_", matrix.name)
    return next((x for x in found.groups() if x), "") if found else ""


def _block_gains(
    gains: dict[str, tuple[Gain, ...]], tower: _Tower, place: int, vectors: Vectors
) -> None:
    """Gains of one block: before its readers, behind its writers, on queries and keys."""
    block, scheme, width = tower.blocks[place], tower.scheme, tower.width
    if scheme is None:
        return

    def add(matrices: Iterable[WeightMatrix], name: str, side: str) -> None:
        for matrix in matrices:
            found = vectors.norm(name, side, width)
            if found:
                gains[matrix.name] = (*gains.get(matrix.name, ()), *found)

    def within(stem: str, at: _Block = block) -> str:
        return f"{at.prefix}.{stem}.weight" if stem else ""

    if scheme.post:
        before = within(scheme.after_feed, tower.blocks[place - 1]) if place else ""
        add(block.attention, before or tower.embedding_norm, "input")
        add(block.feed, within(scheme.after_attention), "input")
    else:
        attention = within(scheme.attention)
        if place == 0 and not vectors.length(attention):
            attention = tower.embedding_norm  # ModernBERT: the first block needs no other
        add(block.attention, attention, "input")
        add(block.feed, within(scheme.feed), "input")
    add(block.out, within(scheme.o), "output")
    add(block.down, within(scheme.down), "output")
    for matrix in block.attention:
        if matrix.role in ("q", "k"):
            norm = f"{block.prefix}.self_attn.{matrix.role}_norm.weight"
            if found := vectors.norm(norm, "output", matrix.shape[0]):
                gains[matrix.name] = (*gains.get(matrix.name, ()), *found)


def _end_gains(gains: dict[str, tuple[Gain, ...]], tower: _Tower, vectors: Vectors) -> None:
    """The final normalisation before the head (not before a tied one: that is the embedding)."""
    name = tower.final_norm
    if tower.scheme is not None and tower.scheme.post:
        name = f"{tower.blocks[-1].prefix}.{tower.scheme.after_feed}.weight"
    for matrix in tower.ends:
        if found := vectors.norm(name, "input", tower.width):
            gains[matrix.name] = (*gains.get(matrix.name, ()), *found)
