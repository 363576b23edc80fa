"""Networks without a residual stream of blocks: residual CNNs, and plain chains of layers.

The order of layers is taken from the numbers in their names, never from the order in a file,
which is often alphabetical. Layers of several patterns (``features.0``, ``classifier.0``) are
joined where their sizes allow one order only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from frog.types import Edge, Gain, WeightMatrix, Wiring
from frog.weights.gains import Vectors, natural_key
from frog.weights.stored import TensorList

LAYERS = ("linear", "conv1d", "conv2d", "conv3d", "head")
"""Kinds of matrices that a chain is made of."""

MOST_PATTERNS = 6
"""Patterns of names whose orders are tried: 6! = 720."""

_RESIDUAL = re.compile(
    r"^.*?(?:layer|stages[.])(?P<stage>\d+)[.](?:layers[.])?(?P<block>\d+)[.]"
    r"(?:conv\d+|layer[.]\d+[.]convolution|(?P<skip>downsample|shortcut)[.](?:\d+|conv(?:olution)?))$"
)
"""Names of torchvision and timm, ``layer1.0.conv1``, and of transformers,
``stages.0.layers.0.layer.0.convolution``."""

_SKIP = re.compile(r"(^|[.])(downsample|shortcut|skip)")
"""Layers beside the chain: their order says nothing about who reads whom."""


def chain(known: Sequence[WeightMatrix], tensors: TensorList, vectors: Vectors) -> list[Wiring]:
    """The wiring of a net without transformer blocks; notes alone where it is not understood."""
    layers = [x for x in known if x.kind in LAYERS]
    if len(known) < 2:
        return []
    left_out = [x for x in known if x.kind not in LAYERS or x.rule.startswith("8")]
    if left_out:
        return [_not_understood(f"{left_out[0].name} is no layer of a known kind")]
    if any(_RESIDUAL.match(_stem(x)) for x in layers):
        return [_residual_net(layers, vectors)]
    beside = next((x.name for x in layers if _SKIP.search(_stem(x))), "")
    if beside:
        return [_not_understood(f"{beside} stands beside the chain")]
    depthwise = [x.name for x in tensors.tensors if len(x.shape) > 2 and x.shape[1] == 1]
    matrices = {x.tensor for x in layers}
    if any(name not in matrices for name in depthwise):
        return [_not_understood("it has depthwise convolutions")]
    return [_plain(layers, vectors)]


def _not_understood(why: str) -> Wiring:
    return Wiring(notes=(f"flow: no edges, the model is not understood: {why}",))


def _stem(matrix: WeightMatrix) -> str:
    return matrix.tensor.removesuffix(".weight")


# ------------------------------------------------------------------------- residual CNNs


def _residual_net(layers: Sequence[WeightMatrix], vectors: Vectors) -> Wiring:
    """ResNets: convolution to convolution inside a block, last of a block to first of the next."""
    blocks: dict[tuple[int, int], list[WeightMatrix]] = {}
    skips: dict[tuple[int, int], WeightMatrix] = {}
    outside: list[WeightMatrix] = []
    for layer in layers:
        found = _RESIDUAL.match(_stem(layer))
        if found is None:
            outside.append(layer)
        elif found["skip"]:
            skips[int(found["stage"]), int(found["block"])] = layer
        else:
            blocks.setdefault((int(found["stage"]), int(found["block"])), []).append(layer)
    stems = [x for x in outside if x.kind.startswith("conv")]
    heads = [x for x in outside if x not in stems]
    notes = []
    if len(stems) > 1 or len(heads) > 1:
        names = ", ".join(x.name for x in outside)
        notes.append(f"flow: not one layer before and one behind the blocks ({names}): not wired")
        stems, heads = stems if len(stems) == 1 else [], heads if len(heads) == 1 else []
    edges: list[Edge] = []
    behind = stems
    for key in sorted(blocks):
        convolutions = sorted(blocks[key], key=lambda x: natural_key(x.name))
        skip = [skips[key]] if key in skips else []
        for reader in (convolutions[0], *skip):
            edges += _links(behind, reader, "residual", notes)
        for writer, reader in itertools.pairwise(convolutions):
            edges += _links([writer], reader, "sequential", notes)
        behind = [convolutions[-1], *skip]
    for head in heads:
        edges += _links(behind, head, "residual", notes)
    gains = _gains(layers, vectors)
    if before := _normalised_before(layers, vectors):
        notes.append(f"flow: {before} may stand before its convolution: no gains")
        gains = {}
    return Wiring(edges=tuple(edges), gains=gains, notes=tuple(notes))


def _normalised_before(layers: Sequence[WeightMatrix], vectors: Vectors) -> str:
    """A BatchNorm too wide or narrow for what it would stand behind: pre-activation ResNets."""
    for layer in layers:
        for name in _behind(_stem(layer)):
            if vectors.length(f"{name}.weight") not in (0, layer.shape[0]):
                return name
    return ""


def _links(
    writers: Sequence[WeightMatrix], reader: WeightMatrix, kind: str, notes: list[str]
) -> list[Edge]:
    made = []
    for writer in writers:
        if fits(writer, reader):
            made.append(Edge(writer=writer.name, reader=reader.name, kind=kind))
        else:
            notes.append(f"flow: {writer.name} does not fit {reader.name}: no edge")
    return made


# ------------------------------------------------------------------------- plain chains


def _plain(layers: Sequence[WeightMatrix], vectors: Vectors) -> Wiring:
    """Layer to layer, patterns of names in the one order that their sizes allow."""
    patterns: dict[str, list[WeightMatrix]] = {}
    for layer in layers:
        patterns.setdefault(re.sub(r"\d+", "#", _stem(layer)), []).append(layer)
    rows = [sorted(found, key=lambda x: natural_key(x.name)) for found in patterns.values()]
    rows.sort(key=lambda row: natural_key(row[0].name))
    if len(rows) > MOST_PATTERNS:
        return _not_understood(f"its layers have {len(rows)} patterns of names")
    orders = [
        order
        for order in itertools.permutations(rows)
        if all(fits(a[-1], b[0]) for a, b in itertools.pairwise(order))
    ]
    notes: list[str] = []
    if len(orders) == 1:
        rows = [[layer for row in orders[0] for layer in row]]
    else:
        count = "no order" if not orders else "more than one order"
        notes.append(f"flow: sizes allow {count} of the patterns {', '.join(patterns)}")
    edges: list[Edge] = []
    for row in rows:
        for writer, reader in itertools.pairwise(row):
            edges += _links([writer], reader, "sequential", notes)
    return Wiring(edges=tuple(edges), gains=_gains(layers, vectors), notes=tuple(notes))


def fits(writer: WeightMatrix, reader: WeightMatrix) -> bool:
    """Whether the reader's columns are the writer's rows: n, or n channels times positions.

    A convolution reads n input channels, each at every position of its kernel; a linear layer
    behind a flattened convolution reads n channels at every position of the picture. In both the
    columns run through the positions of one channel before they go on to the next.
    """
    n, columns = writer.shape[0], reader.shape[1]
    if reader.kind.startswith("conv"):
        return reader.view is not None and reader.view.tensor_shape[1] == n
    return columns == n or (writer.kind.startswith("conv") and columns % n == 0)


# -------------------------------------------------------------------------------- gains


def _gains(layers: Sequence[WeightMatrix], vectors: Vectors) -> dict[str, tuple[Gain, ...]]:
    """A BatchNorm behind a convolution or layer; a LayerNorm between two numbered layers."""
    gains: dict[str, tuple[Gain, ...]] = {}
    known = {layer.tensor for layer in layers}
    for layer in layers:
        for name in _behind(_stem(layer)):
            found = vectors.batch_norm(f"{name}.weight", layer.shape[0])
            if found:
                gains[layer.name] = found
                break
        number = re.fullmatch(r"(.*?)(\d+)", _stem(layer))
        if number is None or int(number[2]) == 0:
            continue
        before = f"{number[1]}{int(number[2]) - 1}.weight"
        alike = vectors.has_bias(before) and not vectors.is_batch_norm(before)
        if alike and before not in known and layer.kind in ("linear", "head"):
            found = vectors.norm(before, "input", layer.shape[1])
            gains[layer.name] = (*gains.get(layer.name, ()), *found)
    return gains


def _behind(stem: str) -> list[str]:
    """Names that the BatchNorm behind a layer may have: bn1 for conv1, the next number."""
    start, dot, last = stem.rpartition(".")
    if last == "convolution":
        return [f"{start}.normalization"]
    named = [start + dot + last.replace("conv", word) for word in ("bn", "norm") if "conv" in last]
    number = re.fullmatch(r"(.*?)(\d+)", stem)
    return [*named, *([f"{number[1]}{int(number[2]) + 1}"] if number else [])]
