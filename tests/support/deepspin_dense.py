"""The energy of a DeepSPIN model by brute force: every image, every pair, plain numpy, nothing shared with the package.

Written from the equations in ``potentials/deepspin/model.py`` alone, to check what evaluates models quickly.
Derivatives are central differences of the energy.
"""

import itertools

import numpy as np


def activate(name, x):
    if name == "tanh":
        return np.tanh(x)
    if name == "linear":
        return x
    if name == "sigmoid":
        return 1.0 / (1.0 + np.exp(-x))
    if name == "softplus":
        return np.logaddexp(0.0, x)
    if name == "gelu":  # the tanh approximation, as in DeePMD-kit
        return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
    if name == "relu":
        return np.maximum(x, 0.0)
    assert name == "silu"
    return x / (1.0 + np.exp(-x))


def run_net(net, x):
    """The net on rows x (k, n_in)."""
    for layer in net:
        y = x @ layer.weight
        if layer.bias is not None:
            y = y + layer.bias
        y = activate(layer.activation, y)
        if layer.step is not None:
            y = y * layer.step
        if layer.resnet and y.shape[1] == x.shape[1]:
            y = y + x
        elif layer.resnet and y.shape[1] == 2 * x.shape[1]:
            y = y + np.concatenate([x, x], axis=1)
        x = y
    return x


def switch(r, smooth, cutoff):
    u = np.clip((r - smooth) / (cutoff - smooth), 0.0, 1.0)
    return u**3 * (-6.0 * u**2 + 15.0 * u - 10.0) + 1.0


def atom_energies(model, cell, positions, types, spins):
    """(N,) eV of the network and the shift at cell (3, 3) or None (no periodicity), positions (N, 3), spins (N, 3) in µB."""
    net = model.network
    n = len(model.elements)
    types = np.asarray(types)
    magnetic = model.magnetic[types]
    sites = np.concatenate([positions, (positions + model.virtual_scale[types][:, None] * spins)[magnetic]])
    kinds = np.concatenate([types, types[magnetic] + n])
    if cell is None:
        shifts = np.zeros((1, 3))
    else:
        heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        spread = np.ceil(np.ptp(sites @ np.linalg.inv(cell), axis=0)).astype(int)
        counts = np.ceil(net.cutoff / heights).astype(int) + spread
        shifts = np.array(list(itertools.product(*[range(-k, k + 1) for k in counts])), dtype=float) @ cell
    images = (sites[None] + shifts[:, None]).reshape(-1, 3)
    image_kinds = np.tile(kinds, len(shifts))
    slots = 2 * net.sel.sum()
    energies = np.zeros(len(types))
    for i, c in enumerate(types):
        d = images - positions[i]
        r = np.linalg.norm(d, axis=1)
        # the atom itself is the real site at zero distance; its own virtual atom may be there too (S = 0) and counts
        near = (r < net.cutoff) & ~((r == 0.0) & (image_kinds < n))
        empty = np.zeros((1, 4))
        empty[0] = -net.mean[c] / net.std[c]
        a = np.zeros((4, net.width))
        for t in range(2 * n):
            if (t, c) in net.silent:
                a += net.sel[t % n] * empty.T @ run_net(net.silent[t, c], empty[:, :1])
            if (t, c) not in net.embedding:
                continue
            mine = near & (image_kinds == t)
            count = int(mine.sum())
            assert count <= net.sel[t % n], f"{count} neighbours of type {t}, more than sel: DeePMD would drop some"
            rho = r[mine] + net.protection
            w = switch(r[mine], net.cutoff_smooth, net.cutoff)
            rows = np.column_stack([w / rho, w[:, None] * d[mine] / rho[:, None] ** 2])
            rows = (rows - net.mean[c]) / net.std[c]
            a += rows.T @ run_net(net.embedding[t, c], rows[:, :1])
            a += (net.sel[t % n] - count) * empty.T @ run_net(net.embedding[t, c], empty[:, :1])
        a /= slots
        descriptor = (a.T @ a)[:, : net.axis]
        energies[i] = run_net(net.fitting[c], descriptor.reshape(1, -1))[0, 0] + model.shift[c]
    return energies


def energy(model, cell, positions, types, spins):
    """Energy of the network and the shift, eV; with ``time_reversal`` the mean over S and −S."""
    total = atom_energies(model, cell, positions, types, spins).sum()
    if model.time_reversal:
        total = 0.5 * (total + atom_energies(model, cell, positions, types, -spins).sum())
    return float(total)


def slope(function, step):
    """The derivative at 0 of a function of one number, by differences of sixth order."""
    weights = ((1, 45.0), (2, -9.0), (3, 1.0))
    return sum(w * (function(k * step) - function(-k * step)) for k, w in weights) / (60.0 * step)


def force(model, cell, positions, types, spins, atom, axis, step=2.0e-3):
    """−∂E/∂R of one atom along one axis, eV/Å."""

    def at(x):
        moved = positions.copy()
        moved[atom, axis] += x
        return energy(model, cell, moved, types, spins)

    return -slope(at, step)


def field(model, cell, positions, types, spins, atom, axis, step=5.0e-3):
    """−∂E/∂S of one atom along one axis, eV/µB."""

    def at(x):
        turned = spins.copy()
        turned[atom, axis] += x
        return energy(model, cell, positions, types, turned)

    return -slope(at, step)


def virial(model, cell, positions, types, spins, a, b, step=2.0e-4):
    """W_ab = −∂E/∂ε_ab at fixed spins, eV; r -> r + ε r, that is r_a changes by ε r_b."""

    def at(x):
        strain = np.eye(3)
        strain[a, b] += x
        return energy(model, cell @ strain.T, positions @ strain.T, types, spins)

    return -slope(at, step)
