"""What reporters and the guard see of a run on the device: sums that are made there, arrays that come over when somebody asks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from spinmd.cuda.arrays import DeviceArray
from spinmd.cuda.model import DeviceModel
from spinmd.cuda.state import DeviceState
from spinmd.protocols import FIXED, FROZEN, Evaluation, Need
from spinmd.state import State


class StateView:
    """The names of ``spinmd.state.State``; each array is copied over once, so that a view serves for one moment."""

    def __init__(self, state: DeviceState):
        self._state = state
        self._arrays: dict[str, np.ndarray] = {}
        self.natoms, self.cell, self.pbc, self.symbols, self.clock = (
            state.natoms,
            state.cell,
            state.pbc,
            state.symbols,
            state.clock,
        )
        self.volume = state.volume
        self.kinetic_energy, self.kinetic_energy_about = state.kinetic_energy, state.kinetic_energy_about
        self.centre_velocity, self.temperature, self.magnetisation = (
            state.centre_velocity,
            state.temperature,
            state.magnetisation,
        )

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in State.PER_ATOM:
            raise AttributeError(name)
        if name not in self._arrays:
            array = getattr(self._state, name)
            self._arrays[name] = array.host() if isinstance(array, DeviceArray) else array
        return self._arrays[name]

    def unwrapped(self) -> np.ndarray:
        """(N, 3) Å, followed through the periodic boundaries, in the present order."""
        return self.positions + self.images @ self.cell

    def original_order(self, array: np.ndarray) -> np.ndarray:
        """A copy in the original order of the atoms."""
        result = np.empty_like(array)
        result[self.ids] = array
        return result


class HistoriesView(dict):
    """``Aux.per_atom`` of the host, whose arrays come up to date when somebody asks for one that a step changes.

    Checkpoints do. ``bring`` copies them over; masks of what does not move never change.
    """

    def __init__(self, per_atom: dict[str, np.ndarray], bring: Callable[[], None]):
        super().__init__(per_atom)
        self._bring: Callable[[], None] | None = bring

    def _come(self) -> None:
        bring, self._bring = self._bring, None
        if bring is not None:
            bring()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in (FROZEN, FIXED):
            self._come()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As that of a dictionary."""
        if name not in self:
            return default
        return self[name]

    def items(self) -> Any:
        """As that of a dictionary."""
        self._come()
        return super().items()

    def values(self) -> Any:
        """As that of a dictionary."""
        self._come()
        return super().values()


class ModelView:
    """The part of ``spinmd.model.Model`` that reporters use; ``host``: the model that the device's was made from."""

    def __init__(self, model: DeviceModel, host: Any):
        self._model, self._host = model, host
        self.terms, self.names, self.magnetic_terms, self.backend = (
            host.terms,
            host.names,
            host.magnetic_terms,
            host.backend,
        )

    def evaluate(self, need: Need) -> Evaluation:
        """As ``Model.evaluate``; what is asked for comes over."""
        model = self._model
        model.evaluate(need | Need.ENERGY)
        model.watch()
        nothing = np.zeros((0, 3))
        return Evaluation(
            self.names,
            model.total_energies(),
            model.forces.host() if Need.FORCE in need else nothing,
            model.fields.host() if Need.FIELD in need else nothing,
            model.total_virial() if Need.VIRIAL in need else np.zeros((3, 3)),
        )

    def spin_temperature(self, fixed: np.ndarray | None = None) -> float:
        """K; as ``Model.spin_temperature``."""
        return self._model.spin_temperature(fixed)

    def list_history(self) -> dict[str, np.ndarray]:
        """What a restart needs to have the same lists."""
        host = self._host.list_history()
        return self._model.list_history() | {name: host[name] for name in ("margins", "first_cell")}
