"""Quantised checkpoints: what each format really saves, and whether it loads as what was meant.

    PYTHONPATH=src:. python benchmarks/bench_checkpoints.py

MiniLM and stories260k, every linear layer of a block, symmetric, groups of 64 inputs (a row where
64 does not divide it). Needs the extra ``compress`` and the data beside the checkout. Writes a
table to ``results/``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from benchmarks.measuring import command, machine, version_of
from benchmarks.tasks import minilm_folder
from frog.compression.checkpoints import write_compressed_tensors, write_torchao
from frog.compression.curves import Bits
from frog.numerics.rounding import Rounding, rounded_values
from tests.tuning.real import stories

OUT = Path(__file__).parent / "results" / "checkpoints_epyc-avx512_2026-11.md"
WRITERS = {"compressed-tensors": write_compressed_tensors, "torchao": write_torchao}
WIDTHS = {"2": (2,), "3": (3,), "4": (4,), "8": (8,), "2, 3, 4, 8 in turn": (2, 3, 4, 8)}
Levels = Mapping[str, Bits]


def levels_of(model: Any, widths: tuple[int, ...]) -> Levels:
    """A width for every linear layer of a block, in turn."""
    found = {}
    for name, weight in model.named_parameters():
        if "layer" in name and weight.ndim == 2:
            group = None if weight.shape[1] % 64 else 64
            bits = widths[len(found) % len(widths)]
            found[name] = Bits(Rounding(bits=bits, group=group))
    return found


@torch.no_grad()
def outputs(model: Any) -> torch.Tensor:
    """Of 4 x 32 tokens."""
    draw = torch.Generator().manual_seed(0)
    return model.eval()(torch.randint(3, 500, (4, 32), generator=draw))[0]


def fake(model: Any, levels: Levels) -> Any:
    """The model in memory with rounded weights."""
    for name, level in levels.items():
        weight = model.get_parameter(name).data
        weight.copy_(rounded_values(weight, level.rounding))
    return model


def row(folder: Path, kind: Any, bits: str, format: str, out: Path) -> str:
    """Write, load with plain transformers, compare."""
    levels = levels_of(kind.from_pretrained(folder), WIDTHS[bits])
    written = WRITERS[format](folder, levels, out)
    meant = outputs(fake(kind.from_pretrained(folder), levels))
    apart = float((outputs(kind.from_pretrained(out)) - meant).abs().max())
    parts = (
        folder.name, bits, format, f"{written.bytes_before:,}", f"{written.bytes_after:,}",
        f"{written.matrix_bytes_before:,}", f"{written.matrix_bytes_after:,}",
        f"{written.bits_per_weight:.2f}", f"{apart:g}",
    )  # fmt: skip
    return f"| {' | '.join(parts)} |"


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0]).parse_args()
    torch.set_num_threads(1)
    facts = machine()
    versions = ", ".join(
        f"{name} {version_of(name)}"
        for name in ("frog", "torch", "transformers", "torchao", "compressed-tensors")
    )
    lines = [
        "# Quantised checkpoints: bytes and faithfulness\n",
        f"    PYTHONPATH=src:. {command()}\n",
        f"{facts['cpu']}; {versions}. Sizes are of files and the same on any machine.\n",
        "*apart* is the largest difference of an output of the reloaded model from the model with",
        "rounded weights in memory; *matrices* are the tensors of the layers that were rounded,",
        "codes, scales and all. Embeddings stay float32.\n",
        "| model | bits | format | files before | files after | matrices before | matrices after "
        "| bits a weight | apart |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as inside:
        place = Path(inside)
        stories().save_pretrained(place / "stories260k")
        (place / "minilm").symlink_to(minilm_folder())
        for name, kind in (
            ("minilm", transformers.AutoModel),
            ("stories260k", transformers.AutoModelForCausalLM),
        ):
            for number, (bits, format) in enumerate((b, f) for b in WIDTHS for f in WRITERS):
                out = place / f"{name}-{number}"
                lines.append(row(place / name, kind, bits, format, out))
                print(lines[-1], flush=True)
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
