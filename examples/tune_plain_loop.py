"""A loop of your own, resumed and undone: exact in both directions.

python examples/tune_plain_loop.py
"""

import torch

import frog

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.ReLU(), torch.nn.Linear(128, 4))
base = {name: value.clone() for name, value in model.state_dict().items()}
inputs = torch.randn(512, 32)
targets = inputs[:, :4].argmax(1)

plan = frog.allocate(frog.analyze(model), "10%")
chosen = frog.select(model, plan, score="magnitude")
tuner = frog.Tuner(model, chosen)
batches = [(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 512, 64)]


def loss_of(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


# full: what full tuning of this model would use; optional, as is the whole line
print(tuner.rate(batches[:2], loss=loss_of, full=1e-3))
optimizer = tuner.optimizer()
first = last = 0.0
for _ in range(10):
    for batch in batches:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        last = float(loss.detach())
        first = first or last
print(f"loss {first:.3f} -> {last:.3f}")

delta = tuner.delta()
tuner.keep()
print(f"{delta.count} of {plan.params} weights changed")
frog.apply_delta(model, delta, revert=True)
same = all(torch.equal(value, base[name]) for name, value in model.state_dict().items())
print("undone bit for bit:", same)
