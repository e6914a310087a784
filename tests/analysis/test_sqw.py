"""Dynamical structure factors of runs whose waves are known in closed form."""

import numpy as np
import pytest
from support.waves import (
    EDGE,
    MOMENT,
    J,
    antiferromagnet,
    ferromagnet,
    magnet,
    phonons,
    run,
    springs,
)

from spinmd import Trajectory, analysis
from spinmd.analysis import autocorrelation, sqw
from spinmd.errors import InputError
from spinmd.units import AMU

WITHIN = 0.004  # of an energy: 0.1 to 0.2 % are the finite step's and the finite angle's


def branch(result) -> tuple[np.ndarray, np.ndarray]:
    """q and energies of the lowest branch where there is a peak."""
    energy = result["branch_energy"][:, 0]
    found = np.isfinite(energy)
    return result["q"][found], energy[found]


@pytest.fixture(scope="module")
def simple(tmp_path_factory):
    """A simple cubic ferromagnet along z."""
    with Trajectory(run(tmp_path_factory.mktemp("sc"), "sc", magnet("sc", (6, 6, 6)))) as trajectory:
        yield trajectory


@pytest.fixture(scope="module")
def crystal(tmp_path_factory):
    """fcc of springs."""
    with Trajectory(run(tmp_path_factory.mktemp("fcc"), "fcc", springs(4, steps=2000))) as trajectory:
        yield trajectory


@pytest.mark.parametrize("prototype, cells", [("sc", (6, 6, 6)), ("bcc", (4, 4, 6))])
def test_magnons_of_a_ferromagnet(prototype, cells, simple, tmp_path):
    trajectory = simple if prototype == "sc" else Trajectory(run(tmp_path, "fm", magnet(prototype, cells)))
    result = analysis.dynamical_structure_factor(trajectory, segments=2)
    q, energy = branch(result)
    assert len(q) >= 0.8 * len(result["q"])
    assert energy == pytest.approx(ferromagnet(q, prototype), rel=WITHIN)
    # lines without damping: the width of the window is not theirs
    assert np.nanmax(result["branch_width"]) < 0.1 * result["resolution"]


