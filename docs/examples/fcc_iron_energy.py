"""Energy of fcc iron by a DeepSPIN model, for a look at whether it makes sense: lattice constant, angle and length of spins.

    python docs/examples/fcc_iron_energy.py          # seconds; writes fcc_iron_energy.png into the present folder
    python docs/examples/fcc_iron_energy.py my_model.h5 --figure mine.png

Three collinear orders of the layers along z: ferromagnetic ++++, antiferromagnetic +-+- (AFM), antiferromagnetic double layer
++-- (AFMD). The default model has learned from AFMD alone (spins up to 40 degrees off it), in one cell; grey in the figure is
where its bulk data are. Far from there, and for the other orders, the curves show how the model extrapolates: they are no
predictions. Energies count from the lowest of their table.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from spinmd.evaluator import Evaluator
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.protocols import Need

matplotlib.use("Agg")  # draws into files: no screen needed
import matplotlib.pyplot as plt

MODEL = Path(__file__).resolve().parents[2] / "inputs" / "models" / "fcc_iron.h5"
FM, AFM, AFMD = "ferromagnetic", "AFM, single layer", "AFMD, double layer"
ORDERS = {FM: (1, 1, 1, 1), AFM: (1, -1, 1, -1), AFMD: (1, 1, -1, -1)}  # sublattice of the four layers
COLOURS = {FM: "tab:red", AFM: "tab:green", AFMD: "tab:blue"}

A, LENGTH = 3.55, 1.3  # Å and µB, where the other one is varied
LATTICE_CONSTANTS = np.linspace(3.40, 3.75, 15)  # Å
ANGLES = np.linspace(0.0, 180.0, 25)  # degrees
ANGLE_LENGTHS = (1.2, 1.3, 1.4)  # µB
LENGTHS = np.linspace(0.9, 1.7, 17)  # µB

# Bulk frames behind the default model, all of them AFMD: lattice constant; angle between mean spins of sublattices; lengths
DATA_A, DATA_ANGLES, DATA_LENGTHS = 3.5495, (167.0, 180.0), (1.12, 1.52)


class Crystal:
    """Two conventional fcc cells on top of each other: 8 atoms in four layers, a × a × 2a."""

    def __init__(self, model: Path):
        self.evaluate = Evaluator([DeepSpin(model=model)])
        face = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
        self.sites = np.concatenate([face, face + [0, 0, 1]])
        self.layer = np.round(2 * self.sites[:, 2]).astype(int)

    def energy(self, order: str, a: float = A, length: float = LENGTH, angle: float = 180.0) -> float:
        """Energy in meV per atom; the spins (µB) of the second sublattice are turned by ``angle`` (degrees) from the first."""
        turned = np.array(ORDERS[order])[self.layer] < 0
        theta = np.where(turned, np.radians(angle), 0.0)
        spins = length * np.stack([np.sin(theta), np.zeros(len(theta)), np.cos(theta)], axis=1)
        answer = self.evaluate(
            np.diag([a, a, 2 * a]), a * self.sites, ["Fe"] * len(self.sites), Need.ENERGY, spins=spins
        )
        return 1000.0 * answer.energy / len(self.sites)


def curves(crystal: Crystal) -> dict[str, tuple[np.ndarray, dict]]:
    """x and the energies (meV/atom above the lowest of the table) of each curve, by panel."""
    panels = {
        "lattice constant (Å)": (
            LATTICE_CONSTANTS,
            {order: [crystal.energy(order, a=a) for a in LATTICE_CONSTANTS] for order in ORDERS},
        ),
        "angle (degrees)": (
            ANGLES,
            {
                (order, length): [crystal.energy(order, length=length, angle=angle) for angle in ANGLES]
                for order in (AFMD, AFM)
                for length in ANGLE_LENGTHS
            },
        ),
        "spin length (µB)": (
            LENGTHS,
            {order: [crystal.energy(order, length=length) for length in LENGTHS] for order in ORDERS},
        ),
    }
    for _, table in panels.values():
        lowest = min(min(values) for values in table.values())
        table.update({name: np.array(values) - lowest for name, values in table.items()})
    return panels


def label(name) -> str:
    return name if isinstance(name, str) else f"{name[0].split(',')[0]}, {name[1]} µB"


def print_tables(panels) -> None:
    fixed = (f"|S| = {LENGTH} µB", f"a = {A} Å", f"a = {A} Å")
    for (quantity, (x, table)), where in zip(panels.items(), fixed, strict=True):
        print(f"energy (meV/atom) against {quantity} at {where}")
        print(" " * 8 + "".join(f"{label(name):>20}" for name in table))
        for k, value in enumerate(x):
            print(f"{value:8.3f}" + "".join(f"{values[k]:20.2f}" for values in table.values()))
        if quantity != "angle (degrees)":
            for name, values in table.items():
                print(f"lowest, {name}: {values.min():.2f} at {x[values.argmin()]:.3f}")
        print()


def mark_data(axes) -> None:
    """Grey where the bulk frames of the default model are; they are AFMD."""
    grey = {"color": "0.88", "zorder": 0, "label": "training data (AFMD)"}
    axes[0].axvline(DATA_A, linewidth=4, **grey)
    axes[1].axvspan(*DATA_ANGLES, **grey)
    axes[2].axvspan(*DATA_LENGTHS, **grey)


def plot(panels, path: Path, title: str, mark: bool) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.8), layout="constrained")
    (a, by_a), (angle, by_angle), (length, by_length) = panels.values()
    if mark:
        mark_data(axes)
    for order, values in by_a.items():
        axes[0].plot(a, values, ".-", color=COLOURS[order], label=order)
    axes[0].set(xlabel="lattice constant a (Å)", title=f"(a) |S| = {LENGTH} µB")

    shades = dict(zip(ANGLE_LENGTHS, (0.35, 0.65, 1.0), strict=True))
    for name, values in by_angle.items():
        order, moment = name
        axes[1].plot(angle, values, "-" if order == AFMD else "--", color=COLOURS[order], alpha=shades[moment],
                     label=label(name))  # fmt: skip
    axes[1].set(xlabel="angle between the sublattices (degrees)", title=f"(b) a = {A} Å", xlim=(0, 180))
    axes[1].set_xticks(range(0, 181, 30))

    for order, values in by_length.items():
        axes[2].plot(length, values, ".-", color=COLOURS[order], label=order)
    axes[2].set(xlabel="spin length |S| (µB)", title=f"(c) a = {A} Å")

    for axis in axes:
        axis.set_ylabel("energy above the lowest (meV/atom)")
        axis.set_ylim(bottom=0.0)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=MODEL, help="a model file with iron")
    parser.add_argument("--figure", type=Path, default=Path("fcc_iron_energy.png"))
    arguments = parser.parse_args()
    panels = curves(Crystal(arguments.model))
    print_tables(panels)
    plot(panels, arguments.figure, f"fcc iron, {arguments.model.name}", mark=arguments.model.resolve() == MODEL)
    print(f"figure: {arguments.figure}")


if __name__ == "__main__":
    main()
