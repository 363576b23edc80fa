"""The Llama of 260k parameters, trained on children's stories, learns Shakespeare."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.tasks import DATA, encode, stories_model
from benchmarks.tuning.task import Score, Task

LENGTH = 128
ROWS, OWN_ROWS = 64, 24


class Plays(Task):
    """Next tokens of Shakespeare; old: the loss on stories that the model itself told before."""

    name = "plays"
    words = "Llama of 260k parameters, of children's stories, to Shakespeare"
    old_words = "nats per token on its own stories, times -100"
    unit = "0.01 nats per token"
    steps = 120
    full_rate = 1e-3
    bf16 = False  # at this width bfloat16 is slower

    def __init__(self) -> None:
        self.pristine = stories_model().eval()
        self.targets = tuple(n for n, _ in self.pristine.named_modules() if n.endswith("_proj"))
        text = (DATA / "tinyshakespeare/input.txt").read_text()
        self.train = torch.tensor(encode(text[:400_000]))
        self.held = {
            "validation": _rows(text[600_000:640_000]),
            "test": _rows(text[-40_000:]),
        }
        self.own = {s: self._told(seed) for s, seed in (("validation", 1), ("test", 2))}

    def _told(self, seed: int) -> Tensor:
        """Stories (OWN_ROWS, LENGTH) sampled from the model before tuning."""
        start = torch.ones(OWN_ROWS, 1, dtype=torch.long)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.pristine.generate(  # type: ignore[operator]
                start, attention_mask=torch.ones_like(start), do_sample=True, pad_token_id=0,
                max_new_tokens=LENGTH - 1, min_new_tokens=LENGTH - 1, top_k=0,
            )  # fmt: skip

    def batches(self, seed: int) -> Iterator[Tensor]:
        draw = np.random.default_rng(seed)
        while True:
            starts = draw.integers(0, len(self.train) - LENGTH, 8)
            yield torch.stack([self.train[s : s + LENGTH] for s in starts])

    def loss(self, batch: Tensor) -> Tensor:
        return self._losses(batch).mean()

    def outputs(self, batch: Tensor) -> Tensor:
        return self.model(batch, use_cache=False).logits.flatten(0, 1)

    def new(self, split: str) -> Score:
        return self._score(self.held[split])

    def old(self, split: str) -> Score:
        return self._score(self.own[split])

    def _losses(self, rows: Tensor) -> Tensor:
        """Nats of each token after the first (rows, LENGTH - 1)."""
        logits = self.model(rows, use_cache=False).logits[:, :-1].float()
        flat = functional.cross_entropy(
            logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
        )
        return flat.view(len(rows), -1)

    @torch.no_grad()
    def _score(self, rows: Tensor) -> Score:
        each = -torch.cat([self._losses(part).mean(1) for part in rows.split(16)]).double().numpy()
        loss = -float(np.mean(each))
        return Score(quality=-100.0 * loss, loss=loss, each=each)


def _rows(text: str) -> Tensor:
    """The first ROWS rows of LENGTH tokens."""
    tokens = torch.tensor(encode(text))[: ROWS * LENGTH]
    return tokens.view(ROWS, LENGTH)
