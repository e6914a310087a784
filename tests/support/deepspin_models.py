"""Random DeepSPIN models, and the energy of one written down plainly: a slow, independent reference for tests."""

import itertools

import numpy as np

from spinmd.potentials.deepspin.model import DeepSpinModel, Layer, Network, SeenRange


def random_net(random, widths, *, resnet=True, step=False, last_linear=False, activation="tanh") -> list[Layer]:
    layers = []
    for k, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        last = last_linear and k == len(widths) - 2
        weight = random.normal(scale=1.0 / np.sqrt(n_in + n_out), size=(n_in, n_out))
        steps = 0.1 + 0.01 * random.normal(size=n_out) if step and n_in == n_out and not last else None
        layers.append(
            Layer(
                weight,
                0.3 * random.normal(size=n_out),
                steps,
                "linear" if last else activation,
                resnet and not last,
            )
        )
    return layers


def make_random_model(
    elements=("Fe", "Co"),
    magnetic=(True, True),
    *,
    cutoff=4.2,
    cutoff_smooth=3.2,
    neuron=(4, 8, 16),
    axis=4,
    fitting=(20, 20, 20),
    protection=0.01,
    virtual_scale=0.25,
    time_reversal=False,
    activation="tanh",
    seed=1,
    seen=False,
    sel=20,
    scale=1.0,
) -> DeepSpinModel:
    """A DeepSpinModel with random weights of the usual sizes; placeholders of non-magnetic elements are left out."""
    random = np.random.default_rng(seed)
    n = len(elements)
    magnetic = np.array(magnetic, dtype=bool)
    types = [t for t in range(2 * n) if t < n or magnetic[t - n]]
    embedding = {(t, c): random_net(random, (1, *neuron), activation=activation) for t in types for c in range(n)}
    widths = (neuron[-1] * axis, *fitting, 1)
    nets = [random_net(random, widths, step=True, last_linear=True, activation=activation) for _ in range(n)]
    for net in nets:
        net[-1].weight *= scale
    mean, std = np.zeros((n, 4)), np.zeros((n, 4))
    mean[:, 0] = random.uniform(0.1, 0.2, n)
    std[:, 0] = random.uniform(0.15, 0.25, n)
    std[:, 1:] = random.uniform(0.1, 0.2, n)[:, None]
    network = Network(cutoff, cutoff_smooth, protection, np.full(n, sel), axis, embedding, nets, mean, std)
    lengths = np.where(magnetic[:, None], [[1.5, 2.6]], 0.0)
    return DeepSpinModel(
        tuple(elements),
        magnetic,
        np.where(magnetic, virtual_scale, 0.0),
        random.normal(size=n),
        network,
        time_reversal=time_reversal,
        seen=SeenRange(np.full((n, n), 1.5), lengths) if seen else None,
        provenance={"made by": "tests"},
    )


def _activation(torch, name, x):
    functions = {
        "tanh": torch.tanh,
        "linear": lambda y: y,
        "sigmoid": torch.sigmoid,
        "softplus": torch.nn.functional.softplus,
        "gelu": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
        "relu": torch.relu,
        "silu": torch.nn.functional.silu,
    }
    return functions[name](x)


def _apply(torch, net, x):
    for layer in net:
        z = x @ torch.from_numpy(layer.weight)
        if layer.bias is not None:
            z = z + torch.from_numpy(layer.bias)
        y = _activation(torch, layer.activation, z)
        if layer.step is not None:
            y = y * torch.from_numpy(layer.step)
        n_in, n_out = layer.weight.shape
        if layer.resnet and n_out == n_in:
            y = y + x
        elif layer.resnet and n_out == 2 * n_in:
            y = y + torch.cat([x, x], dim=-1)
        x = y
    return x


