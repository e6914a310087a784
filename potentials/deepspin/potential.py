"""``deepspin``: a trained DeepSPIN model as a term of the energy; numpy and numba only.

    E = Σ_parts E_part + Σ_i shift_i,   forces −∂E/∂R (eV/Å), fields −∂E/∂S (eV/µB), virial −∂E/∂ε at fixed spins (eV)

The model is a file that training or ``spinmd convert`` wrote. Its parts are the network (``potential_network``) and
the classical prior; either may be absent. Everything that a user can get wrong is found when the term meets the
state: elements that the model does not know, spins on elements that it calls non-magnetic. Spins and distances far
outside the training data give one warning each, whenever in a run they come up.
"""

import warnings
from typing import ClassVar, Literal, Protocol

import numpy as np
from numba import njit
from pydantic import Field

from spinmd.errors import InputError
from spinmd.parameters import InputFile, Parameters
from spinmd.potentials.base import Term
from spinmd.potentials.deepspin.model import DeepSpinModel
from spinmd.potentials.deepspin.model_file import read_model
from spinmd.potentials.deepspin.potential_network import NetworkPart
from spinmd.potentials.deepspin.prior_term import PriorPart
from spinmd.protocols import OK, Need, Pairs, Status, TermOutput
from spinmd.state import State

ROOM = 0.1  # by which part of their length spins may grow before the lists are too short
LEAST_ROOM = 0.02  # Å
OUTSIDE = 0.2  # spins longer or shorter by this part than any in the training data give a warning


class Part(Protocol):
    """A part of the energy of a model. ``DeepSpin`` calls them in turn with the same list.

    cutoff  Å, of the part; the list reaches to the largest cutoff of all parts, and further for virtual atoms
    """

    cutoff: float

    def prepare(self, state: State, elements: np.ndarray) -> None:
        """Buffers, on build and after each re-sort; ``elements`` (N,) int64: the model's element of each atom."""

    def lists_reach(self, reach: float) -> None:
        """How much further than the cutoff the lists reach, Å: no η|S| may become longer."""

    def add(self, state: State, pairs: Pairs, out: TermOutput, need: Need) -> Status:
        """Add energy, forces, fields and virial, as far as needed, to ``out``."""


