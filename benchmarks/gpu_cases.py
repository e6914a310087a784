"""The cases of ``gpu.py``: decks in memory, and systems of them that are made without lists, couplings or kernels of the CPU."""

import os
import sys
import tempfile
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import POTENTIAL, ROOT

for folder in (ROOT, ROOT / "tests"):  # spinmd, and the random nets of tests/support
    sys.path.insert(0, str(folder))

SIZES = (16_000, 131_000, 1_000_000, 8_000_000)
DEEP_SIZES = (4_000, 32_000, 131_000, 500_000)
LAUNCH_SIZE = 1_000
MEMORY_SIZE = 40_000_000
PARTS = (
    "launch",
    "eam",
    "spins",
    "deepspin",
    "memory",
)  # those of the option --cases; the last one only where it is named
PRECISIONS = ("float64", "mixed", "float32")
LATTICE = {"bcc": 2.8665, "rocksalt": 4.17}  # Å
ATOMS = {"bcc": 2, "rocksalt": 8}  # of the prototype's cell
EAM_CUTOFF, SKIN = 5.3, 0.45  # Å
DEEP_CUTOFF, DEEP_MARGIN = 5.6, 0.46  # Å; how much farther its lists reach, for virtual atoms of 1.27 µB
SHELLS = [0.03, 0.02, -0.002, -0.003, 0.001, 0.0005]  # eV, 8 + 6 + 12 + 24 + 8 + 6 = 64 neighbours
EXCHANGE = {"form": "bethe-slater", "a": 0.02726, "b": 0.2171, "d": 1.841}
NETS = {
    "small": {"neuron": (10, 20, 40), "axis": 8, "fitting": (60, 60, 60)},
    "large": {"neuron": (25, 50, 100), "axis": 16, "fitting": (240, 240, 240)},
}
AIMS = {("eam", 3.4, "mixed"): 2.0e8, ("eam", 5.74, "float64"): 5.0e7, ("deepspin", "large", "float32"): 5.0e6}
LEAST_ATOMS = {"eam": 1_000_000, "deepspin": 100_000}  # of the systems that aims are for
_folder: tempfile.TemporaryDirectory | None = None  # of the models' files


@dataclass(frozen=True)
class Case:
    """What is timed: kind "eam" (``what``: the cutoff of the exchange, Å), "spins" or "deepspin" (``what``: the net).

    precision  "float64"; "mixed" of pairs; "float32" of the channels and nets of DeepSPIN
    """

    kind: str
    what: Any
    ensemble: str
    precision: str
    atoms: int

    @property
    def prototype(self) -> str:
        return "rocksalt" if self.kind == "deepspin" else "bcc"

    @property
    def cells(self) -> int:
        """Of the cube's edge."""
        return max(round((self.atoms / ATOMS[self.prototype]) ** (1 / 3)), 2)

    @property
    def name(self) -> str:
        words = {
            "eam": f"EAM + exchange {self.what} Å",
            "spins": "spins, 64 neighbours",
            "deepspin": f"DeepSPIN {self.what}",
        }
        return f"{words[self.kind]}, {self.ensemble}, {self.precision}"

    @property
    def aim(self) -> float | None:
        """Atom-steps, or for DeepSPIN atoms evaluated, per second that the project wants to reach."""
        large = self.atoms >= LEAST_ATOMS.get(self.kind, 0)
        return AIMS.get((self.kind, self.what, self.precision)) if large else None


def cases(parts: list[str], largest: int, precisions: list[str]) -> list[tuple[str, Case]]:
    """(part, case), smaller systems first, so that a budget that runs out leaves the costly ones."""
    found = []
    for ensemble in ("nve", "langevin"):
        found += [("launch", Case("eam", 3.4, ensemble, precision, LAUNCH_SIZE)) for precision in ("float64", "mixed")]
    for atoms in SIZES:
        for cutoff in (3.4, 5.74):
            for ensemble in ("nve", "langevin"):
                found += [("eam", Case("eam", cutoff, ensemble, name, atoms)) for name in ("mixed", "float64")]
        found.append(("spins", Case("spins", 64, "nve", "float64", atoms)))
    for atoms in DEEP_SIZES:
        for net in NETS:
            found += [("deepspin", Case("deepspin", net, "nve", name, atoms)) for name in ("float32", "float64")]
    found.append(("memory", Case("eam", 3.4, "nve", "mixed", MEMORY_SIZE)))
    chosen = [
        (part, case)
        for part, case in found
        if part in parts and case.precision in precisions and (case.atoms <= largest or part == "memory")
    ]
    return sorted(chosen, key=lambda one: one[1].atoms)


def model_file(net: str) -> Path:
    """A net with random weights for nickel and oxygen, written to a temporary folder that goes with the process.

    Its energies are small, so that atoms move as free ones for the hundred steps that are timed: speed does not depend on weights.
    """
    global _folder
    from support.deepspin_models import make_random_model

    from spinmd.potentials.deepspin.model_file import write_model

    _folder = _folder or tempfile.TemporaryDirectory()
    file = Path(_folder.name) / f"{net}.h5"
    if not file.exists():
        model = make_random_model(
            ("Ni", "O"), (True, False), cutoff=DEEP_CUTOFF, cutoff_smooth=5.4, virtual_scale=0.314, sel=46, scale=0.02, **NETS[net]
        )  # fmt: skip
        write_model(model, file)
    return file


