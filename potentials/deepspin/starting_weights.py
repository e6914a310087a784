"""Where a training starts: random nets, and the statistics of the environment matrix. No torch."""

import numpy as np

from spinmd.potentials.deepspin.geometry import environment, network_pairs
from spinmd.potentials.deepspin.model import Layer, Net, Network
from spinmd.potentials.deepspin.prior import Prior, invariant_count

PROTECTION = 0.01  # Å, added to distances: as DeePMD-kit does for spin models
SMALLEST_DEVIATION = 0.01


def new_net(widths, activation: str, rng, *, resnet=True, bias=1.0, steps=False, quiet=False, output=False) -> Net:
    """Random layers through ``widths``: normal weights of variance 1/(n_in + n_out), normal biases of deviation ``bias``.

    steps   layers that keep their width have a learned step, 0.1 at first
    output  a linear last layer of width one follows; ``quiet``: its weights are zero, so that the net adds nothing at first
    """
    layers = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        weight = rng.normal(0.0, (n_in + n_out) ** -0.5, (n_in, n_out))
        step = rng.normal(0.1, 0.001, n_out) if steps and n_in == n_out else None
        layers.append(Layer(weight, rng.normal(0.0, bias, n_out), step, activation, resnet))
    if output:
        weight = np.zeros((widths[-1], 1)) if quiet else rng.normal(0.0, (widths[-1] + 1) ** -0.5, (widths[-1], 1))
        layers.append(Layer(weight, np.zeros(1), None, "linear", False))
    return layers


def starting_invariants(table, prior: Prior, rng) -> list[Net]:
    """One quiet net per element over the invariants of the prior (``training_parameters.NetworkTable``)."""
    nets = []
    for a in range(len(prior.elements)):
        widths = [min(table.components, invariant_count(prior, a)), *table.invariant_fitting]
        nets.append(new_net(widths, table.activation, rng, resnet=False, bias=0.3, output=True, quiet=True))
    return nets


def starting_network(table, elements, magnetic, virtual_scale, systems, rng, *, quiet: bool) -> Network:
    """A random virtual-atom network with the statistics of up to 10 frames of each system; ``quiet``: it adds nothing at first."""
    n, cutoff = len(elements), table.cutoff
    smooth = 0.5 * cutoff if table.cutoff_smooth is None else table.cutoff_smooth
    most, sums = np.zeros(n, dtype=int), np.zeros((n, 3))
    centres = np.zeros(n)
    for system in systems:
        types = np.array([elements.index(system.elements[t]) for t in system.types])
        for f in range(0, system.frames, max(1, system.frames // 10)):
            pairs = network_pairs(system.box[f], system.coord[f], system.spin[f], types, virtual_scale, cutoff)
            row, _ = environment(pairs.d, smooth, cutoff, PROTECTION)
            c = types[pairs.centre]
            for t in range(n):
                here = (types[pairs.atom] == t) & (pairs.kind == 0)
                most[t] = max(most[t], np.bincount(pairs.centre[here], minlength=1).max(initial=0))
            np.add.at(sums, c, np.stack([row[:, 0], row[:, 0] ** 2, (row[:, 1:] ** 2).sum(1) / 3.0], 1))
            centres += np.bincount(types, minlength=n)
    sel = np.maximum(1, (1.1 * most).astype(int) + 1)
    sums /= np.maximum(centres * 2.0 * sel.sum(), 1.0)[:, None]
    mean, std = np.zeros((n, 4)), np.ones((n, 4))
    mean[:, 0] = sums[:, 0]
    std[:, 0] = np.sqrt(np.maximum(sums[:, 1] - sums[:, 0] ** 2, 0.0))
    std[:, 1:] = np.sqrt(sums[:, 2])[:, None]
    std = np.maximum(std, SMALLEST_DEVIATION)
    kinds = [t for t in range(2 * n) if t < n or magnetic[t - n]]
    widths = [1, *table.neuron]
    embedding = {(t, c): new_net(widths, table.activation, rng) for c in range(n) for t in kinds}
    widths = [table.neuron[-1] * table.axis, *table.fitting]
    fitting = [new_net(widths, table.activation, rng, bias=0.5, steps=True, output=True, quiet=quiet) for _ in range(n)]
    return Network(cutoff, smooth, PROTECTION, sel, table.axis, embedding, fitting, mean, std, table.precision)
