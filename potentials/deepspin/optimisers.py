"""The optimiser of a training that is not torch's own: Adam in the eigenvectors of the gradients of each matrix (SOAP).

For a matrix of weights with gradient G, Q_L and Q_R the eigenvectors of the moving means of G Gᵀ and Gᵀ G:

    M ← mean of G,   V ← mean of (Q_Lᵀ G Q_R)²,   step = Q_L [ Q_Lᵀ M Q_R / (√V + ε) ] Q_Rᵀ       (both means without bias)

All else (vectors, matrices of one column) gets a step of Adam. Vyas et al., arXiv:2409.11321. Needs torch.
"""

import torch

BETAS = 0.9, 0.99
SIDES = 0.95  # of the means of G Gᵀ and Gᵀ G
EVERY = 10  # steps between improvements of the eigenvectors
LARGEST = 256  # longer sides keep their own axes: their eigenvectors would cost more than the step
SMALL = 1e-8


def adam_step(state: dict, gradient: torch.Tensor, rotate=lambda x: x, back=lambda x: x) -> torch.Tensor:
    """Adam's step over the rate in other axes: ``rotate`` leads there and ``back``; counts in ``state``."""
    t = state["step"] = state.get("step", 0) + 1
    if t == 1:
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    mean = state["mean"].lerp_(gradient, 1.0 - BETAS[0])
    square = state["square"].lerp_(rotate(gradient).square(), 1.0 - BETAS[1])
    scale = (square / (1.0 - BETAS[1] ** t)).sqrt() + SMALL
    return back(rotate(mean) / scale) / (1.0 - BETAS[0] ** t)


class Matrices(torch.optim.Optimizer):
    """Adam, but for matrices of more than one column the step that ``matrix_step(state, gradient)`` gives, over the rate.

    ``groups`` as for torch's optimisers, each with its ``lr`` before a step.
    """

    def __init__(self, groups, lr: float, matrix_step):
        self.matrix_step = matrix_step
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    matrix = p.ndim == 2 and min(p.shape) > 1
                    step = (self.matrix_step if matrix else adam_step)(self.state[p], p.grad)
                    p.add_(step, alpha=-group["lr"])


class Soap(Matrices):
    """See the module."""

    def __init__(self, groups, lr: float):
        super().__init__(groups, lr, self._matrix_step)

    @staticmethod
    def _matrix_step(state: dict, gradient: torch.Tensor) -> torch.Tensor:
        sides = {"left": gradient @ gradient.T} if gradient.shape[0] <= LARGEST else {}
        if gradient.shape[1] <= LARGEST:
            sides["right"] = gradient.T @ gradient
        for name, side in sides.items():
            if name not in state:
                state[f"{name}_mean"], state[name] = side.clone(), torch.linalg.eigh(side)[1]
            else:
                state[f"{name}_mean"].lerp_(side, 1.0 - SIDES)
                if state["step"] % EVERY == 0:  # one step of orthogonal iteration
                    state[name] = torch.linalg.qr(state[f"{name}_mean"] @ state[name])[0]
        left, right = state.get("left"), state.get("right")

        def rotate(x):
            x = x if left is None else left.T @ x
            return x if right is None else x @ right

        def back(x):
            x = x if left is None else left @ x
            return x if right is None else x @ right.T

        return adam_step(state, gradient, rotate, back)
