"""The energy of a prior straight from its definition, all pairs of all periodic images at once, with torch's derivatives.

Independent of the rows and kernels of spinmd: it shares only the layout of the coefficients (``Prior.blocks``).
"""

import numpy as np
import torch

_ZBL = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


def _core(r, r1, width, za, zb):
    length = 0.8854 * 0.529177210544 / (za**0.23 + zb**0.23)
    screened = sum(a * torch.exp(-b * r / length) for a, b in _ZBL)
    t = ((r - (r1 - width)) / width).clamp(0.0, 1.0)
    smoothstep = 35 * t**4 - 84 * t**5 + 70 * t**6 - 20 * t**7
    return 14.3996454784 * za * zb / r * screened * (1 - smoothstep)


def _radial(r, r1, width, cutoff, count):
    t = ((r - (r1 - width)) / width).clamp(0.0, 1.0)
    rho = width * (t**6 - 3 * t**5 + 2.5 * t**4) + (r - r1).clamp(min=0.0)
    x = 2.0 * rho / (cutoff - r1 + 0.5 * width) - 1.0
    angle = torch.acos(x.clamp(-1 + 1e-13, 1 - 1e-13))
    return torch.stack([torch.cos(k * angle) for k in range(count)], -1) * (1 - (r / cutoff) ** 2)[:, None] ** 3


def energy(prior, types, box, coord, spin, strain=None):
    """eV, a tensor; coord (N, 3), spin (N, 3) and strain (3, 3) may require gradients."""
    settings, n = prior.settings, len(prior.elements)
    box = torch.as_tensor(box)
    strain = torch.zeros(3, 3, dtype=torch.float64) if strain is None else strain
    deformation = torch.eye(3, dtype=torch.float64) + strain
    reach = np.ceil(prior.cutoff * np.linalg.norm(np.linalg.inv(np.asarray(box)), axis=0)).astype(int) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in reach], indexing="ij"), -1).reshape(-1, 3)
    shifts = torch.as_tensor(grid, dtype=torch.float64) @ box
    everything = coord[None, :, None] + shifts[None, None] - coord[:, None, None]
    everything = everything @ deformation.T
    distance = (everything**2).sum(-1)
    i, j, m = torch.nonzero((distance < prior.cutoff**2) & (distance > 1e-12), as_tuple=True)
    d = everything[i, j, m]
    r = d.norm(dim=1)
    u = d / r[:, None]
    moments = torch.as_tensor(np.where(prior.magnetic, 1.0 / prior.reference_moment, 0.0))[types]
    s = spin * moments[:, None]
    length = (s**2).sum(1)
    theta = torch.tensor(prior.coefficients)
    a, b = types[i], types[j]
    total = torch.zeros((), dtype=torch.float64)
    phi = torch.zeros(len(r), max(settings["pair_functions"], settings["many_body_functions"]), dtype=torch.float64)
    for p in range(n):
        for q in range(n):
            those = torch.as_tensor((a == p) & (b == q))
            r1 = float(prior.shortest[p, q])
            phi[those] = _radial(r[those], r1, prior.width, prior.cutoff, phi.shape[1])
            if settings["core"]:
                z = settings["atomic_numbers"]
                total = total + 0.5 * _core(r[those], r1, prior.width, z[p], z[q]).sum()
    c, ni, nj = (s[i] * s[j]).sum(1), length[i], length[j]
    factors = {"1": torch.ones_like(c), "c": c, "n": nj, "c2": c * c, "nn": ni * nj, "n2": nj * nj, "cn": c * nj}
    vectors = {"L0": torch.ones_like(r)[:, None], "L1": u}
    tensor = u[:, :, None] * u[:, None, :] - torch.eye(3, dtype=torch.float64) / 3.0
    vectors["L2"] = tensor.reshape(-1, 9)  # all nine components: the same contraction as five orthonormal ones
    for block in prior.blocks:
        coefficients = theta[block.where]
        if block.kind == "pair":
            those = (a == block.element) & (b == block.other)
            functions = phi[those][:, : settings["pair_functions"]] @ coefficients
            total = total + (functions * factors[block.name][those]).sum()
        elif block.kind == "landau":
            own = length[types == block.element]
            total = total + sum(k * (own ** (p + 1)).sum() for p, k in enumerate(coefficients))
        else:
            total = total + _many_body(prior, block, coefficients, types, i, j, phi, vectors, factors, s, length)
    return total


def _many_body(prior, block, coefficients, types, i, j, phi, vectors, factors, s, length):
    count = prior.settings["many_body_functions"]
    group = block.name
    here = vectors[group] if group != "S0" else s[j]
    names = {"L0": ["1", "c", "n"], "L1": ["1", "c", "n"], "L2": ["1", "c"], "S0": ["1"]}[group]
    columns = []
    if group == "L0" and prior.magnetic[block.element]:
        columns.append(length[:, None, None])
    for element in range(len(prior.elements)):
        for name in names:
            needs = {"1": group == "S0", "c": True, "n": True}[name]
            if needs and not prior.magnetic[element] or name == "c" and not prior.magnetic[block.element]:
                continue
            mask = torch.as_tensor((types[j] == element).astype(float))
            terms = (factors[name] * mask)[:, None, None] * phi[:, None, :count] * here[:, :, None]
            x = torch.zeros(len(types), here.shape[1], count, dtype=torch.float64)
            columns.append(x.index_add(0, i, terms))
    x = torch.cat(columns, 2)[types == block.element]
    gram = torch.einsum("icp,icq->pq", x, x)
    p, q = np.triu_indices(gram.shape[0])
    if group == "L0" and prior.magnetic[block.element]:
        p, q = p[1:], q[1:]
    return (coefficients * gram[p, q]).sum()


def evaluate(prior, types, box, coord, spin):
    """Energy (eV), forces (N, 3) (eV/Å), fields (N, 3) (eV/µB) and virial −∂E/∂ε (3, 3) (eV)."""
    types = np.asarray(types)
    coord, spin = torch.tensor(coord, requires_grad=True), torch.tensor(spin, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    total = energy(prior, types, box, coord, spin, strain)
    slopes = torch.autograd.grad(total, (coord, spin, strain), allow_unused=True)
    return (float(total.detach()), *(-g.numpy() if g is not None else None for g in slopes))
