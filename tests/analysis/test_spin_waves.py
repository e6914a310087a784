"""Linear spin-wave theory of decks: against closed forms, and against the frequencies of runs of the engine."""

import math
from itertools import product

import numpy as np
import pytest
from support.live import Live

import spinmd
from spinmd import spin_hamiltonian
from spinmd.analysis.spin_wave_limits import long_waves, scalar_stiffness
from spinmd.analysis.spin_wave_theory import Waves
from spinmd.errors import InputError
from spinmd.spin_hamiltonian import spin_crystal
from spinmd.units import BOHR_MAGNETON, HBAR, convert

A = 3.0  # Å
RNG = np.random.default_rng(3)
ANYWHERE = RNG.normal(size=(6, 3))  # 1/Å


def deck(prototype, potential, moments, supercell=(2, 2, 2), a=A, pbc=None, elements=("Fe",), **spins):
    """Tables of a deck of spins on a rigid lattice."""
    names = {"element": elements[0]} if len(elements) == 1 else {"elements": list(elements)}
    structure = {"prototype": prototype, **names, "lattice_constant": a, "supercell": list(supercell)}
    if pbc is not None:
        structure["pbc"] = list(pbc)
    structure["spins"] = {"moments": dict(zip(elements, moments, strict=True)), "texture": "ferromagnetic", **spins}
    return {
        "structure": structure,
        "potential": potential,
        "integrator": {"ensemble": "nve", "timestep": "1 fs", "lattice": "frozen", "tolerance": 1e-12},
        "run": {"steps": 1, "seed": 1},
    }


def shells(*couplings):
    return {"kind": "exchange", "parameters": {"form": "shells", "J": list(couplings)}}


def uniaxial(k, axis=(0, 0, 1)):
    return {"kind": "anisotropy", "parameters": {"K": k, "axis": list(axis)}}


def zeeman(*field):
    return {"kind": "zeeman", "parameters": {"field": list(field)}}


def waves_of(tables, state="auto", **options):
    return Waves(spin_crystal(tables).spin_lattice(state, **options).lattice)


def neighbours(*kinds):
    """All vectors, Å, that are like the given ones up to order and signs of their components."""
    found = {
        v
        for kind in kinds
        for p in set(product(kind, repeat=3))
        for v in signs(p)
        if sorted(map(abs, v)) == sorted(kind)
    }
    return A * np.array(sorted(found))


def signs(vector):
    return [tuple(s * x for s, x in zip(sign, vector, strict=True)) for sign in product((1.0, -1.0), repeat=3)]


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prototype, first, second",
    [("sc", (1, 0, 0), (1, 1, 0)), ("bcc", (0.5, 0.5, 0.5), (1, 0, 0)), ("fcc", (0.5, 0.5, 0), (1, 0, 0))],
)  # fmt: skip
@pytest.mark.parametrize("supercell", [(1, 1, 1), (3, 2, 2)])
def test_a_ferromagnet_is_its_formula(prototype, first, second, supercell):
    """ħω = (g/M) Σ_j J_0j (1 − cos q·R_j), also where a small cell holds several images of one neighbour."""
    m, j1, j2 = 2.2, 0.02, -0.003
    waves = waves_of(deck(prototype, [shells(j1, j2)], [m], supercell))
    near, far = neighbours(first), neighbours(second)
    expected = 0.0
    for j, vectors in ((j1, near), (j2, far)):
        expected = expected + (2.0 / m) * j * (1.0 - np.cos(ANYWHERE @ vectors.T)).sum(axis=1)
    found = waves.modes(ANYWHERE)
    np.testing.assert_allclose(found.energies[:, 0], 1e3 * expected, rtol=1e-10)
    np.testing.assert_allclose(found.strength[:, 0], 2.0 * m, rtol=1e-10)
    long = long_waves(waves)
    d = (2.0 / m) * sum(j * (vectors**2).sum() / 6.0 for j, vectors in ((j1, near), (j2, far)))
    np.testing.assert_allclose(long.stiffness, 1e3 * d * np.eye(3), rtol=1e-10, atol=1e-9)


