"""Files that a verb writes besides what it prints: checked before the work, written whole after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from frog.cli.console import say
from frog.errors import UsageError

if TYPE_CHECKING:
    from frog.types import Comparison, ModelReport, Series

    Record = ModelReport | Comparison | Series


WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".th", ".ckpt", ".gguf", ".npz")
"""Ends of the names of files that are never written over, whatever the user asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where a result goes besides the terminal."""

    folder: Path | None = None
    json: Path | None = None
    html: Path | None = None
    csv: Path | None = None
    parquet: Path | None = None

    @classmethod
    def of(cls, folder: Path | None, *, json: Path | None, html: Path | None, csv: Path | None,
           parquet: Path | None) -> Outputs:  # fmt: skip
        """The named files; a folder gets report.json, report.html and layers.csv besides."""
        if folder is not None:
            json, csv = json or folder / "report.json", csv or folder / "layers.csv"
            html = html or folder / "report.html"
        return cls(folder=folder, json=json, html=html, csv=csv, parquet=parquet)

    @property
    def files(self) -> list[Path]:
        """Every file to write."""
        return [path for path in (self.json, self.html, self.csv, self.parquet) if path is not None]

    def check(self) -> None:
        """Refuse an output that cannot be written before hours are spent measuring."""
        if self.folder is not None:
            _check_folder(self.folder)
        if len({path.absolute() for path in self.files}) < len(self.files):
            raise UsageError(f"every output must be a file of its own, got {self.files[0]} twice")
        for path in self.files:
            if path.is_dir():
                raise UsageError(f"{path}: must be a file, got a folder: give a file name in it")
            if path.parent != self.folder:
                _check_parent(path)
        if self.parquet is not None:
            from frog.report.frames import require_pyarrow

            require_pyarrow()

    def keep(self, *inputs: object) -> None:
        """Refuse to write over a file that is read (a model, a saved report, a policy), or over
        any file of a model: one that is read may be a folder."""
        read = {Path(x).resolve() for x in inputs if isinstance(x, str | Path)}
        for path in self.files:
            if path.resolve() in read:
                raise UsageError(f"{path}: must not be a file that is read: choose another name")
            if path.exists() and _of_a_model(path):
                raise UsageError(
                    f"{path}: must not be a file of a model, got one that exists: choose another "
                    "name"
                )

    def write(self, record: Record) -> list[Path]:
        """Write every file whole, and give their names."""
        from frog.report.frames import write_csv, write_parquet

        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self.json is not None:
            record.to_json(self.json)
        if self.html is not None:
            record.to_html(self.html)
        if self.csv is not None:
            write_csv(record, self.csv)
        if self.parquet is not None:
            write_parquet(record, self.parquet)  # pyright: ignore - only verbs with reports have it
        return self.files

    def tell(self) -> None:
        """Say what was written."""
        for path in self.files:
            say(f"wrote {path}")


def _of_a_model(path: Path) -> bool:
    """Whether a file is, by its name, weights or what goes with them."""
    name = path.name.lower()
    return name.endswith(WEIGHTS) or name.endswith(("config.json", ".index.json"))


def _check_folder(folder: Path) -> None:
    """The folder is there and can be written to, or can be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{folder}: must be a folder, got a file at {there}: choose another")
    if not os.access(there, os.W_OK):
        raise UsageError(f"{folder}: {there} must be writable: choose another folder")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder must exist, got {path.parent}: make it")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: its folder must be writable: choose another")
