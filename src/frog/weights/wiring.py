"""Which matrix reads what which other wrote, from names, shapes and the configuration alone.

Three kinds of model are understood: stacks of transformer (and state-space) blocks around a
residual stream, residual convolutional nets, and plain chains of layers. What is not understood
gets no edge, and a note: an edge that is wrong would be worse than one that is missing.

A file and a live model give the same wiring, for the order of tensors is not used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from frog.types import Catalogue, Edge, Gain, WeightMatrix, Wiring
from frog.weights import chains, stacks
from frog.weights.gains import Vectors, natural_key
from frog.weights.layouts import Context
from frog.weights.stored import TensorList


def wire(tensors: TensorList, listed: Catalogue) -> Wiring:
    """The edges of a model and the normalisation gains by matrix; nothing is read here.

    Edges are those of the residual stream from a writer (token embedding, attention output,
    feed-forward down) to the readers that follow it in its own block and in the next one; up and
    gate to down; v to o and q against k per head; layer to layer in plain networks. Their order
    is that of the flow, from input to output.

    >>> from frog.weights.source import list_tensors
    >>> from frog.weights.catalogue import catalogue
    >>> import torch
    >>> tensors = list_tensors(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2)))
    >>> [(e.writer, e.reader, e.kind) for e in wire(tensors, catalogue(tensors)).edges]
    [('0.weight', '1.weight', 'sequential')]
    """
    config = tensors.config or {}
    context = Context(shapes={x.name: x.shape for x in tensors.tensors}, config=config)
    vectors = Vectors((*tensors.tensors, *tensors.buffers), config)
    known = [x for x in listed.matrices if x.kind != "adapter"]
    if listed.matrices and not known:
        return Wiring(notes=("flow: an adapter alone has no wiring: give its base model",))
    parts = stacks.towers(known, tensors, context, vectors)
    if not parts:
        parts = chains.chain(known, tensors, vectors)
    return _joined(parts, known)


def _joined(parts: Iterable[Wiring], known: list[WeightMatrix]) -> Wiring:
    """One wiring out of several; edges whose matrices were left out by the user are dropped."""
    names = {matrix.name for matrix in known}
    edges: list[Edge] = []
    gains: dict[str, tuple[Gain, ...]] = {}
    notes: list[str] = []
    for part in parts:
        edges += [x for x in part.edges if x.writer in names and x.reader in names]
        for name, found in part.gains.items():
            gains[name] = (*gains.get(name, ()), *found)
        notes += part.notes
    linked = {name for edge in edges for name in (edge.writer, edge.reader)}
    loose = sorted((x.name for x in known if x.name not in linked), key=natural_key)
    if loose and edges:
        shown = ", ".join(loose[:3]) + (", ..." if len(loose) > 3 else "")
        notes.append(f"flow: no edge at {len(loose)} of {len(known)} matrices: {shown}")
    return dataclasses.replace(
        Wiring(), edges=tuple(dict.fromkeys(edges)), gains=gains, notes=tuple(dict.fromkeys(notes))
    )
