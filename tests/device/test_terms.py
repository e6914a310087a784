"""Each term on the device gives what it gives on the host: energies, forces, fields, virial, frozen couplings."""

import numpy as np
import pytest
from support.device_terms import TERMS, assert_close, on_both
from support.devices import assert_same_evaluation

from spinmd.errors import InputError
from spinmd.potentials.drives import DRIVES
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import Need, TermOutput

IRON = {
    "structure": {"prototype": "bcc", "element": "Fe", "lattice_constant": 2.8665, "supercell": [2, 2, 2], "displacement": 0.1,
                  "spins": {"moments": {"Fe": 2.2}, "texture": "random"}},
    "run": {"steps": 0, "seed": 3},
}  # fmt: skip
EXCHANGE = {"form": "bethe-slater", "a": 0.02726, "b": 0.2171, "d": 1.841, "cutoff": 3.4, "offset": True}


@pytest.fixture(scope="module")
def every():
    """All terms on host and device, with one neighbour list for all."""
    from spinmd.cuda.lists import OVERFLOW

    host, state, model = on_both([make(name=name) for name, make in TERMS.items()])
    model.update_lists()
    assert not model.lists.status.host()[OVERFLOW]
    return host, state, model


def test_eam_and_exchange(root):
    terms = [
        {"kind": "eam", "parameters": {"file": str(root / "inputs/potentials/Fe_mm.eam.fs")}},
        {"kind": "exchange", "parameters": EXCHANGE},
    ]
    assert_same_evaluation({**IRON, "potential": terms})


@pytest.mark.parametrize("name", TERMS)
def test_one_term(every, name):
    """Energy, forces, fields and virial of the term alone; what is not asked for stays untouched."""
    from spinmd.cuda.arrays import zeros
    from spinmd.cuda.output import DeviceOutput

    host, state, model = every
    k, n = host.names.index(name), state.natoms
    theirs = TermOutput(np.zeros(1), np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((3, 3)))
    host.terms[k].add(host.state, host.pairs(k), theirs, Need.ALL)
    out = DeviceOutput(zeros(n), zeros((n, 3)), zeros((n, 3)), zeros((n, 9)))
    model.terms[k].add(state, model.pairs(k), out, Need.ALL)
    energies = out.energies.host()
    assert_close(energies.sum(), theirs.energy[0], "energy")
    assert_close(out.forces.host(), theirs.forces, "forces")
    assert_close(out.fields.host(), theirs.fields, "fields")
    assert_close(out.virials.host().sum(axis=0).reshape(3, 3), theirs.virial, "virial")
    for need, changed in ((Need.ENERGY, "energies"), (Need.FIELD, "fields")):
        before = {key: getattr(out, key).host() for key in ("energies", "forces", "fields", "virials")}
        model.terms[k].add(state, model.pairs(k), out, need)
        for key, array in before.items():
            if key == changed:
                assert_close(getattr(out, key).host(), 2.0 * array, key)
            else:
                assert (getattr(out, key).host() == array).all(), key


def dense(n, start, count, atoms, values):
    """(N, N, k) couplings of atom with atom, summed over periodic images, of a CSR with gaps."""
    result = np.zeros((n, n, *values.shape[1:]))
    for i in range(n):
        entries = slice(start[i], start[i] + count[i])
        np.add.at(result[i], atoms[entries], values[entries])
    return result


def dense_columns(n, count, atoms, values):
    """The same of columns (room, N), values (room, N) or (k, room, N)."""
    result = np.zeros((n, n, *values.shape[:-2]))
    for i in range(n):
        np.add.at(result[i], atoms[: count[i], i], values[..., : count[i], i].T)
    return result


