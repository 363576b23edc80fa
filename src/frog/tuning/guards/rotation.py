"""How a sparse change turns the leading directions of a matrix, to first order, and undoing that.

With the singular triplets s_i, u_i, v_i of W, a small change D moves u_i (i <= k) towards u_j
(j > k) by

    L_ij = (s_i u_j^T D v_i + s_j u_i^T D v_j) / (s_i^2 - s_j^2)

and v_i towards v_j by R_ij, the same with s_i and s_j swapped above the line. 1 - overlap of the
leading k directions is then sum L^2 / k on the left and sum R^2 / k on the right: a quadratic form
of the chosen entries. Source: Stewart & Sun 1990, Matrix Perturbation Theory, section V.4. Of
directions beyond the q known ones only the size of what leads there is known; they count as if
their singular value were s_q, the cross term left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from frog.tuning.guards.products import Change

SOLVE_STEPS = 30
SOLVE_PRECISION = 1e-3
STRONGER = 4.0
MOST = 14
"""Times that the pull may become :data:`STRONGER`: 4^14 = 2.7e8 times."""


class Rotation:
    """The quadratic form of one matrix: protected are the first ``k`` of q known triplets."""

    def __init__(self, values_q: Tensor, u_mq: Tensor, v_nq: Tensor, k: int) -> None:
        self.k, self.u, self.v = k, u_mq, v_nq
        self.last, self.next = (float(values_q[i]) for i in (k - 1, min(k, len(values_q) - 1)))
        s_i, s_j = values_q[:k, None], values_q[None, k:]
        gap = (s_i**2 - s_j**2).clamp_min(1e-6 * float(values_q[0]) ** 2)
        self._near = s_i / gap, s_j / gap
        last = (s_i[:, 0] ** 2 - values_q[-1] ** 2).clamp_min(1e-6 * float(values_q[0]) ** 2)
        self._far = s_i[:, 0] / last, values_q[-1] / last

    def of(self, change: Change) -> float:
        """1 - overlap, left and right together, that the change makes to first order."""
        return float(self._form(change.times(self.v), change.turned(self.u)))

    def pulled(self, change: Change, bound: float) -> Tensor:
        """The values nearest to those of ``change`` whose form is at most ``bound``, (k,).

        min ||d' - d||^2 + mu Q(d') for the smallest mu of a geometric series that does it: each
        by conjugate gradients, from the last one's answer. The places stay the same.
        """
        values = change.values
        now = self.of(change)
        if now <= bound:
            return values
        mu = 0.1 * float(values @ values) / now
        found = values
        for _ in range(MOST):
            found = self._solve(change, values, mu, found)
            if self.of(change.with_values(found)) <= bound:
                break
            mu *= STRONGER
        return found

    def _form(self, right_mq: Tensor, left_nq: Tensor) -> Tensor:
        """Q from D V (m, q) and D^T U (n, q)."""
        k = self.k
        inner = self.u.T @ right_mq  # u_a^T D v_b
        a, b = inner[k:, :k].T, inner[:k, k:]
        (one, two), (far_one, far_two) = self._near, self._far
        near = (one * a + two * b).square().sum() + (two * a + one * b).square().sum()
        out_m = (right_mq - self.u @ inner)[:, :k].square().sum(0)
        out_n = (left_nq - self.v @ inner.T)[:, :k].square().sum(0)
        far = ((out_m + out_n) * (far_one**2 + far_two**2)).sum()
        return (near + far) / k

    def _slope(self, change: Change, values: Tensor) -> Tensor:
        """Half the gradient of Q at ``values``, (k,): linear in them."""
        at = change.with_values(values)
        with torch.enable_grad():
            right = at.times(self.v).requires_grad_()
            left = at.turned(self.u).requires_grad_()
            by_right, by_left = torch.autograd.grad(self._form(right, left), (right, left))
        rows, columns = change.rows, change.columns
        one = (by_right[rows] * self.v[columns]).sum(1)
        return 0.5 * (one + (by_left[columns] * self.u[rows]).sum(1))

    def _solve(self, change: Change, values: Tensor, mu: float, start: Tensor) -> Tensor:
        """(1 + mu A) x = values by conjugate gradients."""

        def times(x: Tensor) -> Tensor:
            return x + mu * self._slope(change, x)

        x = start.clone()
        rest = values - times(x)
        way, size = rest.clone(), float(rest @ rest)
        enough = SOLVE_PRECISION**2 * float(values @ values)
        for _ in range(SOLVE_STEPS):
            if size <= enough:
                break
            image = times(way)
            step = size / float(way @ image)
            x += step * way
            rest -= step * image
            last, size = size, float(rest @ rest)
            way = rest + size / last * way
        return x
