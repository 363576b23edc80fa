"""ResNet20 of CIFAR-10 learns hand signs, with a new head."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tasks import sign_images
from benchmarks.tuning.tasks.images import ImageTask
from benchmarks.tuning.tasks.scores import DRAW, without


class Signs(ImageTask):
    """Ten hand signs; the old head stays aside, on the features of the tuned convolutions."""

    name = "signs"
    words = "ResNet20 of CIFAR-10 to photographs of ten hand signs, new head"
    old_words = "accuracy on CIFAR-10 by the old head"
    head = ("linear.weight", "linear.bias")

    def __init__(self) -> None:
        super().__init__()
        self.old_head = self.pristine.linear.requires_grad_(False)
        self.pristine.linear = nn.Linear(64, 10)
        x, y, x_test, y_test = sign_images()
        taken = np.random.default_rng(DRAW).choice(len(x), 250, replace=False)
        rest = without(len(x), taken)
        self.train = x[rest], y[rest]
        self.held = {"validation": (x[taken], y[taken]), "test": (x_test, y_test)}

    def new_head(self) -> None:
        self.model.linear = nn.Linear(64, 10)

    def old_logits(self, x: Tensor) -> Tensor:
        model = self.model
        x = functional.relu(model.bn1(model.conv1(x)))
        return self.old_head(model.layer3(model.layer2(model.layer1(x))).mean((2, 3)))
