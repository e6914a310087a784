"""What one spin sees while all others stand still, on the GPU: for sequential sweeps and Monte Carlo; see ``integrators.sites``."""

from typing import Any

import numpy as np
import torch
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, zeros
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.integrators.monte_carlo import coupled_pairs
from spinmd.spin_laws import cubic_energy, cubic_field, quadratic_law

# how a kernel takes DeviceSites: count, atoms and values of isotropic, tensor and biquadratic couplings; constant fields (N, 3);
# quadratic (N, 9); cubic constants (terms, N, 2) and axes (terms, 3, 3)
SITES = (
    *(array(i4, 1), array(i4, 2), array(f8, 2)), *(array(i4, 1), array(i4, 2), array(f8, 3)),
    *(array(i4, 1), array(i4, 2), array(f8, 2)), array(f8, 2), array(f8, 2), array(f8, 3), array(f8, 3),
)  # fmt: skip


@cuda.jit(device=True)
def surroundings(i, w, sites):
    """b of spin i and the six numbers xx, xy, xz, yy, yz, zz of its symmetric A, eV."""
    count, atoms, coupling, t_count, t_atoms, tensor, b_count, b_atoms, biquadratic, constant, quadratic, _, _ = sites
    bx, by, bz = 0.0, 0.0, 0.0
    xx, xy, xz, yy, yz, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if count.shape[0] > 0:
        for k in range(count[i]):
            j = atoms[k, i]
            if j != i:  # with its own image a spin has a constant energy
                strength = coupling[k, i]
                bx += strength * w[j, 0]
                by += strength * w[j, 1]
                bz += strength * w[j, 2]
    if constant.shape[0] > 0:
        bx, by, bz = bx + constant[i, 0], by + constant[i, 1], bz + constant[i, 2]
    if quadratic.shape[0] > 0:
        xx, xy, xz = quadratic[i, 0], quadratic[i, 1], quadratic[i, 2]
        yy, yz, zz = quadratic[i, 4], quadratic[i, 5], quadratic[i, 8]
    if t_count.shape[0] > 0:
        for k in range(t_count[i]):
            j = t_atoms[k, i]
            if j == i:  # half of the symmetric part belongs to A
                xx += 0.5 * tensor[0, k, i]
                yy += 0.5 * tensor[4, k, i]
                zz += 0.5 * tensor[8, k, i]
                xy += 0.25 * (tensor[1, k, i] + tensor[3, k, i])
                xz += 0.25 * (tensor[2, k, i] + tensor[6, k, i])
                yz += 0.25 * (tensor[5, k, i] + tensor[7, k, i])
            else:
                x, y, z = w[j, 0], w[j, 1], w[j, 2]
                bx += tensor[0, k, i] * x + tensor[1, k, i] * y + tensor[2, k, i] * z
                by += tensor[3, k, i] * x + tensor[4, k, i] * y + tensor[5, k, i] * z
                bz += tensor[6, k, i] * x + tensor[7, k, i] * y + tensor[8, k, i] * z
    if b_count.shape[0] > 0:
        for k in range(b_count[i]):
            j = b_atoms[k, i]
            if j != i:
                x, y, z, strength = w[j, 0], w[j, 1], w[j, 2], biquadratic[k, i]
                xx += strength * x * x
                xy += strength * x * y
                xz += strength * x * z
                yy += strength * y * y
                yz += strength * y * z
                zz += strength * z * z
    return bx, by, bz, xx, xy, xz, yy, yz, zz


@cuda.jit(device=True)
def nonlinear_field(i, x, y, z, xx, xy, xz, yy, yz, zz, cubic, axes):
    """−∂/∂w of all of E_i but −w·b, eV."""
    hx, hy, hz = quadratic_law(x, y, z, xx, xy, xz, xy, yy, yz, xz, yz, zz)
    for k in range(cubic.shape[0]):
        u = axes[k, 0, 0] * x + axes[k, 0, 1] * y + axes[k, 0, 2] * z
        v = axes[k, 1, 0] * x + axes[k, 1, 1] * y + axes[k, 1, 2] * z
        t = axes[k, 2, 0] * x + axes[k, 2, 1] * y + axes[k, 2, 2] * z
        u, v, t = cubic_field(u, v, t, cubic[k, i, 0], cubic[k, i, 1])
        hx += axes[k, 0, 0] * u + axes[k, 1, 0] * v + axes[k, 2, 0] * t
        hy += axes[k, 0, 1] * u + axes[k, 1, 1] * v + axes[k, 2, 1] * t
        hz += axes[k, 0, 2] * u + axes[k, 1, 2] * v + axes[k, 2, 2] * t
    return hx, hy, hz


