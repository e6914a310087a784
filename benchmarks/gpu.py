"""Speed on the NVIDIA GPU that is there: µs per step, atom-steps per second, and how far the kernels are from the card's limits.

    python benchmarks/gpu.py --json out.json                        # everything; small systems first
    python benchmarks/gpu.py --json out.json --budget 540           # what fits into nine minutes; the rest is named as skipped
    python benchmarks/gpu.py --cases eam --precisions mixed --largest 1000000
    python benchmarks/gpu.py --cases memory                         # 40 million atoms of EAM + exchange at 3.4 Å
    python benchmarks/gpu.py --cases drift                          # energy drift of mixed precision beside float64 and the CPU
    python benchmarks/gpu.py --cases deepspin --deepmd PYTHON       # DeePMD-kit on the same model; PYTHON has deepmd-kit and torch
    python benchmarks/gpu.py --expect                               # no GPU: bytes and operations, and what an H100 allows
    python benchmarks/gpu.py --check                                # only the comparison with the CPU; --memory: bytes per atom

It needs a driver for CUDA 13, numba, numba-cuda, torch for CUDA and h5py, and three packages that a bare machine may lack: ase,
pydantic and tqdm; nothing else (scipy, matplotlib and typer are not asked for). Nothing is installed: it runs from the source tree.
To bring them along, on any machine with the same Python:

    python -m pip install --target bring 'pydantic>=2' tqdm && python -m pip install --target bring --no-deps ase
    PYTHONPATH=bring python benchmarks/gpu.py ...              # on the other one, with the folder of 40 MB copied

Each kind of case is first compared with the CPU at a small size: energies, forces, fields, and a few steps. Steps are timed by
events on the device, after warming up and between the looks of the host; medians of five. Kernels are timed one by one in single
launches. Rates count what a kernel must move at least and the operations of its text (``gpu_counts.py``), and are compared with a
copy of 1 GiB and products of matrices on the same card. The JSON is written after every case; a case that fails or does not
fit says so in its row, and the others go on.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import gpu_cases
import gpu_counts
from common import ROOT, provenance
from gpu_cases import PARTS, PRECISIONS, SIZES, Case

FIRST = 60.0  # s, what a case of a new kind is expected to take, kernels compiled
NEEDS = ("numpy", "numba", "numba_cuda", "torch", "h5py", "ase", "pydantic", "tqdm")


def main() -> None:
    options = arguments()
    if options.expect:
        try:
            expect()
            sys.stdout.flush()
        except BrokenPipeError:  # somebody wanted the first lines only
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    missing = [name for name in NEEDS if not there_is(name)]
    if missing:
        sys.exit(
            f"gpu.py needs {', '.join(missing)}; install them or bring them along in PYTHONPATH, as gpu.py's first lines say"
        )
    try:
        gpu = device()
    except ValueError as error:
        sys.exit(str(error))
    if options.memory:
        memory()
        return
    Run(options, gpu).go()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="launch,eam,spins,deepspin,drift", help=f"of {', '.join((*PARTS, 'drift'))}")
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="atoms of the largest system, but for memory")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help=f"of {', '.join(PRECISIONS)}")
    parser.add_argument("--steps", type=int, default=100, help="of a block that is timed, at most 50")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which nothing new begins")
    parser.add_argument("--picoseconds", type=float, default=10.0, help="of the runs whose energy is watched")
    parser.add_argument(
        "--deepmd", metavar="PYTHON", help="interpreter with deepmd-kit, for its speed on the same model"
    )
    parser.add_argument("--json", metavar="FILE", help="where the results go, too")
    parser.add_argument("--expect", action="store_true", help="only count bytes and operations; needs no GPU")
    parser.add_argument("--check", action="store_true", help="only compare with the CPU; works in numba's simulator")
    parser.add_argument(
        "--memory", action="store_true", help="add up what a run holds per atom; works in numba's simulator"
    )
    options = parser.parse_args()
    for name, known in (("cases", (*PARTS, "drift")), ("precisions", PRECISIONS)):
        given = getattr(options, name).split(",")
        wrong = [one for one in given if one not in known]
        if wrong:
            parser.error(f"--{name}: expected some of {', '.join(known)}, got {', '.join(wrong)}")
        setattr(options, name, given)
    return options


def there_is(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def device():
    """The GPU, or the simulator. ValueError with one sentence where there is none."""
    from spinmd.cuda.runtime import require
    from spinmd.errors import InputError

    try:
        return require()
    except InputError as error:
        raise ValueError(f"gpu.py: {error.message}") from None


# ---------------------------------------------------------------------------------------------- without a GPU


def expect() -> None:
    """Tables of what to expect on an H100, in Markdown: cases, then kernels of some of them."""
    chosen = [
        Case("eam", cutoff, ensemble, precision, SIZES[2])
        for cutoff in (3.4, 5.74)
        for ensemble in ("nve", "langevin")
        for precision in ("mixed", "float64")
    ]
    chosen.append(Case("spins", 64, "nve", "float64", SIZES[2]))
    chosen += [Case("deepspin", net, "nve", real, 131_000) for net in gpu_cases.NETS for real in ("float32", "float64")]
    print("| case | memory, B/atom | cache, kB/atom | kFLOP/atom | atom-steps/s at most | aim | measured |")
    print("|---|---|---|---|---|---|---|")
    for case in chosen:
        one = gpu_counts.total(case)
        print(
            f"| {case.name} | {one['memory_bytes']:.0f} | {one['cache_bytes'] / 1e3:.1f} | {one['flops'] / 1e3:.1f} | "
            f"{1.0 / one['least_seconds']:.1e} | {f'{case.aim:.0e}' if case.aim else ''} | |"
        )
    for case in (chosen[0], chosen[5], *chosen[-2:]):
        print(f"\n{case.name}\n")
        print("| kernel | memory, B/atom | cache, B/atom | FLOP/atom | limit | ns/atom at least | measured |")
        print("|---|---|---|---|---|---|---|")
        for name, work in sorted(gpu_counts.kernels(case).items(), key=lambda one: -one[1].least):
            print(
                f"| `{name}` | {work.memory:.0f} | {work.cache:.0f} | {work.flops:.0f} | {work.limit} | {1e9 * work.least:.3f} | |"
            )
    print("\n| bytes per atom | " + " | ".join(case.name for case in memory_cases()) + " |")
    print("|---" * (len(memory_cases()) + 1) + "|")
    tables = [gpu_counts.memory(case) for case in memory_cases()]
    for name in dict.fromkeys(name for table in tables for name in table):
        print(f"| {name} | " + " | ".join(f"{table[name]:.0f}" if name in table else "" for table in tables) + " |")
    print("| sum | " + " | ".join(f"{sum(table.values()):.0f}" for table in tables) + " |")


def memory_cases() -> list[Case]:
    return [
        Case("eam", 3.4, "nve", "mixed", SIZES[0]), Case("eam", 3.4, "langevin", "mixed", SIZES[0]),
        Case("eam", 5.74, "nve", "float64", SIZES[0]), Case("deepspin", "large", "nve", "float32", SIZES[0]),
    ]  # fmt: skip


def memory() -> None:
    """What a run holds, added up array by array, beside the count of ``--expect``."""
    from gpu_measure import held_per_atom

    for case in memory_cases():
        held = held_per_atom(case)
        counted = sum(gpu_counts.memory(case).values())
        print(f"{case.name}: {sum(held.values()):.0f} bytes per atom held, {counted:.0f} counted for a large system")
        for path, size in sorted(held.items(), key=lambda one: -one[1]):
            if size >= 8:
                print(f"    {size:8.0f}  {path}")


# ---------------------------------------------------------------------------------------------- with one


class Run:
    """Rows of results and the file they go to."""

    def __init__(self, options: argparse.Namespace, gpu):
        self.options, self.gpu, self.begin = options, gpu, time.perf_counter()
        self.results: dict = {
            "benchmark": "gpu",
            **provenance(),
            **self.about(),
            "checks": [],
            "rows": [],
            "drift": [],
            "deepmd": [],
        }
        self.durations: dict[tuple, tuple[float, int]] = {}  # of the last case of a kind, s, and its atoms
        signal.signal(signal.SIGALRM, self._late)

    def about(self) -> dict:
        """The card, versions and the command."""
        import numba_cuda
        import torch

        gpu = self.gpu
        return {
            "device": gpu.name, "capability": ".".join(map(str, gpu.capability)), "driver": gpu.driver,
            "memory_gib": gpu.memory / 2**30, "torch": torch.__version__, "cuda": getattr(torch.version, "cuda", None),
            "numba_cuda": numba_cuda.__version__, "command": " ".join(sys.argv),
        }  # fmt: skip

    def go(self) -> None:
        """Everything that was asked for."""
        from gpu_measure import limits, simulated

        options = self.options
        self.card = None if simulated() else limits()
        self.results |= self.card or {}
        for name in ("device", "driver", "memory_gib", "torch", "numba_cuda", "commit", *(self.card or {})):
            say(f"{name:28} {self.results[name]}")
        self.save()
        checked: dict[tuple, bool] = {}
        for part, case in gpu_cases.cases(options.cases, options.largest, options.precisions):
            kind = (case.kind, case.what, case.ensemble, case.precision)
            if kind not in checked:
                checked[kind] = self.attempt("checks", case, self.check, (*kind, "check"))
            if not options.check:
                self.attempt(
                    "rows", case, lambda part=part, case=case: self.measure(part, case), (*kind, part == "memory")
                )
        if "drift" in options.cases and not options.check:
            self.drift()
        if options.deepmd and not options.check:
            for net in gpu_cases.NETS:
                case = Case("deepspin", net, "nve", "float32", gpu_cases.DEEP_SIZES[0])
                self.attempt("deepmd", case, lambda net=net: self.deepmd(net), ("deepmd", net))
        self.save()
        table(self.results)
        bad = [row for row in self.results["checks"] if row.get("agrees") is not True and "skipped" not in row]
        if bad:
            sys.exit(
                f"{len(bad)} of {len(self.results['checks'])} kinds of cases do not agree with the CPU, or could not be compared"
            )

    def attempt(self, where: str, case: Case, work, kind: tuple) -> bool:
        """Do it if it fits into the budget; its row, or why there is none, goes to the results and the file. Whether it worked."""
        left = self.options.budget - (time.perf_counter() - self.begin)
        guess = FIRST if not math.isinf(left) else 0.0
        if kind in self.durations:
            seconds, atoms = self.durations[kind]
            guess = seconds * max(1.0, case.atoms / atoms)
        row = {"case": case.name, "atoms": case.atoms}
        begin = time.perf_counter()
        if guess > left:
            row["skipped"] = f"would take about {guess:.0f} s, and {max(left, 0.0):.0f} s of the budget are left"
        else:
            if not math.isinf(left):
                signal.alarm(max(int(left), 1))
            try:
                row = work(case) if where == "checks" else work()
            except Exception as error:  # whatever happens, the other cases go on
                row["failed"] = failure(error)
            finally:
                signal.alarm(0)
            self.durations[kind] = (time.perf_counter() - begin, case.atoms)
        row["seconds"] = time.perf_counter() - begin
        self.results[where].append(row)
        self.save()
        say(line(row))
        return "failed" not in row and "skipped" not in row

    @staticmethod
    def _late(*_) -> None:
        raise TimeoutError("the budget is used up")

    def check(self, case: Case) -> dict:
        from gpu_measure import compare

        return compare(case)

    def measure(self, part: str, case: Case) -> dict:
        from gpu_measure import measure

        return measure(part, case, self.options.steps, self.card)

    def drift(self) -> None:
        """Runs whose energy is watched, on CPU and GPU."""
        from gpu_drift import on_cpu, on_gpu

        size = (8, self.options.picoseconds)
        for precision in ("float64", "mixed"):
            case = Case("eam", 3.4, "nve", precision, 1024)
            self.attempt("drift", case, lambda precision=precision: on_gpu(precision, *size), ("drift", precision))
        self.attempt("drift", Case("eam", 3.4, "nve", "float64", 1024), lambda: on_cpu(*size), ("drift", "cpu"))

    def deepmd(self, net: str) -> dict:
        """DeePMD-kit's evaluation of the same net, and how many times faster ours was at the size nearest to it."""
        from gpu_deepmd import evaluate

        row = {"case": f"DeePMD-kit, {net}", **evaluate(self.options.deepmd, net)}
        ours = [
            one
            for one in self.results["rows"]
            if one.get("case", "").startswith(f"DeepSPIN {net}") and "atoms_evaluated_per_s" in one
        ]
        for one in ours:
            row[f"times_faster {one['case'].rsplit(', ', 1)[-1]} {one['atoms']}"] = (
                one["atoms_evaluated_per_s"] / row["atoms_per_s"]
            )
        return row

    def save(self) -> None:
        """The file is whole at any moment."""
        if self.options.json:
            file = Path(self.options.json)
            part = file.with_name(file.name + ".part")
            part.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
            os.replace(part, file)


