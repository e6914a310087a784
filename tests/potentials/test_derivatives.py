"""Every registered potential through the conformance kit, in orthogonal, triclinic, small and two-element cells."""

import numpy as np
import pytest
from support.deepspin_models import make_random_model

from spinmd import registry
from spinmd.errors import InputError
from spinmd.model import Model
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.deepspin.model_file import write_model
from spinmd.potentials.deepspin.prior import Prior
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.pair import LennardJones
from spinmd.protocols import Need
from spinmd.testing import check_potential, example_states

RADIAL = {
    "bethe-slater": {"form": "bethe-slater", "a": 0.027, "b": 0.22, "d": 1.84, "cutoff": 4.2, "smoothing": 0.6},
    "polynomial": {"form": "polynomial", "{}0": 0.3, "cutoff": 4.4},
    "constant": {"form": "constant", "{}0": 0.01, "cutoff": 4.1, "smoothing": 1.5},
    "shells": {"form": "shells", "{}": [0.02, 0.01, -0.003], "tolerance": 0.02},
}


def _table(folder):
    file = folder / "j.dat"
    file.write_text("# r (Å)  J (meV)\n1.5 22\n2.0 30\n2.5 19\n3.0 9  # second shell\n3.8 1.5\n4.5 0\n")
    return {"form": "table", "file": str(file), "unit": "meV", "smoothing": 0.5}


def _radial(symbol, form, folder):
    if form == "table":
        return _table(folder)
    return {key.format(symbol): value for key, value in RADIAL[form].items()}


def _deepspin(folder):
    """A random network on a random prior, of both elements of the example states."""
    model = make_random_model(elements=("Fe", "Co"), magnetic=(True, True))
    settings = {
        "elements": ["Fe", "Co"], "magnetic": [True, True], "reference_moment": [2.0, 1.5], "atomic_numbers": [26, 27],
        "shortest": [[1.5, 1.5], [1.5, 1.5]], "cutoff": 4.4, "pair_functions": 5, "many_body_functions": 3,
    }  # fmt: skip
    prior = Prior(settings)
    model.prior = prior.with_coefficients(np.random.default_rng(1).normal(0.0, 0.003, prior.count))
    write_model(model, folder / "model.h5")
    return {"model": str(folder / "model.h5")}


# kind -> list of parameter sets; a kind of the registry that is missing here fails a test below
PARAMETERS = {
    "lennard-jones": [
        {"epsilon": 0.4, "sigma": 2.3, "cutoff": 5.1},
        {"epsilon": 0.4, "sigma": 2.3, "cutoff": 4.3, "shift": False, "smoothing": 0.5},
    ],
    "morse": [{"depth": 0.42, "alpha": 1.4, "r0": 2.8, "cutoff": 5.3}],
    "anisotropy": [{"K": 0.003, "axis": (1, 2, -0.5)}],
    "cubic-anisotropy": [
        {"K1": 0.002, "K2": -0.004},
        {"K1": 0.002, "K2": 0.003, "axes": ((1, 1, 0), (1, -1, 0), (0, 0, 2))},
    ],
    "zeeman": [{"field": (3.0, "-400 mT", 1.0)}],
    "dipole": [{"cutoff": 7.3}],
    "tensor-exchange": [{"form": "shells", "isotropic": [0.02, 0.01], "bond": [0.004, -0.003], "tolerance": 0.02}],
}
FORMS = ("bethe-slater", "polynomial", "constant", "table", "shells")


def _cases():
    for kind, sets in PARAMETERS.items():
        for number, parameters in enumerate(sets):
            yield pytest.param(kind, lambda folder, p=parameters: p, id=f"{kind}-{number}")
    for kind, symbol, forms in (
        ("exchange", "J", FORMS),
        ("biquadratic", "K", ("bethe-slater", "shells")),
        ("dmi", "D", ("polynomial", "shells")),
    ):
        for form in forms:
            yield pytest.param(kind, lambda folder, s=symbol, f=form: _radial(s, f, folder), id=f"{kind}-{form}")
    yield pytest.param(
        "exchange", lambda folder: _radial("J", "constant", folder) | {"offset": True}, id="exchange-offset"
    )
    yield pytest.param(
        "biquadratic", lambda folder: _radial("K", "shells", folder) | {"offset": True}, id="biquadratic-offset"
    )
    interfacial = {"direction": "interfacial", "normal": (1, 2, 3)}
    yield pytest.param("dmi", lambda folder: _radial("D", "bethe-slater", folder) | interfacial, id="dmi-interfacial")
    yield pytest.param("eam", lambda folder: {"file": str(folder / "smooth.eam.fs")}, id="eam")
    yield pytest.param("deepspin", _deepspin, id="deepspin")


