"""The classical prior: definition, rows of the fit, fit, and inference."""

import json
from dataclasses import dataclass

import numba
import numpy as np
import pytest
from support.prior_term import PriorTerm

from spinmd.errors import InputError
from spinmd.model import Model
from spinmd.potentials.deepspin.prior import DEFAULTS, Prior, radial_functions
from spinmd.potentials.deepspin.prior_design import core, design, find_pairs, predict
from spinmd.potentials.deepspin.prior_fit import Weights, errors_of, fit_prior, training_settings
from spinmd.potentials.deepspin.prior_term import PriorPart
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.testing import check_potential, example_states

TRICLINIC = np.array([[5.2, 0.0, 0.0], [0.9, 4.8, 0.0], [-0.6, 0.5, 5.5]])
KINDS = {
    "one element": (["Fe"], [True], {}),
    "two magnetic": (["Fe", "Co"], [True, True], {"many_body_functions": 4, "pair_functions": 6}),
    "one magnetic of two": (["O", "Fe"], [False, True], {"many_body_functions": 5, "pair_functions": 9}),
    "no L2": (["Fe", "O"], [True, False], {"many_body_functions": 3, "many_body_l": 1}),
    "pairs only": (["O", "Fe"], [False, True], {"many_body": False, "terms": ["1", "c", "n", "c2", "nn"]}),
    "not magnetic": (["Fe"], [False], {"many_body_functions": 4}),
    "more pair functions": (["Fe"], [True], {"many_body_functions": 2, "many_body_l": 0, "pair_functions": 17}),
}


def settings_of(elements, magnetic, **overrides):
    n = len(elements)
    numbers = {"Fe": 26, "Co": 27, "O": 8}
    return {
        "elements": elements, "magnetic": magnetic, "reference_moment": [2.0 + 0.3 * k for k in range(n)],
        "atomic_numbers": [numbers[e] for e in elements],
        "shortest": [[2.0 + 0.07 * (a + b) for b in range(n)] for a in range(n)], "cutoff": 4.2, **overrides,
    }  # fmt: skip


def random_prior(elements, magnetic, seed=1, size=1e-3, **overrides):
    prior = Prior(settings_of(elements, magnetic, **overrides))
    return prior.with_coefficients(np.random.default_rng(seed).normal(scale=size, size=prior.count))


def random_frame(magnetic, natoms=8, seed=2, box=TRICLINIC, closest=1.75):
    """Atoms no closer than ``closest``: some within r1, where the core begins; spins of other than the reference lengths."""
    rng = np.random.default_rng(seed)
    types = np.arange(natoms) % len(magnetic)
    coord = np.zeros((0, 3))
    while len(coord) < natoms:
        trial = np.concatenate([coord, rng.random((1, 3)) @ box])
        _, _, d = find_pairs(trial, box, closest)
        if len(d) == 0:
            coord = trial
    spin = rng.normal(scale=1.2, size=(natoms, 3)) * np.array(magnetic)[types][:, None]
    return types, box, coord, spin


def state_of(prior, types, box, coord, spin):
    elements = [prior.elements[t] for t in types]
    moments = (prior.reference_moment * prior.magnetic)[types]
    return State.create(box, coord, elements, np.full(len(types), 55.0), spins=spin, moments=moments)


def evaluate(prior, frame, need=Need.ALL):
    return Model(state_of(prior, *frame), [PriorTerm(prior)], threads=1).evaluate(need)


def deviation(given, expected):
    return np.abs(np.asarray(given) - np.asarray(expected)).max() / max(np.abs(expected).max(), 1e-12)


# ------------------------------------------------------------------ definition


def test_basis_is_smooth_and_flat_where_there_was_no_data():
    r = np.concatenate([np.linspace(1.0, 4.3, 400), 4.2 - np.geomspace(1e-6, 1e-2, 5)])
    value, slope, nearby, unused = (np.empty(9) for _ in range(4))
    for distance in r:
        radial_functions(distance, 2.2, 0.5, 4.2, value, slope)
        radial_functions(distance + 1e-6, 2.2, 0.5, 4.2, nearby, unused)
        radial_functions(distance - 1e-6, 2.2, 0.5, 4.2, unused, np.empty(9))
        assert np.abs((nearby - unused) / 2e-6 - slope).max() < 1e-7
        if distance > 4.2:
            assert not value.any() and not slope.any()
        if distance < 1.7:  # φ_k = T_k(−1) (1 − (r/cutoff)²)³
            assert np.allclose(value, (-1.0) ** np.arange(9) * (1 - (distance / 4.2) ** 2) ** 3)


