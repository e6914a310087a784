"""Time and memory of analyses of long runs.

    python benchmarks/analysis_speed.py [--only speed large long] [--frames N] [--folder DIR] [--json out.json]

speed  S(q, ω) of 16³ cubic cells of bcc iron (8192 atoms), 2000 frames, 200 wave vectors; and the other analyses of that file
large  peak memory of S(q, ω) and of the autocorrelation of a file of 2.5 GB (32³ cells, 1600 frames), and of a quarter of it: where
       both are the same, ten times the file takes no more
long   128 atoms, 50 000 frames: the spectra of 200 wave vectors would not fit, so that segments become shorter

Each file comes from a run of the engine (rigid lattice, exchange by shells). Commands run in a process of their own on two cores;
memory is the peak of the process. About ten minutes and 3 GB in --folder; --frames N makes all files shorter.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, provenance

CORES = (0, 1)
PATH = "0,0,0 2,0,0 2,2,0 0,0,0 2,2,2 2,0,0 0,2,0"  # on 16³ cells 193 wave vectors, and 7 more of the last piece
LAST = " 0,2,7/16"
DECK = """
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.87
supercell = [{cells}, {cells}, {cells}]
[structure.spins]
moments = {{ Fe = 2.23 }}
texture = "thermal"
magnetisation = 0.97
[[potential]]
kind = "exchange"
parameters = {{ form = "shells", J = ["36.4 meV", "20.6 meV", "-1.6 meV", "-2.4 meV"] }}
[integrator]
ensemble = "nve"
timestep = "1 fs"
lattice = "frozen"
[run]
steps = {steps}
[output]
file = "{output}"
thermo = 1000
trajectory = {every}
checkpoint = 0
quantities = ["spins"]
compression = "{compression}"
"""


def make(folder: Path, cells: int, frames: int, every: int = 1, compression: str = "gzip") -> Path:
    """A run of so many frames; the file of an earlier benchmark is used again."""
    path = folder / f"speed-{cells}-{frames}.h5"
    if not path.exists():
        deck = folder / f"speed-{cells}.toml"
        steps = (frames - 1) * every
        text = DECK.format(cells=cells, steps=steps, every=every, output=path, compression=compression)
        deck.write_text(text, encoding="utf-8")
        measured(["run", str(deck), "--quiet", "--threads", str(len(CORES))])
    return path


def measured(arguments: list[str]) -> dict:
    """Run a spinmd command on the cores; seconds of wall and of processor, and peak memory in MiB."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "spinmd", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(len(CORES))},
        preexec_fn=lambda: os.sched_setaffinity(0, set(CORES) & os.sched_getaffinity(0)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"spinmd {' '.join(arguments)} failed")
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_mib": round(usage.ru_maxrss / 1024),
    }


def analysed(folder: Path, file: Path, *arguments: str) -> dict:
    """One analysis, quietly, with its result written."""
    row = measured(
        ["analyze", arguments[0], str(file), *arguments[1:], "-o", str(folder / "result.h5"), "--force", "--quiet"]
    )
    print(f"{' '.join(arguments)}  {file.stat().st_size / 1e9:.2f} GB: {row}", file=sys.stderr)
    return {"command": " ".join(arguments), "gigabytes": round(file.stat().st_size / 1e9, 3), **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=("speed", "large", "long"), default=("speed", "large", "long"))
    parser.add_argument("--frames", type=int, default=2000, help="of the first file; the others in proportion")
    parser.add_argument("--folder", type=Path, help="for the files, kept; default: a temporary one")
    parser.add_argument("--json", help="write the numbers to this file")
    options = parser.parse_args()
    results = {"benchmark": "analysis speed", **provenance()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(exist_ok=True)
        if "speed" in options.only:
            file = make(folder, 16, options.frames)
            results["speed"] = [
                analysed(folder, file, "sqw", "--path", PATH + LAST),
                analysed(folder, file, "sqw", "--path", PATH + LAST, "--no-fit"),
                analysed(folder, file, "dos", "--of", "spins"),
                analysed(folder, file, "autocorrelation", "--of", "spins"),
            ]
        if "large" in options.only:
            frames = options.frames * 4 // 5
            file = make(folder, 32, frames, compression="none")
            quarter = f"{(frames // 4) * 1e-3:g}"
            path = "0,0,0 1,0,0 1,1,0 0,0,0 1,1,1"
            for command in (
                ("sqw", "--path", path, "--no-fit"),
                ("autocorrelation", "--of", "spins", "--max-time", "0.1"),
            ):
                results.setdefault("large", []).extend(
                    [analysed(folder, file, *command, "--to", quarter), analysed(folder, file, *command)]
                )
        if "long" in options.only:
            file = make(folder, 4, options.frames * 25)
            path = "0,0,0 8,0,0 8,8,0 0,0,0 8,8,8 8,0,0 0,8,0"
            results["long"] = [analysed(folder, file, "sqw", "--path", path, "--no-fit", "--segments", "1")]
    text = json.dumps(results, indent=1)
    print(text)
    if options.json:
        Path(options.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