class DeepSpin(Term):
    """A DeepSPIN model. ``DeepSpin(model="fe.h5")``, or ``DeepSpin.of(model)`` with a DeepSpinModel in memory.

    Raises InputError for a file that is no model, for elements it does not know and for spins where it knows none.
    """

    class Parameters(Parameters):
        model: InputFile = Field(description="model file, written by spinmd train or spinmd convert")
        precision: Literal["float64", "float32", "tf32"] = Field(
            "float64",
            description="numbers of channels and nets; pairs and sums are always in float64; tf32: float32, with the short "
            "products of matrices of a GPU, good to three digits",
        )

    selects: ClassVar[str] = ""
    default_name: ClassVar[str] = "deepspin"
    magnetic = True

    def __init__(self, parameters=None, *, model: DeepSpinModel | None = None, **keywords):
        if isinstance(model, DeepSpinModel):
            super().__init__(
                self.Parameters.model_construct(precision=keywords.pop("precision", "float64")), **keywords
            )
        else:
            given = {} if model is None else {"model": model}
            super().__init__(parameters, **given, **keywords)
            model = read_model(self.parameters.model)
        self.model = model
        self.cutoff = float(model.cutoff)
        self.parts: list[Part] = make_parts(model, self.parameters.precision)
        self._reach = 0.0
        self._warned: set[str] = set()
        self._looked_at: Pairs | None = None  # the list that was looked at last, and its version then
        self._looked_version = -1

    @classmethod
    def of(cls, model: DeepSpinModel, precision: str = "float64", name: str | None = None) -> "DeepSpin":
        """The term of a model in memory."""
        return cls(model=model, precision=precision, name=name)

    # ------------------------------------------------------------------ set-up

    def prepare(self, state, backend=None):
        model = self.model
        for symbol in state.symbols:
            if symbol not in model.elements:
                raise InputError(f"the model knows {', '.join(model.elements)}, it has no {symbol}", self.name)
        self.elements_of_atoms = np.array([model.elements.index(s) for s in state.symbols], dtype=np.int64)[
            state.species
        ]
        lengths = np.linalg.norm(state.spins, axis=1)
        wrong = (lengths > 0.0) & ~model.magnetic[self.elements_of_atoms]
        if wrong.any():
            i = int(np.argmax(wrong))
            raise InputError(
                f"atom {state.ids[i]} ({state.symbols[state.species[i]]}) has a spin of {lengths[i]:.4g} µB, but the model has "
                f"no spins on {state.symbols[state.species[i]]}; remove it or take another model",
                self.name,
            )
        self.warn_of_spins(state)
        self._shift = float(np.bincount(self.elements_of_atoms, minlength=len(model.elements)) @ model.shift)
        for part in self.parts:
            part.prepare(state, self.elements_of_atoms)

    def margin(self, state):
        """η|S| of the longest spin and some room, Å: a virtual atom counts even where its atom is beyond the cutoff."""
        longest = float((self.model.virtual_scale[self.elements_of_atoms] * np.linalg.norm(state.spins, axis=1)).max())
        room = LEAST_ROOM if self.model.magnetic[self.elements_of_atoms].any() else 0.0
        self.lists_reach((1.0 + ROOM) * longest + room)
        return self._reach

    def lists_reach(self, margin: float) -> None:
        """How much further than the cutoff the lists reach, Å: by the margin, or that of the run which is resumed."""
        self._reach = margin
        for part in self.parts:
            part.lists_reach(margin)

    def _warn(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(f"{self.name}: {message}", stacklevel=3)

    def _left_range(self, what: str, state, message: str) -> None:
        """Warn once, and keep for the end of a run that diverges, that the model is asked for what it has not learnt."""
        step = f"at step {state.clock.step} " if state.clock.step else ""
        self.out_of_range = self.out_of_range or step + message
        self._warn(what, step + message)

    def warned(self, *kinds: str) -> bool:
        """Whether all of these, of "spins", "distance", "slots", have been said: each comes once."""
        return self._warned.issuperset(kinds)

    def warn_of_spins(self, state) -> None:
        """Say, once, that a spin is longer or shorter than any of the training data."""
        seen = self.model.seen
        if seen is None or "spins" in self._warned:
            return
        lengths = np.sqrt(np.einsum("ij,ij->i", state.spins, state.spins))
        low, high = seen.spin_length[self.elements_of_atoms].T
        outside = (lengths < (1.0 - OUTSIDE) * low) | (lengths > (1.0 + OUTSIDE) * high)
        if outside.any():
            i = int(np.argmax(outside))
            self._left_range(
                "spins", state,
                f"atom {state.ids[i]} ({state.symbols[state.species[i]]}) has a spin of {lengths[i]:.4g} µB, the training data had "
                f"{low[i]:.4g} to {high[i]:.4g} µB ({int(outside.sum())} such atoms)",
            )  # fmt: skip

    def shortest_distances(self) -> np.ndarray:
        """(elements, elements) Å, the shortest distance of each pair of elements in the training data; 0 where none is known."""
        n, seen = len(self.model.elements), self.model.seen
        return np.zeros((n, n)) if seen is None else np.where(np.isfinite(seen.min_distance), seen.min_distance, 0.0)

    def _look_at_list(self, state, pairs) -> None:
        """Warn of atoms closer than any seen, and of more neighbours than the network has slots."""
        shortest, network = self.shortest_distances(), self.model.network
        slots = np.zeros(shortest.shape, dtype=np.int64)
        cutoff = network.cutoff if network is not None else 0.0
        i, j, distance = _look(
            state.natoms, pairs.packed, pairs.owner, pairs.start, pairs.neighbours, pairs.dummy, self.elements_of_atoms,
            shortest, cutoff, slots,
        )  # fmt: skip
        if i >= 0:
            self.warn_of_distance(state, i, j, distance)
        self.warn_of_slots(slots)

    def warn_of_distance(self, state, i: int, j: int, distance: float) -> None:
        """Say, once, that two atoms are closer than any of the training data."""
        limit = self.shortest_distances()[self.elements_of_atoms[i], self.elements_of_atoms[j]]
        self._left_range(
            "distance", state,
            f"atoms {state.ids[i]} and {state.ids[j]} are {distance:.4g} Å apart, the shortest distance of this pair of "
            f"elements in the training data is {limit:.4g} Å",
        )  # fmt: skip

    def warn_of_slots(self, slots: np.ndarray) -> None:
        """Say, once, where atoms have more neighbours than the network has slots; ``slots`` (centre, neighbour): the most."""
        network, n = self.model.network, len(self.model.elements)
        if network is not None:
            centre, other = np.unravel_index(np.argmax(slots - np.asarray(network.sel)[None, :]), (n, n))
            if slots[centre, other] > network.sel[other]:
                names = self.model.elements
                self._warn(
                    "slots",
                    f"an atom of {names[centre]} has {slots[centre, other]} neighbours of {names[other]} within the "
                    f"cutoff, the network was made for {network.sel[other]}; all are used here, DeePMD-kit would drop the farthest",
                )

    # ------------------------------------------------------------------ evaluation

    def add(self, state, pairs, out, need) -> Status:
        if pairs is not self._looked_at or Need.ENERGY in need and pairs.version != self._looked_version:
            # at each new list, and whenever somebody looks at the energy: ASE, a thermo row
            self._looked_at, self._looked_version = pairs, pairs.version
            self._look_at_list(state, pairs)
        self.warn_of_spins(state)
        out.energy[0] += self._shift
        for part in self.parts:
            status = part.add(state, pairs, out, need)
            if not status.ok:
                return status
        return OK


def make_parts(model: DeepSpinModel, precision: str) -> list[Part]:
    """The parts of a model, ready to meet a state."""
    parts: list[Part] = []
    if model.network is not None:
        parts.append(NetworkPart(model, precision))
    if model.prior is not None:
        parts.append(PriorPart(model.prior, model.elements, model.invariants))
    return parts


SHORTER = 0.97  # distances below this part of the shortest one in the training data are worth a warning


@njit(cache=True)
def _look(natoms, packed, owner, start, neighbours, dummy, elements, shortest, cutoff, slots):
    """The pair that is closest in units of ``shortest`` if closer than that, or −1; slots[c, t]: most neighbours."""
    worst, first, second, distance = SHORTER, -1, -1, 0.0
    count = np.zeros(slots.shape[1], dtype=np.int64)
    for i in range(natoms):
        count[:] = 0
        for k in range(start[i], start[i + 1]):
            n = neighbours[k]
            if n == dummy:
                continue
            j = owner[n]
            r2 = 0.0
            for a in range(3):
                r2 += (packed[n, a] - packed[i, a]) ** 2
            r = np.sqrt(r2)
            if r < cutoff:
                count[elements[j]] += 1
            if r < worst * shortest[elements[i], elements[j]]:
                worst, first, second, distance = r / shortest[elements[i], elements[j]], i, j, r
        for t in range(len(count)):
            slots[elements[i], t] = max(slots[elements[i], t], count[t])
    return first, second, distance
