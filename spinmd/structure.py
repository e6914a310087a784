"""Where the atoms are at the start: the [structure] table, and the State that it describes.

Prototypes and files become a unit cell (``spinmd.crystal``); from it come, in this order, strain, supercell,
alloy, vacancies, vacuum, spins (``spinmd.textures``), random displacements and velocities. Before vacancies, atom b of
cell (i, j, k) is number ((i n_b + j) n_c + k) n_basis + b. Random numbers have one stream per purpose, so that
changing, say, the alloy leaves the velocities as they were drawn. Å, ps, amu, K. Messages count atoms from 0.
"""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from spinmd.crystal import PROTOTYPES, UnitCell, prototype_cell, read_unit_cell, refuse_overlaps, repeat
from spinmd.errors import InputError
from spinmd.parameters import InputFile, Length, Mass, Parameters, Temperature
from spinmd.run_cell import is_run, read_run_cell, sites_of
from spinmd.state import State
from spinmd.textures import FiniteVector, Sites, SpinParameters, build_spins, by_element, nearest
from spinmd.units import AMU, BOLTZMANN

PLACE = "structure"
BYTES_PER_ATOM = (
    1500  # state, neighbour lists and couplings of a classical run, measured on a million atoms of bcc iron
)
STREAMS = {"alloy": 1, "vacancies": 2, "displacement": 3, "velocities": 4, "spins": 5}

_ALIASES = {"cscl": "B2", "nacl": "rocksalt", "b1": "rocksalt"}


