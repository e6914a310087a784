"""Agreement with LAMMPS (22Jul2025): every term, energy, forces, fields and virial.

Arrays that are wrong in LAMMPS itself (its README says which) are replaced by finite differences of its energy. Smooth
ends and shifts are off: LAMMPS's cutoffs are hard.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spinmd.model import Model
from spinmd.potentials.anisotropy import CubicAnisotropy, UniaxialAnisotropy
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.dipole import Dipole
from spinmd.potentials.dmi import DMI
from spinmd.potentials.eam import EAM
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.pair import LennardJones, Morse
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need
from spinmd.state import State
from spinmd.units import BOHR_MAGNETON

IRON = {"form": "bethe-slater", "a": 0.02726, "b": 0.2171, "d": 1.841, "smoothing": 0.0}
BIQUADRATIC = {"form": "bethe-slater", "a": 0.006, "b": 0.03, "d": 1.48, "smoothing": 0.0, "cutoff": 3.4}
DMI_DIRECTION = np.array([0.3, -0.5, 0.8])
LAMMPS_DIPOLE = 5.366899538068e-5  # eV Å³, the constant in its source
LAMMPS_MAGNETON = 5.78901e-5  # eV/T
# LAMMPS's field acts with g = 2 on the moment
ZEEMAN = 5.0 * np.array([0.3, -0.4, 1.0]) / np.linalg.norm([0.3, -0.4, 1.0]) * 2.0 * LAMMPS_MAGNETON / BOHR_MAGNETON


@dataclass
class Case:
    """How to make the terms (from the folder of EAM files); what of LAMMPS's output to trust."""

    terms: object
    element: str = "Fe"
    virial: str = "virial"  # "virial", "finite difference" or "none"
    forces: bool = True
    own_field: bool = True


def _dmi(folder):
    length = np.linalg.norm(DMI_DIRECTION)
    return [
        DMI(
            form="constant",
            D0=-0.003 / length,
            cutoff=3.4,
            smoothing=0.0,
            direction="interfacial",
            normal=tuple(DMI_DIRECTION),
        )
    ]


CASES = {
    "lj_cut": Case(lambda f: [LennardJones(epsilon=0.4, sigma=2.3, cutoff=6.0, shift=False)]),
    "morse": Case(lambda f: [Morse(depth=0.4174, alpha=1.3885, r0=2.845, cutoff=6.0, shift=False)]),
    "eam_fs": Case(lambda f: [EAM(file=f / "Fe_mm.eam.fs")]),
    "eam_alloy": Case(lambda f: [EAM(file=f / "CoAl.eam.alloy")], element="Co"),
    "eam": Case(lambda f: [EAM(file=f / "Ni_u3.eam")], element="Ni"),
    "exchange": Case(lambda f: [Exchange(**IRON, cutoff=3.4)]),
    "exchange_rc574": Case(lambda f: [Exchange(**IRON, cutoff=5.74)]),
    "exchange_offset": Case(lambda f: [Exchange(**IRON, cutoff=3.4, offset=True)]),
    "biquadratic": Case(lambda f: [Exchange(**IRON, cutoff=3.4), Biquadratic(**BIQUADRATIC)]),
    "biquadratic_offset": Case(
        lambda f: [Exchange(**IRON, cutoff=3.4, offset=True), Biquadratic(**BIQUADRATIC, offset=True)]
    ),
    "dmi": Case(_dmi, virial="finite difference", forces=False),
    "dipole_cut": Case(lambda f: [Dipole(cutoff=8.0, constant=LAMMPS_DIPOLE)], virial="finite difference"),
    "fix_anisotropy": Case(lambda f: [UniaxialAnisotropy(K=0.0035, axis=(0.2, 1.0, 0.5))]),
    "fix_cubic": Case(lambda f: [CubicAnisotropy(K1=-0.001, K2=-0.0005)]),
    "fix_zeeman": Case(lambda f: [Zeeman(field=tuple(ZEEMAN))]),
    "hybrid_eamfs_exchange": Case(lambda f: [EAM(file=f / "Fe_mm.eam.fs"), Exchange(**IRON, cutoff=3.4)]),
}


def _evaluate(cell, positions, spins, elements, terms):
    state = State.create(cell, positions, elements, np.full(len(positions), 55.845), spins=spins)
    evaluation = Model(state, terms, threads=1).evaluate(Need.ALL)
    return evaluation, state.original_order(evaluation.forces), state.original_order(evaluation.fields)


