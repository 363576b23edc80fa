"""Plans of bits and sparsities made on some data and judged on others: the runs, kept, resumable.

A subject is a small real model with two kinds of data: what plans are made on, and what they are
judged on; a split draws both anew. Cells of sweeps and results are kept in
``benchmarks/.work/compression`` as soon as they are known.
"""

from __future__ import annotations

import csv
import json
import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import frog
from benchmarks.tasks import (
    CHANNEL_MEAN,
    CHANNEL_STD,
    DATA,
    KEPT,
    cifar_resnet,
    cifar_test,
    minilm_folder,
    pixels,
    stories_model,
)
from frog.allocation.levels import dynamic, linear_map, proportional, two_level, water_filling
from frog.compression.baselines import Plan, shuffled, size_of, uniform
from frog.compression.curves import Bits, Company, Level, Sparsity, digest_of, sweep
from frog.compression.damage import damage_curves, mean_curves, plan_of
from frog.compression.inputs import input_norms
from frog.compression.judging import Metric, Trial, differences, measure
from frog.compression.live import LiveUnit, block_units, matrix_units
from frog.compression.scores import Evidence, score_named
from frog.compression.task_metrics import accuracy, perplexity, spearman
from frog.numerics.rounding import Rounding
from frog.types.levels import Allocation, Curve, Unit
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors

