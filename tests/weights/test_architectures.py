"""File and live model of one tiny model per architecture: the same matrices, and all of them."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from frog.numerics import views
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors
from tests.weights import tiny_models

GOLDEN = Path(__file__).with_name("golden_roles.json")
"""What every tensor is. After a wanted change: python -m tests.weights.test_architectures"""


@pytest.fixture(scope="module", params=list(tiny_models.MODELS))
def pair(request, tmp_path_factory):
    """The name of an architecture, its live model, and the catalogues of file and model."""
    model = tiny_models.build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    tiny_models.save(model, folder)
    return (
        request.param,
        model,
        catalogue(list_tensors(folder)),
        catalogue(list_tensors(model)),
    )


def test_file_and_model_hold_the_same_matrices(pair):
    _, _, file, live = pair
    on_disk = {matrix.name: matrix for matrix in file.matrices}
    in_memory = {matrix.name: matrix for matrix in live.matrices}
    assert len(on_disk) == len(file.matrices) and len(in_memory) == len(live.matrices)
    assert set(on_disk) == set(in_memory)
    for name, matrix in on_disk.items():
        other = in_memory[name]
        for field in ("role", "kind", "block", "shape", "dtype", "params", "averaged", "view"):
            assert getattr(matrix, field) == getattr(other, field), (name, field)
        assert np.array_equal(matrix.loader.load(), other.loader.load()), name
        assert matrix.loader.fingerprint() == other.loader.fingerprint(), name


def test_every_parameter_is_listed_once(pair):
    _, model, file, live = pair
    count = sum(parameter.numel() for parameter in model.parameters())
    assert live.params == count
    buffers = sum(x.params for x in file.skipped if x.role == "buffer")
    assert file.params - buffers == count
    for listed in (file, live):
        names = [x.name for x in (*listed.matrices, *listed.skipped)]
        assert len(set(names)) == len(names)
        assert not [matrix.name for matrix in listed.matrices if matrix.warning]
        assert all(tensor.reason and tensor.rule for tensor in listed.skipped)
        tensors = {x.tensor: 0 for x in listed.matrices}
        for matrix in listed.matrices:
            assert matrix.name.startswith(matrix.tensor)
            tensors[matrix.tensor] += matrix.params
        assert not set(tensors) & {x.name for x in listed.skipped}


def test_slices_are_disjoint_and_cover(pair):
    _, _, file, _ = pair
    by_tensor: dict[str, list] = {}
    for matrix in file.matrices:
        by_tensor.setdefault(matrix.tensor, []).append(matrix.view)
    for name, held in by_tensor.items():
        flat = np.concatenate([views.all_entries(view).ravel() for view in held])
        assert np.array_equal(np.sort(flat), np.arange(np.prod(held[0].tensor_shape))), name


def test_every_matrix_is_found_in_the_model(pair):
    _, model, file, live = pair
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for listed in (locate(file, model), locate(live, model)):
        for matrix in listed.matrices:
            assert matrix.live is not None, matrix.name
            parameter = parameters[matrix.live.parameter].detach()
            taken = views.take(parameter, matrix.live.view).numpy()
            assert np.array_equal(taken, matrix.loader.load()), matrix.name


def test_ties_are_told(pair):
    name, model, file, live = pair
    ties = getattr(model, "all_tied_weights_keys", {})
    heads = {alias for alias in ties if "embed_tokens" not in alias and alias.endswith("weight")}
    for listed in (file, live):
        told = {alias for matrix in listed.matrices for alias in matrix.aliases}
        assert heads <= told, (name, listed.format)


def test_roles_are_the_golden_ones(pair):
    name, _, file, _ = pair
    assert listing(file) == json.loads(GOLDEN.read_text())[name]


def listing(listed):
    """One line per kind of tensor: how many, the name without its numbers, what it is."""
    lines: Counter[str] = Counter()
    for matrix in listed.matrices:
        blank = re.sub(r"(?<=[.\[])\d+(?=[.\]])", "N", matrix.name)
        apart = "" if matrix.averaged else ", apart"
        placed = "" if matrix.block is None else ", block"
        lines[f"{blank}: {matrix.role} ({matrix.kind}{apart}{placed}; {matrix.rule})"] += 1
    for tensor in listed.skipped:
        blank = re.sub(r"(?<=[.\[])\d+(?=[.\]])", "N", tensor.name)
        lines[f"{blank}: - {tensor.role} ({tensor.rule})"] += 1
    return sorted(f"{count} x {line}" for line, count in lines.items())


def write_golden(folder: Path) -> None:
    """Store what the rules say now; look at the difference before it is committed."""
    golden = {}
    for name in tiny_models.MODELS:
        tiny_models.save(tiny_models.build(name), folder / name)
        golden[name] = listing(catalogue(list_tensors(folder / name)))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        write_golden(Path(made))
