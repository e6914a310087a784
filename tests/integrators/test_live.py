"""Spin solvers with live potentials: how many evaluations a step costs, and what the trajectory keeps all the same."""

import numpy as np
import pytest
from support.live import Live, live_terms
from support.systems import bcc, exchange, model, morse

from spinmd.integrators.build import build_integrator
from spinmd.integrators.depondt_mertens import DepondtMertens
from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.heun import Heun
from spinmd.integrators.live_midpoint import DIFFERENCES, HISTORY, LiveMidpoint, coefficients
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.integrators.splitting import Splitting
from spinmd.potentials.anisotropy import UniaxialAnisotropy
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.protocols import Aux, Need

SOLVERS = {
    "midpoint": lambda: LiveMidpoint(tolerance=1e-8),
    "depondt-mertens": DepondtMertens,
    "heun": Heun,
}


def advance(state, terms, solver, steps, sequence="V S R S V", dt=1e-3):
    """The model, the integrator and what it keeps after ``steps``; every step must converge."""
    system = model(state, terms)
    integrator = Splitting(sequence, dt, {"R": Drift(), "V": Kick(), "S": solver})
    aux = integrator.init(state, 0)
    for _ in range(steps):
        assert integrator.step(state, aux, system).ok
    return system, integrator, aux


@pytest.mark.parametrize("aligned", [0.15, None])
@pytest.mark.parametrize(
    "tolerance, sequence, most",
    [(1e-8, "V S R S V", 4.3), (1e-6, "V S R S V", 3.1), (1e-8, "V R S R V", 3.2), (1e-6, "V R S R V", 2.2)],
)
def test_field_evaluations_of_a_step(aligned, tolerance, sequence, most):
    """bcc iron, lattice and spins in motion, 1 fs, fields not linear in the spins; one evaluation of forces comes on top."""
    state, terms = bcc(4, seed=3, aligned=aligned, temperature=600.0), live_terms()
    system, integrator, aux = advance(state, terms, LiveMidpoint(tolerance=tolerance), 60, sequence)
    before, calls = integrator.field_evaluations, terms[1].calls
    for _ in range(60):
        assert integrator.step(state, aux, system).ok
    fields = (integrator.field_evaluations - before) / 60
    assert fields <= most
    assert (terms[1].calls - calls) / 60 == pytest.approx(fields + 1.0)


def test_solutions_are_as_accurate_as_the_tolerance_says():
    """Solves from the same state and history against one of 1e-13; the error of S is about twice that of the midpoint."""
    state, terms = bcc(4, seed=3, temperature=600.0), live_terms()
    system, integrator, aux = advance(state, terms, LiveMidpoint(tolerance=1e-9), 60)

    def solved(tolerance):
        copy = state.copy()
        memory = Aux(
            {key: value.copy() for key, value in aux.per_atom.items()},
            {key: value.copy() for key, value in aux.globals.items()},
        )
        solver = LiveMidpoint(tolerance=tolerance)
        solver.allocate(copy)
        assert solver.flow(copy, memory, model(copy, live_terms()), 5e-4).ok
        return copy.spins / 2.2

    exact = solved(1e-13)
    for tolerance in (1e-5, 1e-6, 1e-7, 1e-8):
        error = np.sqrt(((solved(tolerance) - exact) ** 2).sum(axis=1).mean())
        assert error < 4.0 * tolerance


def test_prediction_is_exact_for_a_sum_of_few_frequencies():
    """Fields of two frequencies obey a recurrence of four terms: predicted to rounding, where a polynomial is far away."""
    rng = np.random.default_rng(0)
    amplitudes = rng.normal(size=(4, 100, 3))

    def field(k):
        return sum(
            a * np.cos(w * k) + b * np.sin(w * k)
            for w, a, b in zip((0.3, 0.55), amplitudes[:2], amplitudes[2:], strict=True)
        )

    gram = np.zeros((HISTORY + 1, HISTORY + 1))
    for k in range(HISTORY, HISTORY + 4):
        past = np.stack([field(k - 1 - j) for j in range(HISTORY)])
        basis = np.einsum("jl,lia->jia", DIFFERENCES, past)
        rows = np.concatenate([basis, [field(k) - basis.sum(axis=0)]]).reshape(HISTORY + 1, -1)
        gram += rows @ rows.T
    k = HISTORY + 5
    past = np.stack([field(k - 1 - j) for j in range(HISTORY)])
    weights = (1.0 + coefficients(gram)) @ DIFFERENCES
    assert np.abs(np.einsum("l,lia->ia", weights, past) - field(k)).max() < 1e-6
    assert np.abs(np.einsum("l,lia->ia", DIFFERENCES.sum(axis=0), past) - field(k)).max() > 1e-4