def failure(error: Exception) -> str:
    """One line for a row."""
    import torch

    text = " ".join(str(error).split())[:300]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        torch.cuda.empty_cache()
        return f"does not fit into the memory of the GPU: {text}"
    if isinstance(error, MemoryError):
        return f"does not fit into the memory of the host: {text}"
    return f"{type(error).__name__}: {text}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def line(row: dict) -> str:
    """A row in one line."""
    name = f"{row.get('case') or row.get('where', '')!s:44} {row.get('atoms', 0):9d} atoms"
    for word in ("failed", "skipped"):
        if word in row:
            return f"{name} {word}: {row[word]}"
    if "agrees" in row:
        values = ", ".join(f"{key} {row[key]:.1e}" for key in ("energies", "forces", "fields", "trajectory"))
        return f"{name} {'agrees with' if row['agrees'] else 'DIFFERS FROM'} the CPU: {values}"
    if "drift_mev_per_atom_per_ps" in row:
        return (
            f"{name} {row['where']}, {row['precision']}: drift {1e3 * row['drift_mev_per_atom_per_ps']:+.3f} ± "
            f"{1e3 * row['drift_error']:.3f} meV/atom/ns, fluctuation {row['fluctuation_mev_per_atom']:.2e} meV/atom"
        )
    if "us_per_step" not in row:
        return f"{name} " + ", ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
    text = f"{name} {row['us_per_step']:11.1f} µs/step {row['atom_steps_per_s']:10.3g} atom-steps/s"
    if "atoms_evaluated_per_s" in row:
        text += f" {row['atoms_evaluated_per_s']:10.3g} atoms evaluated/s"
    return text + f" {row['gb_per_s']:7.0f} GB/s {row['tflop_per_s']:6.2f} TFLOP/s {row['gib']:6.2f} GiB"


