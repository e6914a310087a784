"""The ASE calculator: derivatives, relaxation, dynamics and phonons with ASE's own tools, against independent answers."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.phonons import Phonons
from ase.units import GPa, _amu, _e, _hbar, fs
from support.systems import LATTICE, every_spin_term, exchange, morse

import spinmd
from spinmd.ase_calculator import SpinmdCalculator, spins_of
from spinmd.errors import InputError
from spinmd.units import EV_PER_A3_IN_GPA


def crystal(a=LATTICE, cubic=True, moment=None):
    """bcc iron; ASE's own moment of 2.3 µB, which it gives to iron only along z, is taken away."""
    atoms = bulk("Fe", "bcc", a=a, cubic=cubic)
    atoms.set_initial_magnetic_moments(None)
    if moment is not None:
        atoms.set_initial_magnetic_moments([moment] * len(atoms))
    return atoms


def iron(cells=2, seed=1, rattle=0.05):
    """A sheared, rattled bcc cell with non-collinear spins of different lengths."""
    rng = np.random.default_rng(seed)
    atoms = crystal().repeat(cells)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0.0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0.0, rattle, atoms.positions.shape)
    atoms.set_initial_magnetic_moments(rng.normal(0.0, 1.3, atoms.positions.shape))
    return atoms


def all_terms():
    return [morse(), *every_spin_term()]


# --- derivatives ---


def test_forces_stress_and_fields_are_derivatives():
    atoms = iron()
    moments = np.linalg.norm(atoms.get_initial_magnetic_moments(), axis=1)
    atoms.calc = SpinmdCalculator(all_terms(), moments=moments)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    fields = atoms.calc.get_magnetic_forces(atoms)
    energy, volume, h = atoms.get_potential_energy(), atoms.get_volume(), 1e-4
    assert atoms.get_potential_energy(force_consistent=True) == energy
    assert sum(atoms.calc.energies.values()) == pytest.approx(energy, abs=1e-12)
    assert len(atoms.calc.energies) == 7

    def slope(change):
        values = []
        for step in (h, -h):
            moved = atoms.copy()
            change(moved, step)
            moved.calc = atoms.calc
            values.append(moved.get_potential_energy())
        return (values[0] - values[1]) / (2 * h)

    for atom, axis in ((0, 0), (7, 1), (15, 2)):

        def displace(moved, step, atom=atom, axis=axis):
            moved.positions[atom, axis] += step

        def turn(moved, step, atom=atom, axis=axis):
            magmoms = moved.get_initial_magnetic_moments()
            magmoms[atom, axis] += step
            moved.set_initial_magnetic_moments(magmoms)

        assert forces[atom, axis] == pytest.approx(-slope(displace), abs=1e-7)
        assert fields[atom, axis] == pytest.approx(-slope(turn), abs=1e-7)
    for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):

        def strain(moved, step, a=a, b=b):
            symmetric = np.eye(3)
            symmetric[a, b] += step / 2
            symmetric[b, a] += step / 2
            moved.set_cell(moved.cell.array @ symmetric, scale_atoms=True)

        assert stress[a, b] == pytest.approx(slope(strain) / volume, abs=2e-7)
    np.testing.assert_array_equal(
        atoms.get_stress(), [stress[0, 0], stress[1, 1], stress[2, 2], stress[1, 2], stress[0, 2], stress[0, 1]]
    )


def test_same_numbers_as_a_deck(root):
    deck = spinmd.load_deck(root / "inputs" / "reference_dataset.toml", {"structure.displacement": 0.1})
    simulation = spinmd.build(deck, output=False)
    state, results = simulation.state, simulation.results()
    atoms = Atoms(state.elements, positions=state.positions + state.cell[0], cell=state.cell, pbc=True)
    atoms.set_initial_magnetic_moments(1.05 * state.spins)  # moments are the deck's, and not these lengths
    state.spins *= 1.05
    simulation.moved()
    results = simulation.results()
    atoms.calc = SpinmdCalculator(root / "inputs" / "reference_dataset.toml")
    assert atoms.get_potential_energy() == pytest.approx(results["energy"], abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), results["forces"], atol=1e-10)
    np.testing.assert_allclose(atoms.calc.get_magnetic_forces(atoms), results["fields"], atol=1e-10)
    pressure = -atoms.get_stress()[:3].mean()
    assert pressure / GPa == pytest.approx(np.trace(results["virial"]) / (3 * state.volume) * EV_PER_A3_IN_GPA)


# --- what ASE does with it ---


