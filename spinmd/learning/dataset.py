"""Labelled data from a known Hamiltonian: random frames about a deck's structure, labelled with the deck's potentials.

Such data has no noise and a known answer: it tests training, and shows what a fit can resolve. Each frame is drawn by itself:

    cell        (1 + ε) of the deck's, ε symmetric with independent normal entries of width ``strain``
    positions   the ideal sites, strained, plus a normal displacement of rms length ``displacement``
    spins       the deck's directions tilted by a normal angle of width ``spin_noise`` (degrees) about a random axis, or any
                direction; lengths m (1 + x), x uniform within ± ``spin_length``

Labels of classical terms: e = S/m with the deck's constant m, so that −∂E/∂S has a longitudinal part and holds m fixed.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spinmd import __version__
from spinmd.building import build_terms, check_moments
from spinmd.deck import Deck, load_deck
from spinmd.errors import InputError
from spinmd.evaluator import Evaluator
from spinmd.potentials.deepspin.data import System, write_system
from spinmd.potentials.deepspin.data_checks import check_system
from spinmd.protocols import Need
from spinmd.structure import build_structure

UNITS = {
    "box, coord": "Å, rows of the box are lattice vectors",
    "spin": "µB, atomic magnetic moments",
    "energy": "eV, total",
    "force": "eV/Å",
    "force_mag": "eV/µB, −∂E/∂S at constant reference moments",
    "virial": "eV, −∂E/∂ε at fixed spins",
}


def make_dataset(
    deck: Deck | str | Path | Mapping,
    folder: str | Path | None = None,
    frames: int = 100,
    *,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    seed: int = 1,
    displacement: float = 0.1,
    spin_noise: float | str = 20.0,
    spin_length: float = 0.05,
    strain: float = 0.01,
    force: bool = False,
    progress: bool = False,
    threads: int | None = None,
) -> System:
    """Make ``frames`` labelled frames; write them to ``folder`` (None: do not), with README.json that says how they were made.

    displacement  Å, rms length;  spin_noise  degrees, or "random" for any direction;  spin_length, strain  fractions
    force         replace a data set that is there

    Raises InputError for numbers out of range, for what ``load_deck`` and ``build`` refuse, and for atoms upon each other.
    """
    if not isinstance(deck, Deck):
        deck = load_deck(deck, overrides)
    elif overrides:
        deck = load_deck(deck.tables, overrides, folder=deck.folder)
    _check(frames, seed, displacement, spin_noise, spin_length, strain)
    if folder is not None and Path(folder).exists() and not force:
        raise InputError("exists already; choose another name, or ask to replace it", str(folder))
    state = build_structure(deck.structure, deck.seed)
    stage = deck.stages()[0]
    terms = build_terms(deck, stage, state)
    check_moments(deck, state, terms, ())
    evaluator = Evaluator(terms, skin=stage.neighbours.skin, threads=threads)
    need = evaluator.provides
    if Need.FORCE not in need or Need.FIELD not in need:
        raise InputError("a term gives no forces or no fields, which labels need", "potential")
    elements = state.elements
    symbols, types = np.unique(elements, return_inverse=True)
    virial = Need.VIRIAL in need and bool(state.pbc.all())
    system = System(
        tuple(str(symbol) for symbol in symbols),
        types.astype(np.int64).reshape(-1),
        np.zeros((frames, 3, 3)),
        *(np.zeros((frames, state.natoms, 3)) for _ in range(2)),
        np.zeros(frames),
        *(np.zeros((frames, state.natoms, 3)) for _ in range(2)),
        virial=np.zeros((frames, 3, 3)) if virial else None,
        name=str(folder or deck.title or deck.name),
        magnetic=np.isin(types.reshape(-1), types.reshape(-1)[state.moments > 0.0]),
        periodic=_periodicity(state.pbc),
    )
    for frame in tqdm(range(frames), desc="frames", leave=False, disable=not (progress and sys.stderr.isatty())):
        stream = np.random.default_rng([seed, frame])  # a frame does not depend on how many there are
        system.box[frame], system.coord[frame] = _geometry(stream, state, displacement, strain)
        system.spin[frame] = _spins(stream, state, spin_noise, spin_length)
        answer = evaluator(
            system.box[frame], system.coord[frame], elements, need, spins=system.spin[frame], moments=state.moments,
            pbc=state.pbc, reference=state.reference,
        )  # fmt: skip
        system.energy[frame], system.force[frame] = answer.energy, answer.forces
        system.field[frame] = answer.fields
        if virial:
            system.virial[frame] = answer.virial
    check_system(system)
    if folder is not None:
        write_system(folder, system, force=force)
        options = {"seed": seed, "displacement": displacement, "spin_noise": spin_noise, "spin_length": spin_length}
        _describe(Path(folder), deck, state, {"frames": frames, **options, "strain": strain})
    return system


def _check(frames, seed, displacement, spin_noise, spin_length, strain) -> None:
    if isinstance(frames, bool) or int(frames) != frames or frames < 1:
        raise InputError(f"expected a whole number of frames, at least 1, got {frames!r}", "--frames")
    if isinstance(seed, bool) or int(seed) != seed or seed < 0:
        raise InputError(f"expected a whole number, at least 0, got {seed!r}", "--seed")
    for value, place, most, unit in (
        (displacement, "--displacement", 2.0, " Å"), (spin_length, "--spin-length", 0.999, ""), (strain, "--strain", 0.3, "")
    ):  # fmt: skip
        if not 0.0 <= value <= most:
            raise InputError(f"expected a number from 0 to {most:g}{unit}, got {value:g}", place)
    if isinstance(spin_noise, str):
        if spin_noise != "random":
            raise InputError(f'expected an angle in degrees or "random", got {spin_noise!r}', "--spin-noise")
    elif not 0.0 <= spin_noise <= 180.0:
        raise InputError(f"expected an angle from 0 to 180 degrees, got {spin_noise:g}", "--spin-noise")


def _periodicity(pbc: np.ndarray) -> bool:
    if pbc.any() and not pbc.all():
        raise InputError(
            "DeePMD's layout knows no partly periodic cells; use pbc all true or all false", "structure.pbc"
        )
    return bool(pbc.all())


def _geometry(stream: np.random.Generator, state, displacement: float, strain: float) -> tuple[np.ndarray, np.ndarray]:
    """(cell, positions) of one frame."""
    entries = strain * stream.standard_normal((3, 3))
    deformation = np.eye(3) + np.triu(entries) + np.triu(entries, 1).T
    shifts = displacement / np.sqrt(3.0) * stream.standard_normal(state.positions.shape)
    return state.cell @ deformation.T, state.reference @ deformation.T + shifts


def _spins(stream: np.random.Generator, state, noise: float | str, length: float) -> np.ndarray:
    """Spins of one frame; those of non-magnetic atoms are zero."""
    lengths = np.linalg.norm(state.spins, axis=1)
    old = np.divide(state.spins, lengths[:, None], out=np.zeros_like(state.spins), where=lengths[:, None] > 0.0)
    random = stream.standard_normal(old.shape)
    stretch = 1.0 + length * stream.uniform(-1.0, 1.0, state.natoms)
    if noise == "random":
        new = random / np.linalg.norm(random, axis=1, keepdims=True)
    else:
        across = random - np.einsum("ia,ia->i", random, old)[:, None] * old
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        angle = np.radians(noise) * stream.standard_normal(state.natoms)[:, None]
        new = np.cos(angle) * old + np.sin(angle) * across
    return (lengths * stretch)[:, None] * new


def _describe(folder: Path, deck: Deck, state, options: dict[str, Any]) -> None:
    """README.json: where the labels come from, and in which units."""
    moments = {
        symbol: float(state.moments[state.species == k].max(initial=0.0)) for k, symbol in enumerate(state.symbols)
    }
    content = {
        "title": deck.title,
        "made_by": f"spinmd {__version__}, spinmd dataset",
        "layout": "DeePMD-kit, spin (type.raw, type_map.raw, set.*/*.npy)",
        "units": UNITS,
        "reference_moments_mub": moments,
        "natoms": state.natoms,
        "options": options,
        "structure": deck.tables["structure"],
        "potential": deck.tables["potential"],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    (folder / "README.json").write_text(text + "\n", encoding="utf-8")
