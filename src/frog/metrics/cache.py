"""Measured layers on disk, addressed by content: the same bytes are never measured twice.

An entry's name is a digest of the matrix's bytes, its name and role, the settings and the version
of the numbers; so a tuned checkpoint re-measures only the layers that changed, and an interrupted
run goes on where it stopped. Entries are written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from frog.errors import ReportError
from frog.serial import finding_from_dict, finding_to_dict, layer_from_dict, layer_to_dict
from frog.types import Finding, LayerReport, Settings, WeightMatrix

NUMBERS = 2
"""Raised whenever a stored number would come out differently."""

OF_THE_MODEL = ("flow", "flow_rank")
"""Settings that no number of a single layer depends on."""


class Cache:
    """A folder of measured layers; safe to share between processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def default(cls) -> Cache:
        """The user's cache: ``FROG_CACHE_DIR``, else the platform's place for caches."""
        import platformdirs

        named = os.environ.get("FROG_CACHE_DIR")
        return cls(Path(named) if named else platformdirs.user_cache_path("frog") / "layers")

    def get(
        self, matrix: WeightMatrix, settings: Settings, fingerprint: str
    ) -> tuple[LayerReport, tuple[Finding, ...]] | None:
        """The stored row and findings, or None; a damaged entry counts as absent."""
        path = self._path(matrix, settings, fingerprint)
        try:
            data = json.loads(path.read_bytes())
            layer = layer_from_dict(data["layer"], str(path))
            findings = tuple(finding_from_dict(x, str(path)) for x in data["findings"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ReportError):
            return None
        ours = (layer.name, layer.shape) == (matrix.name, matrix.shape)
        return (layer, findings) if ours else None

    def put(
        self,
        matrix: WeightMatrix,
        settings: Settings,
        fingerprint: str,
        layer: LayerReport,
        findings: tuple[Finding, ...],
    ) -> None:
        """Store a row; a full or read-only disk costs the entry, never the run."""
        path = self._path(matrix, settings, fingerprint)
        data = {
            "layer": layer_to_dict(layer),
            "findings": [finding_to_dict(finding) for finding in findings],
        }
        temporary: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
                temporary = Path(file.name)
                json.dump(data, file, allow_nan=False)
            temporary.replace(path)
        except BaseException as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if not isinstance(error, OSError):  # an interruption goes on to the caller
                raise

    def _path(self, matrix: WeightMatrix, settings: Settings, fingerprint: str) -> Path:
        key = {
            "numbers": NUMBERS,
            "bytes": fingerprint,
            "settings": {k: v for k, v in asdict(settings).items() if k not in OF_THE_MODEL},
            "matrix": [matrix.name, matrix.kind, matrix.role, matrix.block, matrix.averaged],
            "notes": [matrix.aliases, matrix.rule, matrix.warning],
        }
        text = json.dumps(key, sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"
