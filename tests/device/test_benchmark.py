"""benchmarks/gpu.py: its comparisons with the CPU, a measured row, and what a run holds per atom."""

import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """gpu_cases, gpu_counts and gpu_measure, with a net that is small enough for the simulator."""
    sys.path.insert(0, str(BENCHMARKS))
    import gpu_cases
    import gpu_counts
    import gpu_measure

    gpu_cases.NETS["tiny"] = {"neuron": (2, 4), "axis": 2, "fitting": (6, 6)}
    yield gpu_cases, gpu_counts, gpu_measure
    del gpu_cases.NETS["tiny"]
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(
    "case",
    [("eam", 3.4, "nve", "mixed"), ("eam", 3.4, "langevin", "float64"), ("spins", 64, "nve", "float64"),
     ("deepspin", "tiny", "nve", "float32")],
    ids=lambda case: "-".join(map(str, case)),
)  # fmt: skip
def test_each_kind_of_case_is_compared_with_the_cpu(benchmark, case):
    cases, _, measure = benchmark
    found = measure.compare(cases.Case(*case, 16))
    assert found["agrees"], found
    if case[3] == "float64":
        assert found["energies"] < 1e-12


def test_a_measured_row_is_whole(benchmark):
    cases, _, measure = benchmark
    card = {"copy_gb_per_s": 2000.0, "matmul_float64_tflop_per_s": 50.0, "matmul_float32_tflop_per_s": 50.0}
    row = measure.measure("spins", cases.Case("spins", 64, "nve", "float64", 16), 1, card)
    assert row["us_per_step"] > 0.0 and row["launches"] > 10
    assert 1.0 < row["solver"]["evaluations_per_solve"] <= row["solver"]["launched"]
    kernel = next(one for one in row["kernels"] if one["kernel"] == "midpoint._iterate")
    assert kernel["launches"] == row["solver"]["launched"]
    assert math.isclose(kernel["share_of_copy"], kernel["gb_per_s"] / 2000.0)


def test_what_a_run_holds_is_what_was_counted(benchmark):
    """Array by array, but for the copies that a look and a build make for a moment."""
    cases, counts, measure = benchmark
    case = cases.Case("eam", 3.4, "langevin", "mixed", 16)
    held, counted = measure.held_per_atom(case), counts.memory(case)
    assert sum(held.values()) == pytest.approx(sum(counted.values()), rel=0.05)
    assert (
        counts.memory(cases.Case("eam", 3.4, "nve", "mixed", 16))
        and sum(counts.memory(cases.Case("eam", 3.4, "nve", "mixed", 16)).values()) < 1750.0
    )  # 40 million atoms in 70 GB
