"""FROG's choices and the ideas that act on a run: they move what they say, and do what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import benchmarks.tuning.methods  # noqa: F401 - registers the methods
from benchmarks.tuning.ideas.scaled import Scaled
from benchmarks.tuning.ideas.self_fisher import output_fisher
from benchmarks.tuning.method import METHODS, Attached, Method, freeze
from benchmarks.tuning.methods.full import norm_parameters
from benchmarks.tuning.train import Run, train
from tests.tuning_bench.encoders import RATE, SHARE, TOYS, state

FROG = sorted(name for name, made in METHODS.items() if made.family == "frog")


def trained(kind: str, method: Method, rate: float = RATE) -> tuple[dict, dict, object]:
    task = TOYS[kind]()
    task.begin(1)
    before = state(task.model)
    out = train(task, method, share=SHARE, rate=rate, seed=1, split="test")
    return before, state(task.model), out


def started(kind: str, name: str) -> Run:
    """A run of a method just after it attached."""
    task = TOYS[kind]()
    task.begin(1)
    before = {k: v.detach().clone() for k, v in task.target_weights().items()}
    freeze(task.model)
    attached = METHODS[name].build(task, SHARE, RATE, 1)
    optimizer = torch.optim.AdamW(attached.groups)
    return Run(task=task, attached=attached, optimizer=optimizer, before=before, seed=1, total=6)


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("name", FROG)
def test_only_as_many_weights_as_it_says_move(kind: str, name: str) -> None:
    before, after, out = trained(kind, METHODS[name])
    task = TOYS[kind]()
    task.begin(1)
    allowed = {f"encoder.{k}" for k in task.target_weights()} | set(task.head)
    if "+norms" in name:
        norms = {id(x) for x in norm_parameters(task)}
        allowed |= {k for k, x in task.model.named_parameters() if id(x) in norms}
    moved = {k: before[k] != after[k] for k in before if not torch.equal(before[k], after[k])}
    assert moved.keys() <= allowed
    count = sum(int(x.sum()) for k, x in moved.items() if k not in task.head)
    assert 0 < count <= out.trainable <= SHARE * task.target_count() + 3


def selected(attached: Attached, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Masks of the chosen weights, by name within the encoder."""
    masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for chosen in attached.tuner.selection.chosen:
        flat = masks[chosen.name].view(chosen.shape)
        if chosen.granularity == "column":
            flat[:, torch.as_tensor(chosen.index)] = True
        else:
            flat.view(-1)[torch.as_tensor(chosen.index)] = True
    return masks


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("name", FROG)
def test_what_was_not_selected_stays_bit_by_bit(kind: str, name: str) -> None:
    seen: list[Attached] = []

    def build(*arguments: Any) -> Attached:
        seen.append(METHODS[name].build(*arguments))
        return seen[0]

    before, after, _ = trained(kind, replace(METHODS[name], build=build))
    task = TOYS[kind]()
    task.begin(1)
    masks = selected(seen[0], {k: v.shape for k, v in task.target_weights().items()})
    norms = sum(x.numel() for x in norm_parameters(task)) if "+norms" in name else 0
    assert sum(int(x.sum()) for x in masks.values()) == seen[0].trainable - norms
    for key, mask in masks.items():
        old, new = (x[f"encoder.{key}"].view(torch.int32) for x in (before, after))
        assert torch.equal(old[~mask], new[~mask])


@pytest.mark.parametrize("name", ["random", "full"])
def test_scaling_keeps_a_share_of_the_change(name: str) -> None:
    before, whole, _ = trained("dense", METHODS[name])
    _, part, _ = trained("dense", replace(METHODS[name], ideas=(Scaled(factor=0.5),)))
    for key in ("encoder.first.weight", "encoder.blocks.0.weight"):
        torch.testing.assert_close(
            part[key] - before[key], 0.5 * (whole[key] - before[key]), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("name", ["random", "full"])
def test_output_fisher_is_the_diagonal_of_the_jacobian_squared(name: str) -> None:
    run = started("dense", name)
    found = output_fisher(run, [run.task.inputs] * 8, probes=200, seed=3)
    outputs = run.task.outputs(run.task.inputs)
    exact = [torch.zeros_like(p) for p, _ in run.moving]
    for value in outputs.flatten():
        parameters = [p for p, _ in run.moving]
        for total, grad in zip(
            exact, torch.autograd.grad(value, parameters, retain_graph=True), strict=True
        ):
            total += grad**2 / len(outputs)
    a, b = (torch.cat([x.flatten() for x in part]) for part in (found, exact))
    assert a.sum().item() == pytest.approx(b.sum().item(), rel=0.1)
    assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.98


def test_projection_takes_the_dominant_part_out_of_full_tuning() -> None:
    task = TOYS["dense"]()
    task.begin(1)
    before = {k: v.detach().clone() for k, v in task.target_weights().items()}
    shares = {}
    for name in ("full", "full+project"):
        train(task, METHODS[name], share=SHARE, rate=RATE, seed=1, split="test")
        weight, start = task.target_weights()["first.weight"].detach(), before["first.weight"]
        u, _, vh = torch.linalg.svd(start, full_matrices=False)
        change = weight - start
        inside = u[:, :5].T @ change @ vh[:5].T
        shares[name] = float(inside.norm() / change.norm())
    assert shares["full+project"] < 1e-4 < shares["full"]


def test_a_head_fitted_first_learns_more_in_the_same_steps() -> None:
    _, _, plain = trained("dense", METHODS["random"], rate=1e-3)
    _, _, first = trained("dense", METHODS["random+head-first"], rate=1e-3)
    assert first.new.loss < plain.new.loss
    assert first.trainable == plain.trainable


def test_old_outputs_are_held_by_distilling() -> None:
    moved = {}
    for name in ("full", "full+distil"):
        task = TOYS["dense"]()
        task.begin(1)
        with torch.no_grad():
            old = task.outputs(task.inputs).softmax(-1)
        train(task, METHODS[name], share=SHARE, rate=RATE, seed=1, split="test", steps=20)
        with torch.no_grad():
            moved[name] = float((task.outputs(task.inputs).softmax(-1) - old).norm())
    assert moved["full+distil"] < moved["full"]