def test_state_survives_json():
    prior = random_prior(["O", "Fe"], [False, True])
    again = Prior(json.loads(json.dumps(prior.settings)), dict(prior.arrays))
    assert again.settings == prior.settings and np.array_equal(again.coefficients, prior.coefficients)
    assert again.count == prior.count == sum(block.size for block in prior.blocks)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cutoff": 1.5}, "cutoff"),
        ({"many_body_functions": 9}, "many_body_functions"),
        ({"many_body_l": 3}, "many_body_l"),
        ({"terms": ["1", "d"]}, "terms"),
        ({"magnetic": [True, False]}, "magnetic"),
        ({"shortest": [[1.0, 2.0]]}, "shortest"),
        ({"core_width": 3.0}, "core_width"),
        ({"reference_moment": [0.0]}, "reference_moment"),
        ({"colour": 1}, "colour"),
        ({"many_body": 1}, "many_body"),
    ],
)
def test_wrong_settings_are_named(change, word):
    with pytest.raises(InputError) as error:
        Prior({**settings_of(["Fe"], [True]), **change})
    assert word in str(error.value)


def test_wrong_coefficients_are_refused():
    prior = Prior(settings_of(["Fe"], [True]))
    with pytest.raises(InputError, match="shape"):
        prior.with_coefficients(np.zeros(prior.count - 1))
    with pytest.raises(InputError, match="not finite"):
        prior.with_coefficients(np.full(prior.count, np.nan))


# ------------------------------------------------------------------ rows and inference against the definition


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_inference_against_the_definition(kind):
    dense = pytest.importorskip("support.prior_dense")
    elements, magnetic, overrides = KINDS[kind]
    for strength in (True, False):  # without the core, which outweighs everything else
        prior = random_prior(elements, magnetic, core=strength, **overrides)
        frame = random_frame(magnetic)
        energy, forces, fields, virial = dense.evaluate(prior, *frame)
        rows = design(prior, *frame, virial=True)
        core_energy, core_forces, core_virial = core(prior, *frame[:3])
        assert (core_energy > 0.01) == strength
        found = predict(prior, rows)
        assert found[0] + core_energy == pytest.approx(energy, rel=1e-11)
        assert deviation(found[1] + core_forces, forces) < 1e-9
        assert deviation((prior.coefficients @ rows.virial).reshape(3, 3) + core_virial, virial) < 1e-9
        result = evaluate(prior, frame)
        assert result.energy == pytest.approx(energy, rel=1e-11)
        assert deviation(result.forces, forces) < 1e-9
        assert deviation(result.virial, virial) < 1e-9
        if any(magnetic):
            assert deviation(found[2], fields) < 1e-9
            assert deviation(result.fields, fields) < 1e-9
        else:
            assert not result.fields.any()


@pytest.mark.parametrize("elements", [("Fe", "Co"), ("Co", "Fe")])
def test_conformance(elements):
    prior = random_prior(["Fe", "Co"], [True, True], many_body_functions=5, pair_functions=7)
    check_potential(PriorTerm(prior), elements=elements)


def test_conformance_of_one_element():
    check_potential(PriorTerm(random_prior(["Fe"], [True])), elements=("Fe", "Fe"))


def test_atoms_that_see_their_own_images():
    prior = random_prior(["Fe"], [True], cutoff=4.9)
    box = np.array([[2.4, 0.0, 0.0], [0.3, 2.5, 0.0], [0.2, -0.4, 2.3]])
    spin = np.array([[0.3, -1.0, 1.7]])
    frame = np.zeros(1, dtype=int), box, np.array([[0.1, 0.2, 0.3]]), spin
    one = evaluate(prior, frame)
    shifts = np.array([[a, b, c] for a in range(2) for b in range(2) for c in range(2)]) @ box
    eight = evaluate(prior, (np.zeros(8, dtype=int), 2.0 * box, 0.1 + shifts, np.repeat(spin, 8, axis=0)))
    assert eight.energy == pytest.approx(8.0 * one.energy, rel=1e-12)
    assert deviation(eight.fields, np.repeat(one.fields, 8, axis=0)) < 1e-11
    assert deviation(eight.virial, 8.0 * one.virial) < 1e-11


