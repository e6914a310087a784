"""How spinmd's cost and memory grow: atoms from 8 thousand to 1 million, one thread and two, and the time to the first step.

    python benchmarks/scaling.py [--json out.json] [--largest 79] [--repeat 3]

bcc iron, EAM plus exchange at 3.4 Å, 1 fs, from 300 K and random spins, pinned. Prints µs per atom-step, peak memory,
the speed-up of two threads (midpoint solver), and the seconds of a whole run of one step with warm caches.
"""

import argparse
import json
import sys
import time

from common import median, provenance, spinmd_case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=80, help="cells along the edge of the largest system")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    print("compiling", file=sys.stderr)
    spinmd_case([12] * 3, 3.4, 5)
    results = {"sizes": [], "threads": [], "start": {}}
    sizes = [(16, 300), (32, 100), (50, 60), (options.largest, 50)]
    times = {cells: [] for cells, _ in sizes}
    memory = {}
    for _ in range(options.repeat):  # sizes in turn, so that a change of the machine's speed meets all of them
        for cells, steps in sizes:
            run = spinmd_case([cells] * 3, 3.4, steps)
            times[cells].append(run["us_per_atom_step"])
            memory[cells] = run["peak_memory_mib"]
    for cells, _ in sizes:
        row = {"atoms": 2 * cells**3, "us_per_atom_step": median(times[cells]), "peak_memory_mib": memory[cells]}
        row["relative_cost"] = row["us_per_atom_step"] / median(times[16])
        results["sizes"].append(row)
        print(
            f"{row['atoms']:8d} atoms  {row['us_per_atom_step']:.3f} µs per atom-step  ×{row['relative_cost']:.2f}  "
            f"{row['peak_memory_mib']:.0f} MiB",
            file=sys.stderr,
        )
    for cells, cutoff, steps in ((16, 3.4, 300), (32, 3.4, 100), (32, 5.74, 60)):
        one, two = [], []
        for _ in range(options.repeat):
            one.append(spinmd_case([cells] * 3, cutoff, steps)["us_per_atom_step"])
            two.append(spinmd_case([cells] * 3, cutoff, steps, cores=(0, 1))["us_per_atom_step"])
        row = {"atoms": 2 * cells**3, "exchange_cutoff": cutoff, "one": median(one), "two": median(two)}
        row["speed_up"] = row["one"] / row["two"]
        results["threads"].append(row)
        print(f"{row['atoms']:8d} atoms, {cutoff} Å: two threads {row['speed_up']:.2f} times one", file=sys.stderr)
    seconds = []
    for _ in range(options.repeat):
        begin = time.perf_counter()
        run = spinmd_case([10] * 3, 3.4, 1)
        seconds.append(time.perf_counter() - begin)
    results["start"] = {"seconds_to_end_of_a_run_of_one_step": median(seconds), "of_which_loop": run["seconds_loop"]}
    print(f"a whole run of one step takes {median(seconds):.2f} s", file=sys.stderr)
    text = json.dumps({"benchmark": "scaling", **provenance(), **results}, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main()
