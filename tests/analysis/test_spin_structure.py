"""Spin correlations and S(q) of runs: a paramagnet, the exact Heisenberg chain, and sums over pairs done by hand."""

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import get_distances
from ase.io import write
from support.runs import J, magnet, run

from spinmd import Trajectory, analysis
from spinmd.cli import main
from spinmd.errors import InputError
from spinmd.units import BOLTZMANN


@pytest.fixture(scope="module")
def paramagnet(tmp_path_factory):
    """bcc without exchange: every frame of Monte Carlo is independent."""
    deck = magnet(
        50.0, supercell=(4, 4, 4), prototype="bcc", J=None, field=(0, 0, 0), steps=400, output={"trajectory": 1}
    )
    return Trajectory(run(deck, tmp_path_factory.mktemp("para") / "para.h5"))


@pytest.fixture(scope="module")
def hexagonal(tmp_path_factory):
    """hcp, two elements of different moments, some sites empty; ordered enough to correlate."""
    structure = {
        "alloy": {"Fe": {"Co": 0.3}}, "vacancies": 0.1, "lattice_constant": 2.5,
        "spins": {"moments": {"Fe": 2.0, "Co": 1.2}, "texture": "random"},
    }  # fmt: skip
    deck = magnet(60.0, supercell=(4, 4, 3), prototype="hcp", steps=40, structure=structure, output={"trajectory": 10})
    return Trajectory(run(deck, tmp_path_factory.mktemp("hcp") / "hcp.h5"))


def test_paramagnet_is_flat(paramagnet):
    """S^aa(q) = 1/3 at every q of the zone within its errors, which have the right size; sum rule to rounding."""
    result = analysis.static_structure_factor(paramagnet, zone=True)
    assert len(result["q"]) == paramagnet.natoms == 128
    # within the first zone, whose farthest points (H) are 2π/a from its centre
    assert np.linalg.norm(result["q"], axis=1).max() == pytest.approx(2.0 * np.pi / 3.0, rel=1e-9)
    assert result["zone_mean"] == pytest.approx(result["mean_square"], rel=1e-12)
    assert result["mean_square"] == pytest.approx(1.0, rel=1e-12)
    for name in ("xx", "yy", "zz"):
        off = (result[name] - 1.0 / 3.0) / result.error(name)
        assert result.error(name).max() < 0.05
        assert np.abs(off).max() < 5.0 and 0.7 < off.std() < 1.5


def test_paramagnet_has_no_correlation(paramagnet):
    result = analysis.pair_correlation(paramagnet)
    off = result["correlation"] / result.error("correlation")
    assert np.abs(off).max() < 4.5 and result.error("correlation").max() < 0.003
    np.testing.assert_allclose(result["pairs"][:3], [8.0, 6.0, 12.0], atol=1e-12)


