"""Bytes and operations of the kernels on the GPU, counted from their text, and the times that an H100 allows for them.

Of each kernel and per atom: ``memory``, what it must read and write of per-atom arrays, lists and couplings, each once per launch;
``cache``, what its threads ask of the first-level cache beyond that, a whole sector of 32 bytes for each number that the
neighbours of a warp's atoms keep in different places; ``flops``, a fused multiply-add as two, a root or a division as one.
List rebuilds, every 30 to 40 steps, are not counted. Nothing here needs a GPU, numba or torch.
"""

from dataclasses import dataclass
from functools import cache

from gpu_cases import DEEP_CUTOFF, DEEP_MARGIN, EAM_CUTOFF, LATTICE, NETS, SKIN, Case

# an H100 SXM5 as its maker states it, and its first-level caches: 132 units, 128 bytes a cycle each at 1.755 GHz
H100 = {"memory": 3.35e12, "cache": 132 * 128 * 1.755e9, "float64": 34.0e12, "float32": 67.0e12}
SECTOR = 32
ROOM = 1.06, 2  # of lists of large systems: times the mean of a uniform system, and more (``spinmd.cuda.lists.TIGHT``)
ITERATIONS = 4.5  # of a midpoint solve, where they have not been counted
LANES = 8  # to a multiple of which DeepSPIN's channels are padded
BASIS = {
    "bcc": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
    "rocksalt": [[x, y, z] for x in (0, 0.5) for y in (0, 0.5) for z in (0, 0.5)],
}


@dataclass(frozen=True)
class Work:
    """Of one kernel in a step or an evaluation, per atom: bytes, bytes, operations, and the arithmetic they are in."""

    memory: float
    cache: float = 0.0
    flops: float = 0.0
    real: str = "float64"

    def seconds(self, what: str) -> float:
        """That an H100 takes at least, by "memory", "cache" or "flops"."""
        return self.flops / H100[self.real] if what == "flops" else getattr(self, what) / H100[what]

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max(("memory", "cache", "flops"), key=self.seconds)

    @property
    def least(self) -> float:
        """Seconds per atom at that limit."""
        return self.seconds(self.limit)


@cache
def neighbours(prototype: str, cutoff: float, spins: bool = False) -> float:
    """Mean number of sites within ``cutoff`` Å of a site; with ``spins`` of those with a moment only: the nickel of NiO."""
    import numpy as np

    a = LATTICE[prototype]
    n = int(cutoff / a) + 2
    cells = np.array(list(np.ndindex(*[2 * n + 1] * 3))) - n
    basis = np.array(BASIS[prototype])
    counts = []
    for site in basis:
        distances = a * np.linalg.norm((cells[:, None] + basis[None] - site).reshape(-1, 3), axis=1)
        inside = (distances > 0.1) & (distances < cutoff)
        if spins:
            nickel = (np.round(2 * basis.sum(axis=1)) % 2 == 0)[None].repeat(len(cells), axis=0).ravel()
            inside &= nickel
        counts.append(np.count_nonzero(inside))
    return float(np.mean(counts))


def kernels(case: Case, iterations: float = ITERATIONS) -> dict[str, Work]:
    """Kernels of a step, or for DeepSPIN of an evaluation of energies, forces and fields: module.function -> Work.

    The flows V S R S V of NVE, or with baths V S R O R S V; ``iterations``: field evaluations in one spin solve.
    """
    if case.kind == "deepspin":
        return _deepspin(NETS[case.what], case.precision)
    langevin = case.ensemble == "langevin"
    found = _solves(case, iterations, langevin)
    if case.kind == "eam":
        found |= _lattice(case, langevin)
    return found