@pytest.mark.parametrize("name", TERMS)
def test_frozen_couplings_of_one_term(every, name):
    host, state, model = every
    k, n = host.names.index(name), state.natoms
    mine, theirs = model.terms[k].freeze(state, model.pairs(k)), host.terms[k].freeze(host.state, host.pairs(k))
    assert (mine is None) == (theirs is None) == (not host.magnetic_terms[k])
    if theirs is None:
        return
    for part in ("isotropic", "biquadratic", "tensor"):
        expected = getattr(theirs, part)
        assert (getattr(mine, part) is None) == (expected is None), part
        if expected is not None:
            found = dense_columns(n, mine.count.host(), mine.atoms.host(), getattr(mine, part).host())
            assert_close(found, dense(n, theirs.start, theirs.count, theirs.neighbours, expected), part)
    for part in ("quadratic", "cubic", "axes", "field"):
        expected = getattr(theirs, part)
        assert (getattr(mine, part) is None) == (expected is None), part
        if expected is not None:
            assert_close(getattr(mine, part).host(), expected.reshape(len(expected), -1), part)


DRIVEN = {
    "ramp": {"start": [0, 1, -2], "end": [3, 0, 2], "time": 2.0, "begin": 0.5},
    "points": {"times": [1, 2, 5], "fields": [[0, 1, 1], [0, 0, -1], [2, 0, 1]]},
    "repeated points": {"times": [1, 2, 5], "fields": [[0, 1, 1], [0, 0, -1], [2, 0, 1]], "repeat": True},
    "one point": {"times": [1], "fields": [[0, 1, 2]]},
    "sine": {"amplitude": [1, 2, 3], "frequency": 2.0, "phase": 40.0, "begin": 0.25, "offset": [0, 0, 5]},
    "pulse": {"amplitude": [0, 1, 2], "centre": 1.0, "width": 0.5, "frequency": 3.0, "phase": 20.0, "offset": [1, 0, 0]},
    "square pulse": {"amplitude": [0, 1, 2], "centre": 1.0, "width": 0.5, "envelope": "square"},
    "sinc pulse": {"amplitude": [0, 1, 2], "centre": 1.0, "width": 0.5, "envelope": "sinc"},
    "rotating": {"amplitude": [2, 0, 1], "frequency": 0.3, "axis": [1, 2, 7], "begin": 1.0, "phase": 10.0, "offset": [0, 1, 0]},
    "file": {},
}  # fmt: skip


@pytest.mark.parametrize("name", DRIVEN)
def test_fields_that_change_in_time(name, tmp_path):
    from spinmd.cuda.arrays import transfers

    form = name.split()[-1].removesuffix("s") + "s" * ("point" in name)
    assert form in DRIVES
    parameters = {"form": form, **DRIVEN[name]}
    if form == "file":
        parameters["file"] = str(tmp_path / "field.txt")
        (tmp_path / "field.txt").write_text("0 0 0 1\n2 0 4 -1\n3 1 1 1\n", encoding="utf-8")
    host, state, model = on_both([Zeeman(field=parameters)])
    for time in (-3.0, 0.5, 0.99, 1.0, 1.1, 2.0, 2.25, 4.9, 5.0, 40.0):
        host.state.clock.time = time
        state.time.fill(time)
        model.moved(time=True)
        before = (transfers.to_host, transfers.to_device)
        if time < 1.1:  # whichever is asked first
            model.evaluate(Need.ENERGY | Need.FIELD)
        constant = model.couplings().constant
        model.evaluate(Need.ENERGY | Need.FIELD)
        assert (transfers.to_host, transfers.to_device) == before
        expected = host.evaluate(Need.ENERGY | Need.FIELD)
        assert_close(model.fields.host(), expected.fields, time)
        assert_close(model.total_energies(), expected.energies, time)
        assert_close(constant.host(), host.couplings().constant, time)


def test_a_term_without_a_version_for_the_device_is_refused():
    class Own(Zeeman):
        """A plug-in of somebody else."""

    with pytest.raises(InputError, match="own has no version for the GPU .* compute on the CPU"):
        on_both([Own(field=[0, 0, 1], name="own")])


def test_a_plug_in_may_bring_its_version():
    from spinmd.potentials.cuda.zeeman import DeviceZeeman

    class Own(Zeeman):
        """A plug-in of somebody else."""

        def on_device(self, state):
            return DeviceZeeman(self, state)

    host, _, model = on_both([Own(field=[0, 0, 1])])
    model.evaluate(Need.ENERGY)
    assert_close(model.total_energies(), host.evaluate(Need.ENERGY).energies)
