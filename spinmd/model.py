"""Model: the terms of the energy, their neighbour lists, and the evaluation that movers and reporters ask for.

Nothing is computed twice at one configuration: results are kept until positions or spins move, separately for terms
that know spins and for those that do not.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from spinmd.backend import Backend, make_backend
from spinmd.couplings import SpinHamiltonian
from spinmd.errors import DivergedError, InputError, SpinmdError
from spinmd.neighbors import DEFAULT_SKIN, NeighbourLists
from spinmd.protocols import Aux, Code, Evaluation, Need, Potential, SpinTerm, Status, TermOutput
from spinmd.spin_temperature import sampled_curvature, spin_temperature
from spinmd.state import State
from spinmd.units import AMU


class _Group:
    """Terms that are up to date together: those with spins, or those without."""

    def __init__(self, terms: list[int], natoms: int):
        self.terms = terms
        self.forces = np.zeros((natoms, 3))
        self.fields = np.zeros((natoms, 3))
        self.virial = np.zeros((3, 3))
        self.version: tuple[int, int, float] = (-1, -1, 0.0)
        self.have = Need.NONE


class Model:
    """All terms of the energy of one state.

    state    the State that is evaluated; its atoms may be re-ordered in space here (``state.ids`` keeps the original
    order)
    terms    potentials, in the order of the deck
    skin     Å, by which neighbour lists reach further than cutoffs
    threads  None: all cores
    history  what ``list_history`` of the same model gave at this state: its lists, bit for bit

    Raises InputError for terms that do not fit the state or the history.
    """

    def __init__(
        self, state: State, terms: Sequence[Potential], *, skin: float | None = None, threads: int | None = None,
        backend: Backend | None = None, history: Mapping[str, np.ndarray] | None = None,
    ):  # fmt: skip
        self.state = state
        self.terms = list(terms)
        self.backend = backend or make_backend(threads=threads)
        self.names = _unique_names([term.name for term in self.terms])
        self.magnetic_terms = np.array([bool(term.magnetic) for term in self.terms], dtype=bool)
        self.aux: Aux | None = None
        self.acceleration_limit = math.inf  # Å/ps²; a larger one is a divergence
        self._least_mass = float(state.masses.min()) * AMU
        natoms = state.natoms
        self._energies = np.zeros(len(self.terms))
        lattice = [k for k, term in enumerate(self.terms) if not term.magnetic]
        magnetic = [k for k, term in enumerate(self.terms) if term.magnetic]
        self._groups = [_Group(g, natoms) for g in (lattice, magnetic) if g]
        self._nothing = np.zeros((natoms, 3))
        self._position_version = 0
        self._spin_version = 0
        self._listed = -1
        self._taken: dict[str, np.ndarray] | None = None
        self._couplings: SpinHamiltonian | None = None
        self._couplings_version: tuple[int, float] = (-1, 0.0)
        self._frozen: dict[int, SpinTerm] = {}
        self._live: list[int] | None = None
        self._driven = [k for k, term in enumerate(self.terms) if getattr(term, "driven", False)]
        self._radius: list[float] = []
        for k, term in enumerate(self.terms):
            if term.cutoff < 0.0 or not np.isfinite(term.cutoff):
                raise InputError(f"the cutoff must be positive, got {term.cutoff}", f"potential.{k}")
        self._first_cell = state.cell.copy()
        if history is not None:
            self._check_history(history)
            self._first_cell[:] = history["first_cell"]
        with self._in_first_cell():
            for term in self.terms:  # margins and cutoffs may depend on files and elements that prepare() reads
                term.prepare(state, self.backend)
            self._margins = np.array([t.margin(state) if t.cutoff > 0.0 else 0.0 for t in self.terms])
        if history is not None:
            self._restore_margins(history["margins"])
        self._radius = [
            t.cutoff + m if t.cutoff > 0.0 else 0.0 for t, m in zip(self.terms, self._margins.tolist(), strict=True)
        ]
        self.lists = NeighbourLists(state, [r for r in self._radius if r > 0.0], DEFAULT_SKIN if skin is None else skin)
        if history is not None:
            self.lists.restore(state, history)

    # ------------------------------------------------------------------ what has moved

    def moved(self, *, positions: bool = False, spins: bool = False, cell: bool = False) -> None:
        """Say what has changed since the last evaluation; nothing named means everything."""
        everything = not (positions or spins or cell)
        if positions or cell or everything:
            self._position_version += 1
        if spins or everything:
            self._spin_version += 1

    def _time(self) -> float:
        """The clock as far as the energy depends on it."""
        return self.state.clock.time if self._driven else 0.0

    @property
    def driven(self) -> list[str]:
        """Names of the terms that depend on the clock: fields that change in time."""
        return [self.names[k] for k in self._driven]

    def time_passes(self, time: float) -> float:
        """Set the clock to ``time`` ps. Returns the work done on the system, E(t₁) − E(t₀) at the same positions and spins, eV."""
        if not self._driven or time == self.state.clock.time:
            self.state.clock.time = time
            return 0.0
        self.update_lists()
        before = self._driven_energy()
        self.state.clock.time = time
        return self._driven_energy() - before

    def _driven_energy(self) -> float:
        energy = np.zeros(1)
        for k in self._driven:
            out = TermOutput(energy, self._nothing, self._nothing, np.zeros((3, 3)))
            self._judge(k, self.terms[k].add(self.state, self.pairs(k), out, Need.ENERGY))
        return float(energy[0])

    def attach(self, aux: Aux) -> None:
        """Let the sort in space permute this Aux's per-atom arrays with the state."""
        self.aux = aux

    @property
    def rebuilds(self) -> int:
        """Number of list builds after the first one."""
        return max(self.builds - 1, 0)

    @property
    def builds(self) -> int:
        """Number of list builds, also of those on another device."""
        return self.lists.builds if self._taken is None else int(self._taken["builds"])

    def list_history(self) -> dict[str, np.ndarray]:
        """What a restart needs to have bitwise the same lists.

        That of ``NeighbourLists.history``; margins (n_terms,) Å, which terms took from the state that the model was made
        for; and first_cell (3, 3) Å of that state, in which couplings of a rigid lattice were found.
        """
        history = (
            self.lists.history()
            if self._taken is None
            else {k: self._taken[k] for k in ("positions", "cell", "builds")}
        )
        return history | {"margins": self._margins.copy(), "first_cell": self._first_cell.copy()}

    def _check_history(self, history: Mapping[str, np.ndarray]) -> None:
        shapes = {"margins": (len(self.terms),), "first_cell": (3, 3), "cell": (3, 3), "builds": ()}
        for name, shape in (shapes | {"positions": self.state.positions.shape}).items():
            if name not in history or history[name].shape != shape:
                raise InputError(
                    f"the checkpoint's history of neighbour lists has no {name} of shape {shape}; it belongs to another "
                    "system or another version of spinmd"
                )

    @contextmanager
    def _in_first_cell(self) -> Iterator[None]:
        """The state with the cell that it had when the model was first made."""
        present = self.state.cell.copy()
        self.state.cell[:] = self._first_cell
        try:
            yield
        finally:
            self.state.cell[:] = present

    def _restore_margins(self, margins: np.ndarray) -> None:
        self._margins[:] = margins
        for term, margin in zip(self.terms, margins.tolist(), strict=True):
            if term.cutoff > 0.0 and hasattr(term, "lists_reach"):
                term.lists_reach(margin)

    def update_lists(self) -> None:
        """Bring the neighbour lists up to date with the positions. The loop does so after each step, whether somebody
        evaluates then or not: when lists are rebuilt does not depend on who looks on."""
        if self._listed == self._position_version:
            return
        lists = self.lists
        if self._taken is not None:
            self._taken, taken = None, self._taken
            lists.restore(self.state, taken)
        if lists.radii and (lists.builds == 0 or lists.needs_build(self.state)):
            self._check_positions()
            self.sort_in_space()
            lists.build(self.state)
        self._listed = self._position_version

    def sort_in_space(self) -> None:
        """Re-order the atoms for locality, as before a build of the lists that is due for it."""
        if self.lists.radii and self.lists.sort_due(self.state):
            self._sort(self.lists.sorted_order(self.state))

    def taken_from(self, history: Mapping[str, np.ndarray]) -> None:
        """State and lists have gone on elsewhere, on another device: take the lists that it has, and compute everything anew."""
        self._taken = dict(history)  # the lists are made when somebody evaluates here
        self.moved()
        for group in self._groups:
            group.version = (-1, -1, 0.0)
        self._couplings_version = (-1, 0.0)

    def _sort(self, order: np.ndarray) -> None:
        self.state.permute(order)
        if self.aux is not None:
            for array in self.aux.per_atom.values():
                array[:] = array[order]
        for term in self.terms:
            term.prepare(self.state, self.backend)
        for group in self._groups:
            group.version = (-1, -1, 0.0)
        self._couplings_version = (-1, 0.0)

    def farthest(self) -> float:
        """Å; an atom farther than this from the origin is as lost as NaN."""
        return 1.0e6 + float(np.abs(self.state.cell).sum())

    def _check_positions(self) -> None:
        good = (np.abs(self.state.positions) < self.farthest()).all(axis=1)
        if not good.all():
            atom = int(np.argmin(good))
            raise DivergedError(
                f"{named(self.state, atom)} is lost: its position is not a number or far away",
                atom=int(self.state.ids[atom]),
            )

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, need: Need = Need.ALL) -> Evaluation:
        """Energy by term and whatever else ``need`` asks for, at the present positions and spins.

        The arrays of the Evaluation are buffers of the model, valid until the next call; only what ``need`` names is
        valid. Raises DivergedError if a term fails, if a number is not finite, or if a force exceeds ``acceleration_limit``.
        """
        self.update_lists()
        for group in self._groups:
            self._evaluate_group(group, need)
        last = self._groups[-1] if self._groups else None
        forces, fields = (last.forces, last.fields) if last else (self._nothing, self._nothing)
        virial = sum((group.virial for group in self._groups), np.zeros((3, 3)))
        return Evaluation(self.names, self._energies, forces, fields, virial)

    def _evaluate_group(self, group: _Group, need: Need) -> None:
        magnetic = bool(self.magnetic_terms[group.terms[0]])
        version = (self._position_version, self._spin_version if magnetic else 0, self._time() if magnetic else 0.0)
        if group.version == version:
            need = need | group.have if (need & ~group.have) else Need.NONE
        if not need and group.version == version:
            return
        if Need.FORCE in need:  # magnetic terms add to the forces of the others: the last group holds the total
            before = self._groups[0]
            if before is not group:
                np.copyto(group.forces, before.forces)
            else:
                group.forces[:] = 0.0
        if Need.FIELD in need:
            group.fields[:] = 0.0
        if Need.VIRIAL in need:
            group.virial[:] = 0.0
        self._energies[group.terms] = 0.0
        for k in group.terms:
            term = self.terms[k]
            out = TermOutput(self._energies[k : k + 1], group.forces, group.fields, group.virial)
            status = term.add(self.state, self.pairs(k), out, need)
            self._judge(k, status)
        self._look(group, need)
        group.version = version
        group.have = need

    def _judge(self, term: int, status: Status | None) -> None:
        if status is not None and not isinstance(status, Status):
            raise SpinmdError(
                f"{self.names[term]}: add() returned {status!r}; a potential returns spinmd.protocols.OK or another Status"
            )
        if status is not None and not status.ok and status.code is not Code.NOT_CONVERGED:
            where = f" at atom {status.atom}" if status.atom >= 0 else ""
            name = self.names[term]
            message = f"{name} failed{where}: {status.message or status.code.name.lower()}"
            raise DivergedError(message + self._closest(status.atom), atom=status.atom, term=name)

    def _look(self, group: _Group, need: Need) -> None:
        """DivergedError if what has just been evaluated is not finite, or if a force is too large for any step."""
        large = self._least_mass * self.acceleration_limit
        for name, flag in (("forces", Need.FORCE), ("fields", Need.FIELD)):
            if flag in need:
                array = getattr(group, name)
                total = float(
                    np.einsum("ij,ij->", array, array)
                )  # with two cheap passes over the atoms nothing is missed
                if not math.isfinite(total) or (flag is Need.FORCE and total > large * large):
                    self._complain(group, flag)
        if Need.ENERGY in need and not math.isfinite(float(self._energies[group.terms].sum())):
            bad = next(k for k in group.terms if not math.isfinite(self._energies[k]))
            raise DivergedError(f"the energy of {self.names[bad]} is not a number", term=self.names[bad])

    def check_forces(self) -> None:
        """DivergedError if a force at the present state exceeds ``acceleration_limit``."""
        self.evaluate(Need.FORCE)
        if self._groups:
            self._complain(self._groups[-1], Need.FORCE)

    def _complain(self, group: _Group, flag: Need) -> None:
        """Name atom and term of a force or field that is not finite or too large; nothing happens if none is after all."""
        self._check_positions()
        spins = np.isfinite(self.state.spins).all(axis=1)
        if not spins.all():
            atom = int(np.argmin(spins))
            raise DivergedError(
                f"the spin of {named(self.state, atom)} is not a number", atom=int(self.state.ids[atom])
            )
        array, what = (group.forces, "force") if flag is Need.FORCE else (group.fields, "field")
        sizes = np.linalg.norm(array, axis=1)
        limit = self.state.masses * AMU * self.acceleration_limit if flag is Need.FORCE else np.inf
        bad = ~np.isfinite(sizes) | (sizes > limit)
        if not bad.any():
            return
        atom = int(np.argmax(np.where(np.isfinite(sizes), np.where(bad, sizes, -1.0), np.inf)))
        best, term = -1.0, ""
        for name, forces, fields in self.by_term(flag):
            own = float(np.linalg.norm((forces if flag is Need.FORCE else fields)[atom]))
            if (own if math.isfinite(own) else math.inf) > best:
                best, term = (own if math.isfinite(own) else math.inf), name
        size = "is not a number"
        if math.isfinite(sizes[atom]):
            size = f"is {sizes[atom]:.3g} eV/Å, more than this timestep can follow"
        original = int(self.state.ids[atom])
        raise DivergedError(
            f"the {what} of {term} on {named(self.state, atom)} {size}{self._closest(original)}",
            atom=original, term=term,
        )  # fmt: skip

    def _closest(self, original: int) -> str:
        """A clause on the nearest neighbour of an atom where that is close enough to be the reason."""
        if original < 0 or not self.lists.lists:
            return ""
        atom = int(np.flatnonzero(self.state.ids == original)[0])
        pairs = self.lists.pairs(self.lists.radii[0])
        others = pairs.neighbours[pairs.start[atom] : pairs.start[atom + 1]]
        others = others[others != pairs.dummy]
        if not len(others):
            return ""
        distances = np.linalg.norm(pairs.packed[others, :3] - pairs.packed[atom, :3], axis=1)
        nearest = int(np.argmin(distances))
        other = int(pairs.owner[others[nearest]])
        return f" (its nearest atom, {named(self.state, other)[5:]}, is {distances[nearest]:.3g} Å away)"

    def by_term(self, need: Need) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Name, forces (N, 3) and fields (N, 3) of one term after the other, as far as ``need`` asks, at the present state.

        The arrays are used again for the next term.
        """
        self.update_lists()
        forces, fields = np.zeros((2, self.state.natoms, 3))
        for k, term in enumerate(self.terms):
            forces[:], fields[:] = 0.0, 0.0
            out = TermOutput(np.zeros(1), forces, fields, np.zeros((3, 3)))
            self._judge(k, term.add(self.state, self.pairs(k), out, need & (term.provides | Need.ENERGY)))
            yield self.names[k], forces, fields

    def pairs(self, term: int):
        """The neighbour list of a term, or None for a term without one."""
        return self.lists.pairs(self._radius[term]) if self._radius[term] > 0.0 else None

    # ------------------------------------------------------------------ spins

    def couplings(self) -> SpinHamiltonian:
        """The frozen spin Hamiltonian at the present positions and time; evaluated once for each."""
        self.update_lists()
        version = (self._position_version, self._time())
        if self._couplings_version == version and self._couplings is not None:
            return self._couplings
        only_time = self._couplings is not None and self._couplings_version[0] == self._position_version
        for k in self._driven if only_time else range(len(self.terms)):
            if self.terms[k].magnetic:
                spin_term = self.terms[k].freeze(self.state, self.pairs(k))
                self._frozen.pop(k, None)
                if spin_term is not None:
                    self._frozen[k] = spin_term
        terms = [self._frozen[k] for k in sorted(self._frozen)]
        if only_time and all(self._frozen[k].only_field for k in self._driven if k in self._frozen):
            self._couplings.set_fields(self.state.moments, terms)
        else:
            self._couplings = SpinHamiltonian.merge(self.state.natoms, self.state.moments, terms)
        self._couplings_version = version
        return self._couplings

    def live_terms(self) -> list[int]:
        """Magnetic terms that do not freeze and are evaluated with FIELD inside the spin solve."""
        if self._live is None:
            self.update_lists()
            self._live = [
                k for k, t in enumerate(self.terms) if t.magnetic and t.freeze(self.state, self.pairs(k)) is None
            ]
        return self._live

    def add_live_fields(self, fields: np.ndarray) -> None:
        """Add F = −∂E/∂S (eV/µB) of the live terms at the state's present spins to ``fields`` (N, 3)."""
        self.update_lists()
        energy, virial = np.zeros(1), np.zeros((3, 3))
        for k in self.live_terms():
            out = TermOutput(energy, self._nothing, fields, virial)
            self._judge(k, self.terms[k].add(self.state, self.pairs(k), out, Need.FIELD))

    def spin_temperature(self, fixed: np.ndarray | None = None) -> float:
        """Configurational temperature of the spins, K; nan where it is not defined (no torque-bearing energy).

        ``fixed`` (N,) is nonzero for spins that do not turn and are not counted. Nurdin and Schotte, Phys. Rev. E 61, 3579
        (2000); with on-site terms Ma, Dudarev, Semenov, Woo, Phys. Rev. E 82, 031111 (2010).
        """
        if not self.magnetic_terms.any():
            return float("nan")
        fields = self.evaluate(Need.FIELD).fields
        free = None if fixed is None else np.asarray(fixed) == 0
        live = sampled_curvature(self.state, self.add_live_fields, free) if self.live_terms() else 0.0
        return spin_temperature(self.state, fields, self.couplings(), live, free)


def named(state: State, atom: int) -> str:
    """``atom 17 (Fe)``, by its original index, for the atom at a present index."""
    return f"atom {state.ids[atom]} ({state.symbols[state.species[atom]]})"


def _unique_names(names: list[str]) -> tuple[str, ...]:
    """Names with #2, #3, ... where a name comes again."""
    result = []
    for name in names:
        count = sum(1 for other in result if other == name or other.startswith(name + "#"))
        result.append(name if count == 0 else f"{name}#{count + 1}")
    return tuple(result)
