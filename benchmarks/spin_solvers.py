"""Spin solvers side by side: order, evaluations, what they conserve, error with noise, largest timestep, cost.

    python benchmarks/spin_solvers.py [--only order energy noise timestep cost live] [--quick] [--json out.json]

order     slope of the error against the timestep: two coupled spins against their exact precession, with and without damping
energy    bcc iron, EAM and exchange within 3.4 Å, 1024 atoms, NVE at 1 fs, near the ferromagnet (each component off by 0.3 rad
          rms) and from random spins: drift of the conserved energy, change of |S|, evaluations of the field in a solve
noise     relative error of ⟨e_z⟩ of free spins in a field and of ⟨e_i·e_j⟩ in open chains against exact averages
timestep  the longest with which 250 atoms near the ferromagnet run for 10 ps, no bath, with the conserved energy within
          1 meV/atom of its start, |S| kept and every solve converged; lattice and spins, or spins alone
cost      CPU time of a step, relative to "midpoint": the shortest of several interleaved runs, which other programs disturb least
live      potentials without frozen couplings: evaluations and drift of a whole step

All in a process of one thread, about 15 minutes; --quick takes a tenth of it and shows that it works.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from common import POTENTIAL, provenance

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.ensembles import bonded, paramagnet, reduced_step, stationary_mean
from support.live import Live, live_terms
from support.solvers import EXPLICIT, SOLVERS
from support.systems import bcc, exchange, model

from spinmd.drift import drift
from spinmd.integrators.baths import SpinBath, Temperatures
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.live_midpoint import LiveMidpoint
from spinmd.integrators.splitting import Splitting
from spinmd.potentials.eam import EAM
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.units import BOHR_MAGNETON, HBAR

FROZEN = [name for name in SOLVERS if name != "live-midpoint"]
STATES = {"near": 0.3, "random": None}
LIVE = {
    "midpoint 1e-10": lambda: LiveMidpoint(tolerance=1e-10),
    "midpoint 1e-8": lambda: LiveMidpoint(tolerance=1e-8),
    "midpoint 1e-6": lambda: LiveMidpoint(tolerance=1e-6),
    **{name: SOLVERS[name] for name in EXPLICIT},
}
TIMESTEP = 1.0e-3  # ps
WARMUP = 500  # steps before measuring
KELVIN, ALPHA = 300.0, 1.0  # of the noise
ALLOWED = 1.0  # meV/atom, of the timestep's criterion
FINEST, COARSEST = 0.0625, 32.0  # fs


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def integrator_of(sequence, dt, solver) -> Splitting:
    return Splitting(sequence, dt, {"R": Drift(), "V": Kick(), "S": solver})


# order


def precession_error(name, steps) -> float:
    """Largest deviation of two coupled spins, which turn about their sum, at the end."""
    coupling, moment, end = 0.02, 2.2, 0.25
    spins = moment * np.array([[0.0, 0.0, 1.0], [math.sin(1.0), 0.0, math.cos(1.0)]])
    state = State.create(
        np.eye(3) * 20.0, [[5.0, 5.0, 5.0], [8.0, 5.0, 5.0]], ["Fe"] * 2, [55.845] * 2, pbc=[False] * 3, spins=spins
    )
    system = model(state, [Exchange(form="constant", J0=coupling, cutoff=4.0, smoothing=0.0)])
    integrator = integrator_of("S", end / steps, SOLVERS[name](tolerance=1e-13))
    aux = integrator.init(state, 0)
    for _ in range(steps):
        integrator.step(state, aux, system)
    turn = 2.0 / HBAR * coupling / moment**2 * spins.sum(axis=0) * end
    angle, axis = np.linalg.norm(turn), turn / np.linalg.norm(turn)
    exact = (
        spins * math.cos(angle)
        + np.cross(axis, spins) * math.sin(angle)
        + np.outer(spins @ axis, axis) * (1.0 - math.cos(angle))
    )
    return float(np.abs(state.spins - exact).max())


def damped_error(name, steps) -> float:
    """The same for a damped spin (α = 0.5) that turns towards a field."""
    field, end, alpha = 200.0, 0.1, 0.5
    state = State.create(np.eye(3) * 20.0, [[5.0, 5.0, 5.0]], ["Fe"], [55.845], spins=[[2.2, 0.0, 0.0]])
    system = model(state, [Zeeman(field=[0, 0, field])])
    integrator = integrator_of("S", end / steps, SOLVERS[name](tolerance=1e-13, damping=alpha))
    aux = integrator.init(state, 0)
    for _ in range(steps):
        integrator.step(state, aux, system)
    phase = 2.0 * BOHR_MAGNETON * field / HBAR * end / (1.0 + alpha**2)
    z = math.tanh(alpha * phase)
    across = math.sqrt(1.0 - z * z)
    return float(np.abs(state.spins[0] / 2.2 - [across * math.cos(phase), across * math.sin(phase), z]).max())


def measure_order(name, quick) -> dict:
    row = {}
    for key, error, steps in (("order", precession_error, 400), ("order_damped", damped_error, 100)):
        errors = [error(name, steps * n) for n in (1, 2, 4)]
        row[key] = float(np.log2(errors[0] / errors[2]) / 2.0)
    say(f"order    {name:20s} {row['order']:.2f} undamped, {row['order_damped']:.2f} damped")
    return row


# energy, evaluations, cost


def iron(cells, spins, lattice=True, seed=3):
    """State and model of bcc iron; 300 K of kinetic energy, half of which goes into the lattice's potential energy."""
    state = bcc(cells, temperature=600.0 if lattice else 0.0, seed=seed, aligned=STATES[spins])
    return state, model(state, [EAM(file=str(POTENTIAL)), exchange()])


