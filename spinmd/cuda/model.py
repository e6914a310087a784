"""The model on the device: terms, lists and what has been evaluated; the counterpart of ``spinmd.model.Model``.

All arrays stay on the device. What is up to date is known on the host without asking the device, since it follows from the order of
the calls. Energies are kept per atom and summed when somebody wants to know.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from spinmd.cuda.arrays import DeviceArray, where, zeros
from spinmd.cuda.hamiltonian import DeviceHamiltonian
from spinmd.cuda.lists import BUILDS, DeviceLists
from spinmd.cuda.output import DeviceOutput
from spinmd.cuda.spin_temperature import sampled_curvature, spin_temperature
from spinmd.cuda.spins import DeviceSpinTerm
from spinmd.cuda.state import DeviceState
from spinmd.protocols import Need

STALE = (-1, -1, 0.0)  # of couplings: positions, changes of the clock, time


class _Group:
    """Terms that are up to date together: those with spins, or those without."""

    def __init__(self, terms: list[int], natoms: int, fields: DeviceArray):
        self.terms = terms
        self.forces, self.fields = zeros((natoms, 3)), fields
        self.version: tuple[int, int, int, float] = (-1, -1, -1, 0.0)
        self.have = Need.NONE


class DeviceModel:
    """Terms of the energy of one DeviceState.

    model        a Model of the host for the same atoms in the same order: its terms are prepared, and say radii and skin
    device_term  (term of the host, state) -> its version for the device
    """

    def __init__(self, state: DeviceState, model: Any, device_term: Callable[[Any, DeviceState], Any]):
        self.state, self.names, self.magnetic_terms = state, model.names, model.magnetic_terms
        self.terms = [device_term(term, state) for term in model.terms]
        self.radius = list(model._radius)
        self.lists = DeviceLists(state, [r for r in self.radius if r > 0.0], model.lists.skin)
        n = state.natoms
        lattice = [k for k, m in enumerate(self.magnetic_terms) if not m]
        magnetic = [k for k, m in enumerate(self.magnetic_terms) if m]
        self._nothing = zeros((n, 3))  # stays zero: the fields of terms without spins, among others
        self._groups = [_Group(lattice, n, self._nothing)] if lattice else []
        self._groups += [_Group(magnetic, n, zeros((n, 3)))] if magnetic else []
        self.energies = [zeros(n) for _ in self.terms]
        self.virials = zeros((0, 9))  # (N, 9) once somebody asks for them
        self._positions_version = self._spins_version = self._time_version = 0
        self._listed = -1
        self._hamiltonian: DeviceHamiltonian | None = None
        self._frozen: dict[int, DeviceSpinTerm] = {}
        self._coupled = STALE
        self._driven = [k for k, term in enumerate(model.terms) if getattr(term, "driven", False)]
        self._unasked = zeros(n)
        self._leaves: list[bool] = []  # whether a captured step leaves the forces of each group up to date
        self._leaves_lists = True  # and the lists
        self._leaves_couplings = False  # and the couplings
        self._frozen_anew = True  # whether couplings have been made since the capture began
        self._trusts_couplings = False  # whether a captured step begins with those of the step before

    def moved(self, *, positions: bool = False, spins: bool = False, time: bool = False) -> None:
        """Say what has changed since the last evaluation; nothing named means everything. ``time``: the clock of the device, where
        that of the host has not gone on with it."""
        everything = not (positions or spins or time)
        self._positions_version += positions or everything
        self._spins_version += spins or everything
        self._time_version += time or everything

    def _time(self) -> tuple[int, float]:
        """The clock as far as the energy depends on it."""
        return (self._time_version, self.state.clock.time) if self._driven else (0, 0.0)

    @property
    def driven(self) -> list[str]:
        """Names of the terms that depend on the clock: fields that change in time."""
        return [self.names[k] for k in self._driven]

    def update_lists(self) -> None:
        """Lists and images for the present positions."""
        if self._listed != self._positions_version:
            self.lists.update()
            self._listed = self._positions_version

    def pairs(self, term: int):
        """The list of a term, None for a term without one."""
        return self.lists.lists[self.radius[term]] if self.radius[term] > 0.0 else None

    def evaluate(self, need: Need) -> None:
        """Launch what is needed and not up to date: ``forces``, ``fields``, ``energies``, ``virials`` then hold it."""
        self.update_lists()
        if Need.VIRIAL in need and not len(self.virials):
            self.virials = zeros((self.state.natoms, 9))
        wants = [self._missing(group, need) for group in self._groups]
        if any(Need.VIRIAL in one for one in wants):  # one array for all groups: all anew
            wants = [
                self._missing(group, one | Need.VIRIAL, True) for group, one in zip(self._groups, wants, strict=True)
            ]
        for group, wanted in zip(self._groups, wants, strict=True):
            if not wanted:
                continue
            if Need.FORCE in wanted or Need.VIRIAL in wanted:
                if group is self._groups[0]:
                    group.forces.fill(0.0)
                else:
                    group.forces.copy_from(self._groups[0].forces)
            if Need.FIELD in wanted:
                group.fields.fill(0.0)
            if Need.VIRIAL in wanted and group is self._groups[0]:
                self.virials.fill(0.0)
            for k in group.terms:
                if Need.ENERGY in wanted:
                    self.energies[k].fill(0.0)
                out = DeviceOutput(self.energies[k], group.forces, group.fields, self.virials)
                self.terms[k].add(self.state, self.pairs(k), out, wanted)
            group.version, group.have = self._version(group), wanted

    def _version(self, group: _Group) -> tuple[int, int, int, float]:
        """What the results of a group depend on."""
        if not self.magnetic_terms[group.terms[0]]:
            return self._positions_version, 0, 0, 0.0
        return self._positions_version, self._spins_version, *self._time()

    def _missing(self, group: _Group, need: Need, again: bool = False) -> Need:
        """What is to be computed for a group so that it has what is needed; all of it ``again``, even what is up to date."""
        if group.version != self._version(group):
            return need
        return need | group.have if again or need & ~group.have else Need.NONE

    @property
    def forces(self) -> DeviceArray:
        """(N, 3) eV/Å of all terms."""
        return self._groups[-1].forces if self._groups else self._nothing

    @property
    def fields(self) -> DeviceArray:
        """(N, 3) eV/µB of all terms."""
        return self._groups[-1].fields if self._groups else self._nothing

    def total_energies(self) -> np.ndarray:
        """(n_terms,) eV; a transfer."""
        return torch.stack([e.tensor.sum() for e in self.energies]).cpu().numpy()

    def total_virial(self) -> np.ndarray:
        """(3, 3) eV; a transfer."""
        return self.virials.tensor.sum(dim=0).cpu().numpy().reshape(3, 3)

    def begin_capture(self) -> None:
        """What is up to date now is what a step that is captured may take for granted: forces, and couplings where there are
        any."""
        self.evaluate(Need.FORCE)
        for group in self._groups:
            group.have &= Need.FORCE
        if self._hamiltonian is not None:
            self.couplings()
        self._frozen_anew = self._trusts_couplings = False

    def end_capture(self) -> None:
        """What a captured step leaves up to date: forces not where there are no kicks, couplings where spins turn last."""
        self._leaves_couplings = self._coupled == self._coupling_version()
        self._frozen_anew = True
        self._leaves = [self._version(group) == group.version for group in self._groups]
        self._leaves_lists = self._listed == self._positions_version

    def before_replay(self) -> None:
        """See that couplings are what a captured step takes for granted, if something else has happened since the last one."""
        if self._trusts_couplings:
            self.couplings()

    def stepped(self) -> None:
        """A captured step has been repeated: up to date is what it leaves so, and nothing else."""
        for group, leaves in zip(self._groups, self._leaves, strict=True):
            group.have &= Need.FORCE if leaves else Need.NONE
        self._coupled = self._coupling_version() if self._leaves_couplings else STALE
        if not self._leaves_lists:  # the last thing that it does is to move the atoms
            self._listed = -1

    def grown(self) -> None:
        """Lists have other buffers now: nothing is up to date."""
        self.moved()
        self._listed = -1

    def _coupling_version(self) -> tuple[int, int, float]:
        """What couplings depend on."""
        return (self._positions_version, *self._time())

    def couplings(self) -> DeviceHamiltonian:
        """The frozen spin Hamiltonian at the present positions and time; evaluated once for each, in the same arrays every time."""
        self.update_lists()
        version = self._coupling_version()
        if self._hamiltonian is not None and self._coupled == version:
            self._trusts_couplings |= not self._frozen_anew
            return self._hamiltonian
        self._frozen_anew = True
        only_time = self._hamiltonian is not None and self._coupled[0] == self._positions_version
        self._freeze(self._driven if only_time else range(len(self.terms)))
        terms = [self._frozen[k] for k in sorted(self._frozen)]
        if self._hamiltonian is None or not self._hamiltonian.made_of(terms):
            self._hamiltonian = DeviceHamiltonian(self.state.natoms, self.state.moments, terms)
        elif only_time and all(self._frozen[k].only_field for k in self._driven if k in self._frozen):
            self._hamiltonian.refresh_constant()
        else:
            self._hamiltonian.refresh()
        self._coupled = version
        return self._hamiltonian

    def _freeze(self, terms: Iterable[int]) -> None:
        for k in terms:
            if self.magnetic_terms[k]:
                frozen = self.terms[k].freeze(self.state, self.pairs(k))
                self._frozen.pop(k, None)
                if frozen is not None:
                    self._frozen[k] = frozen

    def live_terms(self) -> list[int]:
        """Magnetic terms that do not freeze and are evaluated with FIELD inside the spin solve."""
        self.couplings()
        return [k for k in range(len(self.terms)) if self.magnetic_terms[k] and k not in self._frozen]

    def add_live_fields(self, fields: DeviceArray) -> None:
        """Add F = −∂E/∂S (eV/µB) of the live terms at the state's present spins to ``fields`` (N, 3)."""
        self.update_lists()
        for k in self.live_terms():
            out = DeviceOutput(self._unasked, self._nothing, fields, self.virials)
            self.terms[k].add(self.state, self.pairs(k), out, Need.FIELD)

    def add_driven_energies(self, energies: DeviceArray) -> None:
        """Add to ``energies`` (N,), eV, those of the terms that depend on the clock, at the device's present time."""
        self.update_lists()
        for k in self._driven:
            out = DeviceOutput(energies, self._nothing, self._nothing, self.virials)
            self.terms[k].add(self.state, self.pairs(k), out, Need.ENERGY)

    def watch(self) -> None:
        """Let terms look at what they are asked for, and warn: when the host looks, not within a step."""
        for k, term in enumerate(self.terms):
            if hasattr(term, "watch"):
                self.update_lists()
                term.watch(self.state, self.pairs(k))

    def list_history(self) -> dict[str, np.ndarray]:
        """Positions and cell at the last build, and the number of builds; a transfer."""
        lists = self.lists
        builds = int(lists.status.host()[BUILDS]) if lists.radii else 0
        return {
            "positions": lists.built.host(),
            "cell": self.state.cell.copy(),
            "builds": np.array(builds, dtype=np.int64),
        }

    def spin_temperature(self, fixed: np.ndarray | None = None) -> float:
        """K, as ``Model.spin_temperature``; ``fixed`` (N,) on the host, nonzero for spins that are not counted.

        NaN without magnetic terms. Sums are made on the device, and two numbers cross.
        """
        if not self.magnetic_terms.any():
            return float("nan")
        self.evaluate(Need.FIELD)
        free = None if fixed is None else torch.from_numpy(np.asarray(fixed) == 0).to(where())
        live = sampled_curvature(self.state, self.add_live_fields, free) if self.live_terms() else 0.0
        return spin_temperature(self.state, self.fields, self.couplings(), live, free)
