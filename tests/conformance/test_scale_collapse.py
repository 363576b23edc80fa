"""Scale collapse on real, really fine-tuned weights: a few choices of the benchmark's.

All of them, with three kinds of model: benchmarks/bench_scale_collapse.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import frog
from frog.metrics.collapse import OUTLIER
from tests.conftest import shared

QUICK = frog.Settings(bootstrap=0, curves=False)
PUBLISHED = "data/distiller-resnet20/checkpoint_trained_4D_regularized_5Lremoved"


def compared(before: object, after: object) -> frog.Comparison:
    made = frog.compare(before, after, settings=QUICK)
    assert isinstance(made, frog.Comparison)
    return made


def scales(made: frog.Comparison) -> dict[str, str]:
    return {layer.name: layer.scale for layer in made.layers if layer.scale}


def test_the_published_pair() -> None:
    """The layers, their direction, and the five that are all zero."""
    files = [shared(f"{PUBLISHED}{end}.safetensors") for end in ("", "_finetuned")]
    made = compared(*files)
    assert set(scales(made)) == {
        f"layer{name}.weight" for name in ("1.2.conv2", "2.1.conv2", "2.2.conv1", "3.1.conv2",
                                           "3.2.conv2")
    }  # fmt: skip
    grown = [x for x in made.layers if x.scale]
    assert all(x.change["log_norm"] > 0.6 for x in grown)  # published means grow too
    assert made.summary["layers_zero"] == 5
    for name in ("1.0.conv1", "1.0.conv2", "1.1.conv1", "1.1.conv2", "2.2.conv2"):
        assert any(f"layer{name}.weight" in note for note in made.notes)


def test_healthy_single_models_have_no_scale_outlier(minilm: Path, resnet20: Path) -> None:
    dense = shared("data/distiller-resnet20/checkpoint_trained_dense.safetensors")
    for model in (minilm, resnet20, dense):
        report = frog.analyze(model, QUICK)
        assert not [x.layer for x in report.findings if x.kind == OUTLIER], model


@pytest.mark.slow
def test_planted_in_a_really_tuned_resnet(tmp_path: Path) -> None:
    shared("data/sign-digits/sign_digits_32x32.npz")
    shared("data/resnet-cifar10/resnet20-12fca82f.th")
    from benchmarks.bench_scale_collapse import KINDS, damage
    from benchmarks.partners import RECIPES, tune
    from benchmarks.tasks import SignTask, resnet_weights

    torch.manual_seed(0)
    task = SignTask()
    tune(task, RECIPES["resnet-a"], lambda step: None)
    assert task.accuracy() > 0.9
    base, tuned = resnet_weights(), {k: v.clone() for k, v in task.state().items()}
    save_file(base, tmp_path / "base.safetensors")
    assert scales(compared(tmp_path / "base.safetensors", tuned)) == {}
    rng = np.random.default_rng(1)
    layers = [name for name in tuned if name.endswith("weight") and tuned[name].ndim > 1]
    for kind in KINDS:
        for name in rng.choice(layers, 3, replace=False):
            flat = tuned[name].flatten(1).double().numpy()
            broken = torch.tensor(damage(flat, kind)).float().reshape(tuned[name].shape)
            made = compared(tmp_path / "base.safetensors", {**tuned, name: broken})
            assert scales(made) == {name: "collapse"}, kind
