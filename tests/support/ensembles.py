"""Many independent copies of a small magnet in one state, whose thermal averages are known exactly."""

import numpy as np
from support.systems import model

from spinmd.integrators.splitting import Splitting
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.zeeman import Zeeman
from spinmd.state import State
from spinmd.units import BOHR_MAGNETON, BOLTZMANN, HBAR

BOND = 2.5  # Å, between the spins of a chain; chains are ROOM Å apart
ROOM = 6.0


def langevin(x):
    """coth x − 1/x: ⟨e_z⟩ of a paramagnet, x = |S|B/k_BT, and ⟨e₁·e₂⟩ of a bond of an open chain, x = J/k_BT."""
    return 1.0 / np.tanh(x) - 1.0 / x


def chains(count, length, moment=2.2, seed=1):
    """``count`` open chains of ``length`` spins in random directions; far from each other."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    corner = ROOM * np.stack(np.divmod(np.arange(count), side), axis=1)
    positions = np.zeros((count, length, 3))
    positions[:, :, :2] = corner[:, None]
    positions[:, :, 2] = BOND * np.arange(length)
    spins = rng.normal(size=(count * length, 3))
    spins *= moment / np.linalg.norm(spins, axis=1)[:, None]
    cell = np.diag([ROOM * side, ROOM * side, BOND * length + ROOM])
    n = count * length
    return State.create(cell, positions.reshape(n, 3), ["Fe"] * n, [55.845] * n, spins=spins)


def paramagnet(count, kelvin, ratio, moment=2.2, seed=1):
    """(state, model, sample, exact): free spins with |S|B/k_BT = ``ratio``; ``sample()`` is the mean of e_z."""
    state = chains(count, 1, moment, seed)
    field = ratio * BOLTZMANN * kelvin / (moment * BOHR_MAGNETON)
    system = model(state, [Zeeman(field=[0.0, 0.0, field])])
    return state, system, lambda: state.spins[:, 2].mean() / moment, langevin(ratio)


def bonded(count, length, kelvin, ratio, moment=2.2, seed=1):
    """(state, model, sample, exact): open chains with J/k_BT = ``ratio``; ``sample()`` is the mean of e_i·e_{i+1}."""
    state = chains(count, length, moment, seed)
    coupling = ratio * BOLTZMANN * kelvin
    system = model(state, [Exchange(form="constant", J0=coupling, cutoff=1.2 * BOND, smoothing=0.0)])

    def sample():
        spins = state.original_order(state.spins).reshape(count, length, 3) / moment
        return float((spins[:, 1:] * spins[:, :-1]).sum(axis=2).mean())

    return state, system, sample, langevin(ratio)


def reduced_step(x, kelvin, alpha, moment=2.2, g_factor=2.0):
    """The timestep in ps with x = α/(1 + α²) (g/ħ) k_B T h/|S|: what a free spin diffuses by in a step."""
    return x * (1.0 + alpha**2) / alpha * HBAR / g_factor * moment / (BOLTZMANN * kelvin)


def stationary_mean(case, solver, dt, steps, skip, seed=1, every=1):
    """(mean − exact, standard error) of ``case`` after ``skip`` steps, from 10 blocks in time."""
    state, system, sample, exact = case
    integrator = Splitting("S", dt, {"S": solver})
    aux = integrator.init(state, seed)
    values = []
    for step in range(skip + steps):
        integrator.step(state, aux, system)
        if step >= skip and step % every == 0:
            values.append(sample())
    blocks = np.array([block.mean() for block in np.array_split(values, 10)])
    return float(blocks.mean() - exact), float(blocks.std(ddof=1) / np.sqrt(10))