def deck(case: Case, cells: int) -> dict:
    """The deck of a case with ``cells`` along the edge, as a dictionary."""
    structure = {
        "prototype": case.prototype, "lattice_constant": LATTICE[case.prototype], "supercell": [cells] * 3, "temperature": 300.0,
        "displacement": 0.03,
    }  # fmt: skip
    structure |= {"elements": ["Ni", "O"]} if case.kind == "deepspin" else {"element": "Fe"}
    moments = {"Ni": 1.27, "O": 0.0} if case.kind == "deepspin" else {"Fe": 2.2}
    structure["spins"] = {"moments": moments, "texture": "cone", "angle": 20}
    integrator = {"ensemble": case.ensemble, "timestep": 0.001}
    if case.ensemble == "langevin":
        integrator |= {"temperature": 300.0, "lattice_friction": 1.0, "spin_damping": 0.01}
    if case.kind == "spins":
        integrator["lattice"] = "frozen"
        structure["displacement"] = 0.0
        potential = [{"kind": "exchange", "parameters": {"form": "shells", "J": SHELLS}}]
    elif case.kind == "eam":
        potential = [
            {"kind": "eam", "parameters": {"file": str(POTENTIAL)}},
            {"kind": "exchange", "parameters": {**EXCHANGE, "cutoff": case.what}},
        ]
    else:
        parameters = {"model": str(model_file(case.what)), "precision": case.precision}
        potential = [{"kind": "deepspin", "parameters": parameters}]
    return {
        "structure": structure, "potential": potential, "integrator": integrator,
        "run": {"steps": 100, "seed": 1, "precision": "mixed" if case.precision == "mixed" else "float64"},
    }  # fmt: skip


class System:
    """A system for the GPU with the names of a Simulation that ``spinmd.device.on_device`` reads: ``deck``, ``state``, ``model``,
    ``integrator``.

    ``spinmd.build`` makes lists and couplings on the CPU to see whether solver and potentials go together. That takes minutes and
    tens of GB for millions of atoms, so here that question is answered by a small crystal of the same kind.
    """

    def __init__(self, case: Case, cells: int):
        import spinmd
        from spinmd.building import build_terms
        from spinmd.integrators.build import build_integrator
        from spinmd.model import Model
        from spinmd.structure import build_structure

        small = small_one(case)
        self.deck = spinmd.load_deck(deck(case, cells))
        stage = self.deck.stages()[0]
        self.state = build_structure(self.deck.structure, self.deck.seed)
        rigid = case.kind == "spins" and cells >= 5  # what reaches two cells far meets no atom twice
        terms = [rigid_term(small, self.state, cells)] if rigid else build_terms(self.deck, stage, self.state)
        self.model = Model(self.state, terms, skin=stage.neighbours.skin)
        self.model._live = small.model.live_terms()
        self.integrator = build_integrator(stage.integrator, self.state, self.model, stage.run.steps, {})


def rigid_term(small: Any, state: Any, cells: int) -> Any:
    """The exchange by shells of a small crystal for a large one: couplings by place, where a search on the CPU takes minutes."""
    import numpy as np

    from spinmd.couplings import SpinTerm

    term, n = copy(small.model.terms[0]), state.natoms
    size = 2 * cells
    halves = np.rint(2.0 / LATTICE["bcc"] * state.reference).astype(np.int64) % size  # all even or all odd
    atoms = np.zeros((size,) * 3, np.int32)
    atoms[tuple(halves.T)] = np.arange(n)
    steps = np.array([d for d in np.ndindex(9, 9, 9)]) - 4
    steps = steps[(steps % 2 == steps[:, :1] % 2).all(axis=1)]
    squares = (steps**2).sum(axis=1)
    shells = np.unique(squares)[1 : len(SHELLS) + 1]
    steps, squares = steps[np.isin(squares, shells)], squares[np.isin(squares, shells)]
    neighbours = np.empty((n, len(steps)), np.int32)
    around = [[((halves[:, a] + d - 4) % size * size ** (2 - a)).astype(np.int32) for d in range(9)] for a in range(3)]
    for k, (x, y, z) in enumerate(steps + 4):
        neighbours[:, k] = atoms.ravel()[around[0][x] + around[1][y] + around[2][z]]
    couplings = np.array(SHELLS)[np.searchsorted(shells, squares)]
    term._lattice = SimpleNamespace(
        kind="isotropic",
        spin_term=SpinTerm(
            start=len(steps) * np.arange(n), count=np.full(n, len(steps), np.int32), neighbours=neighbours.ravel(),
            isotropic=np.tile(couplings, n),
        ),
        _inverse_moments=1.0 / state.moments,
    )  # fmt: skip
    term.prepare = lambda *_: None
    return term


_small: dict[tuple, Any] = {}


def small_one(case: Case) -> Any:
    """A Simulation of the case for the CPU, as small as its cutoffs allow without an atom seeing the same neighbour twice."""
    import spinmd

    key = (case.kind, case.what, case.ensemble, case.precision)
    if key not in _small:
        table = deck(case, small_cells(case))
        table["run"]["precision"] = "float64"
        _small[key] = spinmd.build(spinmd.load_deck(table), threads=1, output=False)
    return _small[key]


def small_cells(case: Case) -> int:
    """Cells along the edge in the comparison with the CPU; less in numba's simulator, which is slow."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"):
        return 1 if case.kind == "deepspin" else 2
    return 3 if case.kind == "deepspin" else 5