def test_relaxation_finds_the_equilibrium(tmp_path):
    """Cell and atoms go back to the perfect crystal, whose lattice constant a scan of energies gives."""
    calculator = SpinmdCalculator([morse(), exchange()], moments={"Fe": 2.2})

    def energy(a):
        perfect = crystal(a, moment=2.2)
        perfect.calc = calculator
        return perfect.get_potential_energy() / 2

    grid = np.linspace(2.6, 3.1, 101)
    lowest = grid[np.argmin([energy(a) for a in grid])]
    near = lowest + np.linspace(-0.02, 0.02, 9)
    c2, c1, c0 = np.polyfit(near - lowest, [energy(a) for a in near], 2)
    equilibrium = lowest - c1 / (2 * c2)

    atoms = crystal(2.87, moment=2.2).repeat(2)
    atoms.rattle(0.08, seed=3)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + [[0.02, 0.01, 0], [0, -0.01, 0], [0, 0, 0.03]]), scale_atoms=True)
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    with BFGS(FrechetCellFilter(atoms), logfile=None) as optimizer:
        assert optimizer.run(fmax=1e-3, steps=200)
    assert atoms.get_potential_energy() < before - 0.5
    assert (atoms.get_volume() / 8) ** (1 / 3) == pytest.approx(equilibrium, abs=2e-3)
    assert atoms.get_potential_energy() / 16 == pytest.approx(energy(equilibrium), abs=1e-5)
    assert np.abs(atoms.get_stress()).max() < 1e-4


def test_dynamics_conserve_energy():
    atoms = iron(rattle=0.0)
    atoms.calc = SpinmdCalculator([morse(), exchange(cutoff=4.0, smoothing=1.0)])
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(0.0, np.sqrt(55.845 * 0.05), (16, 3)))
    energies, largest = {}, 0.0
    start = atoms.get_total_energy()
    for step in (2.0, 1.0):
        copy = atoms.copy()
        copy.calc = atoms.calc
        errors = []
        dynamics = VelocityVerlet(copy, timestep=step * fs)
        for _ in range(int(100 / step)):
            dynamics.run(1)
            errors.append(abs(copy.get_total_energy() - start))
        largest = max(largest, np.abs(copy.positions - atoms.positions).max())
        energies[step] = max(errors)
    assert largest > 0.1  # Å: something moves
    assert energies[1.0] < 2e-4 * 16
    assert energies[2.0] / energies[1.0] == pytest.approx(4.0, rel=0.25)  # the error is the integrator's, O(dt²)
    assert atoms.calc.evaluator.builds == 1


def test_phonons_of_a_morse_crystal(tmp_path):
    """Frequencies against the dynamical matrix of the pair potential, summed by hand, at q that fit the supercell."""
    depth, alpha, r0, cutoff = 0.4174, 1.3885, 2.845, 5.0
    from spinmd.potentials.pair import Morse

    atoms = crystal(2.9, cubic=False)
    phonons = Phonons(
        atoms,
        SpinmdCalculator(Morse(depth=depth, alpha=alpha, r0=r0, cutoff=cutoff)),
        supercell=(4, 4, 4),
        delta=0.01,
        name=str(tmp_path / "phonon"),
    )
    phonons.run()
    phonons.read(acoustic=True)

    def expected(q):
        reach = range(-5, 6)
        vectors = np.array([[i, j, k] for i in reach for j in reach for k in reach if (i, j, k) != (0, 0, 0)])
        phase = 1.0 - np.cos(2 * np.pi * vectors @ q)
        vectors = vectors @ atoms.cell.array
        r = np.linalg.norm(vectors, axis=1)
        inside = r < cutoff
        vectors, phase, r = vectors[inside], phase[inside], r[inside]
        e = np.exp(-alpha * (r - r0))
        slope, curve = 2 * alpha * depth * (e - e * e), 2 * alpha**2 * depth * (2 * e * e - e)
        n = vectors / r[:, None]
        along = np.einsum("k,ka,kb->ab", phase * (curve - slope / r), n, n)
        matrix = along + np.eye(3) * (phase * slope / r).sum()
        values = np.linalg.eigvalsh(matrix / atoms.get_masses()[0])
        return np.sign(values) * np.sqrt(np.abs(values)) * _hbar * 1e10 / np.sqrt(_e * _amu)

    points = np.array([[0.5, 0.5, 0.5], [0.5, 0.0, 0.0], [0.25, 0.25, 0.0], [0.75, 0.25, 0.5]])
    found = phonons.band_structure(points)
    assert found.max() > 0.02
    for q, energies in zip(points, found, strict=True):
        np.testing.assert_allclose(np.sort(energies), expected(q), atol=2e-5)  # eV; differences of 0.01 Å
    assert np.abs(phonons.band_structure([[0.0, 0.0, 0.0]])).max() < 1e-4  # acoustic sum rule


# --- atoms that change ---


def test_what_changed_is_evaluated_again_and_nothing_else():
    atoms = iron()
    calculator = SpinmdCalculator(all_terms(), moments={"Fe": 2.0})
    atoms.calc = calculator
    first = atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.01
    moved = atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments()[::-1].copy())
    turned = atoms.get_potential_energy()
    atoms.set_cell(1.01 * atoms.cell.array, scale_atoms=True)
    grown = atoms.get_potential_energy()
    assert len({first, moved, turned, grown}) == 4
    assert calculator.evaluator.builds == 1
    half = atoms[::2]
    half.calc = calculator
    with_half = half.get_potential_energy()
    assert calculator.evaluator.builds == 2
    half.pbc = [True, True, False]
    open_slab = half.get_potential_energy()
    assert calculator.evaluator.builds == 3
    fresh = half.copy()
    fresh.calc = SpinmdCalculator(all_terms(), moments={"Fe": 2.0})
    assert fresh.get_potential_energy() == pytest.approx(open_slab, abs=1e-12) != with_half
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(grown, abs=1e-10)