def warmed(cells, spins, lattice, steps=WARMUP):
    """A state after ``steps`` of the midpoint solver."""
    state, system = iron(cells, spins, lattice)
    integrator = integrator_of("V S R S V" if lattice else "S", TIMESTEP, SOLVERS["midpoint"](tolerance=3e-10))
    aux = integrator.init(state, 0)
    for _ in range(steps):
        integrator.step(state, aux, system)
    return state


def measure_energy(name, start, spins, length) -> dict:
    state = start.copy()
    system = model(state, [EAM(file=str(POTENTIAL)), exchange()])
    integrator = integrator_of("V S R S V", TIMESTEP, SOLVERS[name](tolerance=3e-10))
    aux = integrator.init(state, 0)
    lengths = np.linalg.norm(state.original_order(state.spins), axis=1)
    steps, times, energies = round(length / TIMESTEP), [], []
    for step in range(steps + 1):
        if step % 10 == 0:
            times.append(step * TIMESTEP)
            energies.append(1e3 * integrator.conserved(state, aux, system.evaluate(Need.ENERGY)) / state.natoms)
        if step < steps:
            integrator.step(state, aux, system)
    slope, error = drift(times, energies)
    change = float(np.abs(np.linalg.norm(state.original_order(state.spins), axis=1) / lengths - 1.0).max())
    solver = integrator.spin_solver
    row = {
        "evaluations": solver.evaluations / solver.solves,
        "drift": slope,
        "drift_error": error,
        "length_change": change,
    }
    say(
        f"energy   {name:20s} {spins:7s} {row['evaluations']:.2f} evaluations a solve, {slope:+.1e} ± {error:.0e} "
        f"meV/atom/ps, |S| changes by {change:.0e}"
    )
    return row


def measure_cost(names, cells, steps, rounds) -> dict:
    """CPU seconds of a step with every solver, relative to the first; near the ferromagnet, lattice and spins."""
    start, runs = warmed(cells, "near", True), {}
    for name in names:
        state = start.copy()
        system = model(state, [EAM(file=str(POTENTIAL)), exchange()])
        integrator = integrator_of("V S R S V", TIMESTEP, SOLVERS[name](tolerance=3e-10))
        runs[name] = (state, integrator.init(state, 0), system, integrator, [])
    for _ in range(rounds):
        for state, aux, system, integrator, seconds in runs.values():
            begin = time.process_time()
            for _ in range(steps):
                integrator.step(state, aux, system)
            seconds.append(time.process_time() - begin)
    unit = min(runs[names[0]][-1])
    result = {name: min(run[-1]) / unit for name, run in runs.items()}
    say("cost     " + ", ".join(f"{name} {value:.2f}" for name, value in result.items()))
    return result