def test_g_and_moments_of_other_lengths_than_the_reference():
    """e = S/m counts in the energy, |S| in the precession: ħω = (g/|S|) (|S|/m)² Σ J (1 − cos)."""
    tables = deck("sc", [shells(0.02)], [1.5], reference_moments={"Fe": 2.0})
    tables["integrator"]["g_factor"] = 2.1
    expected = 1e3 * (2.1 / 1.5) * (1.5 / 2.0) ** 2 * 0.02 * 2.0 * (3.0 - np.cos(A * ANYWHERE).sum(axis=1))
    np.testing.assert_allclose(waves_of(tables).modes(ANYWHERE).energies[:, 0], expected, rtol=1e-10)


def test_an_antiferromagnet_is_its_formula():
    """ħω = (g/M) z|J| √((1 + κ)² − γ²), two waves, with κ = 2K/(z|J|); linear at small q without anisotropy."""
    m, j, k = 2.0, 0.01, 0.0004
    gamma = np.cos(A * ANYWHERE).sum(axis=1) / 3.0
    for constant in (0.0, k):
        tables = deck(
            "sc", [shells(-j), uniaxial(constant)], [m], texture="antiferromagnetic", wavevector=[0.5, 0.5, 0.5]
        )
        waves = waves_of(tables)
        expected = 1e3 * (2.0 / m) * 6.0 * j * np.sqrt((1.0 + 2.0 * constant / (6.0 * j)) ** 2 - gamma**2)
        np.testing.assert_allclose(waves.modes(ANYWHERE).energies, np.stack([expected, expected], axis=1), rtol=1e-10)
        if constant == 0.0:
            np.testing.assert_allclose(
                long_waves(waves).velocity, 1e3 * (2.0 / m) * 6.0 * j * A / math.sqrt(3.0), rtol=1e-8
            )
        else:
            np.testing.assert_allclose(long_waves(waves).gap, expected_gap(m, j, constant), rtol=1e-10)


def expected_gap(m, j, k):
    return 1e3 * (2.0 / m) * 6.0 * j * math.sqrt((1.0 + 2.0 * k / (6.0 * j)) ** 2 - 1.0)


def test_the_order_of_an_antiferromagnet_is_found():
    tables = deck("sc", [shells(-0.01), uniaxial(0.0004)], [2.0])
    given = deck(
        "sc", [shells(-0.01), uniaxial(0.0004)], [2.0], texture="antiferromagnetic", wavevector=[0.5, 0.5, 0.5]
    )
    found = waves_of(tables, "antiferromagnetic").modes(ANYWHERE)
    np.testing.assert_allclose(found.energies, waves_of(given).modes(ANYWHERE).energies, rtol=1e-10)


def test_a_ferrimagnet_is_its_formula():
    """B2, moments m₁ and m₂ antiparallel: ħω = √(((a + b)/2)² − abγ²) ± (a − b)/2 with a = gz|J|/m₁, b = gz|J|/m₂."""
    j, m = 0.012, (3.0, 1.0)
    tables = deck("B2", [shells(-j)], m, elements=("Fe", "Ni"), texture="antiferromagnetic", sublattices=[1, -1])
    waves = waves_of(tables)
    a, b = (1e3 * 2.0 * 8.0 * j / one for one in m)
    gamma = np.prod(np.cos(0.5 * A * ANYWHERE), axis=1)
    mean = np.sqrt(0.25 * (a + b) ** 2 - a * b * gamma**2)
    expected = np.stack([mean - 0.5 * abs(a - b), mean + 0.5 * abs(a - b)], axis=1)
    np.testing.assert_allclose(waves.modes(ANYWHERE).energies, expected, rtol=1e-10)
    # 1 − γ² = q²a²/4: D = ab (a/2)²/|a − b|
    np.testing.assert_allclose(
        long_waves(waves).stiffness, a * b * 0.25 * A * A / abs(a - b) * np.eye(3), rtol=1e-8, atol=1e-8
    )