def test_magnetic_moments_of_either_form():
    assert spins_of([1.0, -2.0]).tolist() == [[0, 0, 1], [0, 0, -2]]
    collinear, vectors = crystal().repeat(2), crystal().repeat(2)
    collinear.set_initial_magnetic_moments(np.linspace(-2, 2, 16))
    vectors.set_initial_magnetic_moments(spins_of(np.linspace(-2, 2, 16)))
    energies = []
    for atoms in (collinear, vectors):
        atoms.calc = SpinmdCalculator([exchange()])
        energies.append(atoms.get_potential_energy())
        np.testing.assert_array_equal(atoms.get_magnetic_moments(), atoms.get_initial_magnetic_moments())
        assert atoms.calc.results["magnetic_forces"].shape == (16, 3)
        assert atoms.get_magnetic_moment() == pytest.approx(0.0, abs=1e-12)
    assert energies[0] == energies[1]


def test_reference_moments_are_the_first_lengths_unless_given():
    atoms = iron()
    atoms.calc = SpinmdCalculator([exchange()])
    unit = atoms.get_potential_energy()  # e of length one
    atoms.set_initial_magnetic_moments(0.5 * atoms.get_initial_magnetic_moments())
    assert atoms.get_potential_energy() == pytest.approx(0.25 * unit, rel=1e-12)
    given = iron()
    given.calc = SpinmdCalculator(
        [exchange()], moments=0.5 * np.linalg.norm(given.get_initial_magnetic_moments(), axis=1)
    )
    assert given.get_potential_energy() == pytest.approx(4.0 * unit, rel=1e-12)


def test_molecules_without_a_cell():
    atoms = Atoms("Fe2", positions=[[0, 0, 0], [0, 0, 2.2]])
    atoms.calc = SpinmdCalculator(morse())
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    slope = 2 * 1.3885 * 0.4174 * (np.exp(-1.3885 * (2.2 - 2.845)) - np.exp(-2 * 1.3885 * (2.2 - 2.845)))
    assert forces[0, 2] == pytest.approx(slope) and forces[1, 2] == pytest.approx(-slope)
    atoms.positions += 100.0
    assert atoms.get_potential_energy() == pytest.approx(energy)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_mistakes_are_explained(tmp_path):
    atoms = crystal()
    atoms.calc = SpinmdCalculator([exchange()])
    with pytest.raises(InputError, match="set_initial_magnetic_moments"):
        atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments([2.2, 2.2])
    atoms.calc = SpinmdCalculator([exchange()], moments=[2.2])
    with pytest.raises(InputError, match=r"moments: has shape \(1,\); expected one per atom, 2"):
        atoms.get_potential_energy()
    atoms.calc = SpinmdCalculator([exchange()], moments={"Co": 1.7})
    with pytest.raises(InputError, match=r"atom 0 \(Fe\) has a spin and its reference moment is zero"):
        atoms.get_potential_energy()
    with pytest.raises(InputError, match="got int"):
        SpinmdCalculator([3])
    with pytest.raises(InputError, match="at least one potential"):
        SpinmdCalculator([])
    with pytest.raises(InputError, match="no such model file"):
        SpinmdCalculator(tmp_path / "fe.h5")
    atoms = Atoms("Fe", pbc=True)
    atoms.calc = SpinmdCalculator(morse())
    with pytest.raises(InputError, match="direction 0 is periodic and has no lattice vector"):
        atoms.get_potential_energy()


# --- the tutorial ---


def test_tutorial_runs(root, tmp_path, monkeypatch, capsys):
    shutil.copytree(root / "inputs", tmp_path / "inputs", ignore=shutil.ignore_patterns("*.h5", ".*"))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (root / "docs" / "ase.md").read_text(), flags=re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 5
    space = {}
    for content in blocks:
        exec(compile(content, "docs/ase.md", "exec"), space)
    lattice_constant, drift = (float(line) for line in capsys.readouterr().out.split("\n")[-3:-1])
    assert 2.6 < lattice_constant < 3.0 and abs(drift) < 1.0


def test_example_script(root, tmp_path):
    script = root / "docs" / "examples" / "ase_relaxation.py"
    command = [sys.executable, str(script), "--cells", "2", "--figure", "short.png"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    constants = [float(value) for value in re.findall(r"a = ([\d.]+) Å", done.stdout)]
    assert len(constants) == 2 and constants[0] != constants[1]
    assert (tmp_path / "short.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [tmp_path / "short.png"]
