"""What the energy of one training frame needs of its geometry, computed once: a linear map instead of embedding nets per pair.

In training positions and spins are data, only weights change. Each embedding net is evaluated on Q fixed nodes of its one
argument; at a pair it is the Lagrange interpolant of degree five through six neighbouring nodes. With W_pq the interpolation
weights of pair p,

    A_i = Σ_p R_pᵀ G(s_p) = B_i G_nodes,    B_i[a, q] = Σ_p R_p[a] W_pq            (4 × nodes, data only)
    ∂E/∂d_p = Σ_{a,q} K_p[x, a, q] H_i[a, q],   H_i = ∂E/∂A_i G_nodesᵀ,   K_p = ∂(R_p[a] W_pq)/∂d_p[x]   (data only)

so that a step costs a few small matrix products whatever the number of pairs, and needs no second derivative of the nets.
Notation of ``potentials.deepspin.model``; Å, µB.
"""

from dataclasses import dataclass

import numpy as np

POINTS = 6  # nodes of one interpolation
SOFT = 0.35  # 1/Å; nodes are uniform in log(1 + s/SOFT): close to s at small s, far apart where nets saturate


@dataclass(frozen=True)
class Grid:
    """Nodes of the first column of the environment matrix before normalisation, s in 1/Å, from 0 to ``top``."""

    top: float
    count: int

    @property
    def spacing(self) -> float:
        return float(np.log1p(self.top / SOFT)) / (self.count - 1)

    @property
    def nodes(self) -> np.ndarray:
        """(count,) s, 1/Å"""
        return SOFT * np.expm1(self.spacing * np.arange(self.count))

    def weights(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First node (P,), weights (P, 6) and their derivatives by s (P, 6) of the interpolation at s (P,), 1/Å."""
        position = np.log1p(s / SOFT) / self.spacing
        first = np.clip(position.astype(np.int64) - 2, 0, self.count - POINTS)
        t = position - first  # nodes at 0 ... 5
        difference = t[:, None] - np.arange(POINTS)
        scale = np.array([-120.0, 24.0, -12.0, 12.0, -24.0, 120.0])
        weights, slopes = np.empty((len(s), POINTS)), np.zeros((len(s), POINTS))
        for k in range(POINTS):
            others = [m for m in range(POINTS) if m != k]
            weights[:, k] = np.prod(difference[:, others], axis=1) / scale[k]
            for left_out in others:
                rest = [m for m in others if m != left_out]
                slopes[:, k] += np.prod(difference[:, rest], axis=1) / scale[k]
        return first, weights, slopes / ((s + SOFT) * self.spacing)[:, None]


def switch(r: np.ndarray, smooth: float, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """w(r) and dw/dr of the environment matrix."""
    u = np.clip((r - smooth) / (cutoff - smooth), 0.0, 1.0)
    return u**3 * (-6.0 * u**2 + 15.0 * u - 10.0) + 1.0, -30.0 * u**2 * (u - 1.0) ** 2 / (cutoff - smooth)


def environment(d: np.ndarray, smooth: float, cutoff: float, protection: float):
    """Rows [w/ρ, w d/ρ²] (P, 4) and derivatives by d (P, 4, 3) at vectors d (P, 3), Å."""
    r = np.maximum(np.sqrt((d * d).sum(1)), 1e-12)
    u, rho = d / r[:, None], r + protection
    w, dw = switch(r, smooth, cutoff)
    row, slope = np.empty((len(d), 4)), np.empty((len(d), 4, 3))
    row[:, 0], slope[:, 0] = w / rho, ((dw - w / rho) / rho)[:, None] * u
    row[:, 1:] = (w / rho**2)[:, None] * d
    radial = (dw - 2.0 * w / rho) / rho**2
    slope[:, 1:] = radial[:, None, None] * d[:, :, None] * u[:, None, :] + (w / rho**2)[:, None, None] * np.eye(3)
    return row, slope


def real_pairs(box: np.ndarray, coord: np.ndarray, radius: float):
    """Centre, neighbour (P,) and vector R_j + image − R_i (P, 3) of all pairs within ``radius``, self images included."""
    inverse = np.linalg.inv(box)
    x = coord - np.floor(coord @ inverse) @ box
    reach = [int(np.ceil(radius * np.linalg.norm(inverse[:, k]))) for k in range(3)]
    shifts = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in reach], indexing="ij"), -1).reshape(-1, 3) @ box
    found = []
    for i in range(len(x)):
        d = x[:, None] + shifts - x[i]
        r2 = (d * d).sum(-1)
        j, k = np.nonzero((r2 < radius * radius) & (r2 > 1e-16))
        found.append((np.full(len(j), i), j, d[j, k]))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


@dataclass
class Pairs:
    """The pairs of one frame as the network sees them. Pair p: centre, atom whose real (kind 0) or virtual (kind ±1) atom is
    the neighbour, vector d (P, 3), and the vector between the real atoms (P, 3), all in Å."""

    centre: np.ndarray
    atom: np.ndarray
    kind: np.ndarray
    d: np.ndarray
    real: np.ndarray

    def of(self, chosen: np.ndarray) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.centre[chosen], self.atom[chosen], self.kind[chosen], self.d[chosen], self.real[chosen])


def network_pairs(box, coord, spin, types, virtual_scale, cutoff, both_signs=False) -> Pairs:
    """All pairs within the cutoff: real atoms, virtual atoms at R + ηS (kind 1) and, if ``both_signs``, at R − ηS (kind −1)."""
    eta = virtual_scale[types]
    margin = float((eta * np.linalg.norm(spin, axis=1)).max(initial=0.0))
    i, j, d = real_pairs(box, coord, cutoff + margin)
    own = np.flatnonzero(eta > 0.0)
    parts = [(i, j, np.zeros(len(i), np.int64), d, d)]
    for sign in (1, -1) if both_signs else (1,):
        carries = eta[j] > 0.0
        jv = j[carries]
        dv = d[carries] + sign * eta[jv, None] * spin[jv]
        parts.append((i[carries], jv, np.full(len(jv), sign), dv, d[carries]))
        parts.append((own, own, np.full(len(own), sign), sign * eta[own, None] * spin[own], np.zeros((len(own), 3))))
    pairs = [np.concatenate(part) for part in zip(*parts, strict=True)]
    inside = (pairs[3] ** 2).sum(1) < cutoff * cutoff
    return Pairs(*(part[inside] for part in pairs))