def test_gaps_of_anisotropy_and_field():
    """Δ = (g/M) 2K + g µ_B B of an easy axis; D is that of exchange alone."""
    m, k, b = 2.0, 0.0005, 20.0
    waves = waves_of(deck("sc", [shells(0.01), uniaxial(k), zeeman(0, 0, b)], [m]))
    long = long_waves(waves)
    assert long.gap == pytest.approx(1e3 * (2.0 * k * 2.0 / m + 2.0 * BOHR_MAGNETON * b), rel=1e-10)
    np.testing.assert_allclose(long.stiffness, 1e3 * (2.0 / m) * 0.01 * A * A * np.eye(3), rtol=1e-9, atol=1e-9)


def test_cubic_anisotropy_along_its_axes_and_diagonals():
    """Easy [001]: Δ = (g/M) 2K1; easy [111] for K1 < 0: Δ = (g/M) 4|K1|/3."""
    m, k = 2.0, 0.0003
    for constant, direction, expected in ((k, (0, 0, 1), 2.0 * k), (-k, (1, 1, 1), 4.0 / 3.0 * k)):
        cubic = {"kind": "cubic-anisotropy", "parameters": {"K1": constant}}
        waves = waves_of(deck("sc", [shells(0.01), cubic], [m], direction=list(direction)))
        assert long_waves(waves).gap == pytest.approx(1e3 * (2.0 / m) * expected, rel=1e-9)


def chain(potential, moments=(2.0,), length=12, **spins):
    return deck("sc", potential, list(moments), (length, 1, 1), pbc=(True, False, False), **spins)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_long_waves_of_a_chain_with_two_kinds_of_bonds(sign, tmp_path):
    """In series: D = (g/M) L² JJ'/(2(J + J')), c = (g/M) L √(JJ'). A list by index tells the bonds apart, the sites do not."""
    m, j, k = 2.0, 0.02, 0.005
    lines = [f"{i} {(i + 1) % 8} {int(i == 7)} 0 0 {sign * (j, k)[i % 2]}" for i in range(8)]
    (tmp_path / "bonds.dat").write_text("\n".join(lines))
    couplings = {"kind": "exchange", "parameters": {"form": "list", "file": str(tmp_path / "bonds.dat")}}
    order = {} if sign > 0 else {"texture": "antiferromagnetic", "wavevector": [0.5, 0, 0]}
    found = spin_crystal(chain([couplings], [m], length=8, **order)).spin_lattice()
    assert found.lattice.count == 2
    long = long_waves(Waves(found.lattice))
    if sign > 0:
        assert long.stiffness[0, 0] == pytest.approx(
            1e3 * (2.0 / m) * (2.0 * A) ** 2 * j * k / (2.0 * (j + k)), rel=1e-9
        )
    else:
        assert long.velocity[0] == pytest.approx(1e3 * (2.0 / m) * 2.0 * A * math.sqrt(j * k), rel=1e-8)


def test_stiffness_of_a_ferrimagnet_with_two_kinds_of_bonds(tmp_path):
    """a, b = g(J + J')/m, 1 − |γ|² = JJ'q²L²/(J + J')²: D = ab JJ'L²/((J + J')² |a − b|); waves of both senses of turning mix."""
    m, j, k = (3.0, 1.0), -0.02, -0.005
    lines = [f"{2 * i} {2 * i + 1} 0 0 0 {j}\n{2 * i + 1} {(2 * i + 2) % 8} {int(i == 3)} 0 0 {k}" for i in range(4)]
    (tmp_path / "bonds.dat").write_text("\n".join(lines))
    couplings = {"kind": "exchange", "parameters": {"form": "list", "file": str(tmp_path / "bonds.dat")}}
    order = {"texture": "antiferromagnetic", "sublattices": [1, -1]}
    tables = deck("B2", [couplings], m, (4, 1, 1), pbc=(True, False, False), elements=("Fe", "Ni"), **order)
    a, b = (-1e3 * 2.0 * (j + k) / one for one in m)
    expected = a * b * j * k * A * A / ((j + k) ** 2 * abs(a - b))
    assert long_waves(waves_of(tables)).stiffness[0, 0] == pytest.approx(expected, rel=1e-8)


