"""Under torch.compile with its default backend, where a compiler is there."""

import shutil
from typing import Any

import pytest
import torch

from frog.tuning import Tuner
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.runs import advance

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # dynamo's and inductor's
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_inductor_trains_the_same_and_nothing_else() -> None:
    losses = []
    for compiled in (False, True):
        model = llama(num_hidden_layers=1)
        before = bits(model)
        tuner = Tuner(model, choose(model))
        mask = masks(tuner)
        optimizer = tuner.optimizer(lr=1e-2)
        run = torch.compile(model) if compiled else model
        model.train()
        losses.append(advance(run, optimizer, batches(4) * 3))
        assert tuner.step == 12
        assert moved_only_inside(before, model, mask)
        for compact in tuner.compacts:
            assert torch.equal(compact.weight.view(-1)[compact.index], compact.values())
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[0][-1] < losses[0][0]
