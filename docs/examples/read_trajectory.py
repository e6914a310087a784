"""Post-processing of a trajectory: mean moment, mean square displacement, velocity autocorrelation, in bounded memory.

    python docs/examples/read_trajectory.py              # makes a short trajectory of bcc iron first; some seconds
    python docs/examples/read_trajectory.py fe.h5        # any run whose frames hold positions, velocities and spins

Prints tables. The file may be much larger than the memory, and its run may still be going on.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import spinmd

DECK = Path(__file__).resolve().parents[2] / "inputs" / "bcc_iron.toml"
MEGABYTES = 64  # of each piece that is read


def make(path: Path, steps: int) -> None:
    """A short run of inputs/bcc_iron.toml in a smaller cell; a frame every 4 fs resolves the fastest phonons."""
    changes = {"structure.supercell": [4, 4, 4], "output.file": str(path), "output.trajectory": 4}
    with spinmd.build(spinmd.load_deck(DECK, changes)) as simulation:
        simulation.run(steps)


def mean_moments(trajectory: spinmd.Trajectory) -> np.ndarray:
    """(frames, 3) mean over atoms of the moments, µB, of one piece of the file after the other."""
    return np.concatenate([spins.mean(axis=1) for _, spins in trajectory.chunks("spins", megabytes=MEGABYTES)])


def square_displacement(trajectory: spinmd.Trajectory) -> np.ndarray:
    """(frames,) mean square displacement from the first frame, Å². Positions are unwrapped: no jumps at the boundaries."""
    start = trajectory[0].positions
    pieces = trajectory.chunks("positions", megabytes=MEGABYTES)
    return np.concatenate([((positions - start) ** 2).sum(axis=2).mean(axis=1) for _, positions in pieces])


def velocity_autocorrelation(trajectory: spinmd.Trajectory) -> np.ndarray:
    """(frames,) ⟨v(0)·v(t)⟩/⟨v²⟩ over all atoms and all origins, by Fourier transform with padding.

    It needs all times of an atom: pieces along the atoms, each of which reads through the file once.
    """
    frames = len(trajectory)
    total = np.zeros(frames)
    for _, velocities in trajectory.chunks("velocities", megabytes=MEGABYTES, along="atoms"):
        spectrum = np.fft.rfft(velocities, n=2 * frames, axis=0)
        total += np.fft.irfft((np.abs(spectrum) ** 2).sum(axis=(1, 2)))[:frames]
    total /= np.arange(frames, 0, -1)  # so many origins has each time
    return total / total[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="a run's file; default: a short run of bcc iron is made")
    parser.add_argument("--steps", type=int, default=800, help="steps of the run that is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "iron.h5"
        if arguments.file is None:
            make(path, arguments.steps)
        with spinmd.Trajectory(path) as trajectory:
            report(trajectory)


def report(trajectory: spinmd.Trajectory) -> None:
    """Everything about one trajectory as tables."""
    print(trajectory)
    times = trajectory.times - trajectory.times[0]
    moments, displacement = mean_moments(trajectory), square_displacement(trajectory)
    correlation = velocity_autocorrelation(trajectory)

    print("\n   time/ps   mean moment/µB   mean square displacement/Å²   ⟨v(0)·v(t)⟩/⟨v²⟩")
    for k in range(0, len(times), max(1, len(times) // 12)):
        length = np.linalg.norm(moments[k])
        print(f"{times[k]:10.4f} {length:16.4f} {displacement[k]:29.5f} {correlation[k]:19.4f}")

    for element in sorted(set(trajectory.symbols)):
        part = trajectory.select(elements=element)
        spins = part.spins[-1]  # the last frame only
        mean = ", ".join(f"{component:.4f}" for component in spins.mean(axis=0))
        print(f"\n{element}: {part.natoms} atoms, mean moment in the last frame [{mean}] µB")

    # the densest line of the vibrational spectrum; frames must be evenly spaced
    if len(times) > 8 and np.allclose(np.diff(times), times[1], rtol=1e-6):
        window = np.hanning(2 * len(times))[len(times) :]
        spectrum = np.abs(np.fft.rfft(correlation * window, n=8 * len(times)))
        frequencies = np.fft.rfftfreq(8 * len(times), d=times[1])
        print(f"\nstrongest vibration: {frequencies[np.argmax(spectrum)]:.2f} THz")
    print(f"energies, lattice temperature and more in trajectory.thermo: {len(trajectory.thermo['step'])} rows")


if __name__ == "__main__":
    main()
