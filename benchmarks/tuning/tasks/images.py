"""What both tasks of the ResNet20 of CIFAR-10 share: its images, batches and old scores."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tasks import DATA, ResNet, cifar_resnet, cifar_test, endless, pixels
from benchmarks.tuning.task import Score, Task
from benchmarks.tuning.tasks.scores import classified

Labelled = tuple[Tensor, Tensor]
"""Images (n, 3, 32, 32), normalised, and labels (n,)."""


class ImageTask(Task):
    """ResNet20 on new images; old: CIFAR-10 without loss, 1,000 images a split.

    The old validation images are of CIFAR's training set, the old test images the first of its
    test set.
    """

    steps = 72
    batch = 64
    full_rate = 3e-4
    model: ResNet  # type: ignore[assignment]
    train: Labelled
    held: dict[str, Labelled]
    """New images of each split."""

    def __init__(self) -> None:
        self.pristine = cifar_resnet()
        self.targets = tuple(
            name for name, x in self.pristine.named_modules() if isinstance(x, nn.Conv2d)
        )
        self.old_images = {"validation": _training_sheet(), "test": cifar_test(1000)}

    def old_logits(self, x: Tensor) -> Tensor:
        """What the classifier of the ten classes of CIFAR-10 says (n, 10)."""
        return self.model(x)

    def batches(self, seed: int) -> Iterator[Labelled]:
        x, y = self.train
        for picked in endless(len(x), self.batch, seed):
            yield x[picked], y[picked]

    def loss(self, batch: Labelled) -> Tensor:
        return functional.cross_entropy(self.model(batch[0]).float(), batch[1])

    def outputs(self, batch: Labelled) -> Tensor:
        return self.old_logits(batch[0]).float()

    @torch.no_grad()
    def new(self, split: str) -> Score:
        x, y = self.held[split]
        return classified(torch.cat([self.model(part) for part in x.split(128)]), y)

    @torch.no_grad()
    def old(self, split: str) -> Score:
        x, y = self.old_images[split]
        return classified(torch.cat([self.old_logits(part) for part in x.split(128)]), y)


def _training_sheet() -> Labelled:
    """The first 1,000 training images of CIFAR-10 and their labels."""
    from PIL import Image

    folder, name = DATA / "cifar10-clean", "cifar10_batch_0.png"
    image = np.asarray(Image.open(folder / name).convert("RGB")).reshape(-1, 32, 32, 3)
    labels = json.loads((folder / "labels.json").read_text())[name]
    return pixels(image), torch.tensor(labels)
