"""The command line: what each command prints and writes, its exit codes, and every error a user can make."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import spinmd
from spinmd.cli import main
from spinmd.structure import build_structure
from spinmd.units import BOLTZMANN, HBAR

# eight atoms, big enough for two cutoffs of small terms; fast to compile and run
DECK = """\
title = "small"

[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [2, 2, 2]
displacement = 0.05
temperature = 300

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[[potential]]
kind = "lennard-jones"
parameters = { epsilon = 0.4, sigma = 2.2, cutoff = 4.0 }

[[potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4 }
pairs = ["Fe-Fe"]

[integrator]
timestep = "1 fs"

[run]
steps = 20

[output]
file = "run.h5"
thermo = 5
trajectory = 10
checkpoint = 10
"""


@pytest.fixture
def deck(tmp_path, monkeypatch):
    """Writes a deck into an empty folder, which is also the present one; returns its path."""

    def write(text=DECK, name="deck.toml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    monkeypatch.chdir(tmp_path)
    return write


def tree(folder):
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def spinmd_process(*arguments, **keywords):
    """``spinmd`` in a process of its own, from this checkout."""
    return subprocess.Popen([sys.executable, "-m", "spinmd", *arguments], text=True, **keywords)


@pytest.fixture
def checkout(monkeypatch, root):
    """Lets new processes import this checkout from any folder."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])))


# ------------------------------------------------------------------------------------------------ run


def test_run_writes_output_and_summary(deck, tmp_path, capsys):
    assert main(["run", deck(), "--summary", "summary.json", "--threads", "1"]) == 0
    screen = capsys.readouterr()
    assert "conserved" in screen.out and "16 atoms" in screen.out and screen.err == ""
    summary = json.loads((tmp_path / "summary.json").read_text())
    expected = "atoms steps device threads seconds_loop us_per_atom_step list_rebuilds energy_first energy_last"
    assert set(summary) >= {*expected.split(), "drift_mev_per_atom_per_ps", "drift_error", "output"}
    assert (summary["atoms"], summary["steps"], summary["device"], summary["threads"]) == (16, 20, "cpu", 1)
    assert summary["output"] == str(tmp_path / "run.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deck.toml", "run.h5", "summary.json"]
    with h5py.File(tmp_path / "run.h5") as file:
        assert list(file["spinmd/thermo/step"]) == [0, 5, 10, 15, 20]
        assert file["spinmd/deck/text"][()].decode() == DECK
        assert json.loads(file["spinmd/deck/settings"][()])["run"] == {"steps": 20}


def test_quiet_prints_nothing(deck, capsys):
    assert main(["run", deck(), "--quiet", "--set", "run.steps=2"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_existing_output_is_kept_without_force(deck, tmp_path, capsys):
    (tmp_path / "run.h5").write_bytes(b"precious")
    assert main(["run", deck(), "--quiet", "--set", "run.steps=1"]) == 2
    assert "output.file (line 31)" in capsys.readouterr().err
    assert (tmp_path / "run.h5").read_bytes() == b"precious"
    assert main(["run", deck(), "--quiet", "--set", "run.steps=1", "--force"]) == 0
    assert h5py.is_hdf5(tmp_path / "run.h5")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "output.file=deck.toml", "--force"],
        ["--summary", "deck.toml"],
        ["--summary", "run.h5"],
    ],
)
def test_a_run_never_writes_over_what_it_reads(deck, capsys, arguments):
    path = Path(deck())
    arguments = [a.replace("deck.toml", path.name) for a in arguments]
    before = path.read_bytes()
    assert main(["run", str(path), "--quiet", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert path.read_bytes() == before


def test_a_run_never_writes_over_its_potential(deck, root, tmp_path, capsys):
    potential = tmp_path / "Fe.eam.fs"
    potential.write_bytes((root / "inputs/potentials/Fe_mm.eam.fs").read_bytes())
    text = Path(deck()).read_text()
    kind = '[[potential]]\nkind = "eam"\nparameters = { file = "Fe.eam.fs" }\n\n[integrator]'
    path = tmp_path / "own.toml"
    path.write_text(text.replace("[integrator]", kind))
    assert main(["run", str(path), "--quiet", "--force", "--set", "output.file=Fe.eam.fs"]) == 2
    assert "output.file" in capsys.readouterr().err
    assert potential.read_bytes()[:4] == b"DATE"


@pytest.mark.parametrize("flows, letter", [("R S R", "V"), ("V R V", "S"), ("S", "R")])
def test_a_splitting_without_one_of_the_flows_is_refused(deck, capsys, flows, letter):
    assert main(["run", deck(), "--quiet", "--set", f"integrator.splitting={flows}"]) == 2
    error = capsys.readouterr().err
    assert "integrator.splitting" in error and f"has no {letter}" in error


def test_steps_that_did_not_converge_are_counted(deck, capsys):
    assert main(["run", deck(), "--set", "integrator.max_iterations=1", "--summary", "s.json"]) == 0
    assert "did not converge in 20 steps" in capsys.readouterr().err
    assert json.loads(Path("s.json").read_text())["steps_not_converged"] == 20


def test_a_run_that_diverges_ends_with_code_3(deck, tmp_path, capsys):
    sets = ["--set", "integrator.timestep=50", "--set", "run.steps=200", "--set", "structure.temperature=3000"]
    assert main(["run", deck(), "--quiet", *sets]) == 3
    error = capsys.readouterr().err
    assert error.startswith("spinmd: error: ") and error.count("\n") == 1
    with h5py.File(tmp_path / "run.h5") as file:
        assert np.isfinite(file["spinmd/checkpoint/state/positions"][()]).all()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_a_checkpoint(deck, tmp_path, checkout, number, code):
    path = deck(DECK.replace("steps = 20", "steps = 100000000").replace("checkpoint = 10", "checkpoint = 0"))
    process = spinmd_process("run", path, "--quiet", stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run.h5").exists():  # written when the loop begins
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, error
    assert "stopped by " + number.name in error and "Traceback" not in error
    with h5py.File(tmp_path / "run.h5") as file:
        step = file["spinmd/checkpoint"].attrs["step"]
        assert step > 0 and f"step {step};" in error
        assert file["spinmd/thermo/step"][-1] <= step


# ------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_needs_structure_and_potential_only(deck, tmp_path):
    text = DECK[: DECK.index("[integrator]")]
    assert main(["evaluate", deck(text), "-o", "out.json"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found) == {"natoms", "energy", "energies", "forces", "fields", "virial"}
    assert found["natoms"] == 16 and list(found["energies"]) == ["lennard-jones", "exchange"]
    assert found["energy"] == pytest.approx(sum(found["energies"].values()), rel=1e-14)
    assert np.shape(found["forces"]) == np.shape(found["fields"]) == (16, 3) and np.shape(found["virial"]) == (3, 3)


def test_evaluate_undoes_the_sort_in_space(deck, tmp_path):
    """Exchange is homogeneous of degree 2 in the spins: −½ Σ S·F is its energy if spins and fields are in one order."""
    text = DECK.replace("[2, 2, 2]", "[11, 11, 11]")
    assert main(["evaluate", deck(text), "-o", "out.json"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    read = spinmd.load_deck(text)
    spins = build_structure(read.structure, read.seed).spins
    assert -0.5 * (spins * found["fields"]).sum() == pytest.approx(found["energies"]["exchange"], rel=1e-12)
    simulation = spinmd.build(text, output=False)
    simulation.evaluate()
    assert (simulation.state.ids != np.arange(2662)).any()


def test_evaluate_agrees_with_plain_sums_over_pairs(deck, tmp_path):
    """Two atoms against 4ε((σ/r)¹² − (σ/r)⁶), and the field of one exchange pair, in the file's order."""
    (tmp_path / "two.xyz").write_text(
        '2\nProperties=species:S:1:pos:R:3:magmoms:R:3 pbc="F F F" Lattice="20 0 0 0 20 0 0 0 20"\n'
        "Fe 5.0 5.0 7.5 0 0 2.0\nFe 5.0 5.0 5.0 1.0 0 0\n"
    )
    text = '[structure]\nfile = "two.xyz"\n[[potential]]\nkind = "lennard-jones"\n'
    text += "parameters = { epsilon = 0.4, sigma = 2.2, cutoff = 6.0, shift = false }\n"
    text += '[[potential]]\nkind = "exchange"\nparameters = { form = "constant", J0 = 0.01, cutoff = 4.0 }\n'
    assert main(["evaluate", deck(text), "-o", "out.json"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    q = (2.2 / 2.5) ** 6
    assert found["energies"]["lennard-jones"] == pytest.approx(4 * 0.4 * (q * q - q), rel=1e-12)
    pull = 4 * 0.4 * (12 * q * q - 6 * q) / 2.5
    np.testing.assert_allclose(found["forces"], [[0, 0, pull], [0, 0, -pull]], rtol=1e-12, atol=1e-14)
    # F_i = J e_j / m_i
    np.testing.assert_allclose(found["fields"], [[0.01 / 2.0, 0, 0], [0, 0, 0.01 / 1.0]], rtol=1e-12, atol=1e-16)


def test_evaluate_prints_without_output(deck, capsys):
    assert main(["evaluate", deck()]) == 0
    assert json.loads(capsys.readouterr().out)["natoms"] == 16


# ------------------------------------------------------------------------------------------------ check, schema, info

RIGID = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.87
supercell = [4, 4, 4]
[structure.spins]
moments = { Fe = 2.23 }
[[potential]]
kind = "exchange"
parameters = { form = "shells", J = ["20 meV", "10 meV"] }
[integrator]
timestep = "10 fs"
lattice = "frozen"
"""


def test_check_computes_what_is_known(deck, tmp_path, capsys):
    """ΣJ = 8·20 + 6·10 meV; T_c = ΣJ/3k_B; a spin of the ferromagnet feels F = ΣJ/m and precesses at 2F/ħ."""
    from spinmd.checking import examine

    before = tree(tmp_path)
    found = examine(spinmd.build(RIGID, output=False))
    assert found["exchange"][0]["sum"] == pytest.approx(0.22, rel=1e-12)
    assert found["mean_field_temperature"] == pytest.approx(0.22 / (3 * BOLTZMANN), rel=1e-3)
    assert found["mean_field_order"] == "ferromagnetic"
    assert found["precession_frequency"] == pytest.approx(2 * 0.22 / 2.23 / HBAR, rel=1e-12)
    assert any("integrator.timestep" in warning for warning in found["warnings"])
    assert tree(tmp_path) == before
    path = deck(RIGID)
    before = tree(tmp_path)
    assert main(["check", path]) == 0
    out = capsys.readouterr().out
    assert "ΣJ = 0.22000 eV" in out and "T_c = 851 K" in out and "steps per period" in out
    assert tree(tmp_path) == before


def test_check_finds_the_order_of_an_antiferromagnet():
    """Simple cubic with J < 0: the largest eigenvalue of J_ij is 6|J|, at q = (½ ½ ½)."""
    from spinmd.checking import examine

    text = RIGID.replace('"bcc"', '"sc"').replace('["20 meV", "10 meV"]', '["-10 meV"]')
    found = examine(spinmd.build(text, output=False))
    assert found["mean_field_temperature"] == pytest.approx(0.06 / (3 * BOLTZMANN), rel=1e-3)
    assert found["mean_field_order"] == "not ferromagnetic"


def test_check_estimates_the_largest_phonon_frequency():
    """Two atoms bound by a Morse bond stretch at ω² = 2 D α²·2/m (reduced mass m/2)."""
    from spinmd.checking import examine
    from spinmd.units import AMU

    text = {
        "structure": {
            "prototype": "sc",
            "element": "Fe",
            "lattice_constant": 2.5,
            "supercell": [2, 1, 1],
            "pbc": [False] * 3,
        },
        "potential": [{"kind": "morse", "parameters": {"depth": 0.5, "alpha": 1.4, "r0": 2.5, "cutoff": 9.0}}],
    }
    found = examine(spinmd.build(text, output=False))
    mass = spinmd.build(text, output=False).state.masses[0] * AMU
    assert found["phonon_frequency"] == pytest.approx((2 * 2 * 0.5 * 1.4**2 / mass) ** 0.5, rel=1e-3)


def test_check_warns_of_a_hard_cutoff_and_a_small_cell():
    from spinmd.checking import examine

    found = examine(spinmd.build(DECK, ["potential.1.parameters.smoothing=0"], output=False))
    (hard,) = [w for w in found["warnings"] if "smoothing = 0" in w]
    # Bethe-Slater still has 3.2 meV at 3.4 Å
    assert "3.2 meV" in hard or "3.19 meV" in hard or "3.21 meV" in hard
    assert any("half the cell (2.87 Å)" in w for w in found["warnings"])


def test_schema_and_info_print(capsys):
    assert main(["schema"]) == 0
    assert "## `[structure]`" in capsys.readouterr().out
    assert main(["schema", "--json"]) == 0
    assert "exchange" in json.loads(capsys.readouterr().out)["potentials"]
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["spinmd"] == spinmd.__version__ and facts["threads"] >= 1 and facts["numba"] and facts["cache"]
    assert main(["info"]) == 0
    assert "threading_layer" in capsys.readouterr().out


def test_help_is_quick_and_imports_nothing_heavy(checkout, tmp_path):
    heavy = "numba", "torch", "ase", "h5py", "scipy"
    code = f"import sys, spinmd.cli; spinmd.cli.main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    seconds = time.perf_counter() - begin
    assert done.stdout.strip().endswith("[]") and "evaluate" in done.stdout
    assert seconds < 5.0  # 0.1 s on an idle machine; tests share theirs


# ------------------------------------------------------------------------------------------------ errors

XYZ = 'Properties=species:S:1:pos:R:3{more} pbc="T T T" Lattice="6 0 0 0 6 0 0 0 6"\n'
FILE = '[structure]\nfile = "atoms.xyz"\n[structure.spins]\nmoments = {{ Fe = 2.2 }}\n'


def with_file(content):
    """The deck with its structure from atoms.xyz, and that file's content."""
    return FILE.format() + DECK[DECK.index("[[potential]]") :], {"atoms.xyz": content}


def replaced(old, new):
    assert old in DECK
    return DECK.replace(old, new, 1), {}


def cut_short():
    """An EAM file that ends in the middle of its tables."""
    header = "one\ntwo\nthree\n1 Fe\n100 0.1 100 0.05 4.5\n26 55.845 2.87 bcc\n"
    text, _ = replaced('kind = "lennard-jones"', 'kind = "eam"')
    text = text.replace("{ epsilon = 0.4, sigma = 2.2, cutoff = 4.0 }", '{ file = "Fe.eam.fs" }')
    return text, {"Fe.eam.fs": header + "0.5 0.5 0.5 0.5 0.5\n" * 30}


def other_element():
    """An EAM file for another element than the structure's."""
    text, files = cut_short()
    table = "0.5 0.5 0.5 0.5 0.5\n" * 60
    return text, {"Fe.eam.fs": files["Fe.eam.fs"].replace("1 Fe", "1 Ni").split("0.5")[0] + table}


ERRORS = {
    "unknown key": (
        replaced("cutoff = 3.4", "cutof = 3.4"),
        "potential.1.parameters.cutof (line 21)",
        "did you mean 'cutoff'?",
    ),
    "unknown table": (replaced("[run]", "[rum]"), "rum (line 27)", "did you mean 'run'?"),
    "misspelt kind": (replaced('"exchange"', '"exchnage"'), "potential.1.kind (line 20)", "did you mean 'exchange'"),
    "missing structure file": (with_file("")[:1] + ({},), "structure.file (line 2)", "there is no file"),
    "missing parameter file": (
        replaced('kind = "lennard-jones"\nparameters = { epsilon', 'kind = "eam"\nparameters = { file = "no.fs" } # '),
        "potential.0.parameters.file (line 17)",
        "no.fs",
    ),
    "no such element": (replaced('"Fe"', '"Fx"'), "structure.element (line 5)", "not the symbol of an element"),
    "wrong element in pairs": (replaced('"Fe-Fe"', '"Fe-Co"'), "potential.1.pairs (line 22)", "only Fe"),
    "wrong element in moments": (replaced("{ Fe = 2.2 }", "{ Co = 2.2 }"), "structure.spins", "Co"),
    "element missing in an EAM file": (other_element(), "potential.0", "Fe"),
    "overlapping atoms": (
        with_file("2\n" + XYZ.format(more="") + "Fe 1 1 1\nFe 1 1 1.1\n"),
        "structure.file (line 2)",
        "0.1",
    ),
    "NaN in a structure file": (
        with_file("2\n" + XYZ.format(more="") + "Fe 1 1 1\nFe nan 3 3\n"),
        "structure.file (line 2)",
        "finite",
    ),
    "NaN in the deck": (replaced("2.8665", "nan"), "structure.lattice_constant (line 6)", "finite"),
    "negative mass in the deck": (
        replaced("temperature = 300", "masses = { Fe = -55.8 }"),
        "structure.masses.Fe (line 9)",
        "greater than 0",
    ),
    "negative mass in a file": (
        with_file("2\n" + XYZ.format(more=":masses:R:1") + "Fe 1 1 1 55.8\nFe 3 3 3 -55.8\n"),
        "structure",
        "mass",
    ),
    "zero timestep": (replaced('"1 fs"', '"0 fs"'), "integrator.timestep (line 25)", "greater than 0"),
    "negative steps": (replaced("steps = 20", "steps = -20"), "run.steps (line 28)", "at least 0"),
    "output folder": (replaced('"run.h5"', '"results/run.h5"'), "output.file (line 31)", "results"),
    "EAM file cut short": (cut_short(), "Fe.eam.fs", "cut short"),
    "supercell too large": (replaced("[2, 2, 2]", "[100000, 100000, 1000]"), "structure.supercell (line 7)", "memory"),
    "no moments": (
        replaced('moments = { Fe = 2.2 }\ntexture = "random"', ""),
        "potential.1",
        "structure.spins.moments",
    ),
    "nothing moves": (
        replaced('timestep = "1 fs"', 'timestep = "1 fs"\nlattice = "frozen"\nspins = "frozen"'),
        "integrator (line 24)",
        "nothing moves",
    ),
    "unit of another quantity": (replaced('"1 fs"', '"1 K"'), "integrator.timestep (line 25)", "not a unit of time"),
    "stage with another file": (
        (DECK + '[[stage]]\noutput = { file = "other.h5" }\n', {}),
        "stage.0.output.file (line 36)",
        "one file",
    ),
    "no integrator": ((DECK.replace('[integrator]\ntimestep = "1 fs"\n', ""), {}), "integrator", "no [integrator]"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_wrong_deck_gives_one_sentence_and_writes_nothing(case, deck, tmp_path, capsys):
    (text, files), place, words = ERRORS[case]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    path = deck(text)
    before = tree(tmp_path)
    assert main(["run", path, "--summary", str(tmp_path / "summary.json")]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("spinmd: error: ") and error.count("\n") == 1, error
    assert place in error and words in error, error
    assert out == ""
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["run", "deck.toml", "--device", "tpu"], "expected cpu or cuda, got 'tpu'"),
        (["run", "deck.toml", "--threads", "0"], "--threads"),
        (["run", "deck.toml", "--threads", "100000"], "--threads"),
        (["run", "deck.toml", "--set", "run.threads=100000"], "run.threads"),
        (["run", "deck.toml", "--set", "potential.7.kind=eam"], "potential.7.kind"),
        (["run", "deck.toml", "--summary", "nowhere/summary.json"], "there is no folder"),
        (["evaluate", "deck.toml", "-o", "nowhere/out.json"], "there is no folder"),
        (["run", "other.toml"], "other.toml: there is no such deck"),
        (["run"], "deck"),
        (["runn", "deck.toml"], "runn"),
        (["run", "deck.toml", "--forse"], "--forse"),
    ],
)
def test_a_wrong_command_line(arguments, words, deck, tmp_path, capsys):
    deck()
    before = tree(tmp_path)
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert error.startswith("spinmd: error: ") and error.count("\n") == 1 and words in error, error
    assert out == "" and tree(tmp_path) == before


def test_errors_leave_no_traceback_in_a_process(deck, checkout):
    process = spinmd_process("run", deck(DECK.replace('"1 fs"', "0")), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    assert error == "spinmd: error: integrator.timestep (line 25): must be greater than 0, got 0\n"


def test_check_warns_of_atoms_closer_than_a_table_begins(tmp_path, capsys):
    (tmp_path / "j.dat").write_text("2.7 0.02\n3.0 0.01\n3.3 0.001\n3.6 0.0\n")
    (tmp_path / "deck.toml").write_text(
        '[structure]\nprototype = "bcc"\nelement = "Fe"\nlattice_constant = 2.8665\nsupercell = [4, 4, 4]\n'
        "[structure.spins]\nmoments = { Fe = 2.2 }\n"
        '[[potential]]\nkind = "exchange"\nparameters = { form = "table", file = "j.dat" }\n'
    )
    assert main(["check", str(tmp_path / "deck.toml")]) == 0
    assert "begins at 2.7 Å, and atoms are as close as 2.482 Å" in " ".join(capsys.readouterr().out.split())
