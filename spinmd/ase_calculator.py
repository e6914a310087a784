"""An ASE calculator for any sum of spinmd's potentials: relaxations, phonons and dynamics with ASE's tools.

    from spinmd.ase_calculator import SpinmdCalculator

    atoms.set_initial_magnetic_moments(...)        # N, along z, or N × 3; µB
    atoms.calc = SpinmdCalculator("fe.toml")       # a deck, a model file, or potentials

Results in ASE's units (eV, Å, µB): energy, free_energy, forces, stress (xx yy zz yz xz xy; −W/V, positive under tension),
magmoms (the spins), magnetic_forces (−∂E/∂S, N × 3, eV/µB). Spins stay where the atoms' initial magnetic moments put them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from spinmd.building import make_term, term_names
from spinmd.deck import Deck, load_deck
from spinmd.errors import InputError
from spinmd.evaluator import Evaluator
from spinmd.learning.evaluation import load_potential
from spinmd.protocols import Need, Potential
from spinmd.registry import METHODS

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
NEEDS = {
    "energy": Need.ENERGY,
    "free_energy": Need.ENERGY,
    "forces": Need.FORCE,
    "stress": Need.VIRIAL,
    "magnetic_forces": Need.FIELD,
    "magmoms": Need.NONE,
    "magmom": Need.NONE,
}


class SpinmdCalculator(Calculator):
    """spinmd's potentials as an ASE calculator.

    source   a deck (file ``.toml``, ``Deck`` or dictionaries with "potential"): its potentials;  any other file: a DeepSPIN
             model;  a potential, or a list of potentials (terms add up)
    moments  reference moments of classical terms, e = S/m, in µB: per element, as in {"Fe": 2.2}, or per atom. None: those
             of the deck where it gives them per element, else the first |S| that the atoms are seen with
    skin     Å, of the neighbour lists;  threads  None: one below 1000 atoms, else all cores

    Neighbour lists are used again as long as the atoms are the same ones and have moved little. ``energies`` holds the energy
    by name of the term (eV) of the last evaluation. Raises InputError for what does not fit.
    """

    implemented_properties: ClassVar[list[str]] = list(NEEDS)
    default_parameters: ClassVar[dict] = {}

    def __init__(
        self,
        source: str | Path | Deck | Mapping | Potential | Sequence[Potential],
        *,
        moments: Mapping[str, float] | Sequence[float] | None = None,
        skin: float | None = None,
        threads: int | None = None,
        **keywords,
    ):
        super().__init__(**keywords)
        terms, own_moments = _terms(source)
        self.moments = own_moments if moments is None else moments
        self.evaluator = Evaluator(terms, skin=skin, threads=threads)
        self.energies: dict[str, float] = {}
        self._need = Need.ENERGY | Need.FORCE | (Need.FIELD if self.evaluator.magnetic else Need.NONE)
        self._need &= self.evaluator.provides

    # PropertyNotImplementedError is ASE's word for "this calculator does not give that"; ASE's own code catches it
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """Fill ``results``; called by ASE. Once the stress was asked for it is always computed along."""
        super().calculate(atoms, properties, system_changes)
        for name in properties:
            wanted = NEEDS.get(name)
            if wanted is None or wanted not in self.evaluator.provides:
                raise PropertyNotImplementedError(f"{name} is not among what these potentials give")
            self._need |= wanted
        atoms = self.atoms
        stress = Need.VIRIAL in self._need and bool(atoms.pbc.any()) and atoms.cell.rank == 3
        if "stress" in properties and not stress:
            raise PropertyNotImplementedError("stress needs a periodic cell with three lattice vectors")
        given = atoms.get_initial_magnetic_moments()
        spins = spins_of(given)
        if self.evaluator.magnetic and not spins.any() and self.moments is None:
            raise InputError(
                "a term acts on spins, and no atom has a magnetic moment; call atoms.set_initial_magnetic_moments",
                "atoms",
            )
        symbols = atoms.get_chemical_symbols()
        answer = self.evaluator(
            _cell(atoms), atoms.positions, symbols, self._need if stress else self._need & ~Need.VIRIAL,
            spins=spins, moments=self._moments(symbols), pbc=atoms.pbc,
        )  # fmt: skip
        self.energies = answer.energies
        fields = np.zeros_like(spins) if answer.fields is None else answer.fields
        self.results = {"energy": answer.energy, "free_energy": answer.energy, "magnetic_forces": fields}
        self.results |= {"magmoms": given.copy(), "magmom": float(spins[:, 2].sum())}
        if answer.forces is not None:
            self.results["forces"] = answer.forces
        if answer.virial is not None:
            tensor = -0.5 * (answer.virial + answer.virial.T) / atoms.get_volume()
            self.results["stress"] = np.array([tensor[a, b] for a, b in VOIGT])

    def get_magnetic_forces(self, atoms=None) -> np.ndarray:
        """(N, 3) −∂E/∂S, eV/µB."""
        return self.get_property("magnetic_forces", atoms)

    def _moments(self, symbols: list[str]) -> np.ndarray | None:
        if self.moments is None:
            return None
        if isinstance(self.moments, Mapping):
            return np.array([float(self.moments.get(symbol, 0.0)) for symbol in symbols])
        moments = np.asarray(self.moments, dtype=np.float64)
        if moments.shape != (len(symbols),):
            raise InputError(f"has shape {moments.shape}; expected one per atom, {len(symbols)}", "moments")
        return moments


def spins_of(magmoms) -> np.ndarray:
    """(N, 3) spins in µB from ASE's magnetic moments: N numbers, along z, or N × 3."""
    magmoms = np.asarray(magmoms, dtype=np.float64)
    if magmoms.ndim == 2 and magmoms.shape[1] == 3:
        return magmoms.copy()
    spins = np.zeros((len(magmoms), 3))
    spins[:, 2] = magmoms.reshape(len(magmoms))
    return spins


def _cell(atoms) -> np.ndarray:
    """The cell; open directions without a lattice vector get one, which nothing depends on."""
    cell = atoms.cell
    for k in range(3):
        if atoms.pbc[k] and not cell[k].any():
            raise InputError(
                f"direction {k} is periodic and has no lattice vector; set atoms.cell or pbc", "atoms.cell"
            )
    return np.array(cell if cell.rank == 3 else cell.complete())


def _terms(source) -> tuple[list[Potential], Mapping[str, float] | None]:
    """The potentials that ``source`` stands for, and the reference moments that it knows."""
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() != ".toml":
        return [load_potential(source)], None
    if isinstance(source, (str, Path, Mapping)):
        source = load_deck(source if isinstance(source, Mapping) else Path(source))
    if isinstance(source, Deck):
        errors: list[InputError] = []
        names = term_names(source, source.potential, (), errors)
        if errors:
            raise errors[0]
        terms = [make_term(table, name, source.folder) for table, name in zip(source.potential, names, strict=True)]
        spins = source.structure.spins
        return terms, spins.reference_moments or spins.moments
    terms = list(source) if isinstance(source, Sequence) else [source]
    for term in terms:
        if not all(callable(getattr(term, name, None)) for name in METHODS):
            raise InputError(
                f"expected a deck, a model file or potentials, got {type(term).__name__}", "SpinmdCalculator"
            )
    if not terms:
        raise InputError("expected at least one potential", "SpinmdCalculator")
    return terms, None