def test_a_spiral_of_competing_exchange_is_its_formula():
    """cos Qa = −J1/4J2;  ħω = (g/M) √{[J(Q) − J(q) + 2K] [J(Q) − ½J(q + Q) − ½J(q − Q)]} with easy-plane anisotropy K."""
    m, j1, j2, k = 2.0, 0.02, -0.011, 0.0004
    found = spin_crystal(chain([shells(j1, j2), uniaxial(-k, (1, 0, 0))], [m])).spin_lattice("spiral")
    q0 = math.acos(-j1 / (4.0 * j2)) / A
    assert abs(found.lattice.wavevector[0]) == pytest.approx(q0, rel=1e-7)

    def j(q):
        return 2.0 * (j1 * np.cos(A * q) + j2 * np.cos(2.0 * A * q))

    def formula(q):
        return 1e3 * (2.0 / m) * np.sqrt((j(q0) - j(q) + 2.0 * k) * (j(q0) - 0.5 * (j(q + q0) + j(q - q0))))

    q = np.array([0.1, 0.33, 0.7, 1.3])
    expected = np.sort(np.stack([formula(q), formula(q + q0), formula(q - q0)], axis=1), axis=1)
    # the found Q is right to 1e-8 or so, where the energy is flat
    np.testing.assert_allclose(Waves(found.lattice).modes(np.outer(q, [1, 0, 0])).energies, expected, rtol=1e-6)
    exact = spin_crystal(chain([shells(j1, j2), uniaxial(-k, (1, 0, 0))], [m])).spin_lattice(
        "spiral", wavevector=(q0 * A / (2 * np.pi), 0, 0)
    )
    np.testing.assert_allclose(Waves(exact.lattice).modes(np.outer(q, [1, 0, 0])).energies, expected, rtol=1e-10)


def test_a_spiral_of_dmi_is_its_formula():
    """tan Qa = D/J;  ħω = (2g/M) √{J'(1 − cos qa) (J' − J cos qa)},  J' = √(J² + D²), in the turning frame."""
    m, j, d = 2.0, 0.02, 0.009
    dmi = {"kind": "dmi", "parameters": {"form": "shells", "D": [d]}}
    found = spin_crystal(chain([shells(j), dmi], [m])).spin_lattice(
        "spiral", wavevector=(math.atan2(d, j) / (2 * np.pi), 0, 0)
    )
    found_best = spin_crystal(chain([shells(j), dmi], [m])).spin_lattice("spiral")
    turn = np.cross(found_best.lattice.wavevector, found_best.lattice.axis)
    assert np.linalg.norm(turn) < 1e-6 and np.linalg.norm(found_best.lattice.wavevector) == pytest.approx(
        math.atan2(d, j) / A, rel=1e-6
    )
    q = np.array([0.1, 0.33, 0.7, 1.3])
    strong = math.hypot(j, d)
    expected = 1e3 * 2.0 * (2.0 / m) * np.sqrt(strong * (1 - np.cos(A * q)) * (strong - j * np.cos(A * q)))
    np.testing.assert_allclose(
        Waves(found.lattice).own_modes(np.outer(q, [1, 0, 0])).energies[:, 0], expected, rtol=1e-10
    )


@pytest.mark.parametrize("field", [0.0, 30.0])
def test_a_spiral_in_its_turning_frame_is_one_in_a_magnetic_cell(field):
    """Energies and strengths, of a plane spiral and of a cone."""
    couplings = [shells(0.02, -0.01), uniaxial(-0.0005, (1, 0, 0)), zeeman(field, 0, 0)]
    tables = chain(couplings, texture="spiral", wavevector=[1 / 6, 0, 0])
    crystal = spin_crystal(tables)
    turning = crystal.spin_lattice("spiral", wavevector=(1 / 6, 0, 0), axis=(1, 0, 0))
    cell = crystal.spin_lattice("initial")
    assert (turning.lattice.count, cell.lattice.count) == (1, 6)
    for q in (0.07, 0.2, 0.9):
        one, six = (Waves(f.lattice).modes(np.array([[q, 0, 0]])) for f in (turning, cell))
        strong = six.strength[0] > 1e-9
        np.testing.assert_allclose(one.energies[0], six.energies[0][strong], rtol=1e-8)
        np.testing.assert_allclose(one.strength[0], six.strength[0][strong], rtol=1e-6)


