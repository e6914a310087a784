"""Comparisons of device and host for the tests in tests/device."""

import numpy as np

import spinmd
from spinmd.protocols import Need


def both(deck: dict):
    """A deck's Simulation on the host, and its state and model on the device in the same order."""
    from spinmd.cuda.model import DeviceModel
    from spinmd.cuda.state import DeviceState
    from spinmd.potentials.cuda import device_term

    simulation = spinmd.build(spinmd.load_deck(deck), threads=1, output=False)
    simulation.model.update_lists()
    state = DeviceState(simulation.state)
    return simulation, state, DeviceModel(state, simulation.model, device_term)


def assert_same_evaluation(deck: dict, tolerance: float = 1e-12) -> None:
    """Energies by term, forces, fields and virial of device and host agree, relative to the largest number."""
    simulation, _, model = both(deck)
    provides = [term.provides for term in simulation.model.terms]
    need = Need.ENERGY | Need.FORCE | Need.FIELD
    if all(Need.VIRIAL in one for one in provides):
        need |= Need.VIRIAL
    expected = simulation.model.evaluate(need)
    model.evaluate(need)
    pairs = {
        "energies": (model.total_energies(), expected.energies),
        "forces": (model.forces.host(), expected.forces),
        "fields": (model.fields.host(), expected.fields),
    }
    if Need.VIRIAL in need:
        pairs["virial"] = (model.virials.host().sum(axis=0).reshape(3, 3), expected.virial)
    for name, (mine, theirs) in pairs.items():
        scale = max(np.abs(theirs).max(), 1e-3)
        assert np.abs(mine - theirs).max() <= tolerance * scale, (name, np.abs(mine - theirs).max(), scale)


def run_both(deck: dict, steps: int, tmp_path) -> tuple[dict, dict]:
    """Thermo table and frames of a run on the host and of one on the device; dictionaries of arrays."""
    results = []
    for device in ("cpu", "cuda"):
        path = tmp_path / f"{device}.h5"
        full = {**deck, "run": {**deck.get("run", {}), "steps": steps}}
        full["output"] = {
            "thermo": 1,
            "trajectory": max(steps // 2, 1),
            "checkpoint": 0,
            **deck.get("output", {}),
            "file": str(path),
        }
        with spinmd.build(spinmd.load_deck(full), device=device, threads=1, force=True) as simulation:
            simulation.run()
            values = {name: np.asarray(column) for name, column in simulation.thermo.items()}
        with spinmd.Trajectory(path) as trajectory:
            values |= {name: trajectory.array(name)[...] for name in trajectory.quantities}
        results.append(values)
    return results[0], results[1]


def small_card(monkeypatch) -> None:
    """torch sees a GPU with 1 GiB free of 80."""
    import torch

    answers = {
        "is_available": True, "mem_get_info": (2**30, 80 * 2**30), "memory_reserved": 0, "memory_allocated": 0, "empty_cache": None,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
