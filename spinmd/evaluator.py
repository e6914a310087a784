"""Energies, forces, fields and virials of configurations that come one after the other from outside.

``Evaluator`` keeps a Model for as long as the configurations have the same atoms, so that neighbour lists and buffers
are used again; answers are copies in the caller's order of the atoms. The ASE calculator and the test of a model on data
are made of it; dynamics is not (``spinmd.simulation``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spinmd.errors import InputError
from spinmd.model import Model
from spinmd.protocols import Need, Potential
from spinmd.state import State

SMALL = 1000  # atoms
ROUND_OFF = 1.0e-9  # of a spin's length that is no lengthening


@dataclass
class Answer:
    """energy eV; energies eV by name of the term; forces (N, 3) eV/Å; fields (N, 3) −∂E/∂S, eV/µB; virial (3, 3) eV.

    None for what was not asked for.
    """

    energy: float
    energies: dict[str, float]
    forces: np.ndarray | None
    fields: np.ndarray | None
    virial: np.ndarray | None


class Evaluator:
    """Evaluates a sum of potentials at one configuration after the other.

    terms    potentials; no other Model may use them meanwhile
    skin     Å, of the neighbour lists;  threads  None: one below 1000 atoms, where more only wait for each other, else all cores
    """

    def __init__(self, terms: Sequence[Potential], *, skin: float | None = None, threads: int | None = None):
        self.terms = list(terms)
        self.skin, self.threads = skin, threads
        self.model: Model | None = None
        self.builds = 0
        self._atoms: tuple = ()
        self._reach = np.zeros(0)
        self._present: tuple | None = None

    @property
    def provides(self) -> Need:
        """What the sum can compute; fields and virials only if every term that has something to say has them."""
        needs = Need.ALL
        for term in self.terms:
            own = term.provides if term.magnetic else term.provides | Need.FIELD
            needs &= own
        return needs

    @property
    def magnetic(self) -> bool:
        """Whether some term depends on the spins."""
        return any(term.magnetic for term in self.terms)

    def __call__(
        self, cell, positions, elements: Sequence[str], need: Need = Need.ALL, *, spins=None, moments=None,
        pbc=(True, True, True), reference=None,
    ) -> Answer:  # fmt: skip
        """The Answer at one configuration; arguments as in ``State.create``.

        moments    reference moments of classical terms, e = S/m; None: the first |S| of each atom. With moments given, a spin on an
                   atom without one is refused, since no term would see it
        reference  ideal sites of couplings by shell or list; None: the first positions of these atoms

        Raises InputError for what does not fit, DivergedError where a term fails.
        """
        positions = np.ascontiguousarray(positions, dtype=np.float64)
        spins = np.zeros_like(positions) if spins is None else np.ascontiguousarray(spins, dtype=np.float64)
        if self._stale(positions, elements, spins, moments, pbc):
            self._build(cell, positions, elements, spins, moments, pbc, reference)
        self._move(np.asarray(cell, dtype=np.float64), positions, spins)
        evaluation = self.model.evaluate(need | Need.ENERGY)
        state = self.model.state
        return Answer(
            energy=evaluation.energy,
            energies=dict(zip(evaluation.names, evaluation.energies.tolist(), strict=True)),
            forces=state.original_order(evaluation.forces) if Need.FORCE in need else None,
            fields=state.original_order(evaluation.fields) if Need.FIELD in need else None,
            virial=evaluation.virial.copy() if Need.VIRIAL in need else None,
        )

    def _stale(self, positions, elements, spins, moments, pbc) -> bool:
        if self.model is None or positions.shape != self.model.state.positions.shape:
            return True
        known, known_moments, known_pbc = self._atoms
        if list(elements) != known or not np.array_equal(pbc, known_pbc) or spins.shape != positions.shape:
            return True
        if moments is not None and not np.array_equal(moments, known_moments):
            return True
        lengths = np.linalg.norm(spins, axis=1)
        return bool((lengths > self._reach).any() or (moments is None and (lengths[known_moments == 0.0] > 0.0).any()))

    def _build(self, cell, positions, elements, spins, moments, pbc, reference) -> None:
        """A new Model, whose lists reach far enough for spins up to these."""
        lengths = np.linalg.norm(spins, axis=1)
        same = self.model is not None and list(elements) == self._atoms[0]
        if moments is None:
            moments = np.where(self._atoms[1] > 0.0, self._atoms[1], lengths) if same else lengths
        if reference is None and same:
            reference = self.model.state.original_order(self.model.state.reference)
        state = State.create(
            cell, positions, list(elements), np.ones(len(positions)), pbc=pbc, spins=spins, moments=moments,
            reference=reference,
        )  # fmt: skip
        self.model = None  # what is refused below leaves nothing half made
        longest = [lengths[state.species == k].max() for k in range(len(state.symbols))]
        self._reach = (1.0 + ROUND_OFF) * np.array(longest)[state.species]
        threads = 1 if self.threads is None and len(positions) < SMALL else self.threads
        self.model = Model(state, self.terms, skin=self.skin, threads=threads)
        self.builds += 1
        self._atoms = list(elements), np.array(moments, dtype=np.float64), np.array(pbc, dtype=bool).reshape(3)
        self._present = None

    def _move(self, cell, positions, spins) -> None:
        """Bring the state to the configuration and tell the model what has changed."""
        state = self.model.state
        for name, array in (("positions", positions), ("spins", spins), ("cell", cell)):
            if not np.isfinite(array).all():
                raise InputError("holds a value that is not finite", name)
        if cell.shape != (3, 3) or abs(np.linalg.det(cell)) < 1e-9:
            raise InputError("the three lattice vectors do not span a volume", "cell")
        stray = (spins != 0.0).any(axis=1) & (self._atoms[1] == 0.0)
        if stray.any():
            atom = int(np.argmax(stray))
            raise InputError(
                f"atom {atom} ({self._atoms[0][atom]}) has a spin and its reference moment is zero; give its moment",
                "moments",
            )
        before, self._present = self._present, (cell.copy(), positions.copy(), spins.copy())
        new = [True] * 3
        if before is not None:
            new = [not np.array_equal(old, now) for old, now in zip(before, self._present, strict=True)]
        if not any(new):
            return
        state.cell[:], state.spins[:] = cell, spins[state.ids]
        state.positions[:] = positions[state.ids] - state.images @ cell  # where the lists wrapped them to: no rebuild
        self.model.moved(cell=new[0], positions=new[0] or new[1], spins=new[2])
