"""Exact results for pairs and single moments, the radial forms, and sums that do not depend on threads."""

import numba
import numpy as np
import pytest

from spinmd.errors import InputError
from spinmd.model import Model
from spinmd.potentials.anisotropy import CubicAnisotropy, UniaxialAnisotropy
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.dipole import Dipole
from spinmd.potentials.dmi import DMI
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.pair import LennardJones, Morse
from spinmd.potentials.radial import RadialParameters, evaluate, table_slope, table_value, tabulate
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.testing import example_states

R = 2.5  # Å, along z


def dimer(first=(2.2, 0.0, 0.0), second=(0.0, 1.1, 0.0), distance=R, moments=(2.2, 1.1)):
    return State.create(
        np.eye(3) * 20.0, [[5.0, 5.0, 5.0], [5.0, 5.0, 5.0 + distance]], ["Fe", "Co"], [55.0, 59.0],
        spins=[first, second], moments=moments, pbc=(False, False, False),
    )  # fmt: skip


def of(state, *terms):
    return Model(state, terms, threads=1).evaluate(Need.ALL)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_forces_of_pair_potentials(smoothing):
    # at the minimum r0 the Morse force is zero and the energy −D; at σ Lennard-Jones is zero with force 24 ε/σ
    morse = of(dimer(), Morse(depth=0.4, alpha=1.4, r0=R, cutoff=6.0, shift=False, smoothing=smoothing))
    assert morse.energy == pytest.approx(-0.4, rel=1e-14)
    assert abs(morse.forces).max() < 1e-15
    lj = of(dimer(), LennardJones(epsilon=0.1, sigma=R, cutoff=6.0, shift=False, smoothing=smoothing))
    assert lj.energy == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(lj.forces, [[0, 0, -24 * 0.1 / R], [0, 0, 24 * 0.1 / R]], rtol=1e-14)
    np.testing.assert_allclose(lj.virial, np.diag([0, 0, 24 * 0.1]), rtol=1e-14)


def test_shift_makes_the_energy_continuous():
    for term in (
        LennardJones(epsilon=0.1, sigma=2.2, cutoff=R + 1e-9),
        Morse(depth=0.4, alpha=1.4, r0=2.8, cutoff=R + 1e-9),
    ):
        assert abs(of(dimer(), term).energy) < 1e-8
        assert of(dimer(distance=R + 1e-6), term).energy == 0.0


def test_a_pair_counts_once():
    aligned = dimer(second=(1.1, 0.0, 0.0))
    constant = {"form": "constant", "cutoff": 4.0}
    assert of(aligned, Exchange(**constant, J0=0.02)).energy == pytest.approx(-0.02, rel=1e-14)
    assert of(aligned, Biquadratic(**constant, K0=0.02)).energy == pytest.approx(-0.02, rel=1e-14)
    assert of(aligned, Exchange(**constant, J0=0.02, offset=True)).energy == pytest.approx(0.0, abs=1e-17)
    np.testing.assert_allclose(of(aligned, Exchange(**constant, J0=0.02)).fields[:, 0], [0.02 / 2.2, 0.02 / 1.1])
    np.testing.assert_allclose(of(aligned, Biquadratic(**constant, K0=0.02)).fields[:, 0], [0.04 / 2.2, 0.04 / 1.1])


def test_sense_of_the_chiral_terms():
    # e × e' = x × y = z; D_12 = D z along the bond, or D n × z
    constant = {"form": "constant", "cutoff": 4.0, "D0": 0.01}
    along = of(dimer(), DMI(**constant))
    assert along.energy == pytest.approx(-0.01, rel=1e-14)
    np.testing.assert_allclose(along.fields, [[0.01 / 2.2, 0, 0], [0, 0.01 / 1.1, 0]], atol=1e-17)
    in_plane = dimer(first=(0.0, 2.2, 0.0), second=(0.0, 0.0, 1.1))  # y × z = x; n × z = x for n = y
    assert of(in_plane, DMI(**constant, direction="interfacial", normal=(0, 3, 0))).energy == pytest.approx(
        -0.01, rel=1e-14
    )


def test_two_dipoles():
    """Collinear with the bond −2k m m'/r³ and force 6k m m'/r⁴; side by side, parallel +k m m'/r³."""
    k = 5.3681e-5
    head_to_tail = of(dimer(first=(0, 0, 2.2), second=(0, 0, 1.1)), Dipole(cutoff=8.0))
    assert head_to_tail.energy == pytest.approx(-2 * k * 2.42 / R**3, rel=1e-4)
    assert head_to_tail.forces[0, 2] == pytest.approx(6 * k * 2.42 / R**4, rel=1e-4)
    assert of(dimer(second=(1.1, 0, 0)), Dipole(cutoff=8.0)).energy == pytest.approx(k * 2.42 / R**3, rel=1e-4)
    doubled = of(
        dimer(first=(0, 0, 4.4), second=(0, 0, 1.1)), Dipole(cutoff=8.0)
    )  # moments as they are, not as they were
    assert doubled.energy == pytest.approx(2 * head_to_tail.energy, rel=1e-14)


