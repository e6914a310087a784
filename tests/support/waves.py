"""Runs of the engine whose waves are known: rigid ferro- and antiferromagnets, a chain, and a crystal of springs."""

import itertools
from pathlib import Path

import numpy as np

from spinmd import Trajectory, build
from spinmd.units import AMU, HBAR

J, MOMENT, EDGE = 2.0e-3, 2.0, 3.0  # eV, µB, Å: a magnon of the cubic lattices has at most 24 or 32 meV
NEIGHBOURS = {
    "sc": np.array([s * v for v in np.eye(3) for s in (1, -1)]) * EDGE,
    "bcc": np.array(list(itertools.product((0.5, -0.5), repeat=3))) * EDGE,
    "fcc": np.array([v for v in itertools.product((-0.5, 0.0, 0.5), repeat=3) if np.count_nonzero(v) == 2]) * EDGE,
}
DEPTH, ALPHA = 0.5, 1.5  # eV, 1/Å: Morse springs of k = 2 D α²


def run(folder: Path, name: str, deck: dict) -> Path:
    """Run a deck; the file."""
    path = folder / f"{name}.h5"
    deck = {**deck, "output": {"thermo": 50, "checkpoint": 0, **deck.get("output", {}), "file": str(path)}}
    with build(deck) as simulation:
        simulation.run()
    return path


def magnet(
    prototype: str, cells, exchange: float = J, *, magnetisation: float = 0.9995, steps: int = 2000, **changes
) -> dict:
    """A rigid magnet with one shell of exchange, its spins a little off their axis at random, at constant energy."""
    deck = {
        "structure": {
            "prototype": prototype, "element": "Fe", "lattice_constant": EDGE, "supercell": list(cells),
            "spins": {"moments": {"Fe": MOMENT}, "texture": "thermal", "magnetisation": magnetisation},
        },
        "potential": [{"kind": "exchange", "parameters": {"form": "shells", "J": [exchange]}}],
        "integrator": {"ensemble": "nve", "timestep": "4 fs", "lattice": "frozen"},
        "run": {"steps": steps, "seed": 1, "threads": 1},
        "output": {"trajectory": 4, "quantities": ["spins"]},
    }  # fmt: skip
    return deck | changes


def springs(cells: int, *, temperature: float = 2.0, steps: int = 3000) -> dict:
    """fcc with springs between nearest neighbours, at a temperature where they are harmonic."""
    return {
        "structure": {
            "prototype": "fcc", "element": "Fe", "lattice_constant": EDGE, "supercell": [cells] * 3, "temperature": temperature,
            "masses": {"Fe": 50.0},
        },
        "potential": [{
            "kind": "morse",
            "parameters": {"depth": DEPTH, "alpha": ALPHA, "r0": EDGE / np.sqrt(2.0), "cutoff": 0.85 * EDGE},
        }],
        "integrator": {"ensemble": "nve", "timestep": "2 fs"},
        "run": {"steps": steps, "seed": 2, "threads": 1},
        "output": {"trajectory": 5, "quantities": ["positions", "velocities"]},
    }  # fmt: skip


def ferromagnet(q, prototype: str, exchange: float = J, moment: float = MOMENT) -> np.ndarray:
    """meV: (g/M) Σ_j J (1 − cos q·R_j), g = 2."""
    return 2.0e3 / moment * exchange * (1.0 - np.cos(q @ NEIGHBOURS[prototype].T)).sum(axis=-1)


def antiferromagnet(q, prototype: str, exchange: float = J, moment: float = MOMENT) -> np.ndarray:
    """meV: (g/M) z|J| √(1 − γ_q²)."""
    around = NEIGHBOURS[prototype]
    gamma = np.cos(q @ around.T).mean(axis=-1)
    return 2.0e3 / moment * len(around) * abs(exchange) * np.sqrt(np.maximum(1.0 - gamma**2, 0.0))


def phonons(q) -> tuple[np.ndarray, np.ndarray]:
    """meV (n, 3) ascending, and polarisations (n, 3, 3) as columns, of the crystal of springs."""
    around = NEIGHBOURS["fcc"]
    units = around / np.linalg.norm(around, axis=1, keepdims=True)
    stiffness = 2.0 * DEPTH * ALPHA**2 / (50.0 * AMU)
    # each spring once in each direction: ½ of both is one
    matrix = stiffness * np.einsum("qj,ja,jb->qab", 1.0 - np.cos(np.atleast_2d(q) @ around.T), units, units)
    squares, modes = np.linalg.eigh(matrix)
    return 1.0e3 * HBAR * np.sqrt(np.maximum(squares, 0.0)), modes


def opened(path: Path) -> Trajectory:
    """For reading; to be closed."""
    return Trajectory(path)
