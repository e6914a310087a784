"""Hot lattice and cold spins of bcc iron come to one temperature: how fast, which one, and where the energy goes.

    python docs/examples/spin_lattice_equilibration.py      # a minute or two on one core; writes spin_lattice_equilibration.png

docs/equilibration.md explains the steps. With --runs FOLDER the run stays there, and is not done again.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import spinmd
from spinmd import analysis
from spinmd.analysis.figures import figure, label

DECK = Path(__file__).resolve().parents[2] / "inputs" / "equilibration.toml"
SHARED = 0.3  # ps: the bath of the spins is gone, and the lattice has shared its kinetic with its potential energy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path, default=Path("spin_lattice_equilibration.png"))
    parser.add_argument("--runs", type=Path, help="folder for the run [default: a temporary one]")
    parser.add_argument("--steps", type=int, default=80000, help="of 1 fs, at constant energy")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.runs or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "equilibration.h5"
        if not file.exists():
            changes = {"stage.0.run.steps": arguments.steps, "output.file": str(file)}
            with spinmd.build(DECK, changes) as simulation:
                simulation.run()
        with spinmd.Trajectory(file) as run:
            report(run, arguments.figure)


def report(run: spinmd.Trajectory, path: Path) -> None:
    """Print temperatures, relaxation time and the balance of energies, and draw the figure."""
    end = float(run.thermo["time"][-1])
    flow = analysis.flow_of_energy(run, analysis.Window(start=SHARED))
    start = analysis.temperatures(run, analysis.Window(start=SHARED, stop=SHARED + 0.02 * end))
    late = analysis.temperatures(run, analysis.Window(start=0.5 * end))
    for words, one in ((f"{SHARED} to {SHARED + 0.02 * end:.1f} ps", start), (f"after {0.5 * end:.0f} ps", late)):
        texts = []
        for name in ("lattice", "spin"):
            value, error = one[f"{name}_temperature"], one.error(f"{name}_temperature")
            texts.append(f"{name} {value:6.1f} ± {error:.1f} K")
        print(f"{words:16} {', '.join(texts)}")
    if "relaxation_time" in flow:
        print(f"relaxation time  {flow['relaxation_time']:.1f} ± {flow.error('relaxation_time'):.1f} ps")
    print(
        f"to the spins     {flow['transferred']:.3f} meV/atom; the balance of energies is kept to {flow['imbalance']:.3f}"
    )
    for note in (*late.notes, *flow.notes):
        print(f"note: {note}")
    with figure(path, (6.4, 6.0)) as drawn:
        draw(drawn, run, flow)
    print(f"written: {path}")


def draw(drawn, run: spinmd.Trajectory, flow: analysis.Result) -> None:
    """Temperatures above, energies below."""
    above, below = drawn.subplots(2, 1, sharex=True)
    thermo, time = run.thermo, run.thermo["time"]
    block = max(len(time) // 120, 1)

    def smooth(values: np.ndarray) -> np.ndarray:
        return values[: len(values) // block * block].reshape(-1, block).mean(axis=1)

    for name, words, colour in (("lattice", "lattice", "C1"), ("spin", "spins", "C0")):
        values = thermo[f"{name}_temperature"]
        above.plot(time, values, color=colour, alpha=0.25, linewidth=0.6)
        above.plot(smooth(time), smooth(values), color=colour, label=words)
    above.set(ylabel=label("temperature", "K"), ylim=(0, 1.25 * smooth(thermo["lattice_temperature"])[1:].max()))
    above.legend()
    for name, words, colour in (
        ("lattice_energy", "lattice", "C1"),
        ("spin_energy", "spins", "C0"),
        ("total_energy", "sum", "0.2"),
    ):
        below.plot(flow["time"], flow[name], color=colour, label=words, linewidth=1.2)
    below.set(xlabel=label("time", "ps"), ylabel="energy gained (meV/atom)", xlim=(0, time[-1]))
    below.legend()


if __name__ == "__main__":
    main()