def test_less_is_computed_alone_and_again():
    """FIELD alone at fixed positions uses what it kept; it must agree with everything computed afresh, and so after a move."""
    prior = random_prior(["Fe", "O"], [True, False], many_body_functions=4)
    types, box, coord, spin = random_frame([True, False])
    state = state_of(prior, types, box, coord, spin)
    model = Model(state, [PriorTerm(prior)], threads=1)
    rng = np.random.default_rng(5)
    model.evaluate(Need.FIELD)
    for step in range(4):
        if step % 2:
            state.positions += rng.normal(scale=0.02, size=coord.shape)
            model.moved(positions=True)
        state.spins[types == 0] += rng.normal(scale=0.2, size=(np.count_nonzero(types == 0), 3))
        model.moved(spins=True)
        fields = model.evaluate(Need.FIELD).fields.copy()
        energy = model.evaluate(Need.ENERGY).energy
        forces = model.evaluate(Need.FORCE).forces.copy()
        whole = evaluate(prior, (types, box, state.positions.copy(), state.spins.copy()))
        assert deviation(fields, whole.fields) < 1e-11
        assert deviation(forces, whole.forces) < 1e-11
        assert energy == pytest.approx(whole.energy, rel=1e-12)


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def test_rotations_of_spins_and_of_the_lattice_alone_and_time_reversal():
    prior = random_prior(["Fe", "Co"], [True, True], many_body_functions=4)
    types, box, coord, spin = random_frame([True, True])
    start = evaluate(prior, (types, box, coord, spin))
    q = rotation(7)
    turned = evaluate(prior, (types, box, coord, spin @ q.T))
    assert turned.energy == pytest.approx(start.energy, rel=1e-12)
    assert deviation(turned.forces, start.forces) < 1e-11 and deviation(turned.fields, start.fields @ q.T) < 1e-11
    turned = evaluate(prior, (types, box @ q.T, coord @ q.T, spin))
    assert turned.energy == pytest.approx(start.energy, rel=1e-12)
    assert deviation(turned.forces, start.forces @ q.T) < 1e-11 and deviation(turned.fields, start.fields) < 1e-11
    back = evaluate(prior, (types, box, coord, -spin))
    assert back.energy == pytest.approx(start.energy, rel=1e-13) and deviation(back.fields, -start.fields) < 1e-12


def test_smooth_at_the_cutoff_and_at_zero_spin():
    prior = random_prior(["Fe"], [True], size=1.0)
    box = np.eye(3) * 20.0
    types, spin = np.zeros(3, dtype=int), np.array([[0.0, 0.0, 2.0], [1.5, 0.0, 0.0], [0.0, 1.0, 1.0]])
    coord = np.array([[0.0, 0.0, 0.0], [2.5, 0.0, 0.0], [0.0, 4.2, 0.0]])

    def at(y, spins=spin):
        return evaluate(prior, (types, box, coord + np.array([[0, 0, 0], [0, 0, 0], [0, y, 0]]), spins))

    beyond, far = at(1e-9), at(-0.1)
    assert abs(beyond.energy - far.energy) > 1e-5 and np.abs(beyond.forces - far.forces).max() > 1e-3
    # the cutoff function has a threefold zero: energy ~ x³, force ~ x²
    assert abs(beyond.energy - at(-1e-4).energy) < 1e-8 * abs(beyond.energy - far.energy)
    assert np.abs(beyond.forces - at(-1e-4).forces).max() < 3e-6 * np.abs(beyond.forces - far.forces).max()
    gone = spin.copy()
    gone[1] = 0.0
    none = at(-1.0, gone)
    assert np.isfinite(none.energy) and np.abs(none.fields[1]).max() > 0.0  # the others polarise it
    slopes = []
    for size in (1e-3, 1e-5):
        nearly = gone.copy()
        nearly[1] = [0.0, size, 0.0]
        slopes.append(np.abs(at(-1.0, nearly).fields - none.fields).max() / size)
    assert slopes[0] == pytest.approx(slopes[1], rel=0.02)


