"""F = −∂E/∂S of all terms at spins that a solver tries, on the GPU; the counterpart of ``integrators.fields``."""

from typing import Any

from numba import cuda

from spinmd.cuda.arrays import DeviceArray, zeros
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.protocols import Need
from spinmd.spin_laws import TINY


@kernel(array(f8, 2), array(f8, 1), array(f8, 2), array(f8, 2), array(f8, 2))
def _directions(spins, inverse, constant, w, h):
    """w = S/m, and H of constant fields."""
    i = cuda.grid(1)
    if i < w.shape[0]:
        for a in range(3):
            w[i, a] = spins[i, a] * inverse[i]
            h[i, a] = constant[i, a] if constant.shape[0] > 0 else 0.0


@kernel(
    array(i4, 1), array(i4, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1), array(i8, 1), i8,
    array(f8, 2), array(f8, 2),
)  # fmt: skip
def _sum(count, atoms, coupling, w, h, live, inverse, fixed, normal, spins, result):
    """F = H/m + ``live``, 0 for spins that do not turn; where ``normal``, without its part along S."""
    i = cuda.grid(1)
    if i < result.shape[0]:
        fx, fy, fz = 0.0, 0.0, 0.0
        if h.shape[0] > 0:
            hx, hy, hz = h[i, 0], h[i, 1], h[i, 2]
            if count.shape[0] > 0:
                for k in range(count[i]):
                    j, strength = atoms[k, i], coupling[k, i]
                    hx += strength * w[j, 0]
                    hy += strength * w[j, 1]
                    hz += strength * w[j, 2]
            m = inverse[i]
            fx, fy, fz = hx * m, hy * m, hz * m
        if live.shape[0] > 0:
            fx, fy, fz = fx + live[i, 0], fy + live[i, 1], fz + live[i, 2]
        if fixed.shape[0] > 0 and fixed[i] != 0:
            fx, fy, fz = 0.0, 0.0, 0.0
        if normal != 0:
            x, y, z = spins[i, 0], spins[i, 1], spins[i, 2]
            along = (x * fx + y * fy + z * fz) / (x * x + y * y + z * z + TINY)
            fx, fy, fz = fx - along * x, fy - along * y, fz - along * z
        result[i, 0], result[i, 1], result[i, 2] = fx, fy, fz


class DeviceSpinField:
    """The field of all terms, frozen and live; ``flow``: the solver that asks, with its moments and fixed spins.

    normal  whether the part of the field along the spins is taken off where terms are live
    """

    def __init__(self, flow: Any, normal: bool):
        self.state, self._inverse, self._fixed, self._normal = flow.state, flow.inverse, flow.fixed, normal
        n = self.state.natoms
        self._w, self._h, self._live = zeros((n, 4)), zeros((n, 3)), zeros((n, 3))
        self._none, self._control = flow.none[2], zeros(16)
        self._no_list = (zeros(0, "int32"), zeros((0, 0), "int32"), flow.none[2])

    def at(self, model: Any, spins: DeviceArray, result: DeviceArray) -> None:
        """F (N, 3) eV/µB at ``spins`` (N, 3) µB to ``result``. With live terms the state's spins become ``spins``."""
        n, couplings, live = self.state.natoms, model.couplings(), self._none
        if model.live_terms():
            if spins is not self.state.spins:
                self.state.spins.copy_from(spins)
            live = self._live
            live.fill(0.0)
            model.add_live_fields(live)
        constant = self._none if couplings.constant is None else couplings.constant
        _directions(n, spins, self._inverse, constant, self._w, self._h)
        couplings.add_linear_rest(self._w, self._h, self._control)
        couplings.add_nonlinear(self._w, self._h, self._control)
        self._add_up(couplings.leading(), self._h, live, spins, result)

    def at_start(self, model: Any, result: DeviceArray, after_kick: bool) -> None:
        """F at the state's own spins; with live terms, those that the kick just before has evaluated."""
        if after_kick and model.live_terms():
            model.evaluate(Need.FIELD)
            self._add_up(self._no_list, self._none, model.fields, self.state.spins, result)
        else:
            self.at(model, self.state.spins, result)

    def _add_up(self, lists: tuple, h: DeviceArray, live: DeviceArray, spins: DeviceArray, result: DeviceArray) -> None:
        normal = int(self._normal and len(live) > 0)
        _sum(self.state.natoms, *lists, self._w, h, live, self._inverse, self._fixed, normal, spins, result)
