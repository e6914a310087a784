"""How ``gpu.py`` measures: events on the device around steps and around single launches, the card's limits, the CPU's results."""

import gc
import time
from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import gpu_counts
import numpy as np
from common import median
from gpu_cases import Case, System, deck, small_cells, small_one

REPEAT = 5  # blocks of steps, of which the median counts
ATOM_STEPS = 2.0e8  # in a block at most
LOOK = 50  # steps between the looks of a run
STEPS_COMPARED = 3
LAUNCHED_SIMULATED = {"eam": 8, "spins": 8, "deepspin": 3}  # iterations of a solve in numba's simulator
# relative to the largest number of an array: energies by term, forces and fields, then positions, velocities and spins after steps
ALLOWED = {"float64": (1e-10, 1e-9, 1e-9), "mixed": (1e-5, 1e-4, 1e-6), "float32": (1e-4, 1e-3, 1e-5)}
SLEEP = 200_000_000  # cycles for which the device waits while launches queue up: about 0.1 s
GEMM = 8192
COPY = 2**27  # numbers of 8 bytes, 1 GiB


def simulated() -> bool:
    from spinmd.cuda.runtime import simulated

    return simulated()


class Timer:
    """Milliseconds on the device between two moments of the present stream; in the simulator those of the host."""

    def __init__(self):
        if simulated():
            self._begin = time.perf_counter()
            return
        import torch

        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._events[0].record()

    def stop(self) -> "Timer":
        """The second moment."""
        if simulated():
            self._milliseconds = 1e3 * (time.perf_counter() - self._begin)
        else:
            self._events[1].record()
        return self

    def milliseconds(self) -> float:
        """Waits for the second moment."""
        if simulated():
            return self._milliseconds
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1])


def timed(work, count: int, repeat: int = REPEAT) -> float:
    """Median time of ``count`` calls, ms, divided by ``count``."""
    times = []
    for _ in range(repeat):
        timer = Timer()
        for _ in range(count):
            work()
        times.append(timer.stop().milliseconds() / count)
    return median(times)


def limits() -> dict:
    """Bandwidth of a copy of 1 GiB (read and written), and matrix products in float64 and float32 without TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.zeros(COPY, dtype=torch.float64, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    found = {"copy_gb_per_s": 2 * source.numel() * 8 / timed(partial(target.copy_, source), 10) / 1e6}
    del source, target
    for kind in ("float64", "float32"):
        a = torch.rand(GEMM, GEMM, dtype=getattr(torch, kind), device="cuda")
        product = a @ a
        ms = timed(lambda a=a, product=product: torch.mm(a, a, out=product), 3)
        found[f"matmul_{kind}_tflop_per_s"] = 2 * GEMM**3 / ms / 1e9
        del a, product
    torch.cuda.empty_cache()
    return found


# ---------------------------------------------------------------------------------------------- against the CPU


def compare(case: Case) -> dict:
    """Largest relative differences from the CPU at a small size: energies by term, forces and fields, a trajectory of a few
    steps with the same noise; ``agrees``: whether all are as small as the precision allows."""
    import spinmd
    from spinmd.cuda.launch import own_stream
    from spinmd.device import on_device

    host = small_one(case)
    table = spinmd.load_deck(deck(case, small_cells(case)))
    with own_stream():
        there = on_device(SimpleNamespace(deck=table, state=host.state, model=host.model, integrator=host.integrator))
        there.graphs, steps = False, STEPS_COMPARED
        if simulated():  # where a launch takes milliseconds
            steps, there.mover.flows["S"].launched = 1, LAUNCHED_SIMULATED[case.kind]
        state, aux, model, integrator = there.host
        mine = there.view.evaluate(spinmd.Need.ENERGY | spinmd.Need.FORCE | spinmd.Need.FIELD)
        theirs = model.evaluate(spinmd.Need.ENERGY | spinmd.Need.FORCE | spinmd.Need.FIELD)
        found = {
            "energies": float(
                np.max(np.abs(mine.energies - theirs.energies) / np.maximum(np.abs(theirs.energies), 1e-6))
            ),
            "forces": difference(mine.forces, theirs.forces),
            "fields": difference(mine.fields, theirs.fields),
        }
        for _ in range(steps):
            status = integrator.step(state, aux, model)
            if not status.ok:
                raise RuntimeError(f"the CPU's step failed: {status.message}")
            there.step()
        trajectory = [
            difference(getattr(there.state, name).host(), getattr(state, name))
            for name in ("positions", "velocities", "spins")
        ]
    found["trajectory"] = max(trajectory)
    energies, forces, moved = ALLOWED[case.precision]
    allowed = {"energies": energies, "forces": forces, "fields": forces, "trajectory": moved}
    found["agrees"] = all(found[name] <= most for name, most in allowed.items())
    return {"case": case.name, "atoms": host.state.natoms, **found, "allowed": allowed}


def difference(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest number."""
    return float(np.abs(mine - theirs).max(initial=0.0) / max(np.abs(theirs).max(initial=0.0), 1e-9))


