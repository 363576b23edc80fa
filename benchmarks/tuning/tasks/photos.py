"""ResNet20 of CIFAR-10 learns to read the same ten classes from JPEG files."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import torch

from benchmarks.tasks import DATA, KEPT, pixels
from benchmarks.tuning.tasks.images import ImageTask, Labelled
from benchmarks.tuning.tasks.scores import balanced, without


class Photos(ImageTask):
    """A shift of domain without new classes: the head stays as it is and does not train."""

    name = "photos"
    words = "ResNet20 of CIFAR-10 to the same classes in JPEG, head as it is"
    old_words = "accuracy on CIFAR-10 without loss of compression"

    def __init__(self) -> None:
        super().__init__()
        images, labels = _decoded("cifar10_train_10000")
        taken = balanced(labels, 100)
        rest = np.random.default_rng(1).permutation(without(len(labels), taken))[:8000]
        self.train = _tensors(images, labels, rest)
        images_test, labels_test = _decoded("cifar10_test_first5000")
        self.held = {
            "validation": _tensors(images, labels, taken),
            "test": _tensors(images_test, labels_test, balanced(labels_test, 200)),
        }


def _tensors(images: np.ndarray, labels: np.ndarray, index: np.ndarray) -> Labelled:
    return pixels(images[index]), torch.tensor(labels[index])


def _decoded(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels of one archive of JPEG files, kept once decoded."""
    kept = KEPT / f"{name}.npz"
    if not kept.exists():
        images, labels = _from_archive(name)
        KEPT.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f"{name}.{os.getpid()}.npz")  # another run may decode as well
        np.savez(part, images=images, labels=labels)
        part.replace(kept)
    data = np.load(kept)
    return data["images"], data["labels"]


def _from_archive(name: str) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    with zipfile.ZipFile(DATA / "cifar10-jpeg" / f"{name}.zip") as archive:
        files = sorted(x for x in archive.namelist() if x.endswith(".jpg"))
        images = [np.asarray(Image.open(io.BytesIO(archive.read(x))).convert("RGB")) for x in files]
    folders = [x.split("/")[-2] for x in files]
    classes = sorted(set(folders))  # alphabetical, as the classes of CIFAR-10 are
    return np.stack(images), np.array([classes.index(x) for x in folders])