@pytest.mark.parametrize("kind", ["midpoint", "depondt-mertens", "heun"])
def test_live_and_frozen_terms_give_one_trajectory(kind):
    """The same energy, once with couplings, once in part, once without: the same spins and velocities.

    Depondt-Mertens turns spins about the whole field where it is frozen and about its normal part where it is live: the
    same to the order of the method.
    """
    biquadratic = {"form": "bethe-slater", "a": 0.006, "b": 0.03, "d": 1.48, "cutoff": 3.4}
    finals = []
    for wrap in ((), ("exchange",), ("exchange", "biquadratic", "anisotropy")):
        terms = [exchange(), Biquadratic(**biquadratic), UniaxialAnisotropy(K=0.002, axis=[0, 1, 1])]
        terms = [Live(term) if term.name in wrap else term for term in terms]
        spherical = Midpoint(tolerance=1e-12, spherical=True)
        solver = {"midpoint": spherical, "depondt-mertens": DepondtMertens(), "heun": Heun()}[kind]
        state = bcc(3, seed=4)
        advance(state, [morse(), *terms], solver, 30)
        finals.append(state)
    np.testing.assert_allclose(finals[1].spins, finals[2].spins, atol=1e-9)
    close = 1e-2 if kind == "depondt-mertens" else 1e-9
    np.testing.assert_allclose(finals[0].spins, finals[1].spins, atol=close)
    np.testing.assert_allclose(finals[0].velocities, finals[1].velocities, atol=close)


@pytest.mark.parametrize("kind", [DepondtMertens, Heun, lambda: LiveMidpoint(tolerance=1e-12)])
@pytest.mark.parametrize("sequence", ["V S R S V", "V R S R V"])
def test_coupled_dynamics_with_live_potentials_has_order_two(kind, sequence):
    """Positions and spins against a fine step."""
    ends = {}
    for steps in (8, 16, 32, 256):
        state = bcc(2, seed=4)
        advance(state, live_terms(), kind(), steps, sequence, 0.008 / steps)
        ends[steps] = state
    for key in ("positions", "spins"):
        errors = [np.abs(getattr(ends[n], key) - getattr(ends[256], key)).max() for n in (8, 16, 32)]
        slope = -np.polyfit(np.log([8, 16, 32]), np.log(errors), 1)[0]
        assert slope == pytest.approx(2.0, abs=0.2), key


@pytest.mark.parametrize("kind", [DepondtMertens, Heun])
@pytest.mark.parametrize("sequence, most", [("V S R S V", 3), ("V R S R V", 2), ("R V S V R", 1), ("S", 2)])
def test_explicit_solvers_take_the_first_field_from_the_kick(kind, sequence, most):
    """Two evaluations a solve, one less where the forces just before came with the field."""
    state, terms = bcc(2, seed=3), live_terms()
    system, integrator, aux = advance(state, terms, kind(), 2, sequence)
    before, calls = integrator.field_evaluations, terms[1].field_calls
    for _ in range(10):
        integrator.step(state, aux, system)
    assert integrator.field_evaluations - before == 10 * most
    assert terms[1].field_calls - calls == 10 * most


@pytest.mark.parametrize("name", SOLVERS)
def test_a_restart_with_the_arrays_of_aux_is_bitwise(name):
    """A new solver goes on with state and Aux as if nothing had happened (lists are those of the run, as in a checkpoint)."""
    ends = []
    for parts in ((30,), (17, 13)):
        state, memory = bcc(2, seed=5), None
        system = model(state, live_terms())
        for steps in parts:
            integrator = Splitting("V S R S V", 1e-3, {"R": Drift(), "V": Kick(), "S": SOLVERS[name]()})
            aux = integrator.init(state, 0)
            if memory is not None:
                aux.per_atom, aux.globals = memory.per_atom, memory.globals
            for _ in range(steps):
                integrator.step(state, aux, system)
            memory = aux
        ends.append(state)
    np.testing.assert_array_equal(ends[0].spins, ends[1].spins)
    np.testing.assert_array_equal(ends[0].positions, ends[1].positions)


def test_fields_asked_by_a_reporter_do_not_change_the_trajectory():
    ends = []
    for asks in (False, True):
        state = bcc(2, seed=6)
        system = model(state, live_terms())
        integrator = Splitting("V S R S V", 1e-3, {"R": Drift(), "V": Kick(), "S": DepondtMertens()})
        aux = integrator.init(state, 0)
        for _ in range(10):
            if asks:
                system.evaluate(Need.ALL)
            integrator.step(state, aux, system)
        ends.append(state.spins)
    np.testing.assert_array_equal(*ends)


def test_non_magnetic_atoms_stay_without_spin():
    state = bcc(2, seed=7)
    state.spins[3] = 0.0
    state.moments[3] = 0.0
    for solver in (LiveMidpoint(damping=0.1), DepondtMertens(damping=0.1), Heun(damping=0.1)):
        advance(state, live_terms(), solver, 5)
        assert (state.spins[3] == 0.0).all()
        assert np.isfinite(state.spins).all()


def test_too_few_iterations_are_reported():
    state = bcc(2, seed=8)
    system = model(state, live_terms())
    integrator = Splitting("S", 1e-3, {"S": LiveMidpoint(tolerance=1e-12, iterations=2)})
    status = integrator.step(state, integrator.init(state, 0), system)
    assert not status.ok and "not solved after 2 iterations" in status.message


@pytest.mark.parametrize(
    "kind, expected", [("midpoint", LiveMidpoint), ("depondt-mertens", DepondtMertens), ("heun", Heun)]
)
def test_decks_choose_solvers_for_live_potentials(kind, expected):
    state = bcc(2, seed=9)
    system = model(state, live_terms())
    integrator = build_integrator(IntegratorParameters(timestep=1e-3, spin_solver=kind), state, system)
    assert isinstance(integrator.spin_solver, expected)
    assert integrator.step(state, integrator.init(state, 0), system).ok