# ---------------------------------------------------------------------------------------------- steps


def settle(there: Any) -> bool:
    """A look as in a run: room for lists, launches that solves need, and a snapshot. False where steps were taken back."""
    if not there._room():
        there.snapshot.restore()
        return False
    there.snapshot.take()
    return True


def advance(there: Any, steps: int, every: int = LOOK) -> None:
    """Steps with looks, after which nothing has overflowed. RuntimeError where lists do not come to rest."""
    target, attempts = there.state.clock.step + steps, 0
    while there.state.clock.step < target:
        there.step()
        if there.state.clock.step % every == 0 or there.state.clock.step == target:
            attempts = 0 if settle(there) else attempts + 1
            if attempts > 20:
                raise RuntimeError("lists or solves still need more room after twenty looks")


def time_of_step(there: Any, steps: int, repeat: int) -> float:
    """Median time of a step, ms, between looks."""
    count, times = max(1, min(steps, LOOK, int(ATOM_STEPS / there.state.natoms))), []
    while len(times) < repeat:
        timer = Timer()
        for _ in range(count):
            there.step()
        times.append(timer.stop().milliseconds() / count)
        settle(there)
    return median(times)


def measure(part: str, case: Case, steps: int, card: dict | None) -> dict:
    """Times of steps, with a graph and without, of an evaluation for DeepSPIN, of single kernels; memory; shares of limits."""
    from spinmd.cuda.launch import own_stream
    from spinmd.device import on_device

    begin = time.perf_counter()
    system = System(case, case.cells)
    row: dict[str, Any] = {"part": part, "case": case.name, "atoms": system.state.natoms}
    row["host_seconds"] = time.perf_counter() - begin
    with own_stream():
        reset_memory()
        there = on_device(system)
        there.graphs = there.graphs and part != "memory"  # to try a graph takes copies of everything
        short = simulated()
        advance(there, 2 if short else 20, 5)
        advance(there, 0 if short else min(steps, LOOK))
        repeat = 1 if short or part == "memory" else REPEAT
        ms = time_of_step(there, steps, repeat)
        row |= {"us_per_step": 1e3 * ms, "atom_steps_per_s": row["atoms"] / ms * 1e3, "graph": there.captured}
        row |= memory_held(there, row["atoms"])
        captured, there.graphs = there.captured, False  # single launches from here on
        there._graphs.clear()
        if captured:
            row["us_per_step_single_launches"] = 1e3 * time_of_step(there, min(steps, 20), repeat)
        row["solver"] = solver(there)
        iterations = row["solver"]["evaluations_per_solve"]
        if case.kind == "deepspin":
            ms = time_of_evaluation(there, repeat, 1 if short else 10)
            row |= {"us_per_evaluation": 1e3 * ms, "atoms_evaluated_per_s": row["atoms"] / ms * 1e3}
            row["kernels"], row["launches"] = kernel_times(there, evaluation(there), case, iterations, card, repeat)
        else:
            row["kernels"], row["launches"] = kernel_times(there, there.step, case, iterations, card, repeat)
        row["list_build_us"] = 1e3 * list_build(there, repeat) if there.model.lists.radii else 0.0
        shares(row, case, iterations, ms, card)
    return row


def solver(there: Any) -> dict:
    """Kind, tolerance and mean evaluations of the spin solver, and how many a solve launches."""
    flow = there.mover.flows["S"]
    return {
        "kind": type(flow.host).__name__, "tolerance": flow.host.tolerance, "launched": flow.launched,
        "evaluations_per_solve": there.mover.iterations(), "not_converged": there.mover.unsolved(),
    }  # fmt: skip