def test_threads_change_nothing():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core only")
    prior = random_prior(["Fe"], [True], many_body_functions=4)
    base = example_states(("Fe",))["triclinic"]
    corners = np.array([[a, b, c] for a in range(4) for b in range(4) for c in range(3)])
    coord = (base.positions[None] + (corners @ base.cell)[:, None]).reshape(-1, 3)
    spin = np.tile(base.spins, (len(corners), 1)) * np.linspace(0.9, 1.1, len(coord))[:, None]
    frame = np.zeros(len(coord), dtype=int), base.cell * np.array([[4.0], [4.0], [3.0]]), coord, spin
    results = []
    for threads in (1, 2):
        model = Model(state_of(prior, *frame), [PriorTerm(prior)], threads=threads)
        result = model.evaluate(Need.ALL)
        results.append((result.energy, result.forces.copy(), result.fields.copy(), result.virial.copy()))
    numba.set_num_threads(1)
    assert len(coord) > 600  # several blocks of atoms
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)


def test_core_keeps_atoms_apart():
    prior = random_prior(["Fe"], [True])
    box, spin = np.eye(3) * 15.0, np.array([[0, 0, 2.0], [0, 2.0, 0]])
    energies, last = [], None
    for r in (2.0, 1.9, 1.6, 1.4, 1.0, 0.7):
        frame = np.zeros(2, dtype=int), box, np.array([[0.0, 0, 0], [r, 0, 0]]), spin
        energies.append(core(prior, *frame[:3])[0])
        last = evaluate(prior, frame)
    assert energies[0] == 0.0 and all(a < b for a, b in zip(energies, energies[1:], strict=False))
    assert energies[-1] > 100.0 and last.forces[1, 0] > 100.0  # eV, eV/Å


def test_unknown_element_and_spin_on_a_non_magnetic_one():
    prior = random_prior(["Fe", "O"], [True, False], many_body_functions=2)
    frame = random_frame([True, True])
    with pytest.raises(InputError, match="no spins on O"):
        evaluate(prior, frame)
    with pytest.raises(InputError, match="no Co"):
        PriorPart(prior, ("Fe", "Co"))


# ------------------------------------------------------------------ fit


@dataclass
class Frames:
    elements: tuple
    types: np.ndarray
    box: np.ndarray
    coord: np.ndarray
    spin: np.ndarray
    energy: np.ndarray
    force: np.ndarray
    field: np.ndarray
    virial: np.ndarray | None = None
    name: str = "made"


def made_frames(prior, shift, count, seed, scale=1.0, virial=False):
    """Frames labelled by the prior itself; atoms not closer than its r1."""
    frames = [random_frame(prior.magnetic, 7, seed + k, closest=2.3) for k in range(count)]
    results = [
        (r.energy, r.forces.copy(), r.fields.copy(), r.virial.copy()) for r in (evaluate(prior, f) for f in frames)
    ]
    types = frames[0][0]
    energy, force, spins, virials = (np.array(x) for x in zip(*results, strict=True))
    return Frames(
        prior.elements, types, *(np.array([f[k] for f in frames]) for k in (1, 2, 3)), energy + shift[types].sum(), force,
        scale * spins, virials if virial else None,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"field_scale": "fit"}, {"transverse_only": True}])
def test_fit_finds_what_made_the_data(options):
    prior = random_prior(["Fe"], [True], many_body_functions=3, pair_functions=5)
    shift, scale = np.array([-8.0]), 0.9 if options.get("field_scale") else 1.0
    data = made_frames(prior, shift, 30, 10, scale, virial=not options)
    if options.get("transverse_only"):  # labels that are wrong along S must not matter
        data.field = data.field + 0.3 * data.spin
    fit = fit_prior(prior.settings, [data], ridges=(1e-13, 1e-6), progress=False, **options)
    assert fit.report["ridge"] == 1e-13 and fit.report["frames"] == 30
    assert fit.field_scale == pytest.approx(scale, abs=2e-4)
    new = made_frames(prior, shift, 5, 500)
    errors = errors_of(fit.prior, fit.shift, [new])["made"]
    allowed = 1.0 if options.get("field_scale") else 0.02  # λ is known to 1e-4 only
    assert errors["energy_rmse_mev_per_atom"] < allowed * 0.3
    assert errors["force_rmse_mev_per_ang"] < allowed and errors["field_rmse_mev_per_mub"] < allowed


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.0, ""),
        (0.9, ""),
        (-1.0, "sign is reversed"),
        (1.0 / 27.2114, "multiply them by 27.211"),
        (27.2114, "too often"),
    ],
)
def test_field_labels_of_another_sign_or_unit_are_noticed(factor, words, recwarn):
    prior = random_prior(["Fe"], [True], many_body=False, pair_functions=5)
    data = made_frames(prior, np.array([-8.0]), 12, 10, factor)
    fit = fit_prior(prior.settings, [data], ridges=(1e-10,), held_out=0.0, progress=False)
    said = [str(w.message) for w in recwarn if "force_mag" in str(w.message)]
    assert len(said) == bool(words) and all(words in text for text in said)
    assert fit.report["field_label_factor"] == pytest.approx(factor if words else 1.0, rel=1e-3)