def test_a_state_that_is_no_minimum_is_seen():
    waves = waves_of(deck("sc", [shells(-0.01)], [2.0]), "ferromagnetic")
    modes = waves.modes(np.array([[np.pi / A] * 3]))
    assert modes.least[0] == pytest.approx(-1e3 * 12 * 0.01 * 2.0 / 2.0) and modes.energies[0, 0] == pytest.approx(
        modes.least[0]
    )
    assert long_waves(waves).stiffness[0, 0] == pytest.approx(-1e3 * 0.01 * A * A)


# --- tables of other codes -------------------------------------------------------------------------------------------


def test_the_chain_of_uppasd(shared):
    """J = 2.5 mRy in a convention that counts pairs twice, M = 1, q = 0.35: 432.05837413818 meV (its own test)."""
    folder = shared / "data/jij_tables/uppasd/tests/HeisChain"
    j = float((folder / "jfile").read_text().split()[5])
    m = float((folder / "momfile").read_text().split()[2])
    waves = waves_of(chain([shells(f"{2.0 * j} mRy")], [m]))
    found = waves.modes(np.array([[0.35 * 2.0 * np.pi / A, 0, 0]])).energies[0, 0]
    assert found == pytest.approx(432.05837413818, rel=2e-8)  # its Rydberg has eight digits


def test_the_stiffness_of_iron_of_uppasd(shared):
    table = np.loadtxt(shared / "data/jij_tables/uppasd/examples/SimpleSystems/bccFe/jfile")
    couplings = [f"{2.0 * j} mRy" for j in table[:4, 5]]
    long = long_waves(waves_of(deck("bcc", [shells(*couplings)], [2.23], a=2.87)))
    assert scalar_stiffness(long.stiffness, np.ones(3, bool)) == pytest.approx(178.0, abs=0.5)
    rydberg = 1e3 * convert("1 mRy", "energy")
    vectors = ((8, 3 / 4, 0), (6, 1.0, 1), (12, 2.0, 2), (24, 11 / 4, 3))
    by_hand = 2.0 / 2.23 * sum(2.0 * rydberg * table[k, 5] * n * r2 for n, r2, k in vectors) * 2.87**2 / 6.0
    assert long.stiffness[0, 0] == pytest.approx(by_hand, rel=1e-10)


def test_exchange_of_distance_from_a_file(shared):
    """The first two points of LAMMPS's J(r) of bcc iron at its lattice constant: 1/6 Σ J r² by hand."""
    file = shared / "data/jij_tables/lammps_spin/exchange_bcc_iron.dat"
    r, j = np.loadtxt(file).T
    table = {"form": "table", "file": str(file), "cutoff": 3.4, "smoothing": 0.0}
    long = long_waves(waves_of(deck("bcc", [{"kind": "exchange", "parameters": table}], [2.2], (1, 1, 1), a=2.8665)))
    by_hand = 1e3 * (2.0 / 2.2) * (8 * j[0] * r[0] ** 2 + 6 * j[1] * r[1] ** 2) / 6.0
    assert long.stiffness[0, 0] == pytest.approx(by_hand, rel=2e-3)  # distances of the file have five digits


# --- runs of the engine ----------------------------------------------------------------------------------------------