def shares(row: dict, case: Case, iterations: float, ms: float, card: dict | None) -> None:
    """Counted bytes and operations over the time, and what part of the limits they are."""
    counted = gpu_counts.total(case, iterations)
    seconds = ms / 1e3 / row["atoms"]
    row["gb_per_s"] = counted["memory_bytes"] / seconds / 1e9
    row["tflop_per_s"] = counted["flops"] / seconds / 1e12
    row["share_of_expected"] = counted["least_seconds"] / seconds
    if card:
        row["share_of_copy"] = row["gb_per_s"] / card["copy_gb_per_s"]
        row["share_of_products"] = sum(
            counted[f"flops_{real}"] / seconds / 1e12 / card[f"matmul_{real}_tflop_per_s"]
            for real in ("float64", "float32")
        )
    if case.aim:
        row["aim"] = case.aim
        reached = row["atoms_evaluated_per_s"] if case.kind == "deepspin" else row["atom_steps_per_s"]
        row["share_of_aim"] = reached / case.aim


def evaluation(there: Any):
    """A call that moves the atoms a femtosecond and evaluates energies, forces and fields, with lists as in a run."""
    from spinmd.protocols import Need

    state, model = there.state, there.model

    def once() -> None:
        state.positions.tensor.add_(state.velocities.tensor, alpha=0.001)
        model.moved()
        model.evaluate(Need.ENERGY | Need.FORCE | Need.FIELD)

    return once


def time_of_evaluation(there: Any, repeat: int, count: int) -> float:
    """Median time of an evaluation, ms."""
    once = evaluation(there)
    once()
    ms = timed(once, count, repeat)
    settle(there)
    return ms


# ---------------------------------------------------------------------------------------------- kernels


class Launches:
    """While it is entered, every kernel and matrix product is timed on its own: ``times()``: name -> (ms, number)."""

    def __enter__(self) -> "Launches":
        import torch

        from spinmd.cuda.launch import Kernel

        self._kept = (Kernel.__call__, torch.mm, torch.addmm)
        self._timers: list[tuple[str, Timer]] = []
        call, mm, addmm = self._kept

        def launch(kernel: Any, count: int, *arguments: Any) -> None:
            function = kernel.function
            self._time(f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}", call, kernel, count, *arguments)

        Kernel.__call__ = launch
        torch.mm = lambda *given, **named: self._time("torch products", mm, *given, **named)
        torch.addmm = lambda *given, **named: self._time("torch products", addmm, *given, **named)
        return self

    def _time(self, name: str, work: Any, *given: Any, **named: Any) -> Any:
        timer = Timer()
        result = work(*given, **named)
        self._timers.append((name, timer.stop()))
        return result

    def __exit__(self, *_: Any) -> None:
        import torch

        from spinmd.cuda.launch import Kernel

        Kernel.__call__, torch.mm, torch.addmm = self._kept

    def times(self) -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        for name, timer in self._timers:
            ms, number = found[name]
            found[name] = ms + timer.milliseconds(), number + 1
        return dict(found)


def queue_up() -> None:
    """Let the device wait while the host launches, so that times of kernels hold no waiting for launches."""
    import torch

    if not simulated() and hasattr(torch.cuda, "_sleep"):
        torch.cuda._sleep(SLEEP)


def kernel_times(
    there: Any, work: Any, case: Case, iterations: float, card: dict | None, repeat: int
) -> tuple[list, int]:
    """Rows of kernels, the slowest first, with what has been counted for them; and the number of launches."""
    passes, whole = [], []
    for _ in range(min(repeat, 3)):
        with Launches() as launches:
            queue_up()
            timer = Timer()
            work()
            timer.stop()
        passes.append(launches.times())
        whole.append(timer.milliseconds())
        settle(there)
    counted, atoms = gpu_counts.kernels(case, iterations), there.state.natoms
    rows = []
    for name in {name for one in passes for name in one}:
        ms = median([one.get(name, (0.0, 0))[0] for one in passes])
        number = max(one.get(name, (0.0, 0))[1] for one in passes)
        rows.append(
            {"kernel": name, "us": 1e3 * ms, "launches": number} | kernel_shares(counted.get(name), ms, atoms, card)
        )
    rows.sort(key=lambda one: -one["us"])
    rest = median(whole) - 1e-3 * sum(one["us"] for one in rows)
    rows.append(
        {"kernel": "torch and gaps", "us": 1e3 * rest, "launches": 0}
        | kernel_shares(counted.get("torch"), rest, atoms, card)
    )
    return rows, sum(one["launches"] for one in rows)