def table(results: dict) -> None:
    """All rows, and the kernels of the largest system of each kind, in Markdown."""
    rows = [row for row in results["rows"] if "us_per_step" in row]
    if rows:
        steps(rows)
    for name in ("checks", "drift", "deepmd"):
        for row in results[name]:
            print(line(row))
    for row in results["rows"]:
        if "us_per_step" not in row:
            print(line(row))


def steps(rows: list[dict]) -> None:
    """Times of steps, and of the kernels of the largest system of each kind."""
    print(
        "| case | atoms | µs/step | atom-steps/s | evaluated/s | of the aim | GB/s | of copy | TFLOP/s | of products | "
        "evaluations per solve | µs/step, single launches | GiB | B/atom |"
    )
    print("|---" * 14 + "|")
    for row in rows:
        print(
            f"| {row['case']} | {row['atoms']} | {row['us_per_step']:.1f} | {row['atom_steps_per_s']:.3g} | "
            f"{number(row, 'atoms_evaluated_per_s')} | {number(row, 'share_of_aim')} | {row['gb_per_s']:.0f} | "
            f"{number(row, 'share_of_copy')} | {row['tflop_per_s']:.2f} | {number(row, 'share_of_products')} | "
            f"{row['solver']['evaluations_per_solve']:.2f} | {number(row, 'us_per_step_single_launches')} | {row['gib']:.2f} | "
            f"{row['bytes_per_atom']:.0f} |"
        )
    for row in {row["case"]: row for row in rows}.values():
        print(
            f"\n{row['case']}, {row['atoms']} atoms, single launches; a list build takes {row['list_build_us']:.0f} µs\n"
        )
        print(
            "| kernel | launches | µs | GB/s | of copy | TFLOP/s | of products | limit | of the expected |\n|"
            + "---|" * 9
        )
        for one in row["kernels"]:
            print(
                f"| `{one['kernel']}` | {one['launches']} | {one['us']:.1f} | {number(one, 'gb_per_s')} | "
                f"{number(one, 'share_of_copy')} | {number(one, 'tflop_per_s')} | {number(one, 'share_of_products')} | "
                f"{one.get('limit', '')} | {number(one, 'share_of_expected')} |"
            )
    print()


def number(row: dict, key: str) -> str:
    return f"{row[key]:.3g}" if isinstance(row.get(key), float) else ""


sys.path.insert(0, str(ROOT))
if __name__ == "__main__":
    main()
