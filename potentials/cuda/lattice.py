"""Couplings on the rigid lattice on the GPU: energies and fields without a moving list, as ``spinmd.potentials.lattice_couplings``.

The couplings stay what they are while the atoms move, and reach the device once.
"""

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import on_device
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.spins import DeviceSpinTerm
from spinmd.protocols import Need

_COUPLED = (array(f8, 2), array(f8, 1), array(i4, 1), array(i4, 2))
_RESULTS = (array(f8, 1), i8, i8, array(f8, 1), array(f8, 2))


@cuda.jit(device=True)
def _leave(i, share, spins, inverse, hx, hy, hz, constant, want_energy, want_field, energies, fields):
    """E_i = −``share`` e_i·H + c_i and the field H/m_i, where they are wanted."""
    s = inverse[i]
    if want_energy != 0:
        energy = -share * s * (spins[i, 0] * hx + spins[i, 1] * hy + spins[i, 2] * hz)
        energies[i] += energy + (constant[i] if constant.shape[0] > 0 else 0.0)
    if want_field != 0:
        fields[i, 0] += hx * s
        fields[i, 1] += hy * s
        fields[i, 2] += hz * s


@kernel(*_COUPLED, array(f8, 2), *_RESULTS)
def _isotropic(spins, inverse, count, atoms, coupling, constant, want_energy, want_field, energies, fields):
    """E_i = −½ e_i·H_i + c_i and the field H_i/m_i with H_i = Σ_j J_ij e_j, eV."""
    i = cuda.grid(1)
    if i < count.shape[0] and inverse[i] != 0.0:
        hx, hy, hz = 0.0, 0.0, 0.0
        for k in range(count[i]):
            j = atoms[k, i]
            strength = coupling[k, i] * inverse[j]
            hx += strength * spins[j, 0]
            hy += strength * spins[j, 1]
            hz += strength * spins[j, 2]
        _leave(i, 0.5, spins, inverse, hx, hy, hz, constant, want_energy, want_field, energies, fields)


@kernel(*_COUPLED, array(f8, 3), *_RESULTS)
def _tensor(spins, inverse, count, atoms, tensor, constant, want_energy, want_field, energies, fields):
    """E_i = −½ e_i·H_i + c_i and the field H_i/m_i with H_i = Σ_j T_ij e_j, eV; ``tensor`` (9, room, N) by rows."""
    i = cuda.grid(1)
    if i < count.shape[0] and inverse[i] != 0.0:
        hx, hy, hz = 0.0, 0.0, 0.0
        for k in range(count[i]):
            j = atoms[k, i]
            q = inverse[j]
            x, y, z = spins[j, 0] * q, spins[j, 1] * q, spins[j, 2] * q
            hx += tensor[0, k, i] * x + tensor[1, k, i] * y + tensor[2, k, i] * z
            hy += tensor[3, k, i] * x + tensor[4, k, i] * y + tensor[5, k, i] * z
            hz += tensor[6, k, i] * x + tensor[7, k, i] * y + tensor[8, k, i] * z
        _leave(i, 0.5, spins, inverse, hx, hy, hz, constant, want_energy, want_field, energies, fields)


@kernel(*_COUPLED, array(f8, 2), *_RESULTS)
def _biquadratic(spins, inverse, count, atoms, coupling, constant, want_energy, want_field, energies, fields):
    """E_i = −¼ e_i·H_i + c_i and the field H_i/m_i with H_i = 2 Σ_j K_ij (e_i·e_j) e_j, eV."""
    i = cuda.grid(1)
    if i < count.shape[0] and inverse[i] != 0.0:
        s = inverse[i]
        ex, ey, ez = spins[i, 0] * s, spins[i, 1] * s, spins[i, 2] * s
        hx, hy, hz = 0.0, 0.0, 0.0
        for k in range(count[i]):
            j = atoms[k, i]
            q = inverse[j]
            x, y, z = spins[j, 0] * q, spins[j, 1] * q, spins[j, 2] * q
            c = 2.0 * coupling[k, i] * (ex * x + ey * y + ez * z)
            hx += c * x
            hy += c * y
            hz += c * z
        _leave(i, 0.25, spins, inverse, hx, hy, hz, constant, want_energy, want_field, energies, fields)


_KERNELS = {"isotropic": _isotropic, "tensor": _tensor, "biquadratic": _biquadratic}


class DeviceLattice:
    """``lattice``: the prepared ``LatticeCouplings`` of a term of the host; ``offset`` c of its energy."""

    magnetic = True

    def __init__(self, lattice, kind: str, offset: float = 0.0):
        self.kind = kind
        self._term = DeviceSpinTerm.of(lattice.spin_term)
        self._evaluate, self._values = _KERNELS[lattice.kind], getattr(self._term, lattice.kind)
        self._inverse = on_device(lattice._inverse_moments)
        self._constant = on_device(_constants(lattice, offset) if offset != 0.0 else np.zeros(0))

    def add(self, state, pairs, out, need) -> None:
        want_energy, want_field = int(Need.ENERGY in need), int(Need.FIELD in need)
        if want_energy or want_field:
            term = self._term
            self._evaluate(
                state.natoms, state.spins, self._inverse, term.count, term.atoms, self._values, self._constant, want_energy,
                want_field, out.energies, out.fields,
            )  # fmt: skip

    def freeze(self, state, pairs) -> DeviceSpinTerm:
        return self._term


def tensor_term(term, state) -> DeviceLattice:
    """The device's version of a prepared TensorExchange."""
    return DeviceLattice(term._lattice, term.default_name)


def _constants(lattice, offset: float) -> np.ndarray:
    """(N,) ½ c Σ_j of the couplings between magnetic atoms, eV: what the offset adds to the energy of each atom."""
    term, magnetic = lattice.spin_term, lattice._inverse_moments > 0.0
    centres = np.repeat(np.arange(len(term.count)), term.count)
    values = getattr(term, lattice.kind) * (magnetic[centres] & magnetic[term.neighbours])
    return 0.5 * offset * np.bincount(centres, weights=values, minlength=len(term.count))
