"""What writing costs: a run that stores every 100 steps against the same run without [output], made in turn.

    python benchmarks/output_cost.py [--size 32] [--steps 400] [--repeats 3] [--threads 1] [--json out.json]

bcc iron with a Morse potential (or --eam FILE) and exchange at 3.4 Å; positions, velocities and spins of every atom,
checkpoints at the deck's default interval, at the start and at the end. ``loop`` is the time of the steps with all
reports, ``closing`` that of the merge into one file; ``cost`` is what both take more than without [output], ``CPU`` the
same in processor time, which other programs disturb less. Medians over rounds; in a round each kind of run goes once.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import spinmd

DECK = """
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [{size}, {size}, {size}]
temperature = "300 K"
[structure.spins]
moments = {{ Fe = 2.2 }}
texture = "random"
[[potential]]
kind = "{kind}"
parameters = {parameters}
[[potential]]
kind = "exchange"
parameters = {{ form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4, smoothing = 0.2, offset = true }}
[integrator]
ensemble = "nve"
timestep = "1 fs"
[run]
steps = {steps}
"""
MORSE = "{ depth = 0.4174, alpha = 1.3885, r0 = 2.845, cutoff = 5.3 }"
OUTPUT = """
[output]
file = "run.h5"
thermo = 10
trajectory = {every}
precision = "{precision}"
compression = "{compression}"
"""


def run(text: str, folder: Path, threads: int) -> dict:
    """Seconds of the loop and of closing, and bytes of the file."""
    deck = folder / "deck.toml"
    deck.write_text(text, encoding="utf-8")
    simulation = spinmd.build(deck, threads=threads, force=True)
    start, cpu = time.perf_counter(), time.process_time()
    simulation.run()
    begin = time.perf_counter()
    simulation.close()
    end = time.perf_counter()
    file = folder / "run.h5"
    size = file.stat().st_size if file.exists() else 0
    return {"loop": begin - start, "closing": end - begin, "cpu": time.process_time() - cpu, "bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="cells along each side; 2 atoms each")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eam", help="an EAM file of iron instead of the Morse potential")
    parser.add_argument("--compression", nargs="+", default=["gzip"], choices=["gzip", "lzf", "none"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kind, parameters = "morse", MORSE
    if arguments.eam:
        kind, parameters = "eam", f'{{ file = "{Path(arguments.eam).absolute()}" }}'
    base = DECK.format(size=arguments.size, steps=arguments.steps, kind=kind, parameters=parameters)
    kinds = {"none": base}
    for precision in ("float64", "float32"):
        for compression in arguments.compression:
            output = OUTPUT.format(every=arguments.every, precision=precision, compression=compression)
            kinds[f"{precision} {compression}"] = base + output
    rows: dict[str, list[dict]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(base.replace(f"steps = {arguments.steps}", "steps = 5"), folder, arguments.threads)  # compiles
        for _ in range(arguments.repeats):
            for kind, text in kinds.items():
                (folder / "run.h5").unlink(missing_ok=True)
                rows[kind].append(run(text, folder, arguments.threads))
    results = []
    for kind, values in rows.items():
        pairs = list(zip(values, rows["none"], strict=True))
        shares = [
            (mine["loop"] + mine["closing"]) / (theirs["loop"] + theirs["closing"]) - 1.0 for mine, theirs in pairs
        ]
        cpu = [mine["cpu"] / theirs["cpu"] - 1.0 for mine, theirs in pairs]
        median = {key: statistics.median(value[key] for value in values) for key in values[0]}
        results.append(
            {"output": kind, **median, "cost": statistics.median(shares), "cpu_cost": statistics.median(cpu)}
        )
    frames = arguments.steps // arguments.every + 1
    print(f"{2 * arguments.size**3} atoms, {arguments.steps} steps, {frames} frames, {arguments.threads} thread(s)")
    print(f"{'output':<14} {'loop s':>8} {'closing s':>10} {'cost':>8} {'CPU':>8} {'MB/frame':>9}")
    for row in results:
        size, cost, cpu = row["bytes"] / frames / 1e6, 100 * row["cost"], 100 * row["cpu_cost"]
        print(f"{row['output']:<14} {row['loop']:8.2f} {row['closing']:10.2f} {cost:7.1f}% {cpu:7.1f}% {size:9.2f}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"arguments": vars(arguments) | {"json": None}, "results": results}, indent=2)
        )


if __name__ == "__main__":
    main()
