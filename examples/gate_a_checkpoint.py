"""Hold a new checkpoint against the last good one, as a CI job would.

python examples/gate_a_checkpoint.py        # ends with 3: the gate fails, and says why
"""

import sys
import tempfile
from pathlib import Path

import torch

import frog

torch.manual_seed(0)
good = torch.nn.Sequential(*[torch.nn.Linear(128, 128) for _ in range(8)]).state_dict()
small = {name: x + 1e-3 * torch.randn_like(x) for name, x in good.items()}
broken = {**small, "2.weight": 10 * small["2.weight"]}  # a layer's scale ran away

policy = Path(tempfile.mkdtemp()) / "policy.yaml"
policy.write_text(
    """
version: 1
findings: {untrained: ignore, over-parameterised: ignore}  # these layers never were trained
"""
)
print("a small change passes:", frog.gate(small, baseline=good, policy=policy).passed)
verdict = frog.gate(broken, baseline=good, policy=policy)
print(verdict)
sys.exit(0 if verdict.passed else 3)