def _prototype(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return _ALIASES.get(value.lower()) or nearest(value, PROTOTYPES, "a prototype")


def _element(value: Any) -> str:
    from ase.data import chemical_symbols

    if isinstance(value, str) and value in chemical_symbols[1:]:
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("element", "expected the symbol of an element, got {value}", {"value": repr(value)})
    symbol = nearest(value, chemical_symbols[1:], "the symbol of an element")
    raise PydanticCustomError(
        "element", "{value} is not the symbol of an element; use {symbol}", {"value": repr(value), "symbol": symbol}
    )


def _fraction(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise PydanticCustomError(
            "fraction", "{what} must be a fraction between 0 and 1, got {value}", {"what": what, "value": repr(value)}
        )
    return float(value)


def _alloy(value: Any) -> Any:
    if not isinstance(value, dict) or not value:
        raise PydanticCustomError(
            "alloy", "write { Co = 0.3 } or { Fe = { Co = 0.3 } }, got {value}", {"value": repr(value)}
        )
    nested = [isinstance(part, dict) for part in value.values()]
    if any(nested) and not all(nested):
        raise PydanticCustomError(
            "alloy", "name the replaced element for every part, as in { Fe = { Co = 0.3, Ni = 0.1 } }"
        )
    for host, part in value.items() if all(nested) else [("", value)]:
        total = sum(_fraction(fraction, _element(symbol)) for symbol, fraction in part.items())
        if host:
            _element(host)
        if total > 1.0 + 1e-12:
            raise PydanticCustomError(
                "alloy",
                "the fractions that replace {host} add up to {total}, more than 1",
                {"host": host, "total": total},
            )
    return value


def _vacancies(value: Any) -> Any:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not value >= 0
        or (isinstance(value, float) and not value < 1.0)
    ):
        raise PydanticCustomError(
            "vacancies", "expected a fraction below 1 or a whole number of atoms, got {value}", {"value": repr(value)}
        )
    return value


def _strain(value: Any) -> Any:
    rows = value if isinstance(value, (list, tuple)) else ()
    lengths = [len(row) if isinstance(row, (list, tuple)) else 0 for row in rows]
    if lengths == [0, 0, 0]:
        return tuple(tuple(value[i] if i == j else 0.0 for j in range(3)) for i in range(3))
    if lengths != [3, 3, 3]:
        text = "expected three numbers or three rows of three, got {value}"
        raise PydanticCustomError("strain", text, {"value": repr(value)})
    return value


Element = Annotated[str, BeforeValidator(_element)]
PrototypeName = Annotated[
    Literal["sc", "bcc", "fcc", "hcp", "diamond", "rocksalt", "B2", "perovskite"], BeforeValidator(_prototype)
]
Count = Annotated[int, Field(ge=1)]


class StructureParameters(Parameters):
    """[structure]: a prototype or a file, and what is done to it."""

    prototype: PrototypeName | None = Field(
        None,
        description="Crystal structure in its conventional cubic cell (hcp: a hexagonal cell of two atoms), instead "
        "of a file.",
    )
    element: Element | None = Field(None, description="The element of a prototype that has one.")
    elements: tuple[Element, ...] | None = Field(
        None,
        description="The elements of a prototype that has several: rocksalt and B2 [A, B], perovskite ABX3 [A, B, X].",
    )
    lattice_constant: Annotated[Length, Field(gt=0.0)] | None = Field(
        None, description="Edge a of the cell of a prototype."
    )
    c_over_a: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = Field(
        None, description="Ratio c/a of hcp; default: the ideal √(8/3)."
    )
    orthogonal: bool = Field(False, description="For hcp: the orthogonal cell a × √3 a × c of four atoms.")
    file: InputFile | None = Field(
        None,
        description="A structure file of any format that ASE reads, with velocities and magmoms where it has them; or the "
        "file of a run, whose last checkpoint is taken with velocities, spins, reference moments and reference sites.",
    )
    format: str | None = Field(None, description="ASE's name of the file's format, where the file name does not tell.")
    index: int | None = Field(
        None,
        description="Which frame of the file to take, counted from 0, or from the end if negative; default: the last, and "
        "of a run's file the checkpoint.",
    )
    supercell: tuple[Count, Count, Count] = Field(
        (1, 1, 1), description="Number of unit cells along each lattice vector."
    )
    pbc: tuple[bool, bool, bool] | None = Field(
        None,
        description="Periodic or open along each lattice vector; default: all periodic for a prototype, as in the "
        "file for a file.",
    )
    vacuum: Annotated[Length, Field(ge=0.0)] | None = Field(
        None,
        description="Along open directions the cell is set to the extent of the atoms and this much empty space on "
        "either side.",
    )
    strain: Annotated[tuple[FiniteVector, FiniteVector, FiniteVector], BeforeValidator(_strain)] | None = Field(
        None, description="Strain ε, 3×3 or its three diagonal elements: cell and positions become r_a + Σ_b ε_ab r_b."
    )
    alloy: Annotated[dict[str, float | dict[str, float]], BeforeValidator(_alloy)] | None = Field(
        None,
        description="Fractions of the atoms of an element replaced at random, as in { Fe = { Co = 0.3 } }, or "
        "{ Co = 0.3 } in a structure of one element; the number of atoms is the fraction times the number of sites, "
        "rounded.",
    )
    vacancies: Annotated[int | float, BeforeValidator(_vacancies)] = Field(
        0, description="Atoms removed at random: a fraction of all if below 1, otherwise their number."
    )
    masses: dict[str, Annotated[Mass, Field(gt=0.0)]] = Field(
        default_factory=dict, description="Atomic mass of each element, where it is not the file's or the standard one."
    )
    displacement: Annotated[Length, Field(ge=0.0)] = Field(
        0.0,
        description="Root mean square length of a random Gaussian displacement of each atom; each of its components "
        "has a standard deviation of displacement/√3.",
    )
    temperature: Annotated[Temperature, Field(ge=0.0)] | None = Field(
        None,
        description="Maxwell-Boltzmann velocities with zero total momentum, scaled so that 2K/((3N−3)k_B) is exactly "
        "this temperature; default: the file's velocities, or none.",
    )
    minimum_distance: Annotated[Length, Field(ge=0.0)] = Field(
        0.5, description="Two atoms closer than this, periodic images included, are refused; 0 switches the check off."
    )
    seed: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Seed of everything random in the structure; default: the run's seed."
    )
    spins: SpinParameters = Field(
        default_factory=SpinParameters, description="The magnetic moments and their directions."
    )

    @model_validator(mode="after")
    def _consistent(self):
        given = self.model_fields_set

        def refuse(text, **names):
            raise PydanticCustomError("structure", text, names)

        if (self.prototype is None) == (self.file is None):
            refuse(
                "give either prototype (with element and lattice_constant) or file{both}",
                both=", not both" if self.file else "",
            )
        foreign = (
            ("element", "elements", "lattice_constant", "c_over_a", "orthogonal") if self.file else ("format", "index")
        )
        for name in foreign:
            if name in given:
                refuse(
                    "{name} has no meaning with {kind}; remove it", name=name, kind="file" if self.file else "prototype"
                )
        if self.prototype is not None:
            self._check_prototype(refuse)
        if self.vacuum is not None and self.file is None and (self.pbc is None or all(self.pbc)):
            refuse("vacuum needs an open direction; give pbc, for example pbc = [true, true, false]")
        return self

    def _check_prototype(self, refuse):
        if self.lattice_constant is None:
            refuse("lattice_constant is missing: the prototype {kind} needs it, in Å", kind=self.prototype)
        wanted = len(PROTOTYPES[self.prototype])
        if self.element is not None and self.elements is not None:
            refuse("give either element or elements, not both")
        named = self.elements if self.elements is not None else (self.element,) * (self.element is not None)
        if len(named) != wanted:
            example = (
                'element = "Fe"' if wanted == 1 else "elements = [" + ", ".join(['"Fe"', '"Co"', '"O"'][:wanted]) + "]"
            )
            refuse(
                "the prototype {kind} needs {wanted}, as in {example}, got {got}",
                kind=self.prototype,
                wanted="one element" if wanted == 1 else f"{wanted} elements",
                example=example,
                got=", ".join(named) or "none",
            )
        if self.prototype != "hcp" and (self.c_over_a is not None or self.orthogonal):
            refuse("{name} belongs to hcp only; remove it", name="orthogonal" if self.orthogonal else "c_over_a")


