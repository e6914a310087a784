"""The contracts that hold the rooms together: who asks whom for what, and in which arrays the answer comes.

Only names and small records live here, no physics and no files.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from spinmd.state import State


class Need(Flag):
    """What somebody asks for; nothing else is computed."""

    NONE = 0
    ENERGY = auto()
    FORCE = auto()
    FIELD = auto()
    VIRIAL = auto()
    ALL = ENERGY | FORCE | FIELD | VIRIAL


class Code(Enum):
    OK = auto()
    OVERFLOW = auto()
    DIVERGED = auto()
    NOT_CONVERGED = auto()


@dataclass(frozen=True)
class Status:
    """What a piece of work came to. ``atom`` is an original index, ``term`` the name of a potential term."""

    code: Code = Code.OK
    atom: int = -1
    term: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.code is Code.OK


OK = Status()


class Pairs(Protocol):
    """A full neighbour list of one cutoff class, with ghost atoms (see ``spinmd.neighbors``).

    packed      (n_ext, 4) float64: x, y, z of the N atoms and of their periodic images (ghosts), current; column 3 is free for use
    owner       (n_ext,) int32: the atom of which an entry of ``packed`` is an image (itself for the first N)
    start       (N + 1,) int64; the neighbours of atom i are ``neighbours[start[i]:start[i + 1]]``
    neighbours  int32 indices into ``packed``; each segment is padded to a multiple of 8 with ``dummy`` entries
    atoms       int32 owners of ``neighbours``, entry by entry
    version     grows whenever ``packed`` or the list changes: what a term keeps per pair is good while it stays the same
    dummy       index of an entry of ``packed`` at infinite distance; its owner is atom 0

    Neighbours lie within cutoff + skin: the term itself must compare the distance with its cutoff.
    """

    packed: np.ndarray
    owner: np.ndarray
    start: np.ndarray
    neighbours: np.ndarray
    atoms: np.ndarray
    version: int
    dummy: int


@dataclass
class TermOutput:
    """Where one term adds its contributions (all arrays are preallocated and shared, except ``energy``).

    energy  (1,) eV, this term's own slot;  forces (N, 3) eV/Å;  fields (N, 3) eV/µB;  virial (3, 3) eV
    """

    energy: np.ndarray
    forces: np.ndarray
    fields: np.ndarray
    virial: np.ndarray


@dataclass
class Evaluation:
    """The sum over all terms, and the energy of each term.

    energies (n_terms,) eV; names one per term; forces (N, 3) eV/Å; fields (N, 3) eV/µB; virial W_ab = −∂E/∂ε_ab (3, 3) eV
    """

    names: tuple[str, ...]
    energies: np.ndarray
    forces: np.ndarray
    fields: np.ndarray
    virial: np.ndarray

    @property
    def energy(self) -> float:
        """Total potential energy, eV."""
        return float(self.energies.sum())


@dataclass
class SpinTerm:
    """Couplings of one term at fixed positions, with e_i = S_i/m_i. Unused parts are None.

        E = −½ Σ_ij [J_ij e_i·e_j + e_iᵀ T_ij e_j + K_ij (e_i·e_j)²] − Σ_i [e_iᵀ Q_i e_i + S_i·B_i]
            + Σ_i [K1_i (x²y²+y²z²+z²x²) + K2_i x²y²z²],   x, y, z = components of e_i along ``axes``

    start        (N,) int64 first entry of each atom;  count (N,) int32 number of entries (a multiple of 8 where padded)
    neighbours   (nnz,) int32 atom indices (not ghosts)
    isotropic    (nnz,) eV;  tensor (nnz, 9) eV, row-major (DMI is the antisymmetric part: T_ab = ε_abc D_c);
    biquadratic  (nnz,) eV
    quadratic    (N, 3, 3) eV, symmetric (uniaxial anisotropy: K n nᵀ)
    cubic        (N, 2) eV, K1 and K2;  axes (3, 3), rows orthonormal
    field        (N, 3) eV/µB, constant
    """

    start: np.ndarray | None = None
    count: np.ndarray | None = None
    neighbours: np.ndarray | None = None
    isotropic: np.ndarray | None = None
    tensor: np.ndarray | None = None
    biquadratic: np.ndarray | None = None
    quadratic: np.ndarray | None = None
    cubic: np.ndarray | None = None
    axes: np.ndarray | None = None
    field: np.ndarray | None = None

    @property
    def only_field(self) -> bool:
        """Whether there is nothing but ``field``."""
        return all(part is None for part in (self.isotropic, self.tensor, self.biquadratic, self.quadratic, self.cubic))


@runtime_checkable
class Potential(Protocol):
    """A term of the energy. Instances are made as ``kind(parameters, pairs=[...], elements=[...])`` by the deck.

    cutoff    Å; 0 for a term without a moving neighbour list (``pairs`` is then None)
    provides  what it can compute beside the energy; the deck refuses combinations that need more
    name      for the thermo table and messages
    magnetic  True if the energy depends on the spins (its energy is counted as spin energy)
    """

    Parameters: ClassVar[type]
    cutoff: float
    provides: Need
    name: str
    magnetic: bool

    def prepare(self, state: State, backend: Any) -> None:
        """Allocate buffers and set up what depends on elements or order of atoms; called on build and after each re-sort."""

    def margin(self, state: State) -> float:
        """List radius needed beyond cutoff + skin, Å (virtual atoms); 0 for most."""

    def add(self, state: State, pairs: Pairs | None, out: TermOutput, need: Need) -> Status:
        """Add energy, forces, fields and virial, as far as needed, to ``out``."""

    def freeze(self, state: State, pairs: Pairs | None) -> SpinTerm | None:
        """Couplings at the present positions; None: the term stays live and is evaluated with Need.FIELD inside the spin solve."""

    # A term whose ``freeze`` gives couplings that are not entry by entry those of ``pairs`` tells where the neighbours are:
    # ``coupling_vectors()``, (nnz, 3) Å from atom to neighbour on the ideal sites. Spin-wave theory asks for them.
    # A term whose energy depends on ``state.clock.time`` has an attribute ``driven = True``; ``add`` and ``freeze`` then look at
    # the clock. A term whose margin depends on the state may also have ``lists_reach(margin)``: called when a run is resumed, after
    # ``margin``, with the margin of the lists that the run has.


@dataclass
class Aux:
    """What a mover keeps beside the state. The sort permutes ``per_atom``; a checkpoint stores exactly these arrays."""

    per_atom: dict[str, np.ndarray] = field(default_factory=dict)
    globals: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class RowArray:
    """An array that a mover adds to each row of the thermo table: its name, unit and shape, and its type in the file."""

    name: str
    unit: str
    shape: tuple[int, ...]
    dtype: str = "float64"

    @property
    def fill(self) -> float:
        """What rows of other movers hold: NaN, or -1 for integers."""
        return np.nan if np.dtype(self.dtype).kind == "f" else -1


# entries of ``Aux.globals`` that go on from stage to stage, eV: what baths have taken out, and what fields that change in
# time have put in; ``conserved`` counts them
HEATS = ("spin_heat", "lattice_heat")
WORK = "drive_work"
# masks in ``Aux.per_atom``, (N,) int64, nonzero for what is held: atoms that stand still, spins that do not turn
FROZEN, FIXED = "frozen_atoms", "fixed_spins"


class Mover(Protocol):
    """Something that moves the state: an integrator, a minimiser, Monte Carlo.

    ``init`` allocates buffers and leaves the state alone: a resumed run calls it too, and puts the stored arrays into the
    Aux that it returns. What a step leaves for the next one is in the Aux, and nowhere else.

    A mover may also have ``row(frame)``, the arrays by name that go with a row of the thermo table (its table of the deck tells
    their shapes as ``row_arrays``), and ``closing(aux)``, a text for the screen at the end.
    """

    def init(self, state: State, seed: int) -> Aux: ...

    def step(self, state: State, aux: Aux, model: Any) -> Status: ...


class Integrator(Mover, Protocol):
    """A Mover in time: ``dt`` in ps, ``order`` of convergence, a conserved quantity in eV."""

    dt: float
    order: int

    def conserved(self, state: State, aux: Aux, evaluation: Evaluation) -> float: ...


@dataclass
class Frame:
    """One moment of a run, as reporters see it. Arrays are lazy copies in the original order of the atoms, shared by all reporters.

    reason: "step", "stage" (the end of one that others follow), "signal", "diverged", "end", or "resume": a run goes on
    from its checkpoint, and what was due at this moment is written already
    """

    state: State
    aux: Aux
    model: Any
    integrator: Any
    reason: str
    stage: str = ""
    _cache: dict = field(default_factory=dict)

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The value of ``name``, computed once per frame."""
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]

    @property
    def step(self) -> int:
        return self.state.clock.step

    @property
    def time(self) -> float:
        """ps"""
        return self.state.clock.time

    def array(self, name: str) -> np.ndarray:
        """A per-atom array in the original order: positions (unwrapped), velocities, spins, forces, fields, images, ..."""
        return self.get("array " + name, lambda: self.state.original_order(self._present(name)))

    def _present(self, name: str) -> np.ndarray:
        if name == "positions":
            return self.state.unwrapped()
        if name == "wrapped":
            return self.state.positions
        if name in ("forces", "fields"):
            return getattr(self.evaluation(Need.FORCE if name == "forces" else Need.FIELD), name)
        return getattr(self.state, name)

    def evaluation(self, need: Need) -> Evaluation:
        """The model's evaluation at this moment with at least ``need``; what is up to date is not computed again."""
        return self.model.evaluate(need)


class Reporter(Protocol):
    """Looks at a run every ``every`` steps (0: only at the end) with the quantities it ``needs``.

    One with an attribute ``stores = False`` keeps nothing, and the state is not checked before it looks.
    """

    every: int
    needs: Need

    def report(self, frame: Frame) -> None: ...

    def close(self) -> None: ...