@pytest.mark.parametrize(("kind", "parameters"), list(_cases()))
def test_derivatives(kind, parameters, tmp_path, write_eam_fs):
    if kind == "eam":
        write_eam_fs(tmp_path / "smooth.eam.fs")
    report = check_potential(registry.find(kind)(parameters(tmp_path)))
    assert {cell for cell, _ in report.deviations} == {"orthogonal", "triclinic", "small", "two elements"}


def test_every_registered_kind_is_checked():
    checked = {case.values[0] for case in _cases()}
    ours = {kind for kind, where in registry.kinds().items() if where.startswith("spinmd.potentials.")}
    assert ours <= checked


@pytest.mark.parametrize("kind", ["exchange", "dmi", "biquadratic"])
def test_restricted_to_a_pair_of_elements(kind):
    symbol = {"exchange": "J", "dmi": "D", "biquadratic": "K"}[kind]
    state = example_states()["two elements"]
    whole = registry.find(kind)({"form": "polynomial", f"{symbol}0": 0.3, "cutoff": 4.4})
    parts = [registry.find(kind)(whole.parameters, pairs=pairs) for pairs in (["Fe-Fe"], ["Co-Fe"], ["Co-Co"])]
    check_potential(parts[1], state)
    expected = Model(state.copy(), [whole]).evaluate(Need.ALL)
    found = Model(state.copy(), parts).evaluate(Need.ALL)
    assert abs(found.energies).min() > 0.0
    assert found.energy == pytest.approx(expected.energy, rel=1e-12)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-12 * abs(expected.forces).max())
    np.testing.assert_allclose(found.fields, expected.fields, atol=1e-12 * abs(expected.fields).max())
    np.testing.assert_allclose(found.virial, expected.virial, atol=1e-12 * abs(expected.virial).max())


class _Wrong(Biquadratic):
    """A potential with one planted error."""

    def __init__(self, error):
        super().__init__(form="polynomial", K0=0.3, cutoff=4.4)
        self.error = error

    def add(self, state, pairs, out, need):
        if self.error == "alone" and need == Need.FORCE:
            out.forces += 1e-6
        if self.error == "not relative" and Need.FORCE in need:
            out.forces[0, 0] += 1e-9
        return self._scaled(state, pairs, out, need)

    def _scaled(self, state, pairs, out, need):
        before = {name: getattr(out, name).copy() for name in ("forces", "fields", "virial")}
        status = super().add(state, pairs, out, need)
        for name, old in before.items():
            if name == self.error:
                array = getattr(out, name)
                array[:] = old + 1.001 * (array - old)
        return status

    def freeze(self, state, pairs):
        term = super().freeze(state, pairs)
        if self.error == "frozen":
            term.biquadratic = term.biquadratic * 1.00001
        return term


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("forces", "the force on atom"),
        ("fields", "the field on atom"),
        ("virial", "the virial component"),
        ("alone", "asked for alone"),
        ("not relative", "add up to"),
        ("frozen", "frozen couplings"),
    ],
)
def test_planted_errors_are_found(error, words):
    state = example_states()["triclinic"]
    with pytest.raises(AssertionError, match=words):
        check_potential(_Wrong(error), state)
    check_potential(_Wrong("none"), state)


def test_spins_in_a_term_that_hides_them_are_found():
    class Hidden(LennardJones):
        def add(self, state, pairs, out, need):
            out.energy[0] += 1e-9 * state.spins[0, 0]
            return super().add(state, pairs, out, need)

    with pytest.raises(AssertionError, match="magnetic is False"):
        check_potential(Hidden(epsilon=0.4, sigma=2.3, cutoff=5.1), example_states()["small"])


def test_a_cell_that_misses_images_is_found():
    class FewImages(Exchange):
        def add(self, state, pairs, out, need):
            status = super().add(state, pairs, out, need)
            out.energy[0] += 1e-6 * len(state.positions) ** 2
            return status

    potential = FewImages(form="polynomial", J0=0.3, cutoff=4.4)
    with pytest.raises(AssertionError, match="supercell"):
        check_potential(potential, example_states()["small"])


def test_wrong_use_of_elements_is_an_error():
    with pytest.raises(InputError, match="structure has no Ni"):
        check_potential(Exchange(form="polynomial", J0=0.3, cutoff=4.4, pairs=["Fe-Ni"]), example_states()["small"])
    with pytest.raises(InputError, match="two element symbols"):
        Exchange(form="polynomial", J0=0.3, cutoff=4.4, pairs=["FeNi"])
    with pytest.raises(InputError, match="cannot be restricted by elements; use pairs"):
        Exchange(form="polynomial", J0=0.3, cutoff=4.4, elements=["Fe"])
