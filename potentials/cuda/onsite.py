"""Anisotropies of single moments on the GPU; laws as in ``spinmd.spin_laws``."""

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import on_device
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.spins import DeviceSpinTerm
from spinmd.protocols import Need
from spinmd.spin_laws import cubic_energy, cubic_field, uniaxial_law

_ATOMS = (array(f8, 2), array(f8, 1), array(i4, 1))
_RESULTS = (i8, i8, array(f8, 1), array(f8, 2))


@kernel(*_ATOMS, f8, array(f8, 1), *_RESULTS)
def _uniaxial(spins, inverse, active, k, axis, want_energy, want_field, energies, fields):
    """E = −K (e·n)², eV, and its field, eV/µB, of the atoms that are ``active``."""
    i = cuda.grid(1)
    if i < active.shape[0] and active[i] != 0:
        s = inverse[i]
        e, hx, hy, hz = uniaxial_law(
            spins[i, 0] * s, spins[i, 1] * s, spins[i, 2] * s, k, axis[0], axis[1], axis[2]
        )  # fmt: skip
        if want_energy != 0:
            energies[i] += e
        if want_field != 0:
            fields[i, 0] += hx * s
            fields[i, 1] += hy * s
            fields[i, 2] += hz * s


@kernel(*_ATOMS, f8, f8, array(f8, 2), *_RESULTS)
def _cubic(spins, inverse, active, k1, k2, axes, want_energy, want_field, energies, fields):
    """E = K1 (x²y² + y²z² + z²x²) + K2 x²y²z², eV, and its field, eV/µB; x, y, z along the rows of ``axes``."""
    i = cuda.grid(1)
    if i < active.shape[0] and active[i] != 0:
        s = inverse[i]
        ex, ey, ez = spins[i, 0] * s, spins[i, 1] * s, spins[i, 2] * s
        x = axes[0, 0] * ex + axes[0, 1] * ey + axes[0, 2] * ez
        y = axes[1, 0] * ex + axes[1, 1] * ey + axes[1, 2] * ez
        z = axes[2, 0] * ex + axes[2, 1] * ey + axes[2, 2] * ez
        if want_energy != 0:
            energies[i] += cubic_energy(x, y, z, k1, k2)
        if want_field != 0:
            hx, hy, hz = cubic_field(x, y, z, k1, k2)
            for a in range(3):
                fields[i, a] += (axes[0, a] * hx + axes[1, a] * hy + axes[2, a] * hz) * s


class _OnSite:
    magnetic = True

    def __init__(self, term, state):
        self._inverse, self._active = on_device(term.inverse_moments), on_device(term.active.astype(np.int32))
        self._term = DeviceSpinTerm.of(term._spin_term)

    def add(self, state, pairs, out, need) -> None:
        want_energy, want_field = int(Need.ENERGY in need), int(Need.FIELD in need)
        if want_energy or want_field:
            self._kernel(
                state.natoms, state.spins, self._inverse, self._active, *self._law, want_energy, want_field, out.energies,
                out.fields,
            )  # fmt: skip

    def freeze(self, state, pairs) -> DeviceSpinTerm:
        return self._term


class DeviceUniaxial(_OnSite):
    """``term``: a prepared ``spinmd.potentials.anisotropy.UniaxialAnisotropy``."""

    kind = "anisotropy"
    _kernel = _uniaxial

    def __init__(self, term, state):
        super().__init__(term, state)
        self._law = (term.parameters.K, on_device(term.axis))


class DeviceCubic(_OnSite):
    """``term``: a prepared ``spinmd.potentials.anisotropy.CubicAnisotropy``."""

    kind = "cubic-anisotropy"
    _kernel = _cubic

    def __init__(self, term, state):
        super().__init__(term, state)
        self._law = (term.parameters.K1, term.parameters.K2, on_device(term.axes))