FOLDER = KEPT / "compression"
SPLITS = (0, 1, 2)
WIDTHS = (2, 3, 4, 5, 6, 8)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SPREAD = 0.3
"""Of the linear map, AlphaPruning's."""
RANDOMS = 2
SCORES = ("alpha", "-alpha", "over-parameterised", "zd", "rounding-error", "lim", "zeroth-order")
SETTINGS = frog.Settings(bootstrap=0, curves=False, min_evals=16, randomize=1)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, what of it is compressed, and its data by split.

    ``made`` and ``judged`` give batches, ``plain`` batches without padding, for norms of inputs
    and for LIM; ``loss`` is for the zeroth-order score.
    """

    name: str
    model: nn.Module
    wanted: Callable[[str], bool]
    outputs: Callable[[nn.Module, Any], Tensor]
    loss: Callable[[nn.Module, Any], Tensor]
    metrics: tuple[Metric, ...]
    made: Callable[[int], Sequence[Any]]
    judged: Callable[[int], Sequence[Any]]
    plain: Callable[[Sequence[Any]], Sequence[Any]]
    kinds: tuple[str, ...] = ("bits", "magnitude", "wanda")
    blocks: bool = True

    @property
    def units(self) -> tuple[LiveUnit, ...]:
        """A unit for every matrix."""
        found = locate(catalogue(list_tensors(self.model)), self.model).matrices
        return tuple(x for x in matrix_units(found) if self.wanted(x.name))


# ----------------------------------------------------------------------------- subjects


@lru_cache
def pairs(part: str) -> tuple[tuple[str, str, float], ...]:
    """Sentences and their similarity, 0 to 5, of a part of STS-B."""
    with (DATA / f"stsb-en/stsb-en-{part}.csv").open(encoding="utf-8", newline="") as lines:
        return tuple((one, two, float(score)) for one, two, score in csv.reader(lines))


class Resumed:
    """Runs an encoder from the first block that is not as it was: the same numbers, sooner.

    What goes into every block of the unchanged encoder is kept by batch.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Any], Tensor]) -> None:
        self.blocks = list(model.encoder.layer)
        self.run, self.kept = run, {}
        self.whole = [[x.detach().clone() for x in block.parameters()] for block in self.blocks]

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The last states."""
        if "scores" not in batch:  # without padding, for hooks: always run
            return self.run(model, batch)
        key, changed = batch["input_ids"].numpy().tobytes(), self._changed()
        if changed is None and key not in self.kept:
            return self._run_and_keep(model, batch, key)
        if key not in self.kept or changed == 0:
            return self.run(model, batch)
        inputs, last = self.kept[key]
        if changed is None:
            return last
        (states, *more), named = inputs[changed]
        for block in self.blocks[changed:]:
            found = block(states, *more, **named)
            states = found[0] if isinstance(found, tuple) else found
        return states

    def _changed(self) -> int | None:
        for number, (block, before) in enumerate(zip(self.blocks, self.whole, strict=True)):
            if not all(map(torch.equal, block.parameters(), before)):
                return number
        return None

    def _run_and_keep(self, model: nn.Module, batch: Any, key: bytes) -> Tensor:
        inputs: list[Any] = []

        def keep(module: nn.Module, args: Any, named: Any) -> None:
            inputs.append((args, named))

        handles = [x.register_forward_pre_hook(keep, with_kwargs=True) for x in self.blocks]
        try:
            last = self.run(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        self.kept[key] = (inputs, last)
        return last


def minilm(made: int = 16, judged: int = 48) -> Subject:
    """MiniLM: embeddings of STS-B sentences, made on pairs of ``train``, judged on ``test``."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())

    def encoded(texts: Sequence[str]) -> dict[str, Tensor]:
        found = tokenizer(
            list(texts), padding=True, truncation=True, max_length=32, return_tensors="pt"
        )
        return {key: found[key] for key in ("input_ids", "attention_mask")}

    def batches(part: str, count: int, seed: int) -> list[Any]:
        seen = {text for x in pairs("train") for text in x[:2]} if part != "train" else set()
        known = [x for x in pairs(part) if not seen & set(x[:2])]  # no sentence twice
        order = np.random.default_rng(seed).permutation(len(known))[:count]
        rows = sorted((known[i] for i in order), key=lambda x: max(len(x[0]), len(x[1])))
        return [
            {
                **encoded([x[0] for x in rows[at : at + 8]] + [x[1] for x in rows[at : at + 8]]),
                "scores": torch.tensor([x[2] for x in rows[at : at + 8]]),
            }
            for at in range(0, count, 8)
        ]

    model = AutoModel.from_pretrained(minilm_folder()).eval()
    states = Resumed(
        model,
        lambda model, batch: (
            model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state
        ),
    )

    def outputs(model: nn.Module, batch: Any) -> Tensor:
        mask = batch["attention_mask"][..., None]
        return functional.normalize((states(model, batch) * mask).sum(1), dim=1)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        one, two = outputs(model, batch).chunk(2)
        return ((one * two).sum(1) - batch["scores"] / 5).square().mean()

    def plain(batches: Sequence[Any]) -> list[Any]:
        return [
            {"input_ids": ids[mask > 0][None], "attention_mask": mask[mask > 0][None]}
            for batch in batches
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]

    return Subject(
        name="minilm",
        model=model,
        wanted=lambda name: "encoder.layer" in name,
        outputs=outputs,
        loss=loss,
        metrics=(spearman(lambda batch: batch["scores"]),),
        made=lambda seed: batches("train", made, seed),
        judged=lambda seed: batches("test", judged, seed),
        plain=plain,
    )


