"""Magnetisation and susceptibilities of runs against Langevin's paramagnet; sublattices and staggered order against the frames."""

import numpy as np
import pytest
from support.runs import magnet, run

from spinmd import Trajectory, analysis
from spinmd.analysis.results import side_by_side
from spinmd.cli import main
from spinmd.errors import InputError
from spinmd.units import BOHR_MAGNETON, BOLTZMANN

MOMENT = 2.0


def close(result, name, exact, most, sigmas=3.5):
    """Within a few standard errors, which are themselves small."""
    value, error = result[name], result.error(name)
    assert 0.0 < error < most * abs(exact), f"{name} ± {error}"
    assert abs(value - exact) < sigmas * error, f"{name}: {value} ± {error}, expected {exact}"


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """Moments without exchange and field at 50 K."""
    deck = magnet(50.0, supercell=(8, 8, 8), J=None, field=(0, 0, 0), moment=MOMENT, steps=1500)
    return Trajectory(run(deck, tmp_path_factory.mktemp("free") / "free.h5"))


def test_susceptibility_of_free_moments_is_curies(free):
    """χ = µ²/(3 k_B T); ⟨|m|²⟩ = µ²/n; a Binder cumulant of 4/9."""
    result = analysis.magnetic_order(free)
    close(result, "susceptibility_disordered", MOMENT**2 * BOHR_MAGNETON / (3.0 * BOLTZMANN * 50.0), 0.04)
    close(result, "mean_square", MOMENT**2 / 512, 0.04)
    close(result, "binder", 4.0 / 9.0, 0.05)
    # µ0 M = χ_SI B in a cell of 27 Å³ for each moment: µ0 µ_B = 1.16540e-29 T m³ (CODATA)
    assert result["susceptibility_disordered_si"] == pytest.approx(
        result["susceptibility_disordered"] * 1.165402e-29 / 27e-30, rel=1e-5
    )
    for axis in "xyz":
        assert abs(result[f"magnetisation_{axis}"]) < 4.0 * result.error(f"magnetisation_{axis}")


def test_susceptibility_in_a_field_is_the_slope_of_langevins_function(tmp_path):
    """χ_zz = µ dL/dB and χ_xx = µ L/B with x = µ B/(k_B T) = 1.34."""
    field, kelvin = 20.0, 20.0
    deck = magnet(kelvin, supercell=(8, 8, 8), J=None, field=(0, 0, field), moment=MOMENT, steps=1500)
    result = analysis.magnetic_order(Trajectory(run(deck, tmp_path / "field.h5")))
    slope = MOMENT * BOHR_MAGNETON / (BOLTZMANN * kelvin)
    x = slope * field
    langevin = 1.0 / np.tanh(x) - 1.0 / x
    close(result, "magnetisation_z", MOMENT * langevin, 0.01)
    close(result, "susceptibility_zz", MOMENT * slope * (1.0 / x**2 - 1.0 / np.sinh(x) ** 2), 0.06)
    close(result, "susceptibility_xx", MOMENT * langevin / field, 0.06)
    assert result["temperature"] == kelvin and "no bath" not in " ".join(result.notes)


@pytest.fixture(scope="module")
def antiferromagnet(tmp_path_factory):
    """The simple cubic antiferromagnet below its Néel temperature, in frames; 1/8 of its spins in each corner of a 2×2×2 cell."""
    spins = {"moments": {"Fe": MOMENT}, "texture": "antiferromagnetic", "wavevector": [0.5, 0.5, 0.5]}
    deck = magnet(100.0, J=-0.01, steps=400, structure={"spins": spins}, output={"trajectory": 5})
    return Trajectory(run(deck, tmp_path_factory.mktemp("afm") / "afm.h5"))


def test_staggered_order(antiferromagnet):
    """Of the deck's signs, of the wave vector, and by hand; a ferromagnet of the same |J| has that as its magnetisation."""
    result = analysis.magnetic_order(antiferromagnet)
    given = analysis.magnetic_order(antiferromagnet, wavevector=(0.5, 0.5, 0.5))
    assert given["staggered"] == pytest.approx(result["staggered"], rel=1e-12)
    signs = (-1.0) ** np.rint(antiferromagnet.sites / 3.0).sum(axis=1)
    chosen = antiferromagnet.steps >= 80
    by_hand = np.linalg.norm(np.einsum("n,fnk->fk", signs, antiferromagnet.spins[...][chosen]) / 216, axis=1)
    assert result["staggered"] == pytest.approx(by_hand.mean(), rel=1e-12)
    assert result["staggered_binder"] == pytest.approx(0.6655, abs=0.002)
    assert result["magnetisation"] < 0.15 < 1.4 < result["staggered"]
    assert result["staggered_reduced"] == pytest.approx(result["staggered"] / MOMENT, rel=1e-12)


