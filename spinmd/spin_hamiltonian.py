"""The couplings of a model between the sites of a small cell, for theory: from a deck or a run to a ``SpinLattice``.

    crystal = spin_crystal("inputs/spin_only_shells.toml")           # the model at the ideal sites
    found = crystal.spin_lattice("ferromagnetic")                    # rest, magnetic cell, couplings
    found.lattice, found.notes

Terms that freeze give their couplings exactly, with the true vectors of their neighbour lists, so that small cells with
several images of an atom come out right. Of potentials that do not freeze (DeepSPIN) second derivatives are taken by turning
one moment at a time in a supercell (``spinmd.live_couplings``). Couplings that are not bilinear (biquadratic, cubic
anisotropy) are expanded about the state.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from spinmd.analysis.brillouin import TOLERANCE as SITE_TOLERANCE
from spinmd.analysis.brillouin import PrimitiveCell, reduced_cell
from spinmd.analysis.spin_wave_orders import Order, relaxed, single_q
from spinmd.analysis.spin_wave_theory import SpinLattice, turned
from spinmd.analysis.translations import folded, translations
from spinmd.building import build, build_terms, few_threads
from spinmd.checkpoint import read_checkpoint
from spinmd.deck import Deck, Stage, load_deck
from spinmd.errors import InputError
from spinmd.frozen_couplings import FrozenCouplings
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.live_couplings import live_couplings
from spinmd.model import Model
from spinmd.protocols import Need
from spinmd.resuming import deck_of_run
from spinmd.state import State
from spinmd.trajectory import Trajectory
from spinmd.units import G_FACTOR

STATES = ("auto", "ferromagnetic", "antiferromagnetic", "spiral", "initial", "last")
ALIGNMENTS = 4000  # of all spins with their fields, at most
REST = 1.0e-9  # of the largest field: torques of a state that is relaxed
SLOW = 1.0e-6  # of it: torques of one that relaxes no further
SHORTEST = 0.01  # part of a field's unit vector that is added to a spin
ALIKE = 1.0e-4  # directions that differ less are the same when the magnetic cell is looked for
MOST_SITES = 600  # of a magnetic cell
SINGLE_Q = ("antiferromagnetic", "spiral")


@dataclass(frozen=True)
class Found:
    """A SpinLattice, the chemical cell whose Brillouin zone paths go through, the name of the state, and sentences for users.

    site  (N,) which site of the lattice each atom of the deck or run is on, −1 for atoms without a moment
    """

    lattice: SpinLattice
    crystal: PrimitiveCell
    state: str
    notes: list[str] = field(default_factory=list)
    site: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))


def spin_crystal(
    source: str | Path | Mapping,
    overrides: Iterable[str] = (),
    *,
    force: bool = False,
    folder: str | Path | None = None,
) -> "SpinCrystal":
    """The spin Hamiltonian of a deck's structure, or of a run's at its ideal sites.

    source     a deck (file, text, tables), or the file of a run, which is only read
    overrides  of a deck, as on the command line
    force, folder   of a run whose potentials' files have changed or moved, as in ``resume``

    The last stage of the deck counts. Raises InputError for decks that cannot be built and for structures without moments.
    """
    path = Path(source) if isinstance(source, (str, Path)) and "\n" not in str(source) else None
    if path is not None and is_hdf5(path):
        if list(overrides):
            raise InputError("a run has its settings; overrides are for decks", "--set")
        deck = deck_of_run(path, force=force, folder=folder)
        present = read_checkpoint(path)[0]
        with Trajectory(path) as run:
            cell, sites = run.site_cell, run.sites
            first = run[0].spins if "spins" in run.quantities else None
        last = present.original_order(present.spins)
        return SpinCrystal(deck, present, cell, sites, last if first is None else first, last, str(path))
    deck = load_deck(source, overrides)
    state = build(deck, output=False).state
    spins = state.original_order(state.spins)
    return SpinCrystal(deck, state, state.cell.copy(), state.original_order(state.reference), spins, spins, deck.name)


def is_hdf5(path: Path) -> bool:
    """Whether a path names an HDF5 file, or is meant to."""
    import h5py

    return path.suffix in (".h5", ".hdf5") or path.is_file() and h5py.is_hdf5(path)


class SpinCrystal:
    """A structure at its ideal sites with the model of a deck's last stage; arrays are in the original order of the atoms.

    initial, last  (N, 3) µB, the spins that a state may start from
    """

    def __init__(self, deck: Deck, state: State, cell, sites, initial, last, place: str):
        self.deck, self.place = deck, place
        self.cell, self.sites = cell, sites
        self.initial, self.last = initial, last
        self.stage: Stage = deck.stages()[-1]
        self.lengths = np.linalg.norm(last, axis=1)
        self.references = state.original_order(state.moments)
        self.magnetic = (self.references > 0.0) & (self.lengths > 0.0)
        self.symbols = np.array(state.symbols)[state.original_order(state.species)]
        self.pbc = state.pbc.copy()
        if not self.magnetic.any():
            raise InputError("no atom has a magnetic moment, so there are no spin waves", place)
        if not self.pbc.any():
            raise InputError(
                "the structure is open in all directions, and waves need one in which it is periodic", place
            )
        self.notes: list[str] = []
        integrator: IntegratorParameters | None = self.stage.integrator
        self.g = G_FACTOR if integrator is None else integrator.g_factor
        self.model = self.model_of(self._ideal(state))
        self.live = bool(self.model.live_terms())
        self.frozen = FrozenCouplings(self.model, self.lengths, self.references, self.magnetic)
        if self.model.driven:
            time = state.clock.time
            self.notes.append(
                f"the field of {' and '.join(self.model.driven)} changes in time; it is taken at {time:g} ps"
            )

    def _ideal(self, state: State) -> State:
        elements = list(self.symbols)
        masses = state.original_order(state.masses)
        ideal = State.create(
            self.cell,
            self.sites,
            elements,
            masses,
            pbc=self.pbc,
            spins=self.last,
            moments=self.references,
            reference=self.sites,
        )
        ideal.clock.time = state.clock.time
        return ideal

    def model_of(self, state: State) -> Model:
        """A Model with terms of its own for another state of these elements."""
        terms = build_terms(self.deck, self.stage, state)
        if not any(term.magnetic for term in terms):
            raise InputError(
                "no potential depends on the spins, so there are no spin waves", self.deck.place("potential")
            )
        return Model(state, terms, skin=self.stage.neighbours.skin, threads=few_threads(state.natoms))

    @property
    def crystal(self) -> PrimitiveCell:
        """The chemical cell of the sites; of a disordered alloy the cell of its lattice."""
        symbols = list(self.symbols)
        try:
            return reduced_cell(self.sites, self.cell, symbols, self.pbc)
        except InputError:  # a disordered alloy: the lattice of its sites
            return reduced_cell(self.sites, self.cell, symbols, self.pbc, ignore_elements=True)

    # ------------------------------------------------------------------ states

    def spin_lattice(
        self, state: str = "auto", *, wavevector=None, axis=None, direction=None, live_range=None
    ) -> Found:
        """The magnetic cell at rest with its couplings.

        state       auto: as the deck's texture says, random deviations left out; ferromagnetic (along ``direction``, or the
                    deck's); antiferromagnetic, spiral: the best single-q order of the couplings (Luttinger and Tisza); initial,
                    last: the deck's spins, or those of the run's first frame or last checkpoint, relaxed
        wavevector  (3,) of a spiral, along the reciprocal vectors of the primitive cell; None: the best
        axis        (3,) about which a spiral turns; None: what the couplings leave
        live_range  Å, how far couplings of potentials that do not freeze are looked for; None: twice their cutoff

        Raises InputError for a state that does not come to rest, or is not periodic in a small cell.
        """
        if state not in STATES:
            raise InputError(f"there is no state {state!r}; there are {', '.join(STATES)}", "--state")
        notes = list(self.notes)
        texture = self.deck.structure.spins
        if state == "auto":
            kind = texture.texture or "file"
            state = {"antiferromagnetic": "initial", "file": "initial", "spiral": "initial"}.get(kind, "ferromagnetic")
        if state in SINGLE_Q:
            return self._single_q(state, wavevector, axis, notes, live_range)
        for value, name in ((wavevector, "--wavevector"), (axis, "--axis")):
            if value is not None:
                raise InputError(f"belongs to --state spiral, the state is {state}", name)
        if state == "ferromagnetic":
            towards = np.asarray(texture.direction if direction is None else direction, dtype=float)
            u = np.tile(towards / np.linalg.norm(towards), (len(self.lengths), 1))
        else:
            spins = self.initial if state == "initial" else self.last
            sizes = np.where(self.magnetic, np.linalg.norm(spins, axis=1), 1.0)
            u = spins / sizes[:, None]
        u = self._relaxed(u, notes)
        return self._found(u, state, notes, live_range)

    def _single_q(self, state: str, wavevector, axis, notes: list[str], live_range) -> Found:
        if self.live:
            raise InputError(
                f"looking for the order needs couplings that freeze, and {self.model.names[self.model.live_terms()[0]]} has none; "
                "give the order as the deck's texture and use --state initial",
                "--state",
            )
        # the couplings between sites of the chemical cell, whatever the spins do
        u = np.tile([0.0, 0.0, 1.0], (len(self.lengths), 1))
        plain = self._lattice(u, directions_count=False)
        if self.frozen.nonlinear:
            raise InputError(
                "the order of biquadratic couplings and cubic anisotropy is not found this way; give it as the deck's "
                "texture and use "
                "--state initial",
                "--state",
            )
        lattice = plain.lattice
        crystal = self.crystal
        q = None if wavevector is None else np.asarray(wavevector, dtype=float) @ crystal.reciprocal
        order = single_q(lattice, q, axis)
        reduced = order.wavevector @ lattice.cell.T / (2.0 * np.pi)
        words = "(" + ", ".join(f"{x:.6g}" for x in order.wavevector @ crystal.vectors.T / (2.0 * np.pi)) + ")"
        collinear = bool((np.abs(2.0 * reduced - np.rint(2.0 * reduced)) < 1e-6)[lattice.periodic].all())
        notes.append(
            f"order of propagation vector {words} along the reciprocal vectors of the primitive cell"
            + (
                ""
                if collinear
                else f", spins turn about {_text(order.axis)}, wavelength {2 * np.pi / np.linalg.norm(order.wavevector):.6g} Å"
            )
            + ("" if wavevector is not None else ", the best by Luttinger and Tisza")
        )
        if collinear:
            return self._collinear(order, plain, state, notes)
        if state == "antiferromagnetic":
            raise InputError(f"the best order is a spiral of propagation vector {words}; use --state spiral", "--state")
        lattice = relaxed(turned(replace(lattice, directions=order.directions), order.wavevector, order.axis))
        return Found(lattice, crystal, state, notes, plain.site)

    def _collinear(self, order: Order, plain: Found, state: str, notes: list[str]) -> Found:
        """A state with q at a reciprocal lattice vector or half of one, in the whole structure."""
        lattice = plain.lattice
        offsets = self.sites - lattice.positions[self._site]
        phases = np.cos(offsets @ order.wavevector)
        turns = order.wavevector @ self.cell.T / (2.0 * np.pi)
        if (np.abs(turns - np.rint(turns)) > 1.0e-4)[self.pbc].any():
            raise InputError(
                "the order does not fit into the deck's supercell a whole number of times; make it twice as large, for "
                "example with "
                "--set structure.supercell=[...]",
                "structure.supercell",
            )
        u = order.directions[self._site] * np.sign(phases)[:, None]
        if state == "antiferromagnetic" and np.ptp(u[self.magnetic], axis=0).max() < ALIKE:
            raise InputError("the best order of these couplings is ferromagnetic; use --state ferromagnetic", "--state")
        return self._found(self._relaxed(u, notes), state, notes, None)

    def _relaxed(self, u: np.ndarray, notes: list[str]) -> np.ndarray:
        """(N, 3) directions turned into their fields until torques vanish. InputError naming the atom if they do not."""
        u = np.where(self.magnetic[:, None], u, 0.0)
        count, step, before = 0, 1.0, np.inf
        while True:
            h = self._fields(u)
            sizes = np.linalg.norm(h, axis=1)
            torque = np.linalg.norm(np.cross(u, h), axis=1)
            scale = max(float(sizes.max()), 1.0e-12)
            if torque.max() <= (REST if not self.live else SLOW) * scale or count == ALIGNMENTS:
                break
            count += 1
            # half way only, and less where torques grow: spins that all jump at once can go back and forth for ever
            step = 0.5 * step if torque.max() > before else step
            before = float(torque.max())
            towards = np.where(sizes[:, None] > 0.0, h / np.maximum(sizes, 1e-300)[:, None], u)
            u = np.where(self.magnetic[:, None], u + max(step, SHORTEST) * towards, 0.0)
            u /= np.where(self.magnetic, np.maximum(np.linalg.norm(u, axis=1), 1e-300), 1.0)[:, None]
        worst = int(np.argmax(torque))
        if torque[worst] > SLOW * scale:
            raise InputError(
                f"the spins do not come to rest: after {ALIGNMENTS} alignments with their fields the torque on atom {worst} "
                f"({self.symbols[worst]}) is {1e3 * torque[worst]:.3g} meV; run the deck with spin_damping first and take "
                "its file with --state last, or name the order with --state",
                "--state",
            )
        if count:
            notes.append(f"the spins were not at rest; they were aligned with their fields {count} times")
        return u

    def _fields(self, u: np.ndarray) -> np.ndarray:
        """(N, 3) H = −∂E/∂u, eV, at directions u."""
        state = self.model.state
        state.spins[:] = (u * self.lengths[:, None])[state.ids]
        self.model.moved(spins=True)
        fields = state.original_order(self.model.evaluate(Need.FIELD).fields)
        return np.where(self.magnetic[:, None], fields * self.lengths[:, None], 0.0)

    # ------------------------------------------------------------------ the magnetic cell

    def _found(self, u: np.ndarray, state: str, notes: list[str], live_range) -> Found:
        found = self._lattice(u)
        lattice, more = found.lattice, list(notes)
        if self.live:
            lattice, said = live_couplings(self, lattice, self._cell_state(u), self._fields(u)[self._first], live_range)
            more += said
        own = int(np.unique(found.crystal.site[self._first]).size)
        if lattice.count > own:
            more.append(
                f"the magnetic cell holds {lattice.count} moments, the chemical one {own}: points of the path are named "
                f"after the chemical "
                "crystal, and those of one name may differ in the magnetic one"
            )
        return Found(lattice, found.crystal, state, more, found.site)

    def _lattice(self, u: np.ndarray, directions_count: bool = True) -> Found:
        """The smallest cell that repeats sites, moments, directions and couplings, with the frozen couplings."""
        labels = self._labels(u, directions_count)
        vectors = translations(self.sites, self.cell, labels, self.pbc, SITE_TOLERANCE, 1.0)
        multiples = np.rint(self.cell @ np.linalg.inv(vectors))
        vectors = np.linalg.solve(multiples, self.cell)
        count = round(abs(np.linalg.det(multiples)))
        if count == 1:
            site, places = np.arange(len(labels)), self.sites
        else:
            places, _, site = folded(self.sites, vectors, labels, self.pbc, SITE_TOLERANCE)
        first = np.array([int(np.argmax(site == k)) for k in range(len(places))])
        chosen = self.magnetic[first]
        if chosen.sum() > MOST_SITES:
            raise InputError(
                f"the magnetic cell has {int(chosen.sum())} moments, and this analysis takes up to {MOST_SITES}; a "
                f"disordered alloy "
                "or a disordered state has no small cell: take a smaller supercell, or another --state",
                "--state",
            )
        number = np.cumsum(chosen) - 1  # of a magnetic site among all sites
        self._vectors, self._places, self._all_first = vectors, places, first
        self._first, self._site = first[chosen], number[site]
        lattice = self._expanded(u, vectors, places[chosen])
        return Found(lattice, self.crystal, "", [], np.where(self.magnetic, self._site, -1))

    def _labels(self, u: np.ndarray, directions_count: bool) -> np.ndarray:
        """(N,) texts that are the same for atoms which a translation may map on each other."""
        signature = self.frozen.signature()
        columns = [self.lengths, self.references, *signature.T]
        scales = [1e-6, 1e-6] + [1e-7 * max(float(np.abs(signature).max()), 1e-9)] * signature.shape[1]
        if directions_count:
            columns += list(u.T)
            scales += [ALIKE] * 3
        keys = np.stack([_groups(c, s) for c, s in zip(columns, scales, strict=True)], axis=1)
        _, kind = np.unique(keys, axis=0, return_inverse=True)
        return np.array([f"{symbol} {k}" for symbol, k in zip(self.symbols, kind.reshape(-1), strict=True)])

    def _expanded(self, u: np.ndarray, vectors: np.ndarray, places: np.ndarray) -> SpinLattice:
        """The frozen part of the SpinLattice of the magnetic cell."""
        first = self._first
        i, j, separations, tensors, onsite, fields = self.frozen.expansion(first, u)
        return SpinLattice(
            cell=vectors, positions=places, moments=self.lengths[first], directions=u[first], first=self._site[i],
            second=self._site[j], vectors=separations, tensors=tensors, onsite=onsite, fields=fields, g=self.g,
            periodic=self.pbc, symbols=tuple(map(str, self.symbols[first])),
        )  # fmt: skip

    def _cell_state(self, u: np.ndarray) -> State:
        """The magnetic cell with all of its atoms as a State, its magnetic sites in the order of the SpinLattice."""
        atoms = self._all_first
        masses = self.model.state.original_order(self.model.state.masses)[atoms]
        spins = np.where(self.magnetic[atoms, None], u[atoms] * self.lengths[atoms, None], 0.0)
        return State.create(
            self._vectors,
            self._places,
            list(self.symbols[atoms]),
            masses,
            pbc=self.pbc,
            spins=spins,
            moments=self.references[atoms],
        )


def _groups(values: np.ndarray, tolerance: float) -> np.ndarray:
    """(N,) numbers of groups of values without gaps wider than the tolerance."""
    order = np.argsort(values, kind="stable")
    steps = np.concatenate([[0], np.cumsum(np.diff(values[order]) > tolerance)])
    result = np.empty(len(values), dtype=int)
    result[order] = steps
    return result


def _text(vector: np.ndarray) -> str:
    return "(" + ", ".join(f"{x:.4g}" for x in vector) + ")"
