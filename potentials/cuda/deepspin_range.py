"""Whether a DeepSPIN model on the GPU is asked for what it has not learnt: close atoms, long spins, more neighbours than slots.

Looked at when the host looks at a run, never within a step: one kernel over the list and one transfer of three numbers, and none of
it once all warnings have been given, each of which comes once. The words are those of the host's term.
"""

import math

import numpy as np
import torch
from numba import cuda

from spinmd.cuda.arrays import on_device, zeros
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.views import StateView
from spinmd.potentials.deepspin.potential import OUTSIDE, SHORTER

FAR = 1.0e9


@kernel(
    array(f8, 2), array(i4, 1), array(i4, 2), array(i4, 1), array(i8, 1), array(f8, 2), f8, array(f8, 1), array(i4, 1),
    array(f8, 1), array(i4, 2),
)  # fmt: skip
def _closest(packed, owner, neighbours, count, elements, shortest, cutoff, ratio, partner, distance, slots):
    """The neighbour that is closest in units of the shortest distance that was learnt, and numbers of neighbours by element."""
    i = cuda.grid(1)
    if i < ratio.shape[0]:
        ratio[i], partner[i], distance[i] = FAR, -1, 0.0
        for t in range(slots.shape[1]):
            slots[i, t] = 0
        for k in range(min(count[i], neighbours.shape[0])):
            n = neighbours[k, i]
            j = owner[n]
            x, y, z = packed[n, 0] - packed[i, 0], packed[n, 1] - packed[i, 1], packed[n, 2] - packed[i, 2]
            r = math.sqrt(x * x + y * y + z * z)
            if r < cutoff:
                slots[i, elements[j]] += 1
            least = shortest[elements[i], elements[j]]
            if least > 0.0 and r / least < ratio[i]:
                ratio[i], partner[i], distance[i] = r / least, j, r


class Range:
    """``term``: the host's DeepSpin, which has the words; ``elements`` (N,): the model's element of each atom."""

    def __init__(self, term, elements: np.ndarray):
        model, n = term.model, len(elements)
        self._term, self._elements = term, on_device(elements)
        self._shortest = on_device(term.shortest_distances())
        self._cutoff = float(model.network.cutoff) if model.network is not None else 0.0
        self._slots_there = None if model.network is None else torch.from_numpy(np.asarray(model.network.sel)).int()
        self._lengths = None if model.seen is None else on_device(model.seen.spin_length[elements])
        self._ratio, self._distance = zeros(n), zeros(n)
        self._partner, self._slots = zeros(n, "int32"), zeros((n, len(model.elements)), "int32")
        if self._slots_there is not None:
            self._slots_there = self._slots_there.to(self._slots.tensor.device)

    def look(self, state, pairs) -> None:
        """Warn of what there is to warn of."""
        term, kinds = self._term, self._kinds()
        if term.warned(*kinds):
            return
        _closest(
            state.natoms, pairs.packed, pairs.owner, pairs.neighbours, pairs.count, self._elements, self._shortest, self._cutoff,
            self._ratio, self._partner, self._distance, self._slots,
        )  # fmt: skip
        none = torch.zeros((), dtype=torch.float64, device=self._ratio.tensor.device)
        excess, outside = none, none
        if self._slots_there is not None:
            excess = (self._slots.tensor - self._slots_there).max().double()
        if self._lengths is not None:
            squares, limits = state.spins.tensor.square().sum(dim=1), self._lengths.tensor
            low, high = ((1.0 - OUTSIDE) * limits[:, 0]) ** 2, ((1.0 + OUTSIDE) * limits[:, 1]) ** 2
            outside = ((squares < low) | (squares > high)).sum().double()
        least, most, many = torch.stack([self._ratio.tensor.min(), excess, outside]).tolist()  # one transfer
        if least < SHORTER and not term.warned("distance"):
            i = int(self._ratio.tensor.argmin())
            term.warn_of_distance(StateView(state), i, int(self._partner.tensor[i]), float(self._distance.tensor[i]))
        if most > 0.0 and not term.warned("slots"):
            slots = np.zeros(self._shortest.shape, dtype=np.int64)
            np.maximum.at(slots, np.asarray(term.elements_of_atoms), self._slots.host())
            term.warn_of_slots(slots)
        if many > 0.0 and not term.warned("spins"):
            term.warn_of_spins(StateView(state))

    def _kinds(self) -> list[str]:
        """What there can be warnings of."""
        return ["spins", "distance"] * (self._lengths is not None) + ["slots"] * (self._slots_there is not None)