@cuda.jit(device=True)
def nonlinear_energy(i, x, y, z, xx, xy, xz, yy, yz, zz, cubic, axes):
    """E_i without −w·b, eV."""
    hx, hy, hz = quadratic_law(x, y, z, xx, xy, xz, xy, yy, yz, xz, yz, zz)
    energy = -0.5 * (x * hx + y * hy + z * hz)
    for k in range(cubic.shape[0]):
        u = axes[k, 0, 0] * x + axes[k, 0, 1] * y + axes[k, 0, 2] * z
        v = axes[k, 1, 0] * x + axes[k, 1, 1] * y + axes[k, 1, 2] * z
        t = axes[k, 2, 0] * x + axes[k, 2, 1] * y + axes[k, 2, 2] * z
        energy += cubic_energy(u, v, t, cubic[k, i, 0], cubic[k, i, 1])
    return energy


@kernel(array(i4, 1), array(i4, 2), array(f8, 2), i8, array(i4, 1), array(i4, 2), array(f8, 2))
def _append(count, atoms, values, first, all_count, all_atoms, all_values):
    """Entries of one term behind those of the terms before."""
    i = cuda.grid(1)
    if i < count.shape[0]:
        place = 0 if first != 0 else all_count[i]
        for k in range(count[i]):
            all_atoms[place + k, i] = atoms[k, i]
            all_values[place + k, i] = values[k, i]
        all_count[i] = place + count[i]


@kernel(array(i4, 1), array(i4, 2), array(f8, 3), i8, array(i4, 1), array(i4, 2), array(f8, 3))
def _append_tensors(count, atoms, values, first, all_count, all_atoms, all_values):
    """Entries of one term behind those of the terms before."""
    i = cuda.grid(1)
    if i < count.shape[0]:
        place = 0 if first != 0 else all_count[i]
        for k in range(count[i]):
            all_atoms[place + k, i] = atoms[k, i]
            for a in range(9):
                all_values[a, place + k, i] = values[a, k, i]
        all_count[i] = place + count[i]


class DeviceSites:
    """All couplings of a DeviceHamiltonian, one list for each kind; ``arrays`` is what kernels take, typed as ``SITES``."""

    def __init__(self, couplings: Any):
        self.couplings = couplings
        nothing = {d: zeros((0,) * d) for d in (2, 3)}
        self._joined: list[
            tuple
        ] = []  # (kernel, terms, name, joined count, atoms and values), for kinds of several terms
        lists: list[DeviceArray] = []
        for name in ("isotropic", "tensor", "biquadratic"):
            lists += self._list(name, [t for t in couplings.terms if getattr(t, name) is not None])
        cubics = [t for t in couplings.terms if t.cubic is not None]
        stacked = [
            DeviceArray(torch.stack([getattr(t, key).tensor for t in cubics])) if cubics else nothing[3]
            for key in ("cubic", "axes")
        ]
        constant, quadratic = (
            one if one is not None else nothing[2] for one in (couplings.constant, couplings.quadratic)
        )
        self.arrays = (*lists, constant, quadratic, *stacked)
        self.refresh()
        # not decided in a step: whether a spin sees its own image depends on cell and cutoff
        self.on_site = bool(len(quadratic) or cubics or len(lists[6]) or self._own_tensors(*lists[3:6]))

    def _list(self, name: str, terms: list) -> list[DeviceArray]:
        if not terms:
            return [zeros(0, "int32"), zeros((0, 0), "int32"), zeros((0,) * (3 if name == "tensor" else 2))]
        if len(terms) == 1:
            return [terms[0].count, terms[0].atoms, getattr(terms[0], name)]
        n, room = len(terms[0].count), sum(t.atoms.shape[0] for t in terms)
        joined = [zeros(n, "int32"), zeros((room, n), "int32"), zeros((9, room, n) if name == "tensor" else (room, n))]
        self._joined.append((_append_tensors if name == "tensor" else _append, terms, name, joined))
        return joined

    def refresh(self) -> None:
        """Take the values of kinds that several terms have anew."""
        for append, terms, name, joined in self._joined:
            for k, term in enumerate(terms):
                append(len(joined[0]), term.count, term.atoms, getattr(term, name), int(k == 0), *joined)

    @staticmethod
    def _own_tensors(count: DeviceArray, atoms: DeviceArray, tensor: DeviceArray) -> bool:
        if not len(count):
            return False
        rows, columns = (torch.arange(size, device=atoms.tensor.device) for size in atoms.shape)
        own = (atoms.tensor == columns) & (rows[:, None] < count.tensor) & (tensor.tensor != 0.0).any(dim=0)
        return bool(own.any())

    def pairs(self) -> np.ndarray:
        """(2, pairs) atoms that are coupled, as ``integrators.monte_carlo.coupled_pairs`` has them; a transfer."""
        owners, others = [], []
        for k in (0, 3, 6):
            count, atoms, values = self.arrays[k : k + 3]
            if len(count):
                count, atoms, values = count.host(), atoms.host(), values.host()
                rows = np.arange(len(atoms))[:, None]
                real = (rows < count) & (values.reshape(-1, *atoms.shape) != 0.0).any(axis=0)
                owners.append(np.nonzero(real)[1])
                others.append(atoms[real])
        return coupled_pairs(owners, others)
