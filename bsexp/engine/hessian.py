"""The largest eigenvalue of a loss's Hessian, without the Hessian.

The one rule: the loss is given in parts that add up to it, of which one at a time is held; what is found is the largest
eigenvalue, not the largest by size, so that a saddle's steep descent isn't taken for sharpness.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

# Of the eigenvalue itself.
TOLERANCE = 1e-3
# So many rounds of about 20 products with the Hessian. Two or three do for networks.
MOST_ROUNDS = 50


def hessian_product(parts: Sequence[Callable[[], Tensor]], weights: Sequence[Tensor], direction: Tensor) -> Tensor:
    """H v, both (P,): the gradient's derivative along `direction` (Pearlmutter 1994, Neural Computation 6:147).

    `parts`: calls that give each a scalar, of which the sum is the loss. `weights`: those of P numbers that it depends
    on, in the order in which they are laid end to end.
    """
    pieces = [
        piece.view_as(weight)
        for piece, weight in zip(direction.split([weight.numel() for weight in weights]), weights, strict=True)
    ]
    total = torch.zeros_like(direction)
    for part in parts:
        gradients = torch.autograd.grad(part(), weights, create_graph=True, materialize_grads=True)
        # Where a gradient doesn't depend on weights, its row of the Hessian is zero.
        bent = [(one, piece) for one, piece in zip(gradients, pieces, strict=True) if one.requires_grad]
        if bent:
            outputs, along = zip(*bent, strict=True)
            found = torch.autograd.grad(outputs, weights, grad_outputs=along, materialize_grads=True)
            total += torch.cat([each.reshape(-1) for each in found])
    return total


def largest_eigenvalue(
    parts: Sequence[Callable[[], Tensor]], weights: Sequence[Tensor], tolerance: float = TOLERANCE
) -> float:
    """lambda_max of the Hessian, within `tolerance` of its size, by Lanczos on products with it (ARPACK's, restarted).

    `parts` and `weights` as for `hessian_product`. It begins with the same random vector each time. Raises ValueError
    for fewer than two numbers of weights, for products that aren't finite, and where it doesn't settle.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    size = sum(weight.numel() for weight in weights)
    if size < 2:
        raise ValueError(f"{size} weight: its second derivative is its own eigenvalue")
    like = weights[0]

    def multiply(vector: np.ndarray) -> np.ndarray:
        direction = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1)).to(like.device, like.dtype)
        product = hessian_product(parts, weights, direction).detach()
        if not bool(torch.isfinite(product).all()):
            raise ValueError("the loss has no finite second derivatives here")
        return product.double().cpu().numpy()

    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    try:
        (found,) = eigsh(
            operator, k=1, which="LA", v0=start, tol=tolerance, maxiter=MOST_ROUNDS, return_eigenvectors=False
        )
    except ArpackNoConvergence:
        raise ValueError(f"no eigenvalue within {tolerance:g} after {MOST_ROUNDS} rounds") from None
    return float(found)
