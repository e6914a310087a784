"""Spin couplings on a rigid lattice: energy and fields without a moving neighbour list, and no forces.

    E = −½ Σ_ij [J_ij (e_i·e_j − c) + e_iᵀ T_ij e_j + K_ij ((e_i·e_j)² − c)],   −∂E/∂S_i = H_i/m_i

Which atoms are coupled is found in ``potentials.lattice_pairs``; the couplings stay what they are while the atoms move.
The kernels are those of the frozen spin Hamiltonian (``spinmd.couplings``).
"""

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, block_count
from spinmd.couplings import add_biquadratic_field, add_isotropic_field, add_tensor_field
from spinmd.errors import InputError
from spinmd.potentials.lattice_pairs import CouplingTable, apply_list, find_shells, read_list
from spinmd.protocols import OK, Need, SpinTerm, Status
from spinmd.state import State


@njit(cache=True, parallel=True)
def _collect(natoms, w, h, inverse_moments, want_field, fields, sums, block):
    """sums[b] = Σ_i e_i·H_i over the atoms of block b; fields += H_i/m_i where wanted. H in eV."""
    for b in prange(sums.shape[0]):
        total = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            total += w[i, 0] * h[i, 0] + w[i, 1] * h[i, 1] + w[i, 2] * h[i, 2]
            if want_field:
                fields[i, 0] += h[i, 0] * inverse_moments[i]
                fields[i, 1] += h[i, 1] * inverse_moments[i]
                fields[i, 2] += h[i, 2] * inverse_moments[i]
        sums[b] = total


class LatticeCouplings:
    """The couplings of one term, in the present order of a state's atoms.

    kind    "isotropic" (values (nnz,), eV), "biquadratic" (the same) or "tensor" (values (nnz, 9), eV, by rows)
    table   the coupled pairs by original index;  spin_term  what ``freeze`` returns, constant between two sorts
    """

    def __init__(self, table: CouplingTable, state: State, inverse_moments: np.ndarray, kind: str = "isotropic"):
        self.kind = kind
        self.table = table
        start, count, neighbours, entries = table.present(state.ids)
        values = table.values[entries]
        values = values.reshape(-1, 9) if kind == "tensor" else values.reshape(-1)
        self.spin_term = SpinTerm(
            start=start, count=count, neighbours=neighbours, **{kind: np.ascontiguousarray(values)}
        )
        self._ids = state.ids.copy()
        self._inverse_moments = inverse_moments
        magnetic = inverse_moments > 0.0
        centres = np.repeat(np.arange(state.natoms), count)
        self._sum = 0.0 if kind == "tensor" else float(values[magnetic[centres] & magnetic[neighbours]].sum())
        self._w = np.zeros((state.natoms, 4))
        self._h = np.zeros((state.natoms, 3))
        self._sums = np.zeros(block_count(state.natoms))

    @classmethod
    def of(cls, term, state: State, kind: str = "isotropic") -> "LatticeCouplings":
        """The couplings that the parameters of ``term`` give: forms "shells" and "list" of ``potentials.radial``.

        ``term`` has been prepared for ``state``. Pairs are searched once for a state, on its reference sites, and
        re-ordered when the atoms have been sorted. Raises InputError for shells or a list that do not fit the
        structure.
        """
        table = table_of(term, state, lambda: scalar_table(term.parameters, state, term.mask))
        return cls(table, state, term.inverse_moments, kind)

    @property
    def vectors(self) -> np.ndarray:
        """(nnz, 3) Å from each atom to its neighbour on the reference sites, for the entries of ``spin_term``."""
        return self.table.vectors[self.table.present(self._ids)[3]]

    def add(self, state: State, out, need: Need, offset: float = 0.0) -> Status:
        """Add energy and fields; ``offset`` is c of the energy."""
        term, w, h = self.spin_term, self._w, self._h
        np.multiply(state.spins, self._inverse_moments[:, None], out=w[:, :3])
        h[:] = 0.0
        couplings = (state.natoms, w, term.start, term.count, term.neighbours)
        if self.kind == "isotropic":
            add_isotropic_field(*couplings, term.isotropic, h, BLOCK)
        elif self.kind == "tensor":
            add_tensor_field(*couplings, term.tensor, h, BLOCK)
        else:
            add_biquadratic_field(*couplings, term.biquadratic, h, BLOCK)
        _collect(state.natoms, w, h, self._inverse_moments, Need.FIELD in need, out.fields, self._sums, BLOCK)
        # e·H counts a bilinear energy twice with the opposite sign, a quadratic one four times
        factor = -0.25 if self.kind == "biquadratic" else -0.5
        out.energy[0] += factor * float(self._sums.sum()) + 0.5 * offset * self._sum
        return OK


def table_of(term, state: State, find) -> CouplingTable:
    """``find()``, called once for each state that ``term`` is prepared for."""
    if getattr(term, "_table_state", None) is not state:
        term._table = find()
        term._table_state = state
    return term._table


def scalar_table(parameters, state: State, mask: np.ndarray) -> CouplingTable:
    """Pairs and couplings (nnz,) in eV of the forms "shells" and "list" with one number per pair."""
    if parameters.form == "shells":
        found = shells_table(parameters, parameters.shells, state, mask)
        return found.with_values(np.array(parameters.shells)[found.values])
    table = list_table(parameters, state, mask, 1)
    return table.with_values(table.values[:, 0])


def shells_table(parameters, shells, state: State, mask: np.ndarray) -> CouplingTable:
    """Pairs of the first len(shells) shells; values are the shell of each pair, from 0."""
    return find_shells(state, mask, len(shells), parameters.tolerance, parameters.cutoff)


def list_table(parameters, state: State, mask: np.ndarray, columns: int) -> CouplingTable:
    """Pairs and couplings (nnz, columns) in eV of the form "list"."""
    listed = read_list(parameters.file, columns, parameters.unit)
    table = apply_list(state, mask, listed, parameters.tolerance)
    if len(table.neighbours) == 0:
        raise InputError("no line of the list concerns the elements of this term", str(parameters.file))
    return table
