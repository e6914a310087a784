"""Curie temperature of bcc iron: Monte Carlo of two sizes at ten temperatures, and the crossing of their Binder cumulants.

    python docs/examples/curie_iron.py                      # two minutes on two cores; writes curie_iron.png

docs/curie_temperature.md explains the steps. The runs stay in a folder with --runs FOLDER, and are not done again.
"""

import argparse
import tempfile
from pathlib import Path

import spinmd
from spinmd import analysis

DECK = Path(__file__).resolve().parents[2] / "inputs" / "curie_iron.toml"
SIZES = ([5, 5, 5], [10, 10, 10])  # 250 and 2000 atoms
KELVIN = (300, 600, 800, 880, 900, 915, 930, 950, 1000, 1200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path, default=Path("curie_iron.png"))
    parser.add_argument("--runs", type=Path, help="folder for the runs [default: a temporary one]")
    parser.add_argument("--steps", type=int, default=2500, help="sweeps of each run")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.runs or Path(temporary) / "iron").resolve()
        over = {"structure.supercell": SIZES, "integrator.temperature": KELVIN}
        sweep = spinmd.sweep(DECK, over, {"run.steps": arguments.steps}, folder=folder)
        files = [folder / str(name) for name in sweep.points["file"].ravel()]
        runs = [spinmd.Trajectory(file) for file in files]
        try:
            report(runs, arguments.figure)
        finally:
            for run in runs:
                run.close()


def report(runs: list[spinmd.Trajectory], figure: Path) -> None:
    """Print critical temperatures and draw the figure."""
    result = analysis.critical_temperature(runs)
    print(result.text())
    analysis.plot(result, figure)

    corrected = analysis.critical_temperature(runs, corrections=True)
    large = [run for run in runs if run.natoms == max(one.natoms for one in runs)]
    single = analysis.critical_temperature(large)
    print()
    for words, one in (
        ("crossing of the Binder cumulants", result),
        ("the same without the leading correction to scaling", corrected),
        (f"one size of {large[0].natoms} atoms alone", single),
    ):
        print(f"{words:52} {one['critical_temperature']:7.1f} ± {one.error('critical_temperature'):.1f} K")
    print(f"written: {figure}")


if __name__ == "__main__":
    main()
