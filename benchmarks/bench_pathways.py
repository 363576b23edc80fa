"""Are the heaviest pathways critical? Their subspaces are ablated, and so are fair controls.

    python benchmarks/bench_pathways.py minilm stories      # writes results/pathways_*.md
    python benchmarks/bench_pathways.py stories --draws 5   # quick

``minilm`` is the real all-MiniLM-L6-v2, on the first pairs of the STS-B test part (shared data);
``stories`` the real Llama of 260k parameters, on text that it samples itself (its own training
text is not at hand), so that the loss without a change is its entropy. One BLAS thread.

An edge from a writer W to a reader R is ablated at the reader: R <- R - R Q Q^T. Q holds the
directions that W writes and R reads most of all: R's leading directions V, turned so that the
ones nearest to W's leading directions U come first (principal vectors of the two subspaces).
Controls change the same matrices by the same ||change||_F / ||R||_F (all but the first), if not
said otherwise direction by direction until that norm is reached, the last one in part:

``random, same size``   as many random directions, taken out: the norm is smaller
``... and norm``        as many, and more than taken out, so that the norm is the same
``random, same norm``   taken out, as many as the norm needs: many more directions
``leading``             random directions *within* V: is being read strongly all that matters?
``other edges``         the shared directions of as many edges of the same kinds, at random
``lightest edges``      the shared directions of as many edges of the same kinds, of least weight

Damage: 1 - mean cosine of the embeddings before and after, and the fall of Spearman's rho with
the judges (minilm); the rise of the loss per token (stories).
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import heading
from benchmarks.tasks import DATA, ShakespeareTask, minilm_folder, pooled
from frog.metrics.faces import reader_face, writer_face
from frog.metrics.flow import measure_pairs, outliers
from frog.metrics.pathways import heaviest
from frog.types import Pair, Settings
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors
from frog.weights.wiring import wire

SHARED_SIZE = 4
"""Directions of an edge of the stream that are ablated; a quarter of k = 16."""

SINGLE_NORM = 0.25
"""||change||_F / ||R||_F where single edges are compared."""


@dataclass
class Subject:
    """A model that can be scored; ``damages`` maps a name to (per-item scores -> damage)."""

    name: str
    model: torch.nn.Module
    score: Callable[[], dict[str, np.ndarray]]
    damages: dict[str, Callable[[dict[str, np.ndarray], np.ndarray], float]]
    items: int


# ---------------------------------------------------------------------------- the models


def minilm(pairs: int) -> Subject:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(minilm_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    with (DATA / "stsb-en/stsb-en-test.csv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    step = len(rows) // pairs
    rows = rows[::step][:pairs]
    texts = [row[0] for row in rows] + [row[1] for row in rows]
    judged = np.array([float(row[2]) for row in rows])
    order = np.argsort([len(text) for text in texts], kind="stable")
    batches = [
        (part, tokenizer([texts[i] for i in part], padding=True, return_tensors="pt"))
        for part in np.array_split(order, max(1, len(texts) // 32))
    ]

    def embed() -> np.ndarray:
        found = np.empty((len(texts), 384))
        with torch.no_grad():
            for part, inputs in batches:
                found[part] = pooled(model, inputs).double().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    intact = embed()

    def score() -> dict[str, np.ndarray]:
        now = embed()
        kept = np.sum(now * intact, axis=1)
        return {
            "moved": (2 - kept[:pairs] - kept[pairs:]) / 2,
            "similarity": np.sum(now[:pairs] * now[pairs:], axis=1),
        }

    before = score()["similarity"]

    def fall(found: dict[str, np.ndarray], at: np.ndarray) -> float:
        was = spearmanr(before[at], judged[at]).statistic
        return float(was - spearmanr(found["similarity"][at], judged[at]).statistic)

    return Subject(
        name=f"MiniLM, {pairs} pairs of STS-B, rho {spearmanr(before, judged).statistic:.3f}",
        model=model,
        score=score,
        damages={"1 - cosine": lambda x, at: float(x["moved"][at].mean()), "fall of rho": fall},
        items=pairs,
    )


def stories(sequences: int) -> Subject:
    model = ShakespeareTask().model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        text = torch.ones((sequences, 1), dtype=torch.long)  # <s>
        for _ in range(127):
            chances = torch.softmax(model(text).logits[:, -1].double(), -1)
            text = torch.cat([text, torch.multinomial(chances, 1)], 1)

    def score() -> dict[str, np.ndarray]:
        with torch.no_grad():
            logits = model(text).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), text[:, 1:], reduction="none"
            )
        return {"loss": loss.double().mean(1).numpy()}

    intact = score()["loss"]
    return Subject(
        name=f"stories260k, {sequences} sequences of 128 tokens, loss {intact.mean():.3f}",
        model=model,
        score=score,
        damages={"rise of loss": lambda x, at: float((x["loss"] - intact)[at].mean())},
        items=sequences,
    )


# ------------------------------------------------------------------------------ ablation


@dataclass
class Bench:
    """The pairs of a model, and what it takes to ablate them."""

    subject: Subject
    seed: int

    def __post_init__(self) -> None:
        tensors = list_tensors(self.subject.model)
        listed = catalogue(tensors)
        self.wiring = wire(tensors, listed)
        self.matrices = {x.name: x for x in listed.matrices}
        self.pairs, self.notes = measure_pairs(self.wiring, self.matrices, Settings())
        self.pathways, remarks = heaviest(self.pairs, self.matrices, top=3)
        self.notes = (*self.notes, *remarks)
        self.heads = {(e.writer, e.reader): e.heads for e in self.wiring.edges}
        self.parameters = dict(self.subject.model.named_parameters())
        stream = [e.writer for e in self.wiring.edges if e.kind == "residual"]
        faces = [writer_face(self.matrices[x]).energy_n for x in dict.fromkeys(stream)]
        self.removed = outliers(np.stack(faces))
        self._known: dict[Any, Any] = {}

    def basis(self, pair: Pair, reading: str) -> tuple[np.ndarray, slice]:
        """V turned towards U, (n, k) with outlier coordinates zero if trimmed; columns of R."""
        key = (pair.writer, pair.reader, pair.head, reading)
        if key not in self._known:
            writer = writer_face(self.matrices[pair.writer])
            columns = slice(None)
            reader_n = self.matrices[pair.reader].shape[1]
            reader = reader_face(self.matrices[pair.reader], reader_n)
            kept = np.arange(reader.n)
            heads = self.heads[pair.writer, pair.reader]
            if heads is not None and pair.head is not None:
                own = pair.head // (heads.queries // heads.shared)
                columns = slice(pair.head * heads.size, (pair.head + 1) * heads.size)
                writer = writer.part(slice(own * heads.size, (own + 1) * heads.size))
                reader = reader.part(columns)
                kept = np.arange(heads.size)
            elif reading == "trimmed" and pair.kind == "residual":
                kept = np.setdiff1d(kept, self.removed)
                writer, reader = writer.part(kept), reader.part(kept)
            u, v = writer.directions(pair.k), reader.directions(pair.k)
            turned = v @ np.linalg.svd(u.T @ v)[2].T
            size = reader_n if columns == slice(None) else len(kept)
            full = np.zeros((size, pair.k))
            full[kept] = turned
            self._known[key] = full, columns
        return self._known[key]

    def damage(self, changes: Sequence[tuple[str, slice, np.ndarray, np.ndarray]]) -> dict:
        """Scores with R <- R - R (Q * part) Q^T for each (reader, columns, Q, part); restored."""
        kept = {}
        for reader, columns, q, part in changes:
            weight = self.parameters[reader]
            if reader not in kept:
                kept[reader] = weight.detach().clone()
            block = weight.data[:, columns].double()
            block -= (block @ torch.tensor(q * part)) @ torch.tensor(q.T)
            weight.data[:, columns] = block.float()
        found = self.subject.score()
        for reader, weight in kept.items():
            self.parameters[reader].data.copy_(weight)
        return found

    def energies(self, pair: Pair, columns: slice, q: np.ndarray) -> np.ndarray:
        """||R q_i||^2 / ||R||_F^2 for every column of Q."""
        weight = self.parameters[pair.reader].detach().double().numpy()
        return np.sum(np.square(weight[:, columns] @ q), axis=0) / np.sum(np.square(weight))


def until(energies: np.ndarray, target: float) -> np.ndarray:
    """How much of each direction to take, in order, so that the energies add up to the target.

    A part p of a direction removes p^2 of its energy.
    """
    parts, left = np.zeros(len(energies)), target
    for i, energy in enumerate(energies):
        parts[i] = 1.0 if energy <= left else np.sqrt(max(left, 0.0) / energy)
        left -= min(energy, left)
        if left <= 1e-15:
            break
    return parts


def shared_size(pair: Pair) -> int:
    return max(1, min(SHARED_SIZE, pair.k // 4))


class Trials:
    """The controls of one set of edges."""

    def __init__(self, bench: Bench, edges: Sequence[Pair], reading: str) -> None:
        self.bench, self.edges, self.reading = bench, list(edges), reading
        self.targets = []
        self.shared = []
        for pair in self.edges:
            v, columns = bench.basis(pair, reading)
            q = v[:, : shared_size(pair)]
            self.targets.append(float(bench.energies(pair, columns, q).sum()))
            self.shared.append((pair.reader, columns, q, np.ones(q.shape[1])))

    def own(self) -> dict:
        return self.bench.damage(self.shared)

    def random_same_size(self, rng: np.random.Generator, *, same_norm: bool) -> dict:
        changes = []
        for pair, target, (reader, columns, q, part) in zip(
            self.edges, self.targets, self.shared, strict=True
        ):
            drawn = random_basis(rng, *q.shape)
            energy = self.bench.energies(pair, columns, drawn).sum()
            factor = np.sqrt(target / energy) if same_norm else 1.0
            changes.append((reader, columns, drawn, part * factor))
        return self.bench.damage(changes)

    def matched(self, rng: np.random.Generator, *, leading: bool) -> dict:
        changes = []
        for pair, target in zip(self.edges, self.targets, strict=True):
            v, columns = self.bench.basis(pair, self.reading)
            n, k = v.shape
            # random directions carry 1 / n each: some more than the norm needs, no full basis
            enough = min(n, int(1.5 * target * n) + 16)
            q = v @ random_basis(rng, k, k) if leading else random_basis(rng, n, enough)
            parts = until(self.bench.energies(pair, columns, q), target)
            used = parts > 0
            changes.append((pair.reader, columns, q[:, used], parts[used]))
        return self.bench.damage(changes)

    def others(self, picked: Sequence[Pair]) -> dict:
        """The shared directions of other edges, to the same norms in the same order of size."""
        changes = []
        for pair, target in zip(picked, self.targets, strict=True):
            v, columns = self.bench.basis(pair, self.reading)
            parts = until(self.bench.energies(pair, columns, v), target)
            used = parts > 0
            changes.append((pair.reader, columns, v[:, used], parts[used]))
        return self.bench.damage(changes)


def random_basis(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, k))).Q


# --------------------------------------------------------------------------- experiments


def edges_of(bench: Bench, paths: int) -> list[Pair]:
    """The distinct edges of the first pathways, readers that are not embeddings."""
    wanted = {
        (*step, head)
        for path in bench.pathways[:paths]
        for *step, head in zip(path.layers, path.layers[1:], path.heads, strict=False)
    }
    return [p for p in bench.pairs if (p.writer, p.reader, p.head) in wanted and usable(bench, p)]


def usable(bench: Bench, pair: Pair) -> bool:
    return pair.kind != "qk" and bench.matrices[pair.reader].kind != "embedding"


def alike(rng: np.random.Generator | None, bench: Bench, edges: Sequence[Pair]) -> list[Pair]:
    """For every edge another of its kind outside the set: at random, or the lightest."""
    taken = {(p.writer, p.reader, p.head) for p in edges}
    pool = [
        p
        for p in bench.pairs
        if usable(bench, p) and p.overlaps and (p.writer, p.reader, p.head) not in taken
    ]
    chosen: list[Pair] = []
    for edge in edges:
        fitting = [p for p in pool if p.kind == edge.kind and p not in chosen]
        if not fitting:  # activation edges: most are in the pathways
            chosen.append(edge)
        elif rng is None:
            chosen.append(min(fitting, key=lambda p: p.weight))
        else:
            chosen.append(fitting[rng.integers(len(fitting))])
    return chosen


def compared(bench: Bench, paths: int, reading: str, draws: int, brief: bool) -> list[str]:
    """Rows: the pathways' own damage, and every control's, for each kind of damage."""
    edges = edges_of(bench, paths)
    trials = Trials(bench, edges, reading)
    rng = np.random.default_rng(bench.seed)
    own = trials.own()
    makers = {
        "random, same size": lambda: trials.random_same_size(rng, same_norm=False),
        "random, same size and norm": lambda: trials.random_same_size(rng, same_norm=True),
        "random, same norm": lambda: trials.matched(rng, leading=False),
        "leading": lambda: trials.matched(rng, leading=True),
        "other edges": lambda: trials.others(alike(rng, bench, edges)),
    }
    if (
        brief or reading == "plain"
    ):  # is it the outlier coordinates? The others hardly depend on them
        makers = {x: makers[x] for x in ("random, same size and norm", "leading")}
    controls = {name: [make() for _ in range(draws)] for name, make in makers.items()}
    if len(makers) > 2:
        controls["lightest edges"] = [trials.others(alike(None, bench, edges))]
    norm = np.sqrt(np.mean(trials.targets))
    rows = []
    for damage, function in bench.subject.damages.items():
        every = np.arange(bench.subject.items)
        mine = function(own, every)
        for name, found in controls.items():
            values = np.array([function(x, every) for x in found])
            resampled = []
            for _ in range(200):
                at = rng.integers(bench.subject.items, size=bench.subject.items)
                picked = rng.integers(len(found), size=len(found))
                there = np.mean([function(found[i], at) for i in picked[:5]])
                resampled.append(function(own, at) - there)
            low, high = np.percentile(resampled, [2.5, 97.5])
            start = f"| {paths} | {reading} | {len(edges)} | {norm:.2f} | {damage} | {mine:.4f} "
            spread = f"{values.mean():.4f} | {values.min():.4f} .. {values.max():.4f}"
            gap = f"{mine - values.mean():+.4f} ({low:+.4f} .. {high:+.4f})"
            rows.append(f"{start}| {name} | {spread} | {gap} | {np.mean(mine > values):.2f} |")
    return rows


def singles(bench: Bench, draws: int) -> list[str]:
    """Every edge of the stream by itself, at one norm: does any weight foretell the damage?"""
    rng = np.random.default_rng(bench.seed + 1)
    edges = [p for p in bench.pairs if p.kind == "residual" and usable(bench, p) and p.overlaps]
    every = np.arange(bench.subject.items)
    function = next(iter(bench.subject.damages.values()))
    own, leading = [], []
    for pair in edges:
        trials = Trials(bench, [pair], "trimmed")
        trials.targets = [SINGLE_NORM**2]
        own.append(function(trials.others([pair]), every))
        drawn = [function(trials.matched(rng, leading=True), every) for _ in range(draws)]
        leading.append(np.mean(drawn))
    own, leading = np.array(own), np.array(leading)
    ratio = np.log(np.maximum(own, 1e-9) / np.maximum(leading, 1e-9))
    boot = [ratio[rng.integers(len(ratio), size=len(ratio))].mean() for _ in range(2000)]
    low, high = np.exp(np.percentile(boot, [2.5, 97.5]))
    rows = [
        f"Shared directions against random leading ones of the same reader, {len(edges)} edges: "
        f"geometric mean of the ratio of damages {np.exp(ratio.mean()):.2f} ({low:.2f} .. "
        f"{high:.2f}); larger in {np.mean(ratio > 0):.0%} of the edges.",
        "",
        "| weight | Spearman with the damage (95 %) | within the readers' roles |",
        "|---|---:|---:|",
    ]
    for name, weigh in weights().items():
        scores = np.array([weigh(p) for p in edges])
        rho = spearmanr(scores, own).statistic
        boot = []
        for _ in range(1000):
            at = rng.integers(len(edges), size=len(edges))
            boot.append(spearmanr(scores[at], own[at]).statistic)
        low, high = np.nanpercentile(boot, [2.5, 97.5])
        roles = np.array([bench.matrices[p.reader].role for p in edges])
        inside = [
            spearmanr(scores[roles == role], own[roles == role]).statistic
            for role in dict.fromkeys(roles)
            if np.sum(roles == role) >= 5
        ]
        rows.append(f"| {name} | {rho:+.2f} ({low:+.2f} .. {high:+.2f}) | {np.mean(inside):+.2f} |")
    return rows


def weights() -> dict[str, Callable[[Pair], float]]:
    def of(reading: str) -> Callable[[Pair], float]:
        return lambda p: p.overlaps.get(reading, p.overlaps["plain"]).z

    return {
        "z, plain": of("plain"),
        "z, trimmed": of("trimmed"),
        "z, folded": of("folded"),
        "z, folded, x gain": lambda p: of("folded")(p) * p.gain,
        "z, plain, x gain": lambda p: of("plain")(p) * p.gain,
        "gain": lambda p: p.gain,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", choices=("minilm", "stories"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--single-draws", type=int, default=1)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--brief", action="store_true", help="two controls, no single edges")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    show(arguments.out, [heading("Are the heaviest pathways critical?", "one thread")])
    for name in arguments.models:
        started = time.perf_counter()
        make = {"minilm": minilm, "stories": stories}[name]
        bench = Bench(make(arguments.items), arguments.seed)
        show(arguments.out, [f"## {bench.subject.name}", "", *(f"- {x}" for x in bench.notes), ""])
        head = [
            "| paths | reading | edges | norm | damage | pathways | control | mean | range "
            "| difference (95 %) | share of draws below |",
            "|---:|---|---:|---:|---|---:|---|---:|---|---|---:|",
        ]
        sets = ((1, "trimmed"), (3, "trimmed"), (1, "plain"))
        for paths, reading in sets[:2] if arguments.brief else sets:
            rows = compared(bench, paths, reading, arguments.draws, arguments.brief)
            show(arguments.out, [*head, *rows])
            head = []
        if not arguments.brief:
            show(arguments.out, ["", *singles(bench, arguments.single_draws)])
        show(arguments.out, [""])
        show(arguments.out, [f"{time.perf_counter() - started:.0f} s.", ""])


def show(out: Path | None, lines: Sequence[str]) -> None:
    """Print, and append to the file: a run that is broken off leaves what it has."""
    print("\n".join(lines), flush=True)
    if out:
        with out.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
