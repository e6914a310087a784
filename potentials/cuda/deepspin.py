"""A DeepSPIN model on the GPU: its network (``deepspin_network``), its prior and the nets over invariants (``deepspin_prior``).

A live term: it has no frozen couplings and is asked for fields inside a spin solve. Matrix products are in the precision of the
network, whatever torch has been told elsewhere; in TF32 only where the deck says precision = "tf32".
"""

import numpy as np
import torch

from spinmd.cuda.arrays import on_device
from spinmd.potentials.cuda.deepspin_lists import Transpose
from spinmd.potentials.cuda.deepspin_network import DeviceNetwork
from spinmd.potentials.cuda.deepspin_prior import DevicePrior
from spinmd.potentials.cuda.deepspin_range import Range
from spinmd.potentials.deepspin.potential_network import NetworkPart
from spinmd.protocols import Need


class DeviceDeepSpin:
    """``term``: a prepared ``spinmd.potentials.deepspin.potential.DeepSpin``, whose tables and weights go to the device."""

    kind = "deepspin"
    magnetic = True

    def __init__(self, term, state):
        self._short = term.parameters.precision == "tf32"
        elements = np.asarray(term.elements_of_atoms)
        self._shift = on_device(np.ascontiguousarray(term.model.shift[elements], dtype=np.float64))
        self._transpose = Transpose()
        self._range = Range(term, np.ascontiguousarray(elements, dtype=np.int64))
        self.parts = [
            DeviceNetwork(part, elements) if isinstance(part, NetworkPart) else DevicePrior(part, elements, state)
            for part in term.parts
        ]

    def add(self, state, pairs, out, need) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self._short
        if need & (Need.FORCE | Need.FIELD | Need.VIRIAL):
            self._transpose.update(pairs)
        if Need.ENERGY in need:
            out.energies.tensor.add_(self._shift.tensor)
        for part in self.parts:
            part.add(state, pairs, self._transpose.reverse, out, need)

    def watch(self, state, pairs) -> None:
        """Warn where the model is asked for what it has not learnt; at looks of the host."""
        self._range.look(state, pairs)

    def freeze(self, state, pairs):
        """None: the term is live."""
        return None