def test_magnons_of_an_antiferromagnet(tmp_path):
    """From the antiferromagnet, a bath tilts the spins for a moment; the last stage has constant energy."""
    deck = magnet("sc", (6, 6, 6), -J, steps=100)
    deck["structure"]["spins"] = {
        "moments": {"Fe": MOMENT}, "texture": "antiferromagnetic", "wavevector": [0.5, 0.5, 0.5], "direction": [1, 1, 0],
    }  # fmt: skip
    deck["integrator"] |= {"ensemble": "langevin", "spin_damping": 0.5, "temperature": "0.2 K"}
    deck["stage"] = [{"integrator": {"ensemble": "nve"}, "run": {"steps": 2000}}]
    with Trajectory(run(tmp_path, "afm", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, segments=2)
    q, energy = branch(result)
    assert len(q) >= 0.8 * len(result["q"])
    assert energy == pytest.approx(antiferromagnet(q, "sc"), rel=WITHIN)
    assert abs(result["axis"] @ [1, 1, 0]) == pytest.approx(np.sqrt(2.0), rel=0.02)
    assert "stiffness" not in result


def test_heisenberg_chain_of_uppasd(tmp_path):
    """J = 2.5 mRy by UppASD's counting is 5 mRy here; M = 1, q = 0.35: its own test expects 432.058 meV."""
    deck = magnet("sc", (20, 1, 1), steps=4000)
    deck["structure"] |= {"pbc": [True, False, False], "vacuum": 5.0}
    deck["structure"]["spins"]["moments"] = {"Fe": 1.0}
    deck["potential"][0]["parameters"]["J"] = ["5 mRy"]
    deck["integrator"]["timestep"] = "0.1 fs"
    with Trajectory(run(tmp_path, "chain", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="0,0,0 0.35,0,0", segments=2)
    assert result["q"][-1] == pytest.approx([2.0 * np.pi * 0.35 / EDGE, 0.0, 0.0])
    assert result["branch_energy"][-1, 0] == pytest.approx(432.058, rel=WITHIN)


def test_chiral_magnons_go_their_own_way_forward_and_back(tmp_path):
    """A chain along its moments with D along the bonds: ħω(q) = (2g/M) [J (1 − cos qa) + D sin qa + K], another one for −q.

    Spins that turn right-handedly along x by qa cost −D sin qa; S⁺ ∝ e^{i(qx + ωt)} is S⁻ at −q.
    """
    coupling, anisotropy = 0.4 * J, 0.2 * J
    deck = magnet("sc", (16, 1, 1), steps=3000)
    deck["structure"] |= {"pbc": [True, False, False], "vacuum": 5.0}
    deck["structure"]["spins"]["direction"] = [1, 0, 0]
    deck["potential"] += [
        {"kind": "dmi", "parameters": {"form": "shells", "D": [coupling], "direction": "bond"}},
        {"kind": "anisotropy", "parameters": {"K": anisotropy, "axis": [1, 0, 0]}},
    ]
    with Trajectory(run(tmp_path, "chiral", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(
            trajectory, path="-1/2,0,0 1/2,0,0", component="+-", segments=1, axis=[1, 0, 0]
        )
    angle = result["q"][:, 0] * EDGE
    exact = 4.0e3 / MOMENT * (J * (1.0 - np.cos(angle)) + coupling * np.sin(angle) + anisotropy)
    found = np.isfinite(result["branch_energy"][:, 0])
    assert np.count_nonzero(found) >= 14
    assert result["branch_energy"][found, 0] == pytest.approx(exact[found], rel=0.006)


def test_stiffness(tmp_path):
    """D = (g/M) J a² of the simple cubic ferromagnet."""
    with Trajectory(run(tmp_path, "long", magnet("sc", (16, 3, 3), steps=4000))) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="0,0,0 1/2,0,0", segments=1)
    exact = 2.0e3 / MOMENT * J * EDGE**2
    assert result["stiffness"] == pytest.approx(exact, rel=0.01)
    assert 0.0 < result.error("stiffness") < 0.02 * exact


@pytest.mark.parametrize("sign", [1, -1])
def test_sense_of_precession(sign, tmp_path):
    """Moments turn right-handedly about their field: about +z for moments along z, and the other way about for those along −z."""
    deck = magnet("sc", (4, 4, 4), steps=1000)
    deck["structure"]["spins"]["direction"] = [0, 0, sign]
    with Trajectory(run(tmp_path, "sense", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(
            trajectory, component="+-,-+,chirality", axis=[0, 0, 1], path="G-X"
        )
        own = analysis.dynamical_structure_factor(trajectory, component="+-", path="G-X")
    away = np.abs(result["energy"]) > 3.0 * result["resolution"]
    ahead = np.sign(result["energy"]) * away == sign
    for name, right in (("S", ahead), ("S_2", (result["energy"] * sign < 0) & away)):
        assert result[name][1:, right].sum() > 0.999 * result[name][1:, away].sum()
    above = (result["energy"] > 0.0) & away
    assert (sign * result["S_3"][1:, above].sum(axis=1) > 0.0).all()
    assert own["S"][1:, above].sum() > 0.999 * own["S"][1:, away].sum()


def test_sum_rule(simple):
    """∫ dE S is the equal-time ⟨|S_q|²⟩/N, summed here directly over atoms and frames."""
    result = analysis.dynamical_structure_factor(simple, component="total,zz", segments=1, taper="none", path="G-X-M")
    spins, sites = np.asarray(simple.spins), simple.sites
    sums = np.einsum("fja,qj->fqa", spins, np.exp(-1j * result["q"] @ sites.T))
    step = result["energy"][1] - result["energy"][0]
    for end, direct in (("", (np.abs(sums) ** 2).sum(axis=2)), ("_2", np.abs(sums[:, :, 2]) ** 2)):
        direct = direct.mean(axis=0) / simple.natoms
        assert result[f"static{end}"] == pytest.approx(direct, rel=1e-10, abs=1e-20)
        assert result[f"S{end}"].sum(axis=1) * step == pytest.approx(direct, rel=1e-10, abs=1e-20)
    hann = analysis.dynamical_structure_factor(simple, segments=4, path="G-X-M")
    step = hann["energy"][1] - hann["energy"][0]
    assert hann["S"].sum(axis=1) * step == pytest.approx(hann["static"], rel=1e-9, abs=1e-20)


def test_same_for_pieces_threads_and_order_of_frames(simple, crystal, monkeypatch):
    from threadpoolctl import threadpool_limits

    def everything(magnet_run, lattice_run):
        results = [
            analysis.dynamical_structure_factor(magnet_run, path="G-X", fit=False),
            analysis.time_autocorrelation(lattice_run),
            analysis.density_of_states(lattice_run),
            analysis.mean_square_displacement(lattice_run),
        ]
        return [one.values for result in results for one in result.quantities.values() if one.values.dtype.kind == "f"]

    with threadpool_limits(1):
        expected = everything(simple, crystal)
        order = np.random.default_rng(1).permutation(len(simple))
        turned = everything(simple[order], crystal[::-1])
        monkeypatch.setattr(sqw, "PIECE", 0.02)
        monkeypatch.setattr(sqw.Waves, "BLOCK", 100)
        monkeypatch.setattr(autocorrelation, "ATOMS", 7)
        small = everything(simple, crystal)
    with threadpool_limits(2):
        threads = everything(simple, crystal)
    for other in (turned, small, threads):
        for one, two in zip(expected, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12 * np.abs(one).max())


def test_phonons(crystal):
    """Longitudinal and transverse branches along two directions of high symmetry."""
    for component, mode in (("longitudinal", 2), ("transverse", 0)):
        result = analysis.dynamical_structure_factor(
            crystal, of="velocities", component=component, path="G-X|G-L", segments=2, branches=1
        )
        q, energy = branch(result)
        assert len(q) == 6
        assert energy == pytest.approx(phonons(q)[0][:, mode], rel=WITHIN)


def test_currents_hold_the_kinetic_energy(crystal):
    """∫ dE of the mass-weighted currents is Σ m v²/N at every q, on average; C_L + 2 C_T is the total."""
    options = {
        "of": "velocities",
        "mass_weighted": True,
        "segments": 1,
        "taper": "none",
        "path": "G-X-W-L-G",
        "fit": False,
    }
    result = analysis.dynamical_structure_factor(crystal, component="total,longitudinal,transverse", **options)
    assert result["S"] == pytest.approx(result["S_2"] + 2.0 * result["S_3"], rel=1e-9)
    velocities = np.asarray(crystal.velocities)
    sums = np.einsum("fja,qj->fqa", velocities, np.exp(-1j * result["q"] @ crystal.sites.T))
    direct = 50.0 * AMU * (np.abs(sums) ** 2).sum(axis=2).mean(axis=0) / crystal.natoms
    assert result["static"] == pytest.approx(direct, rel=1e-9, abs=1e-18)
    moved = analysis.dynamical_structure_factor(crystal, positions="instantaneous", **options)
    assert moved["static"][1:] == pytest.approx(direct[1:], rel=0.1)
    assert moved["static"][1:] != pytest.approx(direct[1:], rel=1e-6)


def test_detailed_balance(simple):
    result = analysis.dynamical_structure_factor(
        simple, component="xx", quantum=True, temperature=50.0, path="G-X", fit=False
    )
    plain = analysis.dynamical_structure_factor(simple, component="xx", path="G-X", fit=False)
    x = result["energy"] / (8.617333262e-2 * 50.0)
    far = np.abs(x) > 1e-9
    ratio = result["S"][:, far] / plain["S"][:, far]
    expected = np.broadcast_to(x[far] / (1.0 - np.exp(-x[far])), ratio.shape)
    assert ratio == pytest.approx(expected, rel=1e-9)
    assert any("detailed balance" in note for note in result.notes)


def test_widths_of_damped_magnons(tmp_path):
    """Gilbert's damping gives a magnon the half width αE; segments are much shorter than would resolve it without the window."""
    alpha = 0.05
    deck = magnet("sc", (4, 4, 4), steps=16000)
    deck["integrator"] |= {"ensemble": "langevin", "spin_damping": alpha, "temperature": "0.3 K"}
    with Trajectory(run(tmp_path, "damped", deck)) as trajectory:
        result = analysis.dynamical_structure_factor(trajectory, path="G-X-M-G-R-X|R-M", segments=8)
    exact = ferromagnet(result["q"], "sc")
    sharp = np.isfinite(result["branch_energy"][:, 0]) & (exact > 3.0)
    ratio = (result["branch_width"][:, 0] / exact)[sharp]
    error = (result.error("branch_width")[:, 0] / exact)[sharp]
    assert np.count_nonzero(sharp) >= 10
    assert ratio.mean() == pytest.approx(alpha, rel=0.15)
    assert 0.5 * ratio.std() < error.mean() < 2.0 * ratio.std()
    deviation = np.abs(result["branch_energy"][sharp, 0] - exact[sharp])
    assert (deviation < 0.01 * exact[sharp] + 3.5 * result.error("branch_energy")[sharp, 0]).all()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"path": "G-Q"}, "has no point 'Q'"),
        ({"path": "0.01,0,0 0.02,0,0"}, "fits into the supercell"),
        ({"component": "up"}, "no component of spins"),
        ({"of": "velocities"}, "no velocities"),
        ({"of": "forces"}, "expected spins or velocities"),
        ({"taper": "box"}, "hann or none"),
        ({"segments": 400}, "at least 16 are needed"),
        ({"max_energy": 1e6}, "hold energies up to"),
        ({"mass_weighted": True}, "spins have no mass"),
        ({"axis": [0, 0, 0]}, "not all zero"),
        ({"element": "Co"}, "holds no Co"),
    ],
)
def test_mistakes(simple, options, words):
    with pytest.raises(InputError, match=words):
        analysis.dynamical_structure_factor(simple, **options)


def test_unequal_intervals_are_refused(simple):
    with pytest.raises(InputError, match="equal intervals"):
        analysis.dynamical_structure_factor(simple[np.r_[0:100, 150:200]])


def test_folded_energies_are_noticed(simple):
    coarse = analysis.dynamical_structure_factor(simple, analysis.Window(every=8))
    assert any("folded back" in note for note in coarse.notes)
    fine = analysis.dynamical_structure_factor(simple)
    assert not any("folded back" in note for note in fine.notes)


def test_map_is_drawn(simple, tmp_path):
    """Of one run and of two side by side, with curves laid over, and of a result read back."""
    result = analysis.dynamical_structure_factor(simple)
    result.add("overlay_distance", result["distance"], "1/Angstrom", axes=("overlay_distance",))
    result.add("overlay_energy", ferromagnet(result["q"], "sc")[:, None], "meV", axes=("overlay_distance", "branch"))
    result.write(tmp_path / "one.h5")
    analysis.plot(tmp_path / "one.h5", tmp_path / "one.png")
    analysis.plot(analysis.side_by_side([result, result]), tmp_path / "two.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000 < (tmp_path / "two.png").stat().st_size