def test_single_moments():
    state = dimer(first=(0, 0, 2.2), second=(1.1 / 2**0.5, 1.1 / 2**0.5, 0))
    assert of(state, UniaxialAnisotropy(K=0.003, axis=(0, 0, 5), elements=["Fe"])).energy == pytest.approx(-0.003)
    assert of(state, CubicAnisotropy(K1=0.004, K2=0.9)).energy == pytest.approx(0.001)
    assert of(state, Zeeman(field=(0, 0, "10 T"))).energy == pytest.approx(-5.7883818e-5 * 22.0, rel=1e-8)
    diagonal = dimer(second=tuple(1.1 * np.ones(3) / 3**0.5))
    assert of(diagonal, CubicAnisotropy(K1=0.0, K2=0.027)).energy == pytest.approx(0.001)


def test_non_magnetic_atoms_take_no_part():
    state = dimer(second=(0, 0, 0), moments=(2.2, 0.0))
    constant = {"form": "constant", "cutoff": 4.0}
    terms = [
        Exchange(**constant, J0=1, offset=True), Biquadratic(**constant, K0=1, offset=True), DMI(**constant, D0=1),
        Dipole(cutoff=8.0),
    ]  # fmt: skip
    result = of(state, *terms)
    assert not result.energies.any()
    assert not result.fields.any()
    assert not of(state, Zeeman(field=(1, 2, 3)), UniaxialAnisotropy(K=1)).fields[1].any()


# --- radial forms ---------------------------------------------------------------------------------

FORMS = [
    {"form": "bethe-slater", "a": 0.02726, "b": 0.2171, "d": 1.841, "cutoff": 3.4},
    {"form": "polynomial", "J0": 0.9, "cutoff": 3.75},
    {"form": "polynomial", "J0": 0.9, "cutoff": 3.75, "power": 4.5},
    {"form": "constant", "J0": "3 meV", "cutoff": 4.0},
]


@pytest.mark.parametrize("values", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_tables_agree_with_their_laws(values, smoothing):
    parameters = RadialParameters(**values, smoothing=smoothing)
    rows, inverse = tabulate(parameters)
    random = np.random.default_rng(0)
    kink = parameters.cutoff - smoothing  # where the smooth end begins, the third derivative jumps
    near = kink + random.uniform(-1e-3, 1e-3 if smoothing > 0.0 else 0.0, 500)
    r = np.concatenate([random.uniform(0.0, parameters.cutoff, 3000), near])
    expected, slopes = evaluate(parameters, r)
    found = np.array([table_value(rows, inverse, x) for x in r])
    assert abs(found - expected).max() < (1e-12 if smoothing == 0.0 else 1e-10) * abs(expected).max()
    found = np.array([table_slope(rows, inverse, x) for x in r])
    assert abs(found - slopes).max() < 1e-7 * max(abs(slopes).max(), 1e-9)
    assert not rows[-1].any()
    for beyond in (parameters.cutoff, np.nextafter(parameters.cutoff, 9.0), 7.0, 1e6):
        assert table_value(rows, inverse, beyond) == 0.0
    edge = table_value(rows, inverse, parameters.cutoff - 1e-9)
    law = evaluate(RadialParameters(**values, smoothing=0.0), parameters.cutoff - 1e-9)[0]
    assert edge == pytest.approx(law if smoothing == 0.0 else 0.0, abs=1e-14)


def test_known_values_of_the_forms():
    bethe_slater, polynomial = RadialParameters(**FORMS[0]), RadialParameters(**FORMS[1])
    assert evaluate(bethe_slater, 1.841)[0] == pytest.approx(4 * 0.02726 * (1 - 0.2171) * np.exp(-1.0), rel=1e-14)
    assert evaluate(polynomial, 0.5 * 3.75)[0] == pytest.approx(0.9 / 8, rel=1e-14)
    hard = RadialParameters(**FORMS[0], smoothing=0.0)
    assert evaluate(bethe_slater, 3.3)[0] == pytest.approx(0.5 * evaluate(hard, 3.3)[0], rel=1e-12)  # half way through


def test_table_goes_through_its_points(shared):
    file = shared / "data" / "jij_tables" / "lammps_spin" / "exchange_bcc_iron.dat"
    points = np.loadtxt(file)
    parameters = RadialParameters(form="table", file=file)
    assert evaluate(parameters, points[:2, 0])[0] == pytest.approx(points[:2, 1], rel=1e-12)
    rows, inverse = tabulate(parameters)
    for r, coupling in points[:2]:  # at the first one the curvature jumps: below it the spline goes on as a line
        assert table_value(rows, inverse, r) == pytest.approx(coupling, rel=1e-8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3\n", "expected two numbers"),
        ("1 2\n0.5 3\n", "must be positive and increase"),
        ("1 2\n", "at least two points"),
        ("1 2\n2 nan\n", "expected two numbers"),
        ("1 x\n", "expected two numbers"),
    ],
)
def test_wrong_tables_say_what_is_wrong(text, message, tmp_path):
    (tmp_path / "j.dat").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Exchange(form="table", file=tmp_path / "j.dat")
    assert "j.dat" in caught.value.place


