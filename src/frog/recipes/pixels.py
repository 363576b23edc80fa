"""Images: from files, bytes or arrays to the tensors that a model takes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frog.errors import ModelError, UsageError
from frog.recipes.models import origin_of
from frog.recipes.rows import need
from frog.types.recipes import Recipe

PREPROCESSOR = "preprocessor_config.json"
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
"""What :class:`Pixels` can do of a stored preprocessor."""


def array_of(value: Any, folder: Path, channels: int) -> np.ndarray:
    """An image as (H, W, channels) uint8.

    ``value`` is the name of a file (relative to ``folder``; ``.npy``, or what Pillow reads), a
    mapping with ``bytes`` or ``path``, a picture of Pillow's, or nested lists of 0 to 255. Raises
    ValueError for anything else.
    """
    if isinstance(value, dict):
        data = value.get("bytes")
        value = _opened(io.BytesIO(data)) if data else value.get("path")
    if isinstance(value, str):
        path = folder / value
        value = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _opened(path)
    if hasattr(value, "convert"):
        value = value.convert("L" if channels == 1 else "RGB")
    pixels = np.array(value)  # a copy: pictures lend memory that must not be written to
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype == object or 0 in pixels.shape:
        raise ValueError(
            f"must be (height, width) or (height, width, channels), got {pixels.shape}"
        )
    if pixels.dtype != np.uint8:
        if pixels.min() < 0 or pixels.max() > 255:
            raise ValueError(f"must lie in 0..255, got {pixels.min()} to {pixels.max()}")
        pixels = pixels.round().astype(np.uint8)
    if pixels.shape[2] == 1 and channels > 1:
        pixels = pixels.repeat(channels, 2)
    if pixels.shape[2] == 3 and channels == 1:
        pixels = pixels.mean(2, keepdims=True).round().astype(np.uint8)
    if pixels.shape[2] != channels:
        raise ValueError(f"must have {channels} channels, got {pixels.shape[2]}")
    return pixels


class Pixels:
    """Resize, crop, scale and normalise, as a ``preprocessor_config.json`` says.

    For where transformers cannot load the model's own processor (it needs Pillow), and for models
    that come without one: bilinear, to the size of the configuration, mean and deviation 0.5.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def __call__(self, images: list[np.ndarray]) -> torch.Tensor:
        """(N, channels, height, width) float32 from (H, W, channels) uint8."""
        return torch.stack([self._one(torch.from_numpy(x).permute(2, 0, 1)) for x in images])

    def save_pretrained(self, folder: Any) -> None:
        """Write ``preprocessor_config.json``."""
        (Path(folder) / PREPROCESSOR).write_text(json.dumps(self.settings, indent=2) + "\n")

    def _one(self, image: torch.Tensor) -> torch.Tensor:
        at = self.settings
        pixels = image.float()
        if at.get("do_resize", True):
            size = _target(at["size"], tuple(image.shape[1:]))
            if size != tuple(image.shape[1:]):
                mode = "bicubic" if at.get("resample") == 3 else "bilinear"
                pixels = torch.nn.functional.interpolate(
                    pixels[None], size=size, mode=mode, antialias=True, align_corners=False
                )[0]
                pixels = pixels.clamp(0, 255).round()
        if at.get("do_center_crop", False):
            height, width = _target(at["crop_size"], (1, 1))
            top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
            pixels = pixels[:, max(top, 0) :, max(left, 0) :][:, :height, :width]
        if at.get("do_rescale", True):
            pixels = pixels * at.get("rescale_factor", 1 / 255)
        if at.get("do_normalize", True):
            mean, deviation = (
                torch.tensor(at[x])[:, None, None] for x in ("image_mean", "image_std")
            )
            pixels = (pixels - mean) / deviation
        return pixels


class OwnProcessor:
    """The model's own image processor, called as :class:`Pixels` is."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, images: list[np.ndarray]) -> torch.Tensor:
        """(N, channels, height, width) float32 from (H, W, channels) uint8."""
        made = self.processor(images=images, return_tensors="pt", input_data_format="channels_last")
        return made["pixel_values"]

    def save_pretrained(self, folder: Any) -> None:
        """Write ``preprocessor_config.json``."""
        self.processor.save_pretrained(folder)


def processor_of(recipe: Recipe, config: Any) -> Pixels | OwnProcessor:
    """The image processor of a model: its own where that loads, else what its file says."""
    from importlib.util import find_spec

    stored = _stored(recipe)
    if stored is not None and find_spec("PIL") is not None:
        processor = need("transformers").AutoImageProcessor.from_pretrained(
            **origin_of(recipe.model)
        )
        return OwnProcessor(processor)
    channels = getattr(config, "num_channels", 3)
    if stored is None:
        side = getattr(config, "image_size", None)
        size = _pair(side) if side else None
        stored = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": size is not None, "do_rescale": True, "do_normalize": True,
            "rescale_factor": 1 / 255, "resample": 2,
            "image_mean": [0.5] * channels, "image_std": [0.5] * channels,
        } | ({"size": {"height": size[0], "width": size[1]}} if size else {})  # fmt: skip
        return Pixels(stored)
    more = [k for k, v in stored.items() if k.startswith("do_") and v and k not in STEPS]
    more += ["crop_pct"] if stored.get("crop_pct") else []
    if more:
        raise ModelError(
            f"{recipe.where('model')}: its image processor needs Pillow ({more[0]}): "
            "pip install 'frog[tune]'"
        )
    return Pixels(stored)


def _stored(recipe: Recipe) -> dict[str, Any] | None:
    path = Path(recipe.model) / PREPROCESSOR
    if path.is_file():
        try:
            return json.loads(path.read_text())
        except ValueError:
            raise ModelError(f"{path}: must be JSON: the model's folder is damaged") from None
    if Path(recipe.model).exists():
        return None
    return need("transformers").image_processing_base.ImageProcessingMixin.get_image_processor_dict(
        **origin_of(recipe.model)
    )[0]


def _target(size: Any, old: tuple[int, ...]) -> tuple[int, int]:
    """Height and width that a stored size means for an image of ``old`` ones."""
    if isinstance(size, dict) and "shortest_edge" in size:
        factor = size["shortest_edge"] / min(old)
        return max(1, round(old[0] * factor)), max(1, round(old[1] * factor))
    if isinstance(size, dict):
        return int(size["height"]), int(size["width"])
    return _pair(size)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _opened(source: Any) -> Any:
    """A picture, by Pillow."""
    image = need("PIL.Image", "pillow")
    try:
        picture = image.open(source)
        picture.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"is no image that can be read: {error}") from None
    return picture


def check_image(value: Any, folder: Path, channels: int, place: str) -> None:
    """UsageError with the place for a value that is no image."""
    try:
        array_of(value, folder, channels)
    except (ValueError, OSError) as error:
        shown = f"'{value}' " if isinstance(value, str) else ""
        raise UsageError(f"{place}: the image {shown}{error}") from None
