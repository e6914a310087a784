"""Training against DeePMD-kit: the same frames, one core each, the same wall time; errors on frames that neither has seen.

    python benchmarks/deepspin_training.py DATA --dp PATH_OF_DP [--minutes 10] [--json out.json]

DATA is a folder of systems in DeePMD's spin layout, with FCC_Fe_iter-1 ... iter-4 and FCC_Fe_defect_iter-1. Every fifth frame is
held out.
DeePMD-kit trains its network (25-50-100, axis 12, 120³) with `dp --pt train`, its exponential decay scaled to the time that it has;
its checkpoint is read and evaluated by spinmd. spinmd trains its default. Prints JSON with errors, seconds per step and ratios.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from spinmd.interop.deepmd import read_deepmd
from spinmd.learning.evaluation import evaluate_systems
from spinmd.learning.train import load_training_deck, train
from spinmd.potentials.deepspin.accuracy import accuracy
from spinmd.potentials.deepspin.data import read_systems, select, write_system
from spinmd.potentials.deepspin.potential import DeepSpin

SECONDS_PER_STEP = 0.13  # of DeePMD-kit, for the decay of its rate; measured below


def split(data: Path, folder: Path) -> dict[str, list]:
    """Every fifth frame is held out; writes the training part below ``folder``."""
    systems = read_systems(data)
    parts = {"train": [], "test": []}
    for system in systems:
        held_out = np.arange(system.frames) % 5 == 4
        parts["train"].append(select(system, ~held_out))
        parts["test"].append(select(system, held_out))
        name = Path(system.name).name
        write_system(folder / "train" / name, parts["train"][-1])
        parts["test"][-1].name = name
    return parts


def deepmd_input(folder: Path, steps: int) -> dict:
    """DeePMD-kit's own example for spin, with the widths that are compared."""
    return {
        "model": {
            "type_map": ["Fe"],
            "descriptor": {
                "type": "se_e2_a", "sel": [120], "rcut": 6.0, "rcut_smth": 3.0, "neuron": [25, 50, 100], "axis_neuron": 12,
                "resnet_dt": False, "seed": 1,
            },
            "fitting_net": {"neuron": [120, 120, 120], "resnet_dt": True, "seed": 1},
            "spin": {"use_spin": [True], "virtual_scale": [0.3]},
        },
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-6, "decay_steps": max(1, steps // 200)},
        "loss": {
            "type": "ener_spin", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_fr": 1000, "limit_pref_fr": 1.0,
            "start_pref_fm": 10000, "limit_pref_fm": 10.0,
        },
        "training": {
            "training_data": {"systems": [str(p) for p in sorted((folder / "train").iterdir())], "batch_size": 1},
            "numb_steps": steps, "disp_freq": 200, "save_freq": 500, "seed": 1,
        },
    }  # fmt: skip


def run_deepmd(dp: str, folder: Path, seconds: float) -> tuple[Path, int, float]:
    """Trains for ``seconds``; the last checkpoint, the number of steps and seconds per step."""
    steps = int(seconds / SECONDS_PER_STEP)
    (folder / "input.json").write_text(json.dumps(deepmd_input(folder, steps)))
    root = Path(dp).resolve().parent.parent
    libraries = [root / "lib", *root.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")]
    environment = {
        **os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries)), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
        "DP_INTRA_OP_PARALLELISM_THREADS": "1", "DP_INTER_OP_PARALLELISM_THREADS": "1",
    }  # fmt: skip
    environment.pop("PYTHONPATH", None)
    log = (folder / "deepmd.log").open("w")
    process = subprocess.Popen([dp, "--pt", "train", "input.json"], cwd=folder, env=environment, stdout=log, stderr=log)
    began = None
    while process.poll() is None:  # the clock starts with the first step: reading and statistics are not counted
        time.sleep(0.5)
        if began is None and re.search(r"[Bb]atch\s+\d+", (folder / "deepmd.log").read_text()):
            began = time.perf_counter()
        if began is not None and time.perf_counter() - began > seconds:
            process.terminate()
            process.wait()
    found = sorted(folder.glob("model.ckpt-*.pt"), key=lambda path: int(path.stem.split("-")[1]))
    if not found:
        sys.exit("DeePMD-kit wrote no checkpoint:\n" + (folder / "deepmd.log").read_text()[-2000:])
    done = int(found[-1].stem.split("-")[1])
    return found[-1], done, min(seconds, time.perf_counter() - began) / max(done, 1)


def errors(potential, systems) -> dict:
    """Errors by group of frames: near equilibrium, far from it, with an interstitial."""
    groups = {"near": ["iter-1", "iter-2", "iter-3"], "far": ["iter-4"], "interstitial": ["defect_iter-1"]}
    result = {}
    for group, names in groups.items():
        chosen = [s for s in systems if any(s.name == f"FCC_Fe_{name}" for name in names)]
        report = accuracy(chosen, evaluate_systems([potential], chosen))
        result[group] = {
            key: report[key] for key in report if key.endswith(("per_atom", "per_ang", "per_mub")) and "rmse" in key
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--dp", help="the program dp of an environment with deepmd-kit 3.2; without it only spinmd is measured"
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=None, help="of spinmd; default: what fits into the time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds, report = 60.0 * arguments.minutes, {"minutes": arguments.minutes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = split(arguments.data, folder)
        if arguments.dp:
            checkpoint, steps, per_step = run_deepmd(arguments.dp, folder, seconds)
            model = DeepSpin.of(read_deepmd(checkpoint))
            report["deepmd"] = {"steps": steps, "seconds_per_step": per_step, "errors": errors(model, parts["test"])}
            print(json.dumps(report["deepmd"]), flush=True)
        began = time.perf_counter()

        def trained(count: int, **network) -> dict:
            deck, _ = load_training_deck(
                {
                    "data": {"train": ["train"], "validation": 0.05},
                    "training": {"steps": count, "checkpoint": 1000},
                    "network": network,
                    "output": {"file": str(folder / "fe.h5")},
                },
                folder=folder,
            )
            from spinmd.learning.train import training_systems

            return train(deck, training_systems(deck, folder), force=True, progress=sys.stderr.isatty())

        steps = arguments.steps
        if steps is None:
            trial = trained(200)
            steps = int(0.9 * (seconds - trial["seconds_preparation"]) / trial["seconds_per_step"])
            began = time.perf_counter()
        done = trained(steps)
        wall = time.perf_counter() - began
        report["spinmd"] = {
            "steps": steps, "seconds": wall, "seconds_per_step": done["seconds_per_step"], "frames_per_step": 2,
            "errors": errors(DeepSpin(model=folder / "fe.h5"), parts["test"]),
        }  # fmt: skip
        same = trained(
            60, descriptor="virtual-atoms", time_reversal=False
        )  # the network of DeePMD-kit, two frames a step
        report["spinmd_same_network"] = {"seconds_per_frame": same["seconds_per_step"] / 2}
    if arguments.dp:
        report["ratios"] = {
            "seconds_per_frame": report["deepmd"]["seconds_per_step"]
            / report["spinmd_same_network"]["seconds_per_frame"],
            "errors": {
                group: {key: report["deepmd"]["errors"][group][key] / value for key, value in values.items()}
                for group, values in report["spinmd"]["errors"].items()
            },
        }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
