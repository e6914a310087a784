"""One small triclinic crystal of three elements, and every kind of term on it, for the tests in tests/device."""

from functools import partial

import numpy as np

from spinmd.model import Model
from spinmd.potentials.anisotropy import CubicAnisotropy, UniaxialAnisotropy
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.dipole import Dipole
from spinmd.potentials.dmi import DMI
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.pair import LennardJones, Morse
from spinmd.potentials.tensor import TensorExchange
from spinmd.potentials.zeeman import Zeeman
from spinmd.state import State

CUTOFF = 4.0
SHELLS = {"form": "shells", "tolerance": 0.02}
BETHE = {"form": "bethe-slater", "a": 0.027, "b": 0.2, "d": 1.84, "cutoff": CUTOFF}
TERMS = {
    "lennard-jones": partial(LennardJones, epsilon=0.4, sigma=2.3, cutoff=CUTOFF),
    "lennard-jones, smooth end": partial(LennardJones, epsilon=0.4, sigma=2.3, cutoff=CUTOFF, smoothing=1.0, pairs=["Fe-Al"]),
    "morse": partial(Morse, depth=0.4, alpha=1.4, r0=2.8, cutoff=CUTOFF, pairs=["Fe-Co", "Al-Al"]),
    "exchange": partial(Exchange, **BETHE, offset=True, pairs=["Fe-Fe", "Fe-Co"]),
    "exchange, second": partial(Exchange, form="polynomial", J0=0.05, cutoff=CUTOFF),
    "exchange, shells": partial(Exchange, **SHELLS, J=[0.01, -0.004], offset=True),
    "exchange, shells of pairs": partial(Exchange, **SHELLS, J=[0.01], pairs=["Fe-Co"]),
    "biquadratic": partial(Biquadratic, **BETHE, offset=True, pairs=["Fe-Fe", "Fe-Al"]),
    "biquadratic, second": partial(Biquadratic, form="constant", K0=0.002, cutoff=CUTOFF, smoothing=0.0),
    "biquadratic, shells": partial(Biquadratic, **SHELLS, K=[0.003, 0.001], offset=True),
    "dmi, bond": partial(DMI, form="constant", D0=0.003, cutoff=CUTOFF),
    "dmi, interfacial": partial(DMI, **BETHE, direction="interfacial", normal=[1, 2, 3], pairs=["Fe-Co"]),
    "dmi, shells": partial(DMI, **SHELLS, D=[0.002, 0.001], direction="interfacial", normal=[0, 1, 1]),
    "dipole": partial(Dipole, cutoff=CUTOFF, constant=1.0),
    "tensor-exchange": partial(TensorExchange, **SHELLS, isotropic=[0.01, 0.002], bond=[0.004, -0.003]),
    "uniaxial": partial(UniaxialAnisotropy, K=0.002, axis=[1, -1, 2], elements=["Co"]),
    "uniaxial, second": partial(UniaxialAnisotropy, K=-0.001, axis=[1, 0, 0]),
    "cubic": partial(CubicAnisotropy, K1=0.002, K2=-0.003, axes=[[1, 1, 0], [-1, 1, 0], [0, 0, 1]], elements=["Fe"]),
    "cubic, second": partial(CubicAnisotropy, K1=-0.001),
    "zeeman": partial(Zeeman, field=[5.0, -3.0, 10.0], elements=["Fe"]),
    "zeeman, driven": partial(Zeeman, field={"form": "sine", "amplitude": [0, 9, 1], "frequency": 3.0, "offset": [40, 0, 0]}),
}  # fmt: skip


def crystal(seed: int = 1) -> State:
    """12 atoms of Fe, Co and non-magnetic Al on a sheared lattice, displaced, with random spins not of their reference lengths."""
    rng = np.random.default_rng(seed)
    vectors = np.array([[2.7, 0.0, 0.0], [0.3, 2.55, 0.0], [-0.2, 0.4, 2.4]])
    sites = np.array(list(np.ndindex(2, 2, 3))) @ vectors
    elements = np.array(["Fe", "Co", "Fe", "Al", "Co", "Fe"] * 2)
    moments = np.select([elements == "Fe", elements == "Co"], [2.2, 1.7], 0.0)
    spins = rng.normal(size=(12, 3))
    spins *= (moments * rng.uniform(0.9, 1.1, 12) / np.linalg.norm(spins, axis=1))[:, None]
    return State.create(
        np.diag([2, 2, 3]) @ vectors, sites + rng.normal(0.0, 0.08, (12, 3)), list(elements), [55.0] * 12, spins=spins,
        moments=moments, reference=sites,
    )  # fmt: skip


def on_both(terms, seed: int = 1):
    """A Model of the host, and the same state and model on the device, with these terms (instances) on ``crystal``."""
    from spinmd.cuda.model import DeviceModel
    from spinmd.cuda.state import DeviceState
    from spinmd.potentials.cuda import device_term

    model = Model(crystal(seed), terms, threads=1)
    model.update_lists()
    state = DeviceState(model.state)
    return model, state, DeviceModel(state, model, device_term)


def assert_close(mine: np.ndarray, theirs: np.ndarray, what: str = "", tolerance: float = 1e-12) -> None:
    """Equal within ``tolerance`` of the largest number."""
    worst, scale = np.abs(mine - theirs).max(), max(np.abs(theirs).max(), 1e-9)
    assert worst <= tolerance * scale, (what, worst, scale)
