"""Short runs of the engine for the tests of analyses: decks as tables, files in a folder."""

from pathlib import Path

import spinmd

J = 0.010  # eV


def magnet(temperature, supercell=(6, 6, 6), prototype="sc", J=J, field=None, moment=2.0, steps=500, **more) -> dict:
    """Tables of Monte Carlo of a magnet with exchange between nearest neighbours, or without (J = None)."""
    terms = []
    if J is not None:
        terms.append({"kind": "exchange", "parameters": {"form": "shells", "J": [J]}})
    if field is not None:
        terms.append({"kind": "zeeman", "parameters": {"field": list(field)}})
    return {
        "structure": {
            "prototype": prototype, "element": "Fe", "lattice_constant": 3.0, "supercell": list(supercell),
            "spins": {"moments": {"Fe": moment}, "texture": "random"}, **more.pop("structure", {}),
        },
        "potential": terms,
        "integrator": {"ensemble": "monte-carlo", "lattice": "frozen", "temperature": temperature, **more.pop("integrator", {})},
        "run": {"steps": steps, "seed": 7, "threads": 1, **more.pop("run", {})},
        "output": {"thermo": 1, "trajectory": 0, "checkpoint": 0, **more.pop("output", {})},
    }  # fmt: skip


def crystal(temperature, supercell=(3, 3, 3), ensemble="langevin", steps=500, **more) -> dict:
    """Tables of a bcc crystal of Morse atoms, without spins, in a bath."""
    bath = {"temperature": temperature, "lattice_friction": 20.0} if ensemble == "langevin" else {}
    return {
        "structure": {
            "prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665, "supercell": list(supercell),
            "temperature": temperature, **more.pop("structure", {}),
        },
        "potential": [{"kind": "morse", "parameters": {"depth": 0.4174, "alpha": 1.3885, "r0": 2.845, "cutoff": 4.6}}],
        "integrator": {"ensemble": ensemble, "timestep": 0.002, **bath, **more.pop("integrator", {})},
        "run": {"steps": steps, "seed": 7, "threads": 1, **more.pop("run", {})},
        "output": {"thermo": 5, "trajectory": 0, "checkpoint": 0, **more.pop("output", {})},
    }  # fmt: skip


def run(deck: dict, file: Path) -> Path:
    """Run a deck on one thread into ``file``."""
    tables = {**deck, "output": {**deck["output"], "file": str(file)}}
    with spinmd.build(tables, threads=1, force=True) as simulation:
        simulation.run()
    return file
