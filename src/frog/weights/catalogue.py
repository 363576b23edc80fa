"""From tensors to matrices: every parameter is in one matrix or in one skipped tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from frog.errors import FrogError
from frog.numerics.views import plain, view_shape
from frog.types import Catalogue, SkippedTensor, WeightMatrix
from frog.weights import name_table, roles
from frog.weights.layouts import Context
from frog.weights.loader import ProductLoader, ViewLoader
from frog.weights.stored import AdapterPair, StoredTensor, TensorList


def catalogue(tensors: TensorList, *, as_weightwatcher: bool = False) -> Catalogue:
    """All matrices of a source, as handles, and all that is not measured, with the reason.

    ``as_weightwatcher`` measures 2-D tables of positions too, and fused 2-D tensors whole.
    Nothing is read here but names and shapes.
    """
    listed = tensors.tensors
    context = Context(
        shapes={tensor.name: tensor.shape for tensor in listed}, config=tensors.config or {}
    )
    depth = _depths(tensor.name for tensor in listed)
    matrices: list[WeightMatrix] = []
    skipped: list[SkippedTensor] = []
    for tensor in listed:
        reading = roles.read(
            tensor.name,
            tensor.shape,
            context,
            dtype="" if tensor.unsupported is not None or tensor.unpacked else tensor.dtype,
            owner=tensor.owner,
            include_positions=as_weightwatcher,
        )
        if as_weightwatcher and len(tensor.shape) == 2 and len(reading.parts) > 1:
            reading = _joined(reading, tensor.shape)
        block = depth(tensor.name)
        if tensor.unsupported is not None or not reading.parts:
            skipped.append(_skipped(tensor, reading, block))
        else:
            matrices += _matrices(tensor, reading, block)
    matrices += [_product(pair, context, depth(pair.target)) for pair in tensors.adapters]
    tied = _tied_head(tensors, matrices)
    if tied is not None:
        place, alias = tied
        matrices[place] = _with_alias(matrices[place], alias)
    notes = tensors.notes
    if tied is not None:
        notes = (*notes, f"{tied[1]} is not stored: tied to {matrices[tied[0]].name}")
    return Catalogue(
        path=tensors.path,
        format=tensors.format,
        matrices=tuple(matrices),
        skipped=tuple(skipped),
        config=tensors.config,
        notes=notes,
    )


def _joined(reading: roles.Reading, shape: tuple[int, ...]) -> roles.Reading:
    """The reading of a fused tensor as one matrix, in the role of its parts where they agree."""
    names = dict.fromkeys(part.role for part in reading.parts)
    whole = replace(reading.parts[0], view=plain(shape), suffix="", role="+".join(names))
    return replace(reading, parts=(whole,))


def _matrices(
    tensor: StoredTensor, reading: roles.Reading, block: int | None
) -> list[WeightMatrix]:
    made = []
    for part in reading.parts:
        shape = view_shape(part.view)
        made.append(
            WeightMatrix(
                name=tensor.name + part.suffix,
                tensor=tensor.name,
                kind=part.kind,
                role=part.role,
                block=block,
                shape=shape,
                dtype=tensor.dtype,
                params=shape[0] * shape[1],
                view=part.view,
                loader=ViewLoader(tensor, part.view),
                aliases=tuple(alias + part.suffix for alias in tensor.aliases),
                averaged=part.averaged,
                rule=reading.rule,
                warning=part.warning,
            )
        )
    total = sum(matrix.params for matrix in made)
    if total != tensor.params:
        raise FrogError(
            f"the matrices of {tensor.name} {tensor.shape} must hold {tensor.params} parameters, "
            f"got {total} under rule '{reading.rule}': please report this layout"
        )
    return made


def _skipped(tensor: StoredTensor, reading: roles.Reading, block: int | None) -> SkippedTensor:
    unsupported = tensor.unsupported is not None
    return SkippedTensor(
        name=tensor.name,
        role=reading.role,
        block=block,
        shape=tensor.shape,
        dtype=tensor.dtype,
        params=tensor.params,
        reason=tensor.unsupported or reading.reason or "",
        aliases=tensor.aliases,
        rule="0 unsupported" if unsupported else reading.rule,
    )


def _product(pair: AdapterPair, context: Context, block: int | None) -> WeightMatrix:
    """The update of one base tensor, in the role of that tensor."""
    shape = (pair.up.shape[0], pair.down.shape[1])
    reading = roles.read(pair.target, shape, context)
    role = reading.parts[0].role if len(reading.parts) == 1 else reading.role
    return WeightMatrix(
        name=pair.name,
        tensor=pair.target,
        kind="adapter",
        role=role,
        block=block,
        shape=shape,
        dtype=pair.up.dtype,
        params=pair.up.params + pair.down.params,
        view=None,
        loader=ProductLoader(pair),
        rule="4 adapter",
    )


class _depths:
    """Maps a name to its block: the layer's number, or the running number over all stages."""

    def __init__(self, names: Iterable[str]) -> None:
        staged = {key for key in map(name_table.block_of, names) if len(key) == 2}
        self._running = {key: number for number, key in enumerate(sorted(staged))}

    def __call__(self, name: str) -> int | None:
        key = name_table.block_of(name)
        if len(key) == 2:
            return self._running.get(key)
        return key[0] if key else None


_TIED_HEADS = (
    (r"^(Bert|MobileBert|Electra)\w*For(MaskedLM|PreTraining)$", "cls.predictions.decoder.weight"),
    (r"^(Roberta|XLMRoberta|Camembert|Esm)\w*ForMaskedLM$", "lm_head.decoder.weight"),
    (r"^ModernBert\w*ForMaskedLM$", "decoder.weight"),
    (r"^DistilBertForMaskedLM$", "vocab_projector.weight"),
    (r"^GPTNeoX\w*ForCausalLM$", "embed_out.weight"),
    (r"^Whisper\w+$", "proj_out.weight"),
    (r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$", "lm_head.weight"),
)
"""Architectures with a head that can be tied to the token embedding, and its name."""


def _tied_head(tensors: TensorList, matrices: list[WeightMatrix]) -> tuple[int, str] | None:
    """Place of the token embedding that is also the head, and the head's name; None if untied.

    A file holds a tied pair once: that the head is missing, and the configuration does not
    forbid a tie, tells. Sources that know their ties have told them as aliases.
    """
    config = tensors.config or {}
    text = config.get("text_config")
    says = config.get("tie_word_embeddings")
    if says is None and isinstance(text, Mapping):
        says = text.get("tie_word_embeddings")
    if says is False or any(matrix.role == "head" for matrix in matrices):
        return None
    classes = [str(x) for x in config.get("architectures") or ()]
    alias = next(
        (name for pattern, name in _TIED_HEADS if any(re.search(pattern, x) for x in classes)), None
    )
    if alias is None:
        return None
    for place, matrix in enumerate(matrices):
        if matrix.role == "embedding" and not re.search(r"token_type|segment", matrix.name):
            return None if matrix.aliases else (place, alias)
    return None


def _with_alias(matrix: WeightMatrix, alias: str) -> WeightMatrix:
    return replace(matrix, aliases=(*matrix.aliases, alias))
