"""One frame ready for a step, and everything that a training moves. Needs torch."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Frame:
    """A frame ready for a step: what prior, core and shift leave of the labels, and the prepared geometry."""

    natoms: int
    weight: float
    energy: torch.Tensor
    force: torch.Tensor
    field: torch.Tensor
    virial: torch.Tensor | None
    magnetic: torch.Tensor
    along: torch.Tensor | None
    base_field: torch.Tensor
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None
    invariants: Any
    network: Any


class Trained(torch.nn.Module):
    """Everything that Adam moves: nets, the change δ of the prior's coefficients, the logarithm of the field scale."""

    def __init__(self, network, invariants, changes: int, dtype):
        super().__init__()
        self.network, self.invariants = network, invariants
        self.changes = torch.nn.Parameter(torch.zeros(changes, dtype=dtype)) if changes else None
        self.log_scale = torch.nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, frame: Frame, virial: bool):
        """What the trained parts add to energy, forces, fields and virial of the frame."""
        parts = []
        if self.invariants is not None:
            parts.append(self.invariants(frame.invariants, virial))
        if self.network is not None:
            parts.append(self.network(frame.network, virial))
        if self.changes is not None and frame.rows is not None:
            energy, force, field = (rows @ self.changes for rows in frame.rows)
            parts.append((energy[0], force.reshape(-1, 3), field.reshape(-1, 3), None))
        total = [sum(part[k] for part in parts) for k in range(3)]
        return (*total, sum(p[3] for p in parts if p[3] is not None) if virial else None)