def stories(made: int = 8, judged: int = 64) -> Subject:
    """stories260k: logits on text that it wrote itself, another text for each use and split."""
    model = stories_model().eval()

    def written(count: int, seed: int) -> list[Any]:
        torch.manual_seed(seed)
        start = torch.ones(count, 1, dtype=torch.long)
        text = model.generate(
            start, attention_mask=torch.ones_like(start), do_sample=True, max_new_tokens=127,
            min_new_tokens=127, pad_token_id=0, top_k=0,
        )  # fmt: skip
        return list(text.split(8))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        logits = model(batch).logits[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    return Subject(
        name="stories",
        model=model,
        wanted=lambda name: "proj" in name,
        outputs=lambda model, batch: model(batch).logits,
        loss=loss,
        metrics=(perplexity(lambda batch: batch),),
        made=lambda seed: written(made, seed),
        judged=lambda seed: written(judged, 1000 + seed),
        plain=lambda batches: batches,
    )


def training_images(
    count: int,
    seed: int,
    mean: tuple[float, ...] = CHANNEL_MEAN,
    std: tuple[float, ...] = CHANNEL_STD,
) -> tuple[Tensor, Tensor]:
    """Images of CIFAR-10's training set, normalised, and their labels."""
    from PIL import Image

    name = "cifar10_batch_0.png"
    image = np.asarray(Image.open(DATA / "cifar10-clean" / name).convert("RGB"))
    labels = torch.tensor(json.loads((DATA / "cifar10-clean/labels.json").read_text())[name])
    picked = np.random.default_rng(seed).permutation(len(labels))[:count]
    x = pixels(image.reshape(-1, 32, 32, 3)[picked], mean, std)
    return x, labels[picked]


def resnet(made: int = 32, judged: int = 200) -> Subject:
    """ResNet20: logits of CIFAR-10 images, made on training images, judged on test images."""

    def batches(x: Tensor, y: Tensor) -> list[Any]:
        return [{"x": a, "y": b} for a, b in zip(x.split(32), y.split(32), strict=True)]

    def test(seed: int) -> list[Any]:
        x, y = cifar_test(1000)
        picked = torch.from_numpy(np.random.default_rng(seed).permutation(1000)[:judged])
        return batches(x[picked], y[picked])

    return Subject(
        name="resnet20",
        model=cifar_resnet().eval(),
        wanted=lambda name: "conv" in name,
        outputs=lambda model, batch: model(batch["x"]),
        loss=lambda model, batch: functional.cross_entropy(model(batch["x"]), batch["y"]),
        metrics=(accuracy(lambda batch: batch["y"]),),
        made=lambda seed: batches(*training_images(made, seed)),
        judged=test,
        plain=lambda batches: batches,
        kinds=("bits", "magnitude"),  # norms of inputs are known for linear layers
        blocks=False,  # LIM needs inputs and outputs of one shape
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "minilm": minilm,
    "stories": stories,
    "resnet20": resnet,
}


# -------------------------------------------------------------------------------- plans


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked for: bits on average, or a sparsity by an importance."""

    kind: str
    target: float
    norms: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"{self.target:g} bits" if self.kind == "bits" else f"{self.target:.0%} {self.kind}"

    def level(self, value: float) -> Level:
        """A bit width or a sparsity as a level; Wanda compares within rows."""
        if self.kind == "bits":
            return Bits(Rounding(bits=int(value)))
        if self.kind == "wanda":
            return Sparsity(share=value, importance="wanda", within="row", norms=self.norms)
        return Sparsity(share=value)

    @property
    def levels(self) -> list[Level]:
        """All candidates."""
        return [self.level(x) for x in (WIDTHS if self.kind == "bits" else SHARES)]

    @property
    def near(self) -> list[Level]:
        """Those around the target."""
        reach = 2.0 if self.kind == "bits" else 0.3
        return [x for x in self.levels if abs(x.value - self.target) < reach + 1e-9]

    def budget(self, params: int) -> int:
        """Bits, or kept weights."""
        return round((self.target if self.kind == "bits" else 1 - self.target) * params)


TARGETS = (("bits", 3), ("bits", 4), ("magnitude", 0.4), ("magnitude", 0.5), ("wanda", 0.4),
           ("wanda", 0.5))  # fmt: skip


AROUND = (("bits", 3), ("bits", 4), ("magnitude", 0.4))
TWICE = (("bits", 4), ("magnitude", 0.4))
"""Where units are measured around a plan too, and where in a second round: it takes its time."""


def cases(subject: Subject, norms: Mapping[str, Tensor]) -> Iterator[Case]:
    """What is asked of a subject."""
    for kind, target in TARGETS:
        if kind in subject.kinds:
            yield Case(kind=kind, target=target, norms=norms if kind == "wanda" else {})


def measured_plans(
    subject: Subject, case: Case, batches: Sequence[Any], folder: Path
) -> dict[str, Plan]:
    """Plans from measured curves: each unit alone, around the uniform plan, and both."""
    units, log = subject.units, folder / f"{subject.name}.cells.jsonl"
    given = {"batches": batches, "outputs": subject.outputs, "log": log}
    total = sum(math.prod(x.shape) for unit in units for x in unit.matrices)

    def chosen(curves: Sequence[Curve]) -> Plan:
        return plan_of(units, case.levels, dynamic(curves, budget=case.budget(total)))

    alone = sweep(subject.model, units, levels=case.levels, **given)
    curves = damage_curves(units, case.levels, alone)
    rooted = [
        Curve(unit=x.unit, levels=x.levels, sizes=x.sizes,
              costs=tuple(math.sqrt(cost) for cost in x.costs))
        for x in curves
    ]  # fmt: skip
    made = {"measured alone": chosen(curves), "measured alone, not squared": chosen(rooted)}
    if (case.kind, case.target) not in AROUND:
        return made

    def around(plan: Plan) -> tuple[Curve, ...]:
        cells = sweep(subject.model, units, levels=case.near, around=Company(levels=plan), **given)
        return damage_curves(units, case.near, cells)

    even = {x.name: case.level(case.target) for unit in units for x in unit.matrices}
    first = around(even)
    made["measured around uniform"] = chosen(first)
    if (case.kind, case.target) in TWICE:
        second = around(made["measured around uniform"])
        by_itself = damage_curves(units, case.near, alone)
        made["measured alone and in two rounds"] = chosen(mean_curves(by_itself, first, second))
    return made


def scores(subject: Subject, batches: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Importance by unit, higher is to be kept, of every score."""
    units, report = subject.units, _report(subject.name, subject.model)
    found = {}
    for name in SCORES:
        if name == "lim":
            if subject.blocks:
                found[name] = _by_block(subject, batches)
            continue
        evidence = Evidence(
            model=subject.model, units=units, report=report, batches=batches,
            outputs=subject.outputs, loss=subject.loss,
        )  # fmt: skip
        found[name] = score_named(name).importance(evidence)
    return found


@lru_cache
def _report(name: str, model: nn.Module) -> frog.ModelReport:
    return frog.analyze(model, SETTINGS, run=frog.Run(jobs=1))


def _by_block(subject: Subject, batches: Sequence[Any]) -> dict[str, float]:
    """LIM of the block that a unit is in."""
    matrices = [x for unit in subject.units for x in unit.matrices]
    blocks = block_units(matrices)
    evidence = Evidence(
        model=subject.model, units=blocks, batches=subject.plain(batches), outputs=subject.outputs
    )
    lim = score_named("lim").importance(evidence)
    return {x.name: lim[block.name] for block in blocks for x in block.matrices}


def scored_plans(
    subject: Subject, case: Case, found: Mapping[str, Mapping[str, float]]
) -> dict[str, Plan]:
    """A plan from every score, by the formula that fits it."""
    units = subject.units
    asked = [Unit(name=x.name, params=math.prod(x.matrices[0].shape)) for x in units]
    blocks = {x.name: str(x.matrices[0].block) for x in units}
    tied = [Unit(name=x.name, params=x.params, tie=blocks[x.name]) for x in asked]
    made: dict[str, Allocation] = {}
    for name, by_unit in found.items():
        values = _standard([by_unit[x.name] for x in units])
        raw = [by_unit[x.name] for x in units]
        if case.kind == "bits":
            losses = [x**2 for x in raw] if name == "rounding-error" else list(np.exp(values))
            made[name] = water_filling(asked, losses, average=case.target, levels=WIDTHS)
            if name == "lim":
                low, high = int(case.target) - 1, int(case.target) + 1
                made["lim, two levels"] = two_level(
                    tied, values, average=case.target, low=low, high=high
                )
        elif name == "zeroth-order":
            made[name] = proportional(
                asked, raw, sparsity=case.target, most=min(case.target + 0.1, 1.0)
            )
        else:
            harmless = [-x for x in values]
            made[name] = linear_map(asked, harmless, sparsity=case.target, spread=SPREAD)
            if name.endswith("alpha") and subject.blocks:
                made[f"{name}, block mean"] = linear_map(
                    tied, harmless, sparsity=case.target, spread=SPREAD
                )
    return {
        name: {x.name: case.level(level) for x, level in zip(units, one.levels, strict=True)}
        for name, one in made.items()
    }


def _standard(values: Sequence[float]) -> list[float]:
    """Mean 0 and deviation 1; what has no value stands in the middle."""
    x = np.asarray(values, dtype=np.float64)
    x = np.where(np.isfinite(x), x, np.nanmean(np.where(np.isfinite(x), x, np.nan)))
    spread = x.std()
    return [float(v) for v in ((x - x.mean()) / spread if spread > 0 else x * 0)]


# --------------------------------------------------------------------------------- runs


def run(subject: Subject, split: int, *, kind: str = "", folder: Path = FOLDER) -> dict[str, Any]:
    """All plans of a subject on one split: errors, changes against the uniform plan, costs.

    ``kind`` takes only cases of one kind; what is kept is not run again.
    """
    file = folder / f"{subject.name}-{split}.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    batches, judged = subject.made(split), subject.judged(split)
    units = subject.units
    matrices = [x for unit in units for x in unit.matrices]
    params = {x.name: math.prod(x.shape) for x in matrices}
    trial = Trial(batches=judged, outputs=subject.outputs, metrics=subject.metrics,
                  seen=[digest_of(batches), *map(digest_of, batches)])  # fmt: skip
    norms, found = {}, None
    for case in list(cases(subject, {})):
        if case.name in kept.get("cases", {}) or kind not in ("", case.kind):
            continue
        cpu, wall = time.process_time(), time.perf_counter()
        if case.kind == "wanda" and not norms:
            norms = input_norms(
                subject.model, matrices, batches=subject.plain(batches), outputs=subject.outputs
            )
        if case.kind == "wanda":
            case = Case(kind=case.kind, target=case.target, norms=norms)
        if found is None:
            found = kept.get("scores") or scores(subject, batches)
            kept.setdefault("cpu_scores_s", round(time.process_time() - cpu, 1))
            kept["scores"] = found
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(kept))
        plans = {
            **measured_plans(subject, case, batches, folder),
            **scored_plans(subject, case, found),
        }
        first = next(iter(plans.values()))
        even = uniform({x: case.level(case.target) for x in first}, params)
        for number in range(RANDOMS):
            dealt = shuffled(first, params, seed=100 * split + number)
            plans[f"random {number + 1}"] = dealt
        prepared = time.process_time() - cpu
        result = measure(subject.model, {"": {}, "uniform": even, **plans},
                         matrices=matrices, trial=trial)  # fmt: skip
        rows = {}
        for name, seen in result.items():
            against = differences(seen, result["uniform"], subject.metrics, seed=split)
            plan = even if name == "uniform" else plans.get(name, {})
            rows[name or "unchanged"] = {
                "size": size_of(plan, params) / sum(params.values()),
                "error": seen.error,
                "angle": seen.angle,
                **seen.values(subject.metrics),
                "against": {x.measure: [x.change, x.low, x.high, x.verdict] for x in against},
                "levels": [x.value for x in plan.values()],
            }
        kept.setdefault("cases", {})[case.name] = {
            "plans": rows,
            "cpu_plans_s": round(prepared, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
            "wall_s": round(time.perf_counter() - wall, 1),
        }
        kept["examples"] = len(result["uniform"].moved)
        kept["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        file.write_text(json.dumps(kept))
        print(f"{subject.name} {split} {case.name}: {kept['cases'][case.name]['cpu_s']} s",
              flush=True)  # fmt: skip
    for case in cases(subject, {}):
        if case.name in kept["cases"] and "own" not in kept["cases"][case.name]:
            kept["cases"][case.name]["own"] = _on_own_data(
                subject, case, kept["cases"][case.name]["plans"], batches
            )
            file.write_text(json.dumps(kept))
    return kept


def _on_own_data(
    subject: Subject, case: Case, rows: Mapping[str, Any], batches: Sequence[Any]
) -> dict[str, float]:
    """Joint error of the measured plans on the data that they were made on."""
    if case.kind == "wanda":
        return {}
    matrices = [x.matrices[0] for x in subject.units]
    plans = {
        name: {x.name: case.level(v) for x, v in zip(matrices, row["levels"], strict=True)}
        for name, row in rows.items()
        if name == "uniform" or (name.startswith("measured") and "squared" not in name)
    }
    trial = Trial(batches=batches, outputs=subject.outputs)
    found = measure(subject.model, plans, matrices=matrices, trial=trial)
    return {name: seen.error for name, seen in found.items()}