# noise


def measure_noise(name, quick) -> dict:
    """(⟨…⟩ − exact)/exact/x at several x = α/(1 + α²) (g/ħ) k_B T h/|S|, with standard errors."""
    row, count = {}, 1000 if quick else 2000 if name == "suzuki-trotter" else 12000  # the sweep is serial
    for key, make in (
        ("field", lambda: paramagnet(count, KELVIN, 2.0)),
        ("chain", lambda: bonded(count // 4, 4, KELVIN, 2.0)),
    ):
        for x in (0.025, 0.05):
            case = make()
            bath = SpinBath(ALPHA, Temperatures(KELVIN))
            error, uncertainty = stationary_mean(
                case, SOLVERS[name](tolerance=1e-7, bath=bath), reduced_step(x, KELVIN, ALPHA),
                steps=60 if quick else 600, skip=int(3.0 / x),
            )  # fmt: skip
            scale = case[3] * x
            row[f"{key} {x:g}"] = (error / scale, uncertainty / scale)
    say(f"noise    {name:20s} " + "  ".join(f"{key}: {c:+.2f} ± {d:.2f}" for key, (c, d) in row.items()))
    return row


# timestep


def survives(name, start, dt, length, lattice) -> bool:
    """Whether a run of ``length`` ps meets the criterion of the module's docstring. ``name`` None: spins stand still."""
    state = start.copy()
    system = model(state, [EAM(file=str(POTENTIAL)), exchange()])
    if name is None:
        integrator = integrator_of("V R V", dt, None)
    else:
        integrator = integrator_of("V S R S V" if lattice else "S", dt, SOLVERS[name](tolerance=3e-10))
    aux = integrator.init(state, 0)
    lengths = np.linalg.norm(state.original_order(state.spins), axis=1)
    first = None
    for step in range(round(length / dt) + 1):
        if step % 4 == 0:
            energy = 1e3 * integrator.conserved(state, aux, system.evaluate(Need.ENERGY)) / state.natoms
            first = energy if first is None else first
            if not abs(energy - first) < ALLOWED:
                return False
        if not integrator.step(state, aux, system).ok:
            return False
    return bool(np.abs(np.linalg.norm(state.original_order(state.spins), axis=1) / lengths - 1.0).max() < 1e-9)


def longest_timestep(name, start, length, lattice, halvings) -> float:
    """fs, by bisection of the logarithm between ``FINEST`` (0 if that is too long) and ``COARSEST``."""
    low, high = FINEST, COARSEST
    if survives(name, start, 1e-3 * high, length, lattice):
        return high
    for _ in range(halvings):
        middle = math.sqrt(low * high)
        if survives(name, start, 1e-3 * middle, length, lattice):
            low = middle
        else:
            high = middle
    return low if low > FINEST else 0.0


def measure_timesteps(names, quick) -> dict:
    length, halvings = (0.2, 3) if quick else (10.0, 6)
    result: dict = {name: {} for name in names}
    for key, spins, lattice in (
        ("rigid near", "near", False),
        ("rigid random", "random", False),
        ("coupled near", "near", True),
    ):
        start = warmed(5, spins, lattice)
        if lattice:
            limit = longest_timestep(None, start, length, lattice, halvings)
            result["lattice alone"] = {key: limit}
            say(f"timestep lattice alone: {limit:.2f} fs")
        for name in names:
            begin = time.perf_counter()
            result[name][key] = longest_timestep(name, start, length, lattice, halvings)
            say(f"timestep {name:20s} {key:13s} {result[name][key]:6.2f} fs   ({time.perf_counter() - begin:.0f} s)")
    return result


# potentials without frozen couplings


def measure_live(name, make, sequence, spins, cells, length) -> dict:
    """Evaluations of fields and forces in a step and drift; terms that show no couplings, as a neural potential's."""
    lattice = "R" in sequence
    state = bcc(cells, temperature=600.0 if lattice else 0.0, seed=3, aligned=STATES[spins])
    terms = live_terms() if name in LIVE else [t.term if isinstance(t, Live) else t for t in live_terms()[:3]]
    system = model(state, terms)
    integrator = integrator_of(sequence, TIMESTEP, make())
    aux = integrator.init(state, 0)
    system.attach(aux)
    for _ in range(WARMUP):
        integrator.step(state, aux, system)
    steps, before = round(length / TIMESTEP), integrator.field_evaluations
    times, energies = [], []
    for step in range(steps + 1):
        if step % 5 == 0:
            evaluation = system.evaluate(Need.ENERGY | Need.FORCE)
            times.append(step * TIMESTEP)
            energies.append(1e3 * integrator.conserved(state, aux, evaluation) / state.natoms)
        if step < steps:
            integrator.step(state, aux, system)
    slope, error = drift(times, energies)
    row = {
        "solver": name, "splitting": sequence, "spins": spins, "drift": slope, "drift_error": error,
        "field_evaluations_per_step": (integrator.field_evaluations - before) / steps,
        "force_evaluations_per_step": {"S": 0, "R V S V R": 2}.get(sequence, 1),
    }  # fmt: skip
    say(
        f"live     {name:20s} {sequence:10s} {spins:7s} fields {row['field_evaluations_per_step']:5.2f} "
        f"forces {row['force_evaluations_per_step']}  drift {slope:+.1e} ± {error:.0e} meV/atom/ps"
    )
    return row


def table(rows: dict) -> str:
    """The measured numbers of every solver, a column each."""

    def number(value) -> str:
        if isinstance(value, (tuple, list)):
            return f"{value[0]:+.2f}({value[1]:.2f})"
        return f"{value:.2f}" if 0.01 <= abs(value) < 100.0 or value == 0.0 else f"{value:.0e}"

    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [" | ".join(["solver", *keys])]
    lines += [" | ".join([name, *(number(row[k]) if k in row else "-" for k in keys)]) for name, row in rows.items()]
    return "\n".join(lines)


def main() -> None:
    sections = ("order", "energy", "noise", "timestep", "cost", "live")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    quick = options.quick
    rows: dict = {name: {} for name in FROZEN}
    live = []
    if "order" in options.only:
        for name in FROZEN:
            rows[name] |= measure_order(name, quick)
    if "energy" in options.only:
        for spins in STATES:
            start = warmed(3 if quick else 8, spins, True)
            for name in FROZEN:
                measured = measure_energy(name, start, spins, 0.2 if quick else 4.0)
                rows[name] |= {f"{key} {spins}": value for key, value in measured.items()}
    if "noise" in options.only:
        for name in FROZEN:
            rows[name] |= measure_noise(name, quick)
    if "cost" in options.only:
        for name, value in measure_cost(FROZEN, 3 if quick else 8, 10 if quick else 25, 12).items():
            rows[name]["cost"] = value
    if "timestep" in options.only:
        for name, measured in measure_timesteps(FROZEN, quick).items():
            rows.setdefault(name, {}).update({f"fs {key}": value for key, value in measured.items()})
    if "live" in options.only:
        cells, length = (3, 0.2) if quick else (5, 2.0)
        for spins in STATES:
            for name, make in LIVE.items():
                for sequence in ("S", "V R S R V", "V S R S V"):
                    live.append(measure_live(name, make, sequence, spins, cells, length))
    print(table(rows))
    if options.json:
        Path(options.json).write_text(
            json.dumps(
                {"benchmark": "spin_solvers", **provenance(), "quick": quick, "solvers": rows, "live": live}, indent=1
            ),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
