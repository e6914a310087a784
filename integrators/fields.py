"""F = −∂E/∂S of all terms at spins that a solver tries, whether couplings are frozen or live; for solvers that work on S itself."""

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, aligned_zeros
from spinmd.couplings import add_isotropic_field
from spinmd.integrators.held import NOTHING_HELD
from spinmd.protocols import Need
from spinmd.state import State


@njit(cache=True, parallel=True)
def _directions(natoms, spins, inverse_moments, w, field, block):
    """w = S/m, and H = 0."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            for k in range(3):
                w[i, k] = spins[i, k] * inverse_moments[i]
                field[i, k] = 0.0


@njit(cache=True, parallel=True)
def _add_scaled(natoms, field, inverse_moments, result, block):
    """F += H/m."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            for k in range(3):
                result[i, k] += field[i, k] * inverse_moments[i]


class SpinField:
    """The field of all terms of a model, frozen and live, on the ``natoms`` atoms of one state."""

    def __init__(self, natoms: int):
        self.natoms = natoms
        self._w = aligned_zeros((natoms, 4))
        self._h = np.zeros((natoms, 3))
        self._inverse = np.zeros(natoms)
        self.fixed = NOTHING_HELD  # (N,) nonzero for spins that do not turn, whose field is 0

    def at(self, state: State, model, spins: np.ndarray, result: np.ndarray) -> None:
        """F (N, 3) eV/µB at ``spins`` (N, 3 or more) µB to ``result``. With live terms ``state.spins`` becomes ``spins``."""
        self._sum(state, model, spins, result)
        self._release(result)

    def _release(self, result: np.ndarray) -> None:
        if len(self.fixed):
            result[self.fixed != 0] = 0.0

    def _sum(self, state: State, model, spins: np.ndarray, result: np.ndarray) -> None:
        result[:] = 0.0
        couplings = model.couplings()  # brings the neighbour lists up to date, which live terms need too
        if model.live_terms():
            if spins is not state.spins:
                state.spins[:] = spins[:, :3]
            model.add_live_fields(result)
        if not couplings.isotropic and couplings.only_leading and couplings.constant is None:
            return
        self._inverse[:] = 0.0
        np.divide(1.0, state.moments, out=self._inverse, where=state.moments > 0.0)
        _directions(self.natoms, spins, self._inverse, self._w, self._h, BLOCK)
        if couplings.isotropic:
            add_isotropic_field(self.natoms, self._w, *couplings.leading(), self._h, BLOCK)
        couplings.add_linear_rest(self._w, self._h)
        couplings.add_nonlinear(self._w, self._h)
        if couplings.constant is not None:
            self._h += couplings.constant
        _add_scaled(self.natoms, self._h, self._inverse, result, BLOCK)

    def at_start(self, state: State, model, result: np.ndarray, after_kick: bool) -> int:
        """F at the state's own spins; 1 if that took an evaluation, 0 if the forces of the kick just before gave it as well.

        Only live terms take it from there, and a solver must ask for it in the same steps of any run: the two ways round
        differently.
        """
        if after_kick and model.live_terms():
            np.copyto(result, model.evaluate(Need.FIELD).fields)
            self._release(result)
            return 0
        self.at(state, model, state.spins, result)
        return 1