DMI = {"kind": "dmi", "parameters": {"form": "shells", "D": [0.004]}}
BIQUADRATIC = {"kind": "biquadratic", "parameters": {"form": "shells", "K": [0.003]}}
CUBIC = {"kind": "cubic-anisotropy", "parameters": {"K1": 0.002, "K2": 0.001}}
BOND = {"kind": "tensor-exchange", "parameters": {"form": "shells", "isotropic": [0.01], "bond": [0.003]}}
DIPOLE = {"kind": "dipole", "parameters": {"cutoff": 6.5, "constant": 5e-3}}
OF_DISTANCE = {
    "kind": "exchange",
    "parameters": {"form": "bethe-slater", "a": 0.02, "b": 0.2, "d": 1.8, "cutoff": 4.5},
}
MORSE = {"kind": "morse", "parameters": {"depth": 0.1, "alpha": 1.0, "r0": 3.0, "cutoff": 4.0}}
RUNS = {
    "bcc ferromagnet, J(r)": (
        deck("bcc", [OF_DISTANCE], [2.2], (4, 2, 2), 2.87),
        (1, 0, 0),
    ),
    "antiferromagnet with an easy axis": (
        deck("sc", [shells(-0.01), uniaxial(0.001)], [2.0], (4, 2, 2), texture="antiferromagnetic", wavevector=[0.5, 0.5, 0.5]),
        (1, 0, 0),
    ),
    "ferrimagnet": (
        deck(
            "B2", [shells(-0.012)], [3.0, 1.0], (4, 1, 1), elements=("Fe", "Ni"), texture="antiferromagnetic", sublattices=[1, -1]
        ),
        (1, 0, 0),
    ),
    "spiral in a magnetic cell": (
        chain([shells(0.02, -0.01), uniaxial(-0.002, (1, 0, 0))], length=18, texture="spiral", wavevector=[1 / 6, 0, 0]),
        (1, 0, 0),
    ),
    "ferromagnet along its DMI, couplings along bonds": (
        chain([BOND, DMI, uniaxial(0.002, (1, 0, 0)), zeeman(30, 0, 0)], length=10, direction=[1, 0, 0]),
        (3, 0, 0),
    ),
    "canted antiferromagnet": (
        deck(
            "sc", [shells(-0.01), BIQUADRATIC, uniaxial(0.001), zeeman(200, 0, 0)], [2.0], (4, 2, 2),
            texture="antiferromagnetic", wavevector=[0.5, 0.5, 0.5],
        ),
        (1, 0, 0),
    ),
    "cubic anisotropy, dipoles, a field askew": (
        deck("sc", [shells(0.02), CUBIC, DIPOLE, zeeman(30, 10, 60)], [2.0], (4, 3, 3)),
        (1, 1, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_precesses_as_the_theory_says(name):
    """A wave of small amplitude in a run turns by ωt, to 1e-4 of it, for every wave of this q."""
    tables, turns = RUNS[name]
    compare_with_run(tables, turns, steps=250, step_of_period=1 / 200, tolerance=1e-4)


def compare_with_run(tables, turns, steps, step_of_period, tolerance, amplitude=1e-4, waves=None):
    """Seed one wave after the other, run, and compare the phase by which it has turned; ``turns`` of the supercell."""
    crystal = spin_crystal(tables)
    found = crystal.spin_lattice()
    lattice, theory = found.lattice, Waves(found.lattice)
    q = 2.0 * np.pi * np.linalg.solve(crystal.cell, turns)
    energies, patterns = theory.patterns(q)
    for k in range(lattice.count) if waves is None else waves:
        omega = energies[k] / (1e3 * HBAR)
        dt = step_of_period * 2.0 * np.pi / omega
        simulation = spinmd.build(tables, {"integrator.timestep": dt}, output=False)
        state = simulation.state
        z, site = lattice.directions[found.site], found.site
        phase = np.exp(1j * crystal.sites @ q)
        shape = patterns[site, :, k] / np.abs(patterns[:, :, k]).max()
        lengths = np.linalg.norm(state.original_order(state.spins), axis=1)
        u = z + amplitude * (shape * phase[:, None]).real
        u /= np.linalg.norm(u, axis=1)[:, None]
        state.spins[:] = (u * lengths[:, None])[state.ids]
        simulation.moved()
        simulation.run(steps)
        after = state.original_order(state.spins) / lengths[:, None]
        overlap = np.sum(lengths[:, None] * np.conj(shape * phase[:, None]) * np.cross(z, after - z))
        before = np.sum(lengths[:, None] * np.conj(shape * phase[:, None]) * np.cross(z, u - z))
        expected = omega * dt * steps
        turned = -np.angle(overlap / before)
        error = (turned - expected + np.pi) % (2.0 * np.pi) - np.pi
        assert abs(error) < tolerance * expected, f"wave {k} of {energies[k]:.4f} meV: {error / expected:.2e}"
        assert abs(overlap / before) == pytest.approx(1.0, abs=20 * tolerance)


EVERYTHING = deck(
    "bcc",
    [
        {"kind": "exchange", "parameters": {"form": "bethe-slater", "a": -0.02, "b": 0.2, "d": 1.84, "cutoff": 3.4}},
        {"kind": "biquadratic", "parameters": {"form": "constant", "K0": 0.002, "cutoff": 2.7, "smoothing": 0.1}},
        {"kind": "dmi", "parameters": {"form": "constant", "D0": 0.001, "cutoff": 3.4, "smoothing": 0.1}},
        CUBIC,
        zeeman(0, 0, 5),
    ],
    [2.2], a=2.87, texture="antiferromagnetic", wavevector=[0, 0, 1],
)  # fmt: skip


@pytest.fixture
def live(monkeypatch):
    """Decks of which no term freezes, from here on."""
    made = spin_hamiltonian.build_terms
    return lambda: monkeypatch.setattr(
        spin_hamiltonian, "build_terms", lambda *given: [Live(term) for term in made(*given)]
    )


def test_finite_differences_are_what_frozen_terms_say(live):
    frozen = waves_of(EVERYTHING)
    live()
    found = waves_of(EVERYTHING, live_range=5.0)
    for q in ANYWHERE:
        expected = frozen.modes(q[None])
        np.testing.assert_allclose(found.modes(q[None]).energies, expected.energies, rtol=1e-7)
        np.testing.assert_allclose(found.modes(q[None]).strength, expected.strength, rtol=1e-6)


def test_finite_differences_are_exact_where_a_small_supercell_allows(live):
    """Neighbours whose images lie on both sides share their coupling."""
    frozen = waves_of(EVERYTHING)
    live()
    found = spin_crystal(EVERYTHING).spin_lattice(live_range=2.0)
    assert any("at the edge" in note for note in found.notes)
    waves = Waves(found.lattice)
    allowed = 2.0 * np.pi / (2.0 * 2.87) * np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0]])
    np.testing.assert_allclose(waves.modes(allowed).energies, frozen.modes(allowed).energies, rtol=1e-7)


