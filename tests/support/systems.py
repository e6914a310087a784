"""Small systems that several tests share."""

import numpy as np

from spinmd.model import Model
from spinmd.potentials.anisotropy import CubicAnisotropy, UniaxialAnisotropy
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.dmi import DMI
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.pair import Morse
from spinmd.potentials.zeeman import Zeeman
from spinmd.state import State
from spinmd.units import AMU, BOLTZMANN

MASS, MOMENT, LATTICE = 55.845, 2.2, 2.8665


def bcc(cells=3, temperature=300.0, seed=1, aligned=None):
    """bcc iron with thermal velocities and random spins, or spins within a cone of ``aligned`` radians about z."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), -1).reshape(-1, 3)
    positions = np.concatenate([grid, grid + 0.5]) * LATTICE
    n = len(positions)
    velocities = rng.normal(0.0, np.sqrt(BOLTZMANN * temperature / (MASS * AMU)), (n, 3))
    velocities -= velocities.mean(axis=0)
    spins = rng.normal(size=(n, 3))
    if aligned is not None:
        spins = np.array([0.0, 0.0, 1.0]) + aligned * spins
    spins *= MOMENT / np.linalg.norm(spins, axis=1)[:, None]
    return State.create(
        np.eye(3) * cells * LATTICE, positions, ["Fe"] * n, np.full(n, MASS), velocities=velocities, spins=spins
    )


def morse():
    """A smooth lattice potential that holds bcc iron together."""
    return Morse(depth=0.4174, alpha=1.3885, r0=2.845, cutoff=5.5)


def exchange(cutoff=3.4, smoothing=0.2):
    return Exchange(form="bethe-slater", a=0.02726, b=0.2171, d=1.841, cutoff=cutoff, smoothing=smoothing)


def every_spin_term():
    """Exchange, biquadratic, DMI, uniaxial and cubic anisotropy and a field, all of a strength that matters."""
    return [
        exchange(),
        Biquadratic(form="bethe-slater", a=0.006, b=0.03, d=1.48, cutoff=3.4),
        DMI(form="constant", D0=0.003, cutoff=3.4, direction="bond"),
        UniaxialAnisotropy(K=0.0005, axis=[0.2, 1.0, 0.5]),
        CubicAnisotropy(K1=0.001, K2=0.0005),
        Zeeman(field=[5.0, -3.0, 10.0]),
    ]


def model(state, terms):
    return Model(state, terms, threads=1)
