"""Damaged decks, EAM files, models and runs: exit code 2 or the right answer; no traceback, no hang, no other numbers.

Each damage has a number and is the same anywhere. The short version reads a few dozen of each; ``-m slow`` reads a thousand.
What a user may have meant (another digit in a table) is another input and may give another answer: a deck, an EAM file and a
model of DeePMD-kit carry no checksum, a model and a run of spinmd do.
"""

import json

import h5py
import pytest
from support.deepmd_files import tiny, write_checkpoint, write_frozen
from support.deepspin_models import make_random_model
from support.fuzz import faults, fuzz

import spinmd
from spinmd.integrity import MARK
from spinmd.interop.deepmd import write_deepmd
from spinmd.potentials.deepspin.model_file import write_model

DECK = """\
title = "bcc iron"

[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [2, 2, 2]
displacement = 0.02
temperature = "300 K"

[structure.spins]
moments = { Fe = 2.2 }
texture = "cone"
angle = 40
direction = [0, 0, 1]

[[potential]]
kind = "morse"
parameters = { depth = 0.4174, alpha = 1.3885, r0 = 2.845, cutoff = 4.0 }

[[potential]]
kind = "exchange"
name = "J"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4, smoothing = 0.2, offset = true }
pairs = ["Fe-Fe"]

[[potential]]
kind = "anisotropy"
parameters = { K = "0.5 meV", axis = [0.2, 1.0, 0.5] }

[[potential]]
kind = "zeeman"
parameters = { field = [5.0, -3.0, 10.0] }

[neighbours]
skin = 0.5

[integrator]
timestep = "1 fs"
spin_damping = 0.01

[run]
steps = 4
seed = 7

[output]
file = "run.h5"
thermo = 1
trajectory = 2
checkpoint = 2
quantities = ["positions", "velocities", "spins"]

[[stage]]
name = "measure"
run = { steps = 2 }
integrator = { timestep = "0.5 fs" }
"""


def deck(folder):
    (folder / "deck.toml").write_text(DECK)
    return folder / "deck.toml"


def run(folder, **output):
    path = deck(folder)
    with spinmd.build(path, {f"output.{key}": value for key, value in output.items()}) as simulation:
        simulation.run()
    return folder / "run.h5"


def uncompressed_run(folder):
    return run(folder, compression="none")


def unfinished_run(folder):
    """A run whose process died between two checkpoints: the file and the hidden folder with its segments."""
    path, away = deck(folder), folder / "copy"
    simulation = spinmd.build(path)
    simulation.run(4)
    away.mkdir()
    (folder / ".run.h5.parts").rename(away / ".run.h5.parts")
    (folder / "run.h5").rename(away / "run.h5")
    simulation._finalizer.detach()
    return away / "run.h5"


def unsigned_run(folder):
    """As a file that is too large to be signed: the checksums inside it have to do."""
    path = run(folder, compression="none")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(MARK)])
    return path


def setfl(folder):
    return eam(folder / "two.eam.alloy", finnis_sinclair=False)


def finnis_sinclair(folder):
    return eam(folder / "two.eam.fs", finnis_sinclair=True)


def numbers(count, scale):
    values = [f"{scale * (1.0 - k / count) ** 3:.6e}" for k in range(count)]
    return "\n".join(" ".join(values[k : k + 5]) for k in range(0, count, 5))


def eam(path, finnis_sinclair):
    """Smooth tables of 200 points for two elements."""
    blocks = ["smooth tables", "for tests", "", "2 Fe Co", "200 0.05 200 0.025 5.0"]
    for z, mass in ((26, 55.845), (27, 58.933)):
        blocks += [f"{z} {mass} 2.87 bcc", numbers(200, -float(z) / 10)]
        blocks += [numbers(200, mass / 20 + k) for k in range(2 if finnis_sinclair else 1)]
    path.write_text("\n".join(blocks + [numbers(200, 3.0 + k) for k in range(3)]) + "\n")
    return path


def funcfl(folder):
    blocks = ["smooth tables", "26 55.845 2.87 bcc", "200 0.05 200 0.025 4.8"]
    (folder / "fe.eam").write_text("\n".join(blocks + [numbers(200, scale) for scale in (-2.6, 5.0, 2.8)]) + "\n")
    return folder / "fe.eam"


def model(folder):
    write_model(make_random_model(seen=True), folder / "model.h5")
    return folder / "model.h5"


def portable(folder):
    """As DeePMD-kit writes it: in HDF5's oldest format, without any checksum."""
    write_deepmd(tiny(), folder / "new.dp")
    with h5py.File(folder / "new.dp") as new, h5py.File(folder / "model.dp", "w") as old:
        old.attrs["json"] = new.attrs["json"]
        for name in new:
            new.copy(name, old)
    return folder / "model.dp"


