"""Updates stay out of the dominant singular subspaces of each matrix.

After every step the part U U^T D V V^T of the change D is taken out, U and V the leading singular
vectors of the matrix at the start; what a mask cannot express is dropped. Data-free. Prediction:
the pilot saw forgetting follow the spectral share of the change, so a random mask and full tuning
forget less at equal new quality (1 to 3 points on the hand signs); MiniLM hardly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.tuning.train import Idea, Run


@dataclass(frozen=True, kw_only=True)
class Project(Idea):
    """Protect the leading ``share`` of the singular directions, on both sides."""

    share: float = 0.25

    def begin(self, run: Run) -> None:
        bases = {}
        for name, weight in run.before.items():
            u, _, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            rank = max(1, round(self.share * min(u.shape[0], vh.shape[1])))
            bases[name] = u[:, :rank], vh[:rank]
        run.kept["bases"] = bases

    def after_step(self, run: Run) -> None:
        tuner = run.attached.tuner
        with torch.no_grad():
            for name, weight in run.task.target_weights().items():
                u, vh = run.kept["bases"][name]
                start = run.before[name]
                change = (weight - start).flatten(1)
                inside = (u @ (u.T @ change @ vh.T) @ vh).view_as(weight)
                weight.sub_(inside if tuner is None else inside * (weight != start))
        if tuner is not None:
            for compact in tuner.compacts:
                compact.read()
