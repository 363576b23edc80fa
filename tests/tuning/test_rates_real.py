"""The automatic rate on real models and data: near the best, and the same in every process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import frog
from tests.conftest import shared
from tests.tuning.real import stories
from tests.tuning.runs import two_processes

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow
BRIEF = frog.Settings(bootstrap=0, curves=False, min_evals=10)


def sentences(count: int, minilm: Path, part: str) -> list[dict[str, torch.Tensor]]:
    """Batches of 16 sentences of SST-2 with labels."""
    lines = shared(f"data/sst2/{part}.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines if line]
    order = np.random.default_rng(0).permutation(len(pairs))[: 16 * count]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    found = []
    for at in order.reshape(count, 16):
        coded = tokenizer(
            [pairs[i][0] for i in at], padding=True, truncation=True, max_length=32,
            return_tensors="pt",
        )  # fmt: skip
        found.append(dict(coded) | {"labels": torch.tensor([int(pairs[i][1]) for i in at])})
    return found


def classifier(minilm: Path) -> Any:
    torch.manual_seed(0)
    kind = transformers.AutoModelForSequenceClassification
    return kind.from_pretrained(
        minilm, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


def trained(model: Any, optimizer: Any, data: list, loss: Any) -> None:
    model.train()
    for batch in data:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    model.eval()


def test_minilm_to_sentiment(minilm: Path) -> None:
    """A gradient mask from one set of batches holds much of the gradient of others."""
    model = classifier(minilm)
    data = sentences(30, minilm, "train")
    plan = frog.allocate(frog.analyze(str(minilm), BRIEF), 0.01, exclude="pooler")
    names = [x.name for x in plan.layers]
    gradients = frog.collect_gradients(model, data[:3], names=names)
    assert list(gradients) == names
    shares: dict[str, Any] = {}
    for score in ("random", "gradient"):
        choice = frog.Choice(gradients=gradients) if score == "gradient" else None
        chosen = frog.select(str(minilm), plan, score=score, choice=choice)
        tuner = frog.Tuner(model, chosen, also=["classifier", "pooler.dense"])
        shares[score] = tuner.rate(data[3:6])
        tuner.revert()
    assert shares["random"].share == pytest.approx(0.01, rel=0.1)
    assert shares["gradient"].share > 4 * shares["gradient"].chance
    assert shares["gradient"].lr < 0.25 * shares["random"].lr
    assert "encoder" in shares["random"].origin and shares["random"].full == 1e-4
    test = sentences(6, minilm, "dev")

    def judged() -> float:
        with torch.no_grad():
            return float(np.mean([float(model(**x).loss) for x in test]))

    found = {}
    for times in (0.1, 1.0):
        tuner = frog.Tuner(model, chosen, also=["classifier", "pooler.dense"])
        rate = tuner.rate(data[3:6])
        optimizer = tuner.optimizer(lr=rate.lr * times, also_lr=rate.also, weight_decay=0.0)
        trained(model, optimizer, data[6:], lambda m, x: m(**x).loss)
        found[times] = judged()
        tuner.revert()
    assert found[1.0] < 0.95 * found[0.1] and found[1.0] < 0.69  # ln 2 knows nothing


@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_resnet20_to_hand_signs_is_best_near_the_automatic_rate(budget: float) -> None:
    """A random mask at the rate, at a tenth and at ten times: the middle one is the best."""
    from benchmarks.tasks import SignTask

    shared("data/sign-digits/sign_digits_32x32.npz")
    shared("data/resnet-cifar10/resnet20-12fca82f.th")

    def loss(model: Any, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    task = SignTask()
    model = task.model
    torch.manual_seed(0)
    model.linear.reset_parameters()
    plan = frog.allocate(frog.analyze(model, BRIEF), budget)
    chosen = frog.select(model, plan)
    stream = task.batches(32, 0)
    data, others = [next(stream) for _ in range(24)], [next(stream) for _ in range(3)]
    found = {}
    for times in (0.1, 1.0, 10.0):
        tuner = frog.Tuner(model, chosen, also=["linear"])
        rate = tuner.rate(others, loss=loss)
        assert "conv net" in rate.origin
        optimizer = tuner.optimizer(lr=rate.lr * times, also_lr=rate.also, weight_decay=0.0)
        trained(model, optimizer, data, loss)
        with torch.no_grad():
            found[times] = float(loss(model, (task.x_test, torch.tensor(task.y_test).long())))
        tuner.revert()
    assert found[1.0] < 0.8 * found[0.1] and found[1.0] < 0.8 * found[10.0]


def test_a_real_language_model_with_nothing_told() -> None:
    """stories260k on Shakespeare: the rate from the budget alone learns."""
    text = shared("data/tinyshakespeare/input.txt").read_bytes()[: 40 * 8 * 129]
    ids = torch.tensor([3 + b for b in text]).view(-1, 8, 129)[:, :, :128]
    model = stories()
    plan = frog.allocate(frog.analyze(model, BRIEF), 0.02)
    tuner = frog.Tuner(model, frog.select(model, plan))
    optimizer = tuner.optimizer()
    assert tuner.measured.used is not None and "decoder" in tuner.measured.used.origin
    losses = []
    for x in ids:
        loss = model(input_ids=x, labels=x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])


WORKER = """
    import sys
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    import frog
    from tests.tuning.models import batches, choose, llama

    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = llama()
    tuner = frog.Tuner(model, choose(model))
    parallel = DistributedDataParallel(model)
    mine = batches(4)[rank::2]
    rate = tuner.rate(mine)
    frog.collect_gradients(parallel, mine)
    parallel(**mine[0]).loss.backward()
    assert all(x.change.grad is not None for x in tuner.compacts)
    print(repr((rate.share, rate.chance, rate.lr, rate.batches)))
"""


def test_processes_agree_on_the_rate(tmp_path: Path) -> None:
    from tests.tuning.models import batches, choose, llama

    told = [x.splitlines()[-1] for x in two_processes(WORKER, tmp_path)]
    assert told[0] == told[1]
    model = llama()
    alone = frog.Tuner(model, choose(model)).rate(batches(4))
    share, chance, lr, count = eval(told[0])
    assert count == 4 and (share, chance) == pytest.approx((alone.share, alone.chance), rel=1e-5)
    assert lr == pytest.approx(alone.lr, rel=1e-5)