def yaml_model(folder):
    yaml = pytest.importorskip("yaml")
    write_deepmd(tiny(), folder / "model.dp")
    with h5py.File(folder / "model.dp") as file:

        def load(value, inside=False):
            if isinstance(value, dict):
                return {key: load(one, inside or key == "@variables") for key, one in value.items()}
            if not inside or not isinstance(value, str):
                return [load(one) for one in value] if isinstance(value, list) else value
            array = file[value][()]
            return {"@class": "np.ndarray", "@is_variable": True, "dtype": array.dtype.name, "value": array.tolist()}

        tree = load(json.loads(file.attrs["json"]))
    (folder / "model.yaml").write_text(yaml.safe_dump(tree))
    return folder / "model.yaml"


def frozen(folder):
    write_frozen(tiny(), folder / "model.pth")
    return folder / "model.pth"


def checkpoint(folder):
    write_checkpoint(tiny(), folder / "model.pt")
    return folder / "model.pt"


# kind of reader, what makes the file, whether any success must be the whole file's; damages in the short and the long version
CASES = [
    ("deck", deck, False, 30, 1000),
    ("eam", setfl, False, 20, 350),
    ("eam", finnis_sinclair, False, 20, 350),
    ("eam", funcfl, False, 20, 300),
    ("model", model, True, 50, 1000),
    ("deepmd", portable, False, 25, 400),
    ("deepmd", yaml_model, False, 10, 200),
    ("deepmd", frozen, True, 15, 200),
    ("deepmd", checkpoint, True, 15, 200),
    ("run", run, True, 25, 400),
    ("run", uncompressed_run, True, 25, 200),
    ("run", unfinished_run, True, 25, 400),
    ("resume", run, True, 15, 200),
    ("resume", unfinished_run, True, 15, 200),
]
NAMES = [f"{kind}-{make.__name__}" for kind, make, *_ in CASES]


def read_all(lengths, folder):
    """Answers by case and number of the damage; one worker reads everything, since starting one takes a while."""
    sources, jobs = {}, []
    for name, (kind, make, *_), seeds in zip(NAMES, CASES, lengths, strict=True):
        (folder / name).mkdir()
        sources[name] = make(folder / name)
        jobs += [(kind, sources[name], seed) for seed in (0, *seeds)]
    answers = fuzz(jobs, folder / "work" / "damaged")
    return {
        name: {seed: answers[kind, sources[name], seed] for seed in (0, *seeds)}
        for name, (kind, *_), seeds in zip(NAMES, CASES, lengths, strict=True)
    }


def check(name, kind, same, answers):
    # a deck whose numbers make no sense may also be found out by its first steps
    found = faults(answers, same=same, codes=(0, 2, 3) if kind == "deck" else (0, 2))
    assert not found, f"{name}: " + "\n".join(found[:10])
    assert sum(code != 0 for code, *_ in answers.values()) > len(answers) // 4, f"{name}: most damages went unnoticed"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return read_all([range(1, short + 1) for *_, short, _ in CASES], tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return read_all([range(1001, 1001 + long) for *_, long in CASES], tmp_path_factory.mktemp("many"))


@pytest.mark.parametrize(("name", "case"), list(zip(NAMES, CASES, strict=True)), ids=NAMES)
def test_some_damages(few, name, case):
    check(name, case[0], case[2], few[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), list(zip(NAMES, CASES, strict=True)), ids=NAMES)
def test_a_thousand_damages(many, name, case):
    check(name, case[0], case[2], many[name])


def test_files_that_claim_to_be_huge(tmp_path):
    """A header that asks for terabytes is refused before memory is; the same for a nested text."""
    texts = {
        "big.eam.fs": "a\nb\nc\n1 Fe\n99999999 0.1 99999999 0.1 5.0\n26 55 2.8 bcc\n1 2 3\n",
        "deep.toml": "a = " + "[" * 50000 + "]" * 50000 + "\n",
        "dotted.toml": ".".join("a" * 20000) + " = 1\n",
        "large.toml": DECK.replace("[2, 2, 2]", "[100000, 100000, 100000]"),
        "far.toml": DECK.replace("cutoff = 3.4", "cutoff = 3.4e6"),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    jobs = [("eam" if name.endswith("fs") else "deck", tmp_path / name, 0) for name in texts]
    answers = fuzz(jobs, tmp_path / "work" / "damaged")
    assert [answer[0] for answer in answers.values()] == [2] * len(jobs), answers