def _deviation(ours, theirs):
    """Largest difference, relative to the largest of the true values."""
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_lammps(shared, name):
    case = CASES[name]
    data = np.load(shared / "reference" / "lammps" / f"{name}__ortho.npz")
    arrays = (data["cell"], data["positions"], data["spins"] * data["moments_muB"][:, None])
    elements = [case.element] * len(data["positions"])
    result, forces, fields = _evaluate(*arrays, elements, case.terms(shared / "data" / "potentials"))
    assert result.energy == pytest.approx(float(data["energy_eV"]), rel=1e-9)
    field = data["fm_radTHz"] * data["hbar_eV_ps"] / data["moments_muB"][:, None]
    if np.abs(field).max() > 0.0:
        assert _deviation(fields, field) < 1e-9
    else:
        assert not fields.any()
    expected = data["forces_eV_A"]
    tolerance = 1e-9
    if not case.forces:
        expected = np.load(shared / "reference" / "lammps" / f"{name}__ortho__fdforces.npz")["fd_forces_all_eV_A"]
        tolerance = 1e-5  # finite differences of LAMMPS's energy
    if np.abs(expected).max() > 0.0:
        assert _deviation(forces, expected) < tolerance
    else:
        assert not forces.any()
    virial = result.virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    if "virial_eV_xx_yy_zz_xy_xz_yz" in data.files and case.virial == "virial":
        truth = data["virial_eV_xx_yy_zz_xy_xz_yz"]
        # its pressure goes through bar and the rounded constant nktv2p, used in both directions: nothing is lost
        assert np.abs(virial - truth).max() <= 1e-9 * np.abs(truth).max()
    elif case.virial == "finite difference":
        truth = data["fd_virial_eV"]
        assert np.abs(virial - truth).max() < 2e-6 * np.abs(truth).max()


def test_magneto_electric_forces(shared):
    """LAMMPS's spin/magelec 4.5 0.00109 1.0 1.0 1.0 is our interfacial DMI of D = |E|/|dir| with n along dir."""
    folder = shared / "reference" / "lammps"
    data = np.load(folder / "dmi__ortho.npz")  # the same configuration
    expected = np.load(folder / "magelec__ortho__fdforces.npz")["fd_forces_all_eV_A"]
    chiral = {"direction": "interfacial", "normal": (1.0, 1.0, 1.0), "smoothing": 0.0}
    terms = [DMI(form="constant", D0=0.00109 / np.sqrt(3.0), cutoff=4.5, **chiral)]
    spins = data["spins"] * data["moments_muB"][:, None]
    _, forces, _ = _evaluate(data["cell"], data["positions"], spins, ["Fe"] * len(spins), terms)
    assert _deviation(forces, expected) < 1e-8


TWO_ELEMENTS = json.loads((Path(__file__).parents[1] / "data" / "lammps_two_elements.json").read_text())
FE_FE, FE_CO, CO_CO = {"pairs": ["Fe-Fe"]}, {"pairs": ["Fe-Co"]}, {"pairs": ["Co-Co"]}
SECOND = {"form": "bethe-slater", "a": -0.012, "b": 0.1, "d": 1.6, "smoothing": 0.0, "cutoff": 4.1, "offset": True}
BY_PAIR = {
    "exchange_by_pair": [(Exchange, IRON | {"cutoff": 3.4} | FE_FE), (Exchange, SECOND | FE_CO)],
    "lj_by_pair": [
        (LennardJones, {"epsilon": 0.3, "sigma": 2.2, "cutoff": 4.6} | FE_CO),
        (LennardJones, {"epsilon": 0.2, "sigma": 2.4, "cutoff": 5.0} | CO_CO),
    ],
    "dipole": [(Dipole, {"cutoff": 6.5, "constant": LAMMPS_DIPOLE})],
}


@pytest.mark.parametrize("name", TWO_ELEMENTS["cases"])
def test_two_elements_in_a_small_triclinic_cell(name, tmp_path, write_eam_fs):
    """16 atoms, cutoffs larger than the cell; every function of the EAM tables is another one."""
    truth, structure = TWO_ELEMENTS["cases"][name], TWO_ELEMENTS["structure"]
    if name == "eam_fs":
        terms = [EAM(file=write_eam_fs(tmp_path / "two.eam.fs"))]
    else:
        terms = [kind(**keywords) for kind, keywords in BY_PAIR[name]]
    spins = np.array(structure["directions"]) * np.array(structure["moments_muB"])[:, None]
    elements = [("Fe", "Co")[t - 1] for t in structure["types"]]
    result, forces, fields = _evaluate(structure["cell"], structure["positions"], spins, elements, terms)
    assert result.energy == pytest.approx(truth["energy_eV"], rel=1e-9)
    assert _deviation(forces, np.array(truth["forces_eV_A"])) < 1e-9
    if name in ("exchange_by_pair", "dipole"):
        assert _deviation(fields, np.array(truth["fields_eV_muB"])) < 1e-9
    if name != "dipole":  # its virial has the wrong sign in LAMMPS
        virial = result.virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
        assert _deviation(virial, np.array(truth["virial_eV"])) < 1e-9