def test_incommensurate_wave_has_two_patterns(antiferromagnet):
    """At another wave vector nothing orders: cos and sin both count, and ⟨|m_q|²⟩ = S(q) m²/n."""
    result = analysis.magnetic_order(antiferromagnet, wavevector=(1 / 3, 0, 0))
    assert result["staggered"] < 0.25
    path = analysis.static_structure_factor(antiferromagnet, path="0,0,0 1/3,0,0")
    assert result["staggered_square"] == pytest.approx(path["structure_factor"][-1] * MOMENT**2 / 216, rel=1e-9)


def test_sublattices(tmp_path):
    """Elements and sites of a B2 alloy: two moments, and the means of the frames."""
    structure = {
        "prototype": "B2",
        "elements": ["Fe", "Co"],
        "spins": {"moments": {"Fe": 2.0, "Co": 1.5}, "texture": "ferromagnetic"},
    }
    deck = magnet(30.0, supercell=(4, 4, 4), steps=60, structure=structure, output={"trajectory": 5})
    deck["structure"].pop("element")
    trajectory = Trajectory(run(deck, tmp_path / "b2.h5"))
    by_element = analysis.magnetic_order(trajectory, sublattices="element")
    by_site = analysis.magnetic_order(trajectory, sublattices="site")
    for name, site in (("Fe", "site_0_Fe"), ("Co", "site_1_Co")):
        part = trajectory.select(elements=name)
        chosen = trajectory.steps >= 12
        exact = np.linalg.norm(part.spins[...][chosen].mean(axis=1), axis=1).mean()
        assert by_element[f"magnetisation_{name}"] == pytest.approx(exact, rel=1e-12)
        assert by_site[f"magnetisation_{site}"] == pytest.approx(exact, rel=1e-12)
        assert by_element[f"reduced_{name}"] == pytest.approx(exact / part.moments[0], rel=1e-12)


def test_chunks_and_order_of_frames_do_not_matter(antiferromagnet, monkeypatch):
    window = analysis.Window(start=-1.0)
    whole = analysis.magnetic_order(antiferromagnet, window, wavevector=(0.5, 0.5, 0.5))
    turned = analysis.magnetic_order(antiferromagnet[::-1], window, wavevector=(0.5, 0.5, 0.5))
    chunks = Trajectory.chunks
    monkeypatch.setattr(Trajectory, "chunks", lambda self, *q, **more: chunks(self, *q, **{**more, "megabytes": 0.02}))
    pieces = analysis.magnetic_order(antiferromagnet, window, wavevector=(0.5, 0.5, 0.5))
    for name in ("staggered", "staggered_binder", "staggered_susceptibility"):
        assert pieces[name] == whole[name] and pieces.error(name) == whole.error(name)
        assert turned[name] == pytest.approx(whole[name], rel=1e-9)


def test_figures_and_files(free, tmp_path):
    result = analysis.magnetic_order(free)
    result.write(tmp_path / "m.csv")
    assert "magnetisation = " in (tmp_path / "m.csv").read_text()
    for name, one in (("one", result), ("two", side_by_side([analysis.magnetic_order(free, series=False)] * 2))):
        analysis.plot(one, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_averages_are_of_runs_that_differ_in_their_seed(tmp_path, capsys):
    """Other lengths and names of files do not matter; another temperature does, and is named."""
    files = []
    for k, (kelvin, steps) in enumerate([(50.0, 20), (50.0, 30), (60.0, 20)]):
        deck = magnet(kelvin, supercell=(2, 2, 2), steps=steps, run={"seed": k})
        files.append(str(run(deck, tmp_path / f"{k}.h5")))
    assert main(["analyze", "magnetisation", *files[:2], "--average"]) == 0
    assert "temperature                   50 K" in capsys.readouterr().out
    assert main(["analyze", "magnetisation", *files, "--average", "--quiet"]) == 2
    assert "2.h5 has another integrator.temperature than 0.h5" in capsys.readouterr().err


def test_wrong_requests(free, antiferromagnet):
    with pytest.raises(InputError, match="expected element or site, got 'atom'"):
        analysis.magnetic_order(free, sublattices="atom")
    with pytest.raises(InputError, match="where this analysis needs 2"):
        analysis.magnetic_order(free, sublattices="element")
    with pytest.raises(InputError, match="expected three numbers"):
        analysis.magnetic_order(antiferromagnet, wavevector=(0.5, 0.5))