def test_the_shipped_network_precesses_as_its_derivatives_say(root):
    """Second derivatives of DeepSPIN by finite differences against a run with it: 0.3 % in a cell of 32 atoms, with all its
    images.
    """
    text = (root / "inputs/magnons_deepspin.toml").read_text()
    tables = spinmd.load_deck(text, {"structure.supercell": [2, 2, 1]}, folder=root / "inputs").tables
    tables["potential"][0]["parameters"]["model"] = str(root / "inputs/models/fcc_iron.h5")
    tables["structure"]["file"] = str(root / "inputs/structures/fcc_iron_double_layer.extxyz")
    tables["integrator"] = {"ensemble": "nve", "timestep": "1 fs", "lattice": "frozen", "tolerance": 1e-9}
    tables["run"] = {"steps": 1}
    compare_with_run(tables, (1, 0, 0), steps=60, step_of_period=1 / 60, tolerance=3e-3, amplitude=1e-3, waves=(1,))


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tables, state, words",
    [
        (deck("sc", [MORSE], [2.0]), "auto", "no potential depends"),
        (deck("sc", [shells(0.01)], [2.0], pbc=(False,) * 3), "auto", "open in all directions"),
        (deck("sc", [shells(0.01)], [2.0]), "antiferromagnetic", "is ferromagnetic"),
        (deck("sc", [shells(0.01)], [2.0]), "sideways", "there is no state"),
        (deck("sc", [shells(0.01), DMI], [2.0]), "spiral", "not uniform in a frame"),
        (deck("sc", [shells(-0.01)], [2.0], (3, 2, 2)), "antiferromagnetic", "does not fit"),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(tables, state, words):
    with pytest.raises(InputError, match=words):
        spin_crystal(tables).spin_lattice(state)


def test_waves_of_one_energy_share_their_strength():
    """How an eigensolver divides it between degenerate waves has no meaning; the sum has."""
    from spinmd.analysis.spin_waves import shared_out

    energies = np.array([[1.0, 1.0 + 1e-9, 2.0, 3.0], [1.0, 2.0, 2.0, 2.0]])
    strength = np.array([[4.0, 0.0, 1.0, 3.0], [1.0, 0.0, 6.0, 0.0]])
    assert np.array_equal(shared_out(energies, strength, 1e-6), [[2.0, 2.0, 1.0, 3.0], [1.0, 2.0, 2.0, 2.0]])