def test_structure_factor_by_hand(hexagonal):
    """Vacancies, two moments, components, both weights, element, instantaneous positions: the plain double sum."""
    window = analysis.Window(start=-1.0)
    for weights, element, instantaneous in (("directions", None, False), ("moments", "Fe", True)):
        result = analysis.static_structure_factor(
            hexagonal, window, path="0,0,0 1,0,0 | 0,0,0 1/2,1/3,1/2", weights=weights, element=element,
            instantaneous=instantaneous, ignore_elements=True,
        )  # fmt: skip
        part = hexagonal if element is None else hexagonal.select(elements=element)
        vectors = part.spins[...] / (part.moments[:, None] if weights == "directions" else 1.0)
        phases = np.exp(-1j * np.einsum("qk,nk->qn", result["q"], part.sites))
        sums = np.abs(np.einsum("qn,fnk->fqk", phases, vectors)) ** 2 / part.natoms
        np.testing.assert_allclose(result["zz"], sums.mean(axis=0)[:, 2], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(result["structure_factor"], sums.mean(axis=0).sum(axis=1), rtol=1e-8, atol=1e-10)
        assert len(result["q"]) > 5


def test_plane_and_path_agree(paramagnet, tmp_path):
    plane = analysis.static_structure_factor(paramagnet, plane=[[1, 0, 0], [0, 1, 0]])
    path = analysis.static_structure_factor(paramagnet, path="-1,0,0 1,0,0")
    assert plane["structure_factor"].shape == (9, 9)
    np.testing.assert_allclose(plane["structure_factor"][:, 4], path["structure_factor"], rtol=1e-10)
    # a reciprocal vector of bcc's primitive cell changes nothing: (1 1 0)
    assert plane["structure_factor"][8, 8] == pytest.approx(plane["structure_factor"][4, 4], rel=1e-10)
    for name, one in (("plane", plane), ("path", path)):
        analysis.plot(one, tmp_path / f"{name}.png")


def test_correlation_by_hand(hexagonal):
    """All pairs of a frame by ASE's minimum image, in shells."""
    window = analysis.Window(start=-1.0)
    result = analysis.pair_correlation(hexagonal, window)
    e = hexagonal.spins[...] / hexagonal.moments[:, None]
    _, distances = get_distances(hexagonal.sites, cell=hexagonal.site_cell, pbc=True)
    products = np.einsum("fik,fjk->ij", e, e) / len(hexagonal)
    assert len(result["r"]) > 3
    for k, r in enumerate(result["r"]):
        shell = np.abs(distances - r) < 0.01
        assert result["correlation"][k] == pytest.approx(products[shell].mean(), rel=1e-9)
        assert result["pairs"][k] == pytest.approx(shell.sum() / hexagonal.natoms, rel=1e-12)
    mean = e.mean(axis=1)
    assert result["mean_square"] == pytest.approx(np.einsum("fk,fk->f", mean, mean).mean(), rel=1e-12)
    np.testing.assert_allclose(result["connected"], result["correlation"] - result["mean_square"], atol=1e-14)
    assert "not complete" not in " ".join(result.notes)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A ring of 120 spins: ⟨e_0·e_r⟩ = Lʳ, L = coth K − 1/K, K = J/k_B T = 3."""
    folder = tmp_path_factory.mktemp("chain")
    write(folder / "site.extxyz", Atoms("Fe", cell=np.diag([3.0, 9.0, 9.0]), pbc=True))
    structure = {"file": str(folder / "site.extxyz")}
    deck = magnet(J / BOLTZMANN / 3.0, supercell=(120, 1, 1), steps=2500, structure=structure, output={"trajectory": 4})
    for name in ("prototype", "element", "lattice_constant"):
        deck["structure"].pop(name)
    return Trajectory(run(deck, folder / "chain.h5"))


def test_correlation_of_the_heisenberg_chain(chain):
    langevin = 1.0 / np.tanh(3.0) - 1.0 / 3.0
    result = analysis.pair_correlation(chain, r_max=36.0, form="exponential")
    steps = np.arange(1, 13)
    np.testing.assert_allclose(result["r"], 3.0 * steps, rtol=1e-9)
    off = (result["correlation"] - langevin**steps) / result.error("correlation")
    assert np.abs(off).max() < 4.0 and result.error("correlation").max() < 0.01
    exact = -3.0 / np.log(langevin)
    assert abs(result["correlation_length"] - exact) < 3.5 * result.error("correlation_length") < 0.5 * exact
    assert "not complete" in " ".join(result.notes)


def test_structure_factor_of_the_heisenberg_chain(chain):
    """S(q) = (1 − L²)/(1 − 2L cos q + L²)."""
    langevin = 1.0 / np.tanh(3.0) - 1.0 / 3.0
    result = analysis.static_structure_factor(chain, path="0,0,0 0,0,1/2", units="primitive")
    q = 3.0 * result["q"][:, 0]  # the short axis is c of the standard cell
    assert len(q) == 61
    exact = (1.0 - langevin**2) / (1.0 - 2.0 * langevin * np.cos(q) + langevin**2)
    off = (result["structure_factor"] - exact) / result.error("structure_factor")
    assert np.abs(off).max() < 4.5 and off.std() < 1.5
    assert (result.error("structure_factor") / exact).max() < 0.1


def test_chunks_and_order_of_frames_do_not_matter(paramagnet, monkeypatch):
    window = analysis.Window(start=-1.0)
    part = paramagnet[:400]
    functions = (
        lambda one: analysis.pair_correlation(one, window),
        lambda one: analysis.static_structure_factor(one, window),
    )
    before = [(function(part), function(part[::-1])) for function in functions]
    chunks = Trajectory.chunks
    monkeypatch.setattr(Trajectory, "chunks", lambda self, *q, **more: chunks(self, *q, **{**more, "megabytes": 0.05}))
    for function, (whole, turned), name in zip(functions, before, ("connected", "structure_factor"), strict=True):
        pieces = function(part)
        for other in (pieces, turned):
            np.testing.assert_allclose(other[name], whole[name], rtol=1e-9, atol=1e-13)
            np.testing.assert_allclose(other.error(name), whole.error(name), rtol=1e-7, atol=1e-13)


def test_wrong_requests(paramagnet, tmp_path, capsys):
    with pytest.raises(InputError, match="has no point 'Z'"):
        analysis.static_structure_factor(paramagnet, path="G-Z")
    with pytest.raises(InputError, match="up to half the cell, 6 Å, got 8"):
        analysis.pair_correlation(paramagnet, r_max=8.0)
    with pytest.raises(InputError, match="direction v does not fit into the supercell"):
        analysis.static_structure_factor(paramagnet, plane=[[1, 0, 0], [0, 0.3, 0]])
    assert main(["analyze", "structure-factor", str(paramagnet.path), "--zone", "--path", "G-H"]) == 2
    assert "choose one of --path, --plane and --zone" in capsys.readouterr().err
    open_ = magnet(50.0, supercell=(3, 3, 3), steps=10, structure={"pbc": [True, True, False]})
    trajectory = Trajectory(run(open_, tmp_path / "open.h5"))
    for function in (analysis.static_structure_factor, analysis.pair_correlation):
        with pytest.raises(InputError, match="along c"):
            function(trajectory)
