"""Make an environment that runs FROG, and print its Python: `python3 tools/set_up.py dev`.

Uses the environment that is active (a venv or conda one); else makes `.venv` beside this folder,
which sees the packages of the system only where a torch is among them that fits. The tested
versions stand in constraints.txt. A torch that is there already and fits is kept: its line is
taken out of the constraints.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH_AT_LEAST = (2, 6)
PROBE = "import torch; print(torch.__version__)"


def main(extra: str) -> None:
    """Install the package with one extra, once: nothing is done where nothing changed."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the very check that old Pythons need
        sys.exit(f"FROG needs Python 3.11 or later, got {sys.version.split()[0]}: "
                 "make PYTHON=python3.12 ...")  # fmt: skip
    python = environment()
    stamp = Path(python).parents[1] / f".frog-{extra}"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        print(python)
        return
    constraints = (ROOT / "constraints.txt").read_text()
    torch = installed_torch(python)
    if torch is None:
        pip(python, "install", next(x for x in constraints.split() if x.startswith("torch==")))
    elif torch >= TORCH_AT_LEAST:
        constraints = re.sub(r"(?m)^torch==.*$", "", constraints)
    chosen = stamp.with_suffix(".constraints")
    chosen.write_text(constraints)
    pip(python, "install", "-c", str(chosen), "-e", f"{ROOT}[{extra}]")
    stamp.write_text(wanted)
    print(python)


def environment() -> str:
    """The active environment's Python, else that of .venv, made where it is missing."""
    if sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX"):
        return sys.executable
    folder = ROOT / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        say("making .venv")
        fits = (installed_torch(sys.executable) or (0, 0)) >= TORCH_AT_LEAST
        run([sys.executable, "-m", "venv", *["--system-site-packages"] * fits, str(folder)])
    return str(python)


def installed_torch(python: str) -> tuple[int, int] | None:
    """Major and minor version of the torch that this Python sees."""
    found = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    version = re.match(r"(\d+)\.(\d+)", found.stdout)
    return (int(version[1]), int(version[2])) if version else None


def fingerprint() -> str:
    """What an installation depends on."""
    files = (ROOT / "pyproject.toml", ROOT / "constraints.txt")
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def pip(python: str, *words: str) -> None:
    """Run pip, its talk on stderr."""
    say(f"pip {' '.join(words[:2])} ... (a minute or two the first time)")
    run([python, "-m", "pip", "--disable-pip-version-check", "-q", *words])


def run(command: list[str]) -> None:
    """Run a command or stop with its output."""
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(f"set-up failed: {' '.join(command)}")


def say(text: str) -> None:
    """A line on stderr: stdout carries the path of the Python."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "dev")
