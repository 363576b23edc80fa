"""A new task on a network that has another: new head first and last, a share of the change kept.

Shows how it is done. It trades some of the new task for the old one; on this toy a smaller rate
trades as well. What real models gave stands in docs/benchmarks/fine-tuning.md.

python examples/keep_the_old_task.py
"""

import copy

import torch

import frog

torch.manual_seed(0)
functional = torch.nn.functional
inputs = torch.randn(2000, 32)
old_labels, new_labels = inputs[:, :4].argmax(1), inputs[:, 4:8].argmax(1)
body = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU())
old_head = torch.nn.Linear(64, 4)
optimizer = torch.optim.AdamW([*body.parameters(), *old_head.parameters()], lr=3e-3)
for _ in range(300):
    functional.cross_entropy(old_head(body(inputs)), old_labels).backward()
    optimizer.step()
    optimizer.zero_grad()

batches = [(inputs[i : i + 100], new_labels[i : i + 100]) for i in range(0, 2000, 100)]
fresh = torch.nn.Sequential(body, torch.nn.Linear(64, 4))  # "1" is the new head


def loss_of(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def accuracy(model: torch.nn.Module, labels: torch.Tensor) -> float:
    return float((model(inputs).argmax(1) == labels).float().mean())


def tuned(head_steps: int, share: float) -> tuple[float, float]:
    """Accuracy on the old task, by the old head, and on the new one."""
    model = copy.deepcopy(fresh)
    frog.fit_head(model, batches, head=["^1"], steps=head_steps, lr=0.01, loss=loss_of)
    plan = frog.allocate(frog.analyze(model), "10%", exclude="^1")
    tuner = frog.Tuner(model, frog.select(model, plan, score="magnitude"), also=["^1"])
    optimizer = tuner.optimizer(lr=0.03, also_lr=0.01)
    for _ in range(5):
        for batch in batches:
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    tuner.scale_change(share)  # the head stays as it is, and is fitted to what is kept
    frog.fit_head(model, batches, head=["^1"], steps=head_steps, lr=0.01, loss=loss_of)
    tuner.keep()
    return accuracy(torch.nn.Sequential(model[0], old_head), old_labels), accuracy(
        model, new_labels
    )


print(f"before: old {accuracy(torch.nn.Sequential(body, old_head), old_labels):.3f}")
for name, steps, share in (("plain", 0, 1.0), ("head first and last, 0.6 kept", 60, 0.6)):
    old, new = tuned(steps, share)
    print(f"{name}: old {old:.3f}, new {new:.3f}")
