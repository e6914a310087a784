"""Critical temperatures of the simple cubic Heisenberg model, k_B T_c = 1.4429 J, from runs: ``spinmd sweep`` and ``spinmd "
"analyze curie``."""

import re
import shlex

import pytest
from support.runs import J, crystal, magnet, run

from spinmd import Trajectory, analysis
from spinmd.analysis.curie import critical_temperature
from spinmd.cli import main
from spinmd.errors import InputError
from spinmd.units import BOLTZMANN

EXACT = 1.4429 * J / BOLTZMANN  # Chen, Ferrenberg, Landau, Phys. Rev. B 48, 3249 (1993)


def within(result, share, error):
    value, found = result["critical_temperature"], result.error("critical_temperature")
    print(f"T_c = {value:.2f} ± {found:.2f} K, expected {EXACT:.2f} K")
    assert 0.0 < found < error * EXACT
    assert abs(value / EXACT - 1.0) < share


def test_curie_temperature_from_a_sweep_of_parallel_tempering(root, tmp_path, monkeypatch):
    """The command line alone, two sizes, within 1 %: the table and the figure, too."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    deck = root / "inputs" / "parallel_tempering.toml"
    words = [
        "--over",
        "structure.supercell=[5,5,5],[10,10,10]",
        "--set",
        "integrator.temperatures=[160,164,168,172,176]",
    ]
    words += ["--set", "run.steps=1500", "--set", "output.thermo=1", "--quiet", "-o", str(tmp_path / "sweep")]
    assert main(["sweep", str(deck), *words]) == 0
    out, csv, png = tmp_path / "tc.h5", tmp_path / "tc.csv", tmp_path / "tc.png"
    assert main(["analyze", "curie", str(tmp_path / "sweep"), "-o", str(out), "--plot", str(png), "--quiet"]) == 0
    assert main(["analyze", "curie", str(tmp_path / "sweep"), "-o", str(csv), "--quiet"]) == 0
    result = analysis.read_result(out)
    within(result, 0.01, 0.008)
    assert sorted(set(result["size"])) == [125, 1000] and len(result["temperature"]) == 10
    assert result["cumulant"] == pytest.approx(0.62, abs=0.015)
    assert "critical_temperature = " in csv.read_text() and "temperature (K),magnetisation (muB)" in csv.read_text()
    assert png.stat().st_size > 20_000


@pytest.fixture(scope="module")
def antiferromagnets(tmp_path_factory):
    """Monte Carlo of two sizes at four temperatures, with frames."""
    folder = tmp_path_factory.mktemp("neel")
    spins = {"moments": {"Fe": 2.0}, "texture": "antiferromagnetic", "wavevector": [0.5, 0.5, 0.5]}
    files = []
    for cells in (4, 8):
        for kelvin in (161.0, 165.0, 169.0, 173.0):
            deck = magnet(
                kelvin, (cells,) * 3, J=-J, steps=1200, structure={"spins": spins}, integrator={"over_relaxation": 2},
                output={"trajectory": 2, "thermo": 20, "quantities": ["spins"], "compression": "none"}, run={"seed": cells},
            )  # fmt: skip
            files.append(run(deck, folder / f"{cells}_{kelvin:g}.h5"))
    return files


def test_neel_temperature_is_the_curie_temperature(antiferromagnets):
    """Changing the signs of J and of one sublattice changes nothing: 1.4429 |J|, from the staggered order of frames."""
    runs = [Trajectory(file) for file in antiferromagnets]
    result = critical_temperature(runs)
    assert result.settings["order"] == "staggered"
    within(result, 0.02, 0.02)
    given = critical_temperature(runs, wavevector=(0.5, 0.5, 0.5))
    assert given["critical_temperature"] == pytest.approx(result["critical_temperature"], rel=1e-9)
    # files in any order
    turned = critical_temperature(runs[::-1])
    assert turned["critical_temperature"] == result["critical_temperature"]


def test_one_size(tmp_path):
    """The universal cumulant, m(T) = (1 − T/T_c)^β and the peak of χ of 512 spins: shifted, and errors that know it."""
    files = []
    for kelvin in (80.0, 120.0, 150.0, 165.0, 180.0, 200.0):
        files.append(run(magnet(kelvin, (8, 8, 8), steps=500), tmp_path / f"{kelvin:g}.h5"))
    result = critical_temperature([Trajectory(file) for file in files])
    assert result["critical_temperature"] == result["universal_temperature"]
    within(result, 0.02, 0.03)
    assert abs(result["fit_temperature"] / EXACT - 1.0) < 0.06 and abs(result["peak_temperature"] / EXACT - 1.0) < 0.08
    assert 0.2 < result["fit_exponent"] < 0.45 and 0.0 < result.error("fit_temperature") < 3.0
    assert "one size only" in " ".join(result.notes)
    analysis.plot(result, tmp_path / "one.png")
    with pytest.raises(InputError, match="no critical temperature: between 80 and 150 K the order falls"):
        critical_temperature([Trajectory(file) for file in files[:3]])


def test_mistakes(tmp_path, capsys):
    """One run, one temperature, no bath, other potentials, no spins, parallel tempering for a staggered order."""
    one = run(magnet(100.0, (3, 3, 3), steps=60), tmp_path / "one.h5")
    again = run(magnet(100.0, (3, 3, 3), steps=60, run={"seed": 9}), tmp_path / "again.h5")
    for files in ([one], [one, again]):
        assert main(["analyze", "curie", *map(str, files)]) == 2
        message = capsys.readouterr().err
        assert "runs at three temperatures or more of each size, and there are 1 (100 K)" in message
        assert "spinmd sweep" in message
    other = run(magnet(110.0, (3, 3, 3), J=0.02, steps=60), tmp_path / "other.h5")
    with pytest.raises(InputError, match="other.h5 has other potentials than one.h5"):
        critical_temperature([Trajectory(one), Trajectory(other)])
    ladder = magnet(100.0, (3, 3, 3), steps=60)
    ladder["integrator"] = {"ensemble": "parallel-tempering", "lattice": "frozen", "temperatures": [90, 100, 110]}
    ladder = run(ladder, tmp_path / "ladder.h5")
    with pytest.raises(InputError, match="not their staggered one"):
        critical_temperature([Trajectory(ladder)], order="staggered")
    with pytest.raises(InputError, match="does not start antiferromagnetic"):
        critical_temperature([Trajectory(one)], order="staggered")
    with pytest.raises(InputError, match="expected magnetisation or staggered"):
        critical_temperature([Trajectory(one)], order="ferro")
    free = magnet(100.0, (3, 3, 3), steps=20, integrator={"ensemble": "nve", "timestep": 0.001})
    free["integrator"].pop("temperature")
    with pytest.raises(InputError, match="has no bath of one constant temperature in its last stage"):
        critical_temperature([Trajectory(run(free, tmp_path / "nve.h5"))])
    with pytest.raises(InputError, match="no atoms carry a magnetic moment"):
        critical_temperature([Trajectory(run(crystal(300.0, (2, 2, 2), steps=20), tmp_path / "lattice.h5"))])


@pytest.mark.physics
@pytest.mark.parametrize("number, share", [(0, 0.005), (1, 0.01)])
def test_commands_of_the_deck(root, tmp_path, monkeypatch, number, share):
    """What inputs/curie_sc.toml says in its comment: Curie and Néel temperature of two sizes by Monte Carlo, within 1 %."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(root)
    text = (root / "inputs" / "curie_sc.toml").read_text()
    lines = [shlex.split(line) for line in re.findall(r"^#     spinmd (.*)$", text, flags=re.MULTILINE)]
    assert [line[0] for line in lines] == ["sweep", "analyze"] * 2
    folder = lines[2 * number][-1]
    assert main([*lines[2 * number][:-1], str(tmp_path / folder), "--quiet"]) == 0
    assert main(["analyze", "curie", str(tmp_path / folder), "-o", str(tmp_path / "tc.h5"), "--quiet"]) == 0
    within(analysis.read_result(tmp_path / "tc.h5"), share, 0.005)