def _lattice(case: Case, langevin: bool) -> dict[str, Work]:
    real = "float32" if case.precision == "mixed" else "float64"
    entries, pairs = neighbours("bcc", EAM_CUTOFF + SKIN), neighbours("bcc", EAM_CUTOFF)
    listed, coupled = neighbours("bcc", case.what + SKIN), neighbours("bcc", case.what)
    vector = 3 * SECTOR  # of a neighbour's position, number by number
    found = {
        # list and count, own row, slope; per entry a vector and its length, within the cutoff a cubic; of iron alone: tables of
        # one element begin at one place, and the density has one slope
        "eam._densities": Work(
            4 * entries + 4 + 4 + 32 + 8, entries * vector + pairs * 4 * SECTOR, 9 * entries + 12 * pairs, real
        ),
        "eam._forces": Work(
            4 * entries + 4 + 4 + 32 + 48, entries * vector + pairs * 8 * SECTOR, 9 * entries + 46 * pairs, real
        ),
        "exchange._tabulate": Work(
            listed * (4 + 8 + 4) + 4 + 32,
            listed * (vector + SECTOR) + coupled * 4 * SECTOR,
            9 * listed + 12 * coupled,
            real,
        ),
        "exchange._evaluate": Work(
            4 * listed + 4 + 32 + 24 + 8 + 48,
            listed * vector + coupled * (1 + 3 + 1 + 4) * SECTOR,
            9 * listed + 34 * coupled,
            real,
        ),
        "flows.kick": Work(2 * (48 + 24 + 8), 0.0, 2 * 9.0),
        "flows.drift": Work((48 + 24) * (2 if langevin else 1), 0.0, 6.0),
        "lists._look": Work(48.0, 0.0, 9.0),
        "lists.update_packed": Work(24.0 + 24.0),
        "torch": Work(24 + 48 + 16 + 8),  # forces cleared, copied to those with spins; the scans of ghosts and bins
    }
    if langevin:
        found["flows.langevin"] = Work(48 + 8 + 8 + 8 + 8 + 16, 0.0, 200.0)
    return found


def _solves(case: Case, iterations: float, noisy: bool) -> dict[str, Work]:
    """Spin solves: one with a lattice that stands still, else two."""
    solves = 1 if case.kind == "spins" else 2
    table = 64.0 if case.kind == "spins" else neighbours("bcc", case.what + SKIN)
    bath = 32.0 if noisy else 0.0  # α and noise
    found = {
        "midpoint._start": Work(solves * (24 + 8 + 96 + 24 + 24 + bath), 0.0, solves * 80.0),
        "midpoint._iterate": Work(
            solves * iterations * (table * 12 + 4 + 24 + 24 + 24 + 48 + 8 + bath),
            solves * iterations * table * 3 * SECTOR,
            solves * iterations * (6 * table + 70),
        ),
        "midpoint._mix": Work(solves * (iterations - 1) * 5 * 24, 0.0, solves * (iterations - 1) * 12),
        "midpoint._finish": Work(solves * (24 + 24 + 8 + 24 + 24 + bath + (16 if noisy else 0)), 0.0, solves * 60.0),
    }
    if noisy:
        found["spin_flow.spin_noise"] = Work(solves * (24 + 8 + 8 + 8 + 24), 0.0, solves * 200.0)
    return found