def test_fit_of_two_elements_with_settings_from_the_data():
    prior = random_prior(["Fe", "O"], [True, False], many_body=False, pair_functions=6)
    data = made_frames(prior, np.array([-8.0, -3.0]), 30, 10)
    overrides = {"cutoff": 4.2, "many_body": False, "pair_functions": 14}
    found = training_settings([data], **overrides)
    assert found["elements"] == ["Fe", "O"] and found["magnetic"] == [True, False]
    assert 2.3 < np.min(found["shortest"]) < 2.6
    fit = fit_prior(overrides, [data], progress=False)
    assert fit.report["held_out"] == 6
    worst = fit.report["held_out_errors"]["made"]
    spread = 1000.0 * np.sqrt((data.force**2).mean())
    assert worst["force_rmse_mev_per_ang"] < 0.05 * spread  # another basis: its r1 is another one


def test_wrong_options_are_named():
    prior = random_prior(["Fe"], [True], many_body_functions=2)
    data = made_frames(prior, np.array([-8.0]), 2, 10)
    with pytest.raises(InputError, match="fit"):
        fit_prior(prior.settings, [data], field_scale="yes", progress=False)
    with pytest.raises(InputError, match="held_out"):
        fit_prior(prior.settings, [data], held_out=0.9, progress=False)
    data.elements = ("Co",)
    with pytest.raises(InputError, match="no Co"):
        fit_prior(prior.settings, [data], progress=False)


def test_far_frames_weigh_less():
    """A frame that fits into nothing harms the others less with robust weights."""
    prior = random_prior(["Fe"], [True], many_body_functions=3, pair_functions=5)
    data = made_frames(prior, np.array([-8.0]), 30, 10)
    data.force[7] += np.random.default_rng(1).normal(scale=5.0, size=data.force[7].shape)
    new = made_frames(prior, np.array([-8.0]), 4, 500)
    errors = []
    for robust in (None, 0.5):
        fit = fit_prior(
            prior.settings, [data], Weights(robust=robust), ridges=(1e-12,), held_out=0.0, progress=False
        )  # fmt: skip
        errors.append(errors_of(fit.prior, fit.shift, [new])["made"]["force_rmse_mev_per_ang"])
    assert errors[1] < 0.3 * errors[0]


def test_fcc_iron(shared):
    """A small prior on a few public frames: far better than predicting nothing, and near what a larger one reaches."""
    from spinmd.potentials.deepspin.data import read_system, select

    systems = [read_system(shared / "data" / "fcc_fe" / f"FCC_Fe_iter-{k}") for k in (1, 2)]
    few = [select(system, np.arange(0, system.frames, 2)) for system in systems]
    settings = {"cutoff": 5.0, "many_body_functions": 5, "many_body_l": 1, "pair_functions": 10}
    fit = fit_prior(settings, few, progress=False)
    rest = [select(system, np.arange(1, system.frames, 2)) for system in systems]
    errors = list(errors_of(fit.prior, fit.shift, rest).values())
    assert DEFAULTS["many_body_functions"] == 8 and fit.prior.count < 400
    for error in errors:
        assert error["energy_rmse_after_offset_mev_per_atom"] < 0.4
        assert error["force_rmse_mev_per_ang"] < 45.0
        assert error["field_rmse_mev_per_mub"] < 9.0