def kernel_shares(work: Any, ms: float, atoms: int, card: dict | None) -> dict:
    """Counted bytes and operations per atom, rates, and parts of the measured limits."""
    if work is None or ms <= 0.0:
        return {}
    seconds = ms / 1e3 / atoms
    found = {
        "memory_bytes": work.memory, "cache_bytes": work.cache, "flops": work.flops, "limit": work.limit,
        "gb_per_s": work.memory / seconds / 1e9, "tflop_per_s": work.flops / seconds / 1e12,
        "share_of_expected": work.least / seconds,
    }  # fmt: skip
    if card:
        found["share_of_copy"] = found["gb_per_s"] / card["copy_gb_per_s"]
        found["share_of_products"] = found["tflop_per_s"] / card[f"matmul_{work.real}_tflop_per_s"]
    return found


def list_build(there: Any, repeat: int) -> float:
    """Median time of a build of all lists, ms."""
    times = []
    for _ in range(min(repeat, 3)):
        there.model.lists.demand()
        queue_up()
        timer = Timer()
        there.model.lists.update()
        times.append(timer.stop().milliseconds())
        there.model.moved()
        settle(there)
    return median(times)


# ---------------------------------------------------------------------------------------------- memory


def reset_memory() -> None:
    """Forget the last case."""
    import torch

    gc.collect()
    if not simulated():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_held(there: Any, atoms: int) -> dict:
    """GiB that tensors hold now, and held at most (a graph is tried on copies); bytes per atom."""
    import torch

    if simulated():
        return {"gib": float("nan"), "gib_at_most": float("nan"), "bytes_per_atom": float("nan")}
    now = torch.cuda.memory_allocated()
    return {"gib": now / 2**30, "gib_at_most": torch.cuda.max_memory_allocated() / 2**30, "bytes_per_atom": now / atoms}


def arrays_of(there: Any) -> dict[str, Any]:
    """Every tensor that a run on the device holds, by where it is found first: path -> tensor."""
    import torch

    from spinmd.cuda.arrays import DeviceArray

    found: dict[int, tuple[str, Any]] = {}
    seen: set[int] = set()
    waiting = [("run", there)]
    while waiting:
        path, thing = waiting.pop(0)
        if isinstance(thing, DeviceArray):
            thing = thing.tensor
        if isinstance(thing, torch.Tensor):
            if thing.numel():
                found.setdefault(thing.untyped_storage().data_ptr(), (path, thing))
            continue
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            waiting += [(f"{path}.{key}", value) for key, value in thing.items()]
        elif isinstance(thing, (list, tuple)):
            waiting += [(f"{path}.{k}", value) for k, value in enumerate(thing)]
        elif type(thing).__module__.startswith("spinmd") and path.count(".") < 12:
            waiting += [
                (f"{path}.{name}".replace("run.", "", 1), value)
                for name, value in getattr(thing, "__dict__", {}).items()
                if name not in ("host", "_host", "guard", "view")
            ]
    return dict(found.values())


def held_per_atom(case: Case) -> dict[str, float]:
    """Bytes per atom of each array of a run of this case, made at a small size: those of entries (atoms and images) count once per
    atom, which is what they come to in large systems; arrays that do not grow with the system are left out."""
    from spinmd.cuda import lists as room
    from spinmd.cuda.launch import own_stream
    from spinmd.device import on_device

    with own_stream(), patch.object(room, "MANY", 0):  # with the room that large systems have
        # of another size than the small arrays that do not grow
        there = on_device(System(case, small_cells(case) + (case.kind != "deepspin")))
        there.model.couplings()  # made when a step asks for them
        n, lists = there.state.natoms, there.model.lists
        entries = len(lists.owner) if lists.radii else -1
        found = {}
        for path, tensor in arrays_of(there).items():
            size = tensor.numel() * tensor.element_size()
            if n in tensor.shape:
                found[path] = size / n
            elif entries in tensor.shape:
                found[path] = size / entries
            elif path.endswith(("_bins", "_bin_ends")):
                reach = 0.5 * (lists.radii[0] + lists.skin)
                found[path] = tensor.element_size() / (n / there.state.volume * reach**3)
    return found