def reference(model: DeepSpinModel, cell, positions, elements, spins, pbc=(True, True, True)) -> dict[str, np.ndarray]:
    """Energy (eV), atom energies, forces, fields and virial of the network by the definition in ``model.py``, with autograd.

    Slots are filled one by one: sel_t real and virtual slots per element, the empty ones at the cutoff.
    """
    import torch

    network = model.network
    n = len(model.elements)
    kinds = [model.elements.index(e) for e in elements]
    x0 = torch.tensor(np.asarray(positions), dtype=torch.float64, requires_grad=True)
    spin = torch.tensor(np.asarray(spins), dtype=torch.float64, requires_grad=True)
    strain = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
    deform = torch.eye(3, dtype=torch.float64) + strain
    x = x0 @ deform.T
    box = torch.tensor(np.asarray(cell), dtype=torch.float64) @ deform.T
    scale = torch.tensor([model.virtual_scale[k] for k in kinds])
    reach = network.cutoff + float((scale * spin.detach().norm(dim=1)).max())
    heights = 1.0 / np.linalg.norm(np.linalg.inv(np.asarray(cell)), axis=0)
    spread = np.linalg.norm(np.asarray(positions).max(0) - np.asarray(positions).min(0))
    ranges = [int(np.ceil((reach + spread) / h)) if p else 0 for h, p in zip(heights, pbc, strict=True)]
    shifts = list(itertools.product(*(range(-r, r + 1) for r in ranges)))
    offsets = torch.tensor(shifts, dtype=torch.float64) @ box
    total, energies = 0.0, []
    for sign in (1.0, -1.0) if model.time_reversal else (1.0,):
        virtual = x + sign * scale[:, None] * spin
        parts = [_atom_energy(torch, model, i, kinds, x, virtual, offsets, shifts, n) for i in range(len(kinds))]
        weight = 0.5 if model.time_reversal else 1.0
        energies.append(weight * torch.stack(parts))
        total = total + energies[-1].sum()
    grads = torch.autograd.grad(total, (x0, spin, strain))
    return {
        "energy": float(total.detach()),
        "atom_energy": sum(energies).detach().numpy(),
        "forces": -grads[0].numpy(),
        "fields": -grads[1].numpy(),
        "virial": -grads[2].numpy(),
    }


def _atom_energy(torch, model, i, kinds, x, virtual, offsets, shifts, n):
    network = model.network
    centre = kinds[i]
    mean, std = torch.from_numpy(network.mean[centre]), torch.from_numpy(network.std[centre])
    home = shifts.index((0, 0, 0))
    a = torch.zeros((4, network.width), dtype=torch.float64)
    for t in range(2 * n):
        element = t % n
        if (t, centre) in network.silent:
            row = (-mean / std)[None]
            a = a + float(network.sel[element]) * row.T @ _apply(torch, network.silent[t, centre], row[:, :1])
        if (t, centre) not in network.embedding:
            continue
        places = virtual if t >= n else x
        rows = []
        for j in [k for k, kind in enumerate(kinds) if kind == element]:
            d = places[j] + offsets - x[i]
            if j == i and t < n:
                d = torch.cat([d[:home], d[home + 1 :]])
            r = torch.sqrt((d * d).sum(dim=1) + 1e-300)
            inside = r < network.cutoff
            if bool(inside.any()):
                rows.append(_environment(torch, network, d[inside], r[inside]))
        rows = torch.cat(rows) if rows else torch.zeros((0, 4), dtype=torch.float64)
        empty = int(network.sel[element]) - len(rows)
        if empty < 0:
            raise ValueError("more neighbours than slots: the reference cannot answer")
        rows = torch.cat([rows, torch.zeros((empty, 4), dtype=torch.float64)])
        rows = (rows - mean) / std
        a = a + rows.T @ _apply(torch, network.embedding[t, centre], rows[:, :1])
    a = a / (2.0 * float(network.sel.sum()))
    d = (a.T @ a)[:, : network.axis].reshape(1, -1)
    return _apply(torch, network.fitting[centre], d)[0, 0] + float(model.shift[centre])


def _environment(torch, network, d, r):
    u = (r - network.cutoff_smooth) / (network.cutoff - network.cutoff_smooth)
    w = u**3 * (-6.0 * u**2 + 15.0 * u - 10.0) + 1.0
    w = torch.where(r < network.cutoff_smooth, torch.ones_like(r), w)
    rho = r + network.protection
    return torch.cat([(w / rho)[:, None], w[:, None] * d / rho[:, None] ** 2], dim=1)
