"""Spin solvers side by side: evaluations of the field in a step, and drift of the energy.

    python benchmarks/spin_solvers.py [--cells 5] [--time 2] [--json out.json]

bcc iron, Morse lattice at 300 K, exchange, biquadratic exchange and a term in |S|, at 1 fs, near the ferromagnet (each
component off by 0.3 rad rms) and from random spins, after half a picosecond. "live": the magnetic terms show no couplings, as a
neural potential does. First on a rigid lattice, where all error is the solver's, then coupled. Prints evaluations of the field
and of the forces in a step, the least-squares slope of the conserved energy with its block standard error
(meV/atom/ps), and the fluctuation about it.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from common import provenance

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support.live import Live, live_terms
from support.systems import bcc, model

from spinmd.drift import drift
from spinmd.integrators.depondt_mertens import DepondtMertens
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.heun import Heun
from spinmd.integrators.live_midpoint import LiveMidpoint
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.splitting import Splitting
from spinmd.integrators.suzuki_trotter import SuzukiTrotter
from spinmd.protocols import Need

STATES = {"near": 0.3, "random": None}
FROZEN = {
    "midpoint 3e-10": lambda: Midpoint(),
    "spherical-midpoint 3e-10": lambda: Midpoint(spherical=True),
    "suzuki-trotter": SuzukiTrotter,
    "depondt-mertens": DepondtMertens,
    "heun": Heun,
}
LIVE = {
    "midpoint 1e-10": lambda: LiveMidpoint(tolerance=1e-10),
    "midpoint 1e-8": lambda: LiveMidpoint(tolerance=1e-8),
    "midpoint 1e-6": lambda: LiveMidpoint(tolerance=1e-6),
    "depondt-mertens": DepondtMertens,
    "heun": Heun,
}
WARMUP, SAMPLE = 500, 5  # steps before measuring; every so many steps the energy is taken
TIMESTEP = 1.0e-3  # ps


def measure(name, make, live, sequence, state_name, cells, length) -> dict:
    """One run: evaluations per step, drift and fluctuation."""
    lattice = "R" in sequence
    state = bcc(cells, temperature=600.0 if lattice else 0.0, seed=3, aligned=STATES[state_name])
    terms = live_terms()
    if not live:  # the term in |S| turns no spin and has no couplings
        terms = [term.term if isinstance(term, Live) else term for term in terms[:3]]
    system = model(state, terms)
    integrator = Splitting(sequence, TIMESTEP, {"R": Drift(), "V": Kick(), "S": make()})
    aux = integrator.init(state, 0)
    system.attach(aux)
    for _ in range(WARMUP):
        integrator.step(state, aux, system)
    steps, before = round(length / TIMESTEP), integrator.field_evaluations
    times, energies, seconds = [], [], 0.0
    for step in range(steps + 1):
        if step % SAMPLE == 0:
            evaluation = system.evaluate(Need.ENERGY | Need.FORCE)
            times.append(step * TIMESTEP)
            energies.append(1000.0 * integrator.conserved(state, aux, evaluation) / state.natoms)
        if step < steps:
            begin = time.perf_counter()
            integrator.step(state, aux, system)
            seconds += time.perf_counter() - begin
    slope, error = drift(times, energies)
    late = np.array(times) >= min(1.0, 0.5 * length)
    x, y = np.array(times)[late], np.array(energies)[late]
    row = {
        "solver": name, "terms": "live" if live else "frozen", "splitting": sequence, "spins": state_name,
        "field_evaluations_per_step": (integrator.field_evaluations - before) / steps,
        "force_evaluations_per_step": {"S": 0, "R V S V R": 2}.get(sequence, 1),
        "drift_mev_per_atom_per_ps": slope, "drift_error": error,
        "fluctuation_mev_per_atom": float((y - np.polyval(np.polyfit(x, y, 1), x)).std()),
        "us_per_atom_step": 1.0e6 * seconds / steps / state.natoms,
    }  # fmt: skip
    print(
        f"{row['terms']:6s} {name:25s} {sequence:10s} {state_name:7s} fields {row['field_evaluations_per_step']:5.2f} "
        f"forces {row['force_evaluations_per_step']}  drift {slope:+.1e} ± {error:.0e} meV/atom/ps  "
        f"fluctuation {row['fluctuation_mev_per_atom']:.1e}  {row['us_per_atom_step']:.2f} µs per atom-step",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--time", type=float, default=2.0, help="ps")
    parser.add_argument("--json")
    options = parser.parse_args()
    results = []
    for state in STATES:
        for name, make in FROZEN.items():
            results.append(measure(name, make, False, "S", state, options.cells, options.time))
        for name, make in LIVE.items():
            results.append(measure(name, make, True, "S", state, options.cells, options.time))
    for state in STATES:
        for name, make in LIVE.items():
            for sequence in ("V R S R V", "V S R S V"):
                if name == "midpoint 1e-10":
                    continue
                results.append(measure(name, make, True, sequence, state, options.cells, options.time))
    text = json.dumps(
        {
            "benchmark": "spin_solvers", **provenance(), "atoms": 2 * options.cells**3, "time_ps": options.time,
            "timestep_ps": TIMESTEP, "results": results,
        },
        indent=1,
    )  # fmt: skip
    print(text)
    if options.json:
        Path(options.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