def deep_sizes(net: dict) -> tuple[float, float, int, int, int]:
    """Real and virtual neighbours within the cutoff, channels with padding, inputs of the fitting net, Σ n_in n_out of layers."""
    width, axis = net["neuron"][-1], net["axis"]
    layers = (width * axis, *net["fitting"], 1)
    products = sum(a * b for a, b in zip(layers[:-1], layers[1:], strict=True))
    channels = -(-width // LANES) * LANES
    return (
        neighbours("rocksalt", DEEP_CUTOFF),
        neighbours("rocksalt", DEEP_CUTOFF, True),
        channels,
        width * axis,
        products,
    )


def _deepspin(net: dict, real: str) -> dict[str, Work]:
    number = 4 if real == "float32" else 8
    inside, virtual, channels, inputs, products = deep_sizes(net)
    pairs, entries = inside + virtual, neighbours("rocksalt", DEEP_CUTOFF + SKIN + DEEP_MARGIN)
    a = 4 * channels * number  # bytes of A or of ∂E/∂A
    hidden = sum(net["fitting"]) + 1
    row = 5 * number + 4  # the numbers of a pair and its row of the table
    return {
        "deepspin_kernels.pick": Work(
            2 * 4 * entries + 32 + 4 * pairs + 32, 2 * entries * 9 * SECTOR / 2, 2 * 12 * entries
        ),
        "deepspin_kernels.describe_pairs": Work(pairs * (4 + row + 56) + 32, pairs * 4 * SECTOR, 60 * pairs),
        "deepspin_kernels.accumulate": Work(
            pairs * row + 3 * a, pairs * channels * (6 * number + 1.5 * number), 18 * pairs * channels, real
        ),
        "deepspin_kernels.describe": Work(a + inputs * number, 8 * inputs * number, 7 * inputs, real),
        # z, φ and its slope forward; back the slopes of every layer
        "torch products": Work((2 * inputs + 6 * hidden) * number, 0.0, 4 * products, real),
        "deepspin_nets.activate": Work(4 * hidden * number, 0.0, 20 * hidden, real),
        "deepspin_nets.shortcut": Work(3 * hidden * number, 0.0, hidden, real),
        "deepspin_kernels.undescribe": Work(inputs * number + 2 * a, 10 * inputs * number, 16 * inputs, real),
        "deepspin_kernels.sum_channels": Work(
            pairs * (row + 40) + a, pairs * channels * 10 * number, 36 * pairs * channels, real
        ),
        "deepspin_kernels.pull_pairs": Work(pairs * (40 + 56 + 4 + 24), 0.0, 40 * pairs),
        "deepspin_kernels.gather": Work(
            entries * (8 + 48) + entries * 2 * SECTOR + 80, entries * 2 * SECTOR, 15 * entries
        ),
        "torch": Work(48 * entries + 100),  # places of pulls cleared, sums
    }


def total(case: Case, iterations: float = ITERATIONS) -> dict:
    """Sums over the kernels, per atom, and the least seconds: each kernel at its own limit, one after the other."""
    parts = kernels(case, iterations).values()
    flops = {real: sum(w.flops for w in parts if w.real == real) for real in ("float64", "float32")}
    return {
        "memory_bytes": sum(w.memory for w in parts), "cache_bytes": sum(w.cache for w in parts), "flops": sum(flops.values()),
        "flops_float64": flops["float64"], "flops_float32": flops["float32"], "least_seconds": sum(w.least for w in parts),
        "memory_seconds": sum(w.seconds("memory") for w in parts),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- memory


def memory(case: Case) -> dict[str, float]:
    """Bytes per atom of a large system that a run holds: what it is for -> bytes. ``gpu.py --memory`` adds up a real run's."""
    langevin = case.ensemble == "langevin"
    if case.kind == "deepspin":
        prototype, radii = "rocksalt", [DEEP_CUTOFF + DEEP_MARGIN]
    else:
        prototype, radii = "bcc", [] if case.kind == "spins" else [EAM_CUTOFF, case.what]
    density = len(BASIS[prototype]) / LATTICE[prototype] ** 3
    rooms = [int(ROOM[0] * density * 4.18879 * (r + SKIN) ** 3 + ROOM[1]) for r in radii]
    moving = case.kind != "spins"
    parts = {
        "positions, velocities, spins": 72.0,
        "masses, moments, numbers, images": 8 + 8 + 8 + 4 + 12.0,
        "list and count of each class": sum(4.0 * room + 4 for room in rooms),
        "building of lists: last positions, ghosts, bins": 24
        + 16
        + (16 / (density * (0.5 * (radii[0] + SKIN)) ** 3) + 56 if radii else 0),
        "energies and forces of terms, fields": (48.0 if moving and case.kind == "eam" else 24.0) + 24 + 16 + 32,
    }
    if case.kind == "eam":
        parts["couplings and their atoms"] = rooms[1] * 12.0 + 8
    elif case.kind == "spins":
        parts["couplings and their atoms"] = 64 * 12.0 + 4
    else:
        signs, number = 1, 4 if case.precision == "float32" else 8
        _, _, channels, _, _ = deep_sizes(NETS[case.what])
        parts["transposed list"] = 4.0 * rooms[0]
        parts["pulls of pairs"] = 24.0 * (1 + signs) * rooms[0] + 24 + 32
        parts["A of real neighbours"] = 4.0 * channels * number
    if case.kind == "deepspin":  # eight past fields, and a copy
        parts["spin solver"] = 8 * 24 + 32 + 48 + 16.0
        parts["its history, and the copy of the last look"] = 2 * 8 * 24.0
    else:
        solves = 2 if moving else 1
        parts["spin solver"] = 32 + 4 * 24 + 16.0
        parts["its history, and the copy of the last look"] = 2 * solves * 4 * 24.0
    if langevin:
        parts["baths"] = 8 + 8 + 24 + 8 + 8 + 8 + 8 + 16.0
    parts["copy of the state of the last look"] = 72 + 12 + (24.0 if radii else 0.0)
    parts["squares of spins, for looks"] = 8.0
    return parts