@pytest.mark.parametrize(
    ("kind", "values", "place", "message"),
    [
        (Exchange, {"form": "polynomial", "cutoff": 3.0}, "exchange.J0", "needs J0"),
        (Exchange, {"form": "polynomial", "cutoff": 3.0, "J0": 1, "a": 2}, "exchange.a", "has no parameter a"),
        (Exchange, {"form": "shells", "J": [1], "smoothing": 0.1}, "exchange.smoothing", "has no parameter smoothing"),
        (Exchange, {"form": "shells"}, "exchange.J", "needs J"),
        (
            Exchange,
            {"form": "constant", "J0": 1, "cutoff": 2, "smoothing": 2},
            "exchange.smoothing",
            "less than the cutoff",
        ),
        (Exchange, {"form": "constant", "J0": 1, "cutoff": 2, "colour": 2}, "exchange.colour", "no such parameter"),
        (Exchange, {"form": "list", "file": __file__, "unit": "mile"}, "exchange.unit", "unknown unit of energy"),
        (Biquadratic, {"form": "constant", "J0": 1, "cutoff": 2}, "biquadratic.J0", "no such parameter"),
        (DMI, {"form": "constant", "D0": 1, "cutoff": 2, "direction": "interfacial"}, "dmi.normal", "needs a normal"),
        (DMI, {"form": "constant", "D0": 1, "cutoff": 2, "normal": (0, 0, 1)}, "dmi.normal", "interfacial' only"),
        (UniaxialAnisotropy, {"K": 1, "axis": (0, 0, 0)}, "anisotropy.axis", "must not be zero"),
        (CubicAnisotropy, {"K1": 1, "axes": ((1, 0, 0), (1, 1, 0), (0, 0, 1))}, "cubic-anisotropy.axes", "orthogonal"),
        (Zeeman, {"field": (0, 0, "10 meV")}, "zeeman.field.2", "not a unit of field"),
        (LennardJones, {"epsilon": 1, "sigma": 2}, "lennard-jones.cutoff", "missing"),
    ],
)
def test_wrong_parameters_say_what_is_wrong(kind, values, place, message):
    with pytest.raises(InputError, match=message) as caught:
        kind(values)
    assert caught.value.place == place


# --- threads --------------------------------------------------------------------------------------


def _large():
    cell = example_states()["triclinic"]
    repeats = [np.array(k) for k in np.ndindex(5, 4, 4)]
    positions = np.concatenate([cell.positions + k @ cell.cell for k in repeats])
    random = np.random.default_rng(6)
    positions += random.normal(scale=0.05, size=positions.shape)
    spins = random.normal(size=positions.shape)
    return State.create(
        np.diag([5.0, 4.0, 4.0]) @ cell.cell,
        positions,
        ["Fe"] * len(positions),
        np.full(len(positions), 55.0),
        spins=spins,
    )


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_bitwise_the_same_for_any_number_of_threads():
    state = _large()
    assert state.natoms > 4 * 256
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            terms = [
                Morse(depth=0.42, alpha=1.4, r0=2.8, cutoff=5.3), Biquadratic(form="polynomial", K0=0.1, cutoff=4.0),
                DMI(form="polynomial", D0=0.1, cutoff=4.0), Dipole(cutoff=5.0), UniaxialAnisotropy(K=0.01),
                CubicAnisotropy(K1=0.01), Zeeman(field=(1, 2, 3)),
            ]  # fmt: skip
            result = Model(state.copy(), terms, threads=threads).evaluate(Need.ALL)
            results.append([result.energies.copy(), result.forces.copy(), result.fields.copy(), result.virial.copy()])
    finally:
        numba.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert (one == other).all()