def random_stream(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers for one purpose (see ``STREAMS``), independent of those for any other."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(STREAMS[purpose],))))


def build_structure(parameters: StructureParameters, seed: int = 0) -> State:
    """The State that ``parameters`` describe; ``seed`` is used where they have none of their own.

    ``State.reference`` holds the positions before the random displacement, ``State.moments`` the reference moments.
    Raises InputError at ``structure.*``.
    """
    p = parameters
    seed = seed if p.seed is None else p.seed
    if p.file is not None and p.format is None and is_run(p.file):
        needs = {"velocity": p.temperature is None, "spin": p.spins.moments is None}
        unit = read_run_cell(p.file, p.index, [name for name, needed in needs.items() if needed])
    elif p.file is not None:
        unit = read_unit_cell(p.file, p.format, p.index)
    else:
        elements = p.elements if p.elements is not None else (p.element,)
        unit = prototype_cell(p.prototype, elements, p.lattice_constant, p.c_over_a, p.orthogonal)
    pbc = unit.pbc if p.pbc is None else np.array(p.pbc, dtype=bool)
    _check_memory(len(unit.positions) * math.prod(p.supercell), p)
    missing = _complete_cell(unit, pbc, p)
    if p.strain is not None:
        deformation = np.eye(3) + np.array(p.strain)
        unit.cell, unit.positions = unit.cell @ deformation.T, unit.positions @ deformation.T
        unit.reference = None if unit.reference is None else unit.reference @ deformation.T
    if not np.isfinite(unit.cell).all() or abs(np.linalg.det(unit.cell)) < 1e-9:
        raise InputError(
            "the three lattice vectors do not span a volume", f"{PLACE}.strain" if p.strain is not None else _source(p)
        )
    # a direction that holds several unit cells is a periodic one to the unit cell
    refuse_overlaps(
        unit.positions,
        unit.cell,
        pbc | (np.array(p.supercell) > 1),
        p.minimum_distance,
        unit.symbols.__getitem__,
        _source(p),
    )

    cell = unit.cell * np.array(p.supercell)[:, None]
    positions = repeat(unit.positions, unit.cell, p.supercell)
    reference, images = positions, np.zeros(positions.shape, dtype=np.int32)
    if unit.reference is not None:  # atoms of a run have left their sites, perhaps through the boundary
        reference, images = sites_of(unit, p.supercell, pbc)
    declared, symbols, species = _elements(unit, p)
    basis = np.tile(np.arange(len(unit.positions), dtype=np.int32), math.prod(p.supercell))
    if p.alloy:
        species = _substitute(species, symbols, p.alloy, random_stream(seed, "alloy"))
    if p.vacancies:
        keep = _remaining(len(species), p.vacancies, random_stream(seed, "vacancies"))
        species, basis, images = species[keep], basis[keep], images[keep]
        positions, reference = positions[keep], reference[keep]
    sites = Sites(positions, unit.cell, p.supercell, pbc, basis, len(unit.positions), species, symbols, declared)
    if unit.magmoms is not None:
        if p.alloy and p.spins.moments is None:
            raise InputError(
                "the file's magmoms do not know the elements that alloy puts in; give moments", f"{PLACE}.spins.moments"
            )
        sites.magmoms = unit.magmoms[basis]
        sites.moments = None if unit.moments is None else unit.moments[basis]
    spins, moments = build_spins(p.spins, sites, random_stream(seed, "spins"))
    masses = _masses(unit, sites, p)
    cell, shift = _add_vacuum(cell, positions, ~pbc & (missing | (p.vacuum is not None)), p)
    reference, positions = reference + shift, positions + shift
    if p.displacement > 0.0:
        displacements = random_stream(seed, "displacement").standard_normal(positions.shape)
        displacements *= p.displacement / math.sqrt(3.0)
        positions += displacements
        refuse_overlaps(
            positions, cell, pbc, p.minimum_distance, lambda k: symbols[species[k]], f"{PLACE}.displacement"
        )
    if p.temperature is not None:
        velocities = maxwell_boltzmann(masses, p.temperature, random_stream(seed, "velocities"))
    else:
        velocities = np.zeros_like(positions) if unit.velocities is None else unit.velocities[basis]
    present = np.unique(species)  # an element that was replaced or removed altogether is no species
    return State(
        cell=cell,
        pbc=pbc.copy(),
        positions=positions,
        velocities=velocities,
        spins=spins,
        moments=moments,
        masses=masses,
        species=np.searchsorted(present, species).astype(np.int32),
        ids=np.arange(len(positions), dtype=np.int64),
        images=images,
        reference=reference,
        symbols=tuple(symbols[k] for k in present),
    )


def _source(p: StructureParameters) -> str:
    return f"{PLACE}.file" if p.file is not None else PLACE


def available_memory() -> int | None:
    """Bytes that a new process may use here; None where the system does not say."""
    candidates = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        candidates += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:
        if not candidates:
            candidates.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        pass
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            candidates.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(candidates, default=None)


def _check_memory(natoms: int, p: StructureParameters) -> None:
    needed, available = natoms * BYTES_PER_ATOM, available_memory()
    if available is None:
        available = 2**46  # nothing is known: refuse only what no machine holds
    if needed > available:
        raise InputError(
            f"{natoms:,} atoms need about {needed / 1e9:,.1f} GB of memory and {available / 1e9:,.1f} GB are "
            f"available; choose a smaller supercell",
            f"{PLACE}.supercell",
        )


def _complete_cell(unit: UnitCell, pbc: np.ndarray, p: StructureParameters) -> np.ndarray:
    """Give open directions that have no lattice vector a unit vector normal to the others; (3,) bool says which."""
    missing = ~unit.cell.any(axis=1)
    for k in np.flatnonzero(missing):
        if pbc[k]:
            raise InputError(
                f"direction {k} cannot be periodic: the file gives no lattice vector for it", f"{PLACE}.pbc"
            )
        if p.supercell[k] > 1:
            raise InputError(
                f"direction {k} cannot be repeated: the file gives no lattice vector for it", f"{PLACE}.supercell"
            )
        _, sizes, rows = np.linalg.svd(unit.cell)
        normals = rows[sizes < 1e-9]  # orthonormal vectors normal to every lattice vector so far
        vector = normals.T @ normals[:, k]  # the Cartesian axis k where it is one of these
        vector = vector if np.linalg.norm(vector) > 1e-3 else normals[0]
        unit.cell[k] = vector / np.linalg.norm(vector)
    if p.vacuum is not None and pbc.all():
        raise InputError(
            "vacuum needs an open direction; give pbc, for example pbc = [true, true, false]", f"{PLACE}.vacuum"
        )
    return missing


def _add_vacuum(cell, positions, directions, p):
    """The cell, which along ``directions`` holds the atoms and vacuum (default 5 Å) on either side, and the atoms' shift."""
    vacuum = 5.0 if p.vacuum is None else p.vacuum
    cell, shift = cell.copy(), np.zeros(3)
    for k in np.flatnonzero(directions):
        normal = np.cross(cell[(k + 1) % 3], cell[(k + 2) % 3])
        normal *= np.sign(normal @ cell[k]) / np.linalg.norm(normal)
        vector = cell[k] / (cell[k] @ normal)  # one Å of height
        heights = positions @ normal
        low, extent = heights.min(), np.ptp(heights)
        if extent + 2.0 * vacuum < 1e-3:
            raise InputError(
                "the atoms have no extent along the open direction, so vacuum must be larger than 0", f"{PLACE}.vacuum"
            )
        cell[k] = vector * (extent + 2.0 * vacuum)
        shift += vector * (vacuum - low)
    return cell, shift


def _elements(unit: UnitCell, p: StructureParameters) -> tuple[frozenset[str], tuple[str, ...], np.ndarray]:
    """Every element named, the same in alphabetical order, and the species of each atom before alloying."""
    named = set(unit.symbols)
    for host, part in (p.alloy or {}).items():
        named.update(part if isinstance(part, dict) else (host,))
    symbols = tuple(sorted(named))
    species = np.array([symbols.index(symbol) for symbol in unit.symbols], dtype=np.int32)
    return frozenset(named), symbols, np.tile(species, math.prod(p.supercell))


def _substitute(species: np.ndarray, symbols: tuple[str, ...], alloy: dict, rng: np.random.Generator) -> np.ndarray:
    present = [symbols[k] for k in np.unique(species)]
    if not all(isinstance(part, dict) for part in alloy.values()):
        if len(present) > 1:
            raise InputError(f"say which element is replaced, as in {{ {present[0]} = {{ ... }} }}", f"{PLACE}.alloy")
        alloy = {present[0]: alloy}
    result = species.copy()
    for host, part in alloy.items():
        if host not in present:
            raise InputError(
                f"there is no {host} to replace; the structure holds {', '.join(present)}", f"{PLACE}.alloy.{host}"
            )
        order = rng.permutation(np.flatnonzero(species == symbols.index(host)))
        first = 0
        for symbol, fraction in part.items():
            count = round(fraction * len(order))
            if count == 0 and fraction > 0.0:
                raise InputError(
                    f"a fraction of {fraction:g} of {len(order)} atoms of {host} is less than one atom; enlarge the "
                    f"supercell",
                    f"{PLACE}.alloy",
                )
            # two halves of an odd number round to one too many: the slice ends with the atoms
            result[order[first : first + count]] = symbols.index(symbol)
            first += count
    return result


def _remaining(natoms: int, vacancies: int | float, rng: np.random.Generator) -> np.ndarray:
    """Indices of the atoms that stay, in order."""
    count = round(vacancies * natoms) if vacancies < 1 else int(vacancies)
    if count == 0:
        raise InputError(
            f"a fraction of {vacancies:g} of {natoms} atoms is less than one vacancy; enlarge the supercell",
            f"{PLACE}.vacancies",
        )
    if count >= natoms:
        raise InputError(f"{count} vacancies leave none of the {natoms} atoms", f"{PLACE}.vacancies")
    return np.sort(rng.permutation(natoms)[count:])


def _masses(unit: UnitCell, sites: Sites, p: StructureParameters) -> np.ndarray:
    from ase.data import atomic_masses, atomic_numbers

    standard = np.array([atomic_masses[atomic_numbers[symbol]] for symbol in sites.symbols])[sites.species]
    if unit.masses is not None:
        original = np.array([sites.symbols.index(symbol) for symbol in unit.symbols])[sites.basis]
        standard = np.where(original == sites.species, unit.masses[sites.basis], standard)
    return by_element(p.masses, sites, f"{PLACE}.masses", default=standard)


def maxwell_boltzmann(masses: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """(N, 3) velocities in Å/ps with Σ m v = 0 and 2K = (3N − 3) k_B T exactly, K = ½ Σ m v²."""
    velocities = rng.standard_normal((len(masses), 3))
    if temperature == 0.0:
        return np.zeros_like(velocities)
    if len(masses) == 1:
        raise InputError(
            "one atom with zero momentum has no temperature; remove temperature or enlarge the supercell",
            f"{PLACE}.temperature",
        )
    velocities /= np.sqrt(masses)[:, None]
    for _ in range(2):  # the second time removes the rounding errors of the first
        velocities -= masses @ velocities / masses.sum()
    twice_kinetic = AMU * np.einsum("i,ij,ij->", masses, velocities, velocities)
    velocities *= math.sqrt((3 * len(masses) - 3) * BOLTZMANN * temperature / twice_kinetic)
    return velocities
