"""The documentation says what is true: commands parse, decks validate, Python runs, links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import spinmd
from spinmd.learning.train import load_training_deck
from spinmd.schema import markdown, training_markdown
from spinmd.units import convert

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("inputs/**/*.md")])
MANUAL = [page for page in PAGES if page.name != "CHANGELOG.md"]
PYTHON = [
    "README.md",
    "docs/ase.md",
    "docs/conventions.md",
    "docs/monte_carlo.md",
    "docs/python.md",
    "docs/restart.md",
    "docs/sweeps.md",
    "docs/trajectories.md",
]
NAME = re.compile(r"# (\w+\.dat)\n")


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks in a language ("" for none)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [content for kind, content in found if kind == language]


def names(pages) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _outputs(folder: str, names: list[str]) -> set[str]:
    """What a run leaves beside a deck; models are inputs."""
    left = [name for name in names if name.endswith((".png", ".csv")) or name.startswith(".")]
    return set(left) | {name for name in names if name.endswith(".h5") and Path(folder).name != "models"}


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with a copy of inputs/, which becomes the present one."""
    shutil.copytree(ROOT / "inputs", tmp_path / "inputs", ignore=_outputs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what is where ---


def links(text: str) -> list[str]:
    """Targets of links and images that are not addresses of the web; code is not looked at."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]


def headings(text: str) -> set[str]:
    """Anchors as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def broken_links(page: Path, text: str) -> list[str]:
    wrong = []
    for target in links(text):
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        if not path.exists() or anchor and anchor not in headings(path.read_text(encoding="utf-8")):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("name", names(PAGES))
def test_relative_links_exist(name):
    assert broken_links(ROOT / name, read(name)) == []


def test_a_broken_link_would_be_seen():
    text = "[a](nowhere.md) [b](docs/deck.md#output) [c](docs/deck.md#nonsense) `[d](code)` [e](https://example.org)"
    assert broken_links(ROOT / "README.md", text) == ["nowhere.md", "docs/deck.md#nonsense"]


def test_every_page_of_docs_is_listed_in_the_readme():
    listed = set(links(read("README.md")))
    assert {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")} <= listed


def test_files_named_in_the_text_exist():
    """Paths in code style that begin with a folder of the repository."""
    folders = "spinmd|potentials|integrators|analysis|tests|docs|inputs|benchmarks"
    missing = []
    for name in names(MANUAL):
        for path in re.findall(rf"`((?:{folders})/[\w./*-]+\.(?:py|toml|md|fs))`", read(name)):
            if not list(ROOT.glob(path)):
                missing.append(f"{name}: {path}")
    assert missing == []


def test_the_deck_reference_is_what_the_schema_says():
    assert read("docs/deck.md").strip() == markdown().strip(), "run make docs"
    assert read("docs/training.md").strip() == training_markdown().strip(), "run make docs"


# --- decks ---

DECKS = [(name, k) for name in names(MANUAL) for k in range(len(blocks(read(name), "toml")))]


@pytest.mark.parametrize("name, index", DECKS)
def test_decks_in_the_text_are_valid_and_build(name, index, workplace):
    text = read(name)
    deck = tomllib.loads(blocks(text, "toml")[index])
    if "data" in deck:  # a training deck
        load_training_deck(blocks(text, "toml")[index])
        return
    if set(deck) == {"potential"}:  # one term, to be put into a deck
        deck = {**tomllib.loads((workplace / "inputs" / "quickstart.toml").read_text()), **deck}
        assert np.isfinite(
            spinmd.build(spinmd.load_deck(deck, folder=workplace / "inputs"), output=False).results()["energy"]
        )
        return
    for content in blocks(text, "text"):
        if NAME.match(content):
            (workplace / "inputs" / NAME.match(content)[1]).write_text(content)
    for content in blocks(text, "python"):
        if "class Tether" in content:  # the plug-in of docs/plugins.md
            (workplace / "inputs" / "tether.py").write_text(content)
    if deck["structure"].get("file") == "fe.h5":  # the file of a run
        start = {"structure.supercell": [3, 3, 3], "run.steps": 0, "output.file": str(workplace / "inputs" / "fe.h5")}
        with spinmd.build("inputs/bcc_iron.toml", start) as simulation:
            simulation.run()
    path = workplace / "inputs" / "deck.toml"
    path.write_text(blocks(text, "toml")[index])
    small = {"structure.supercell": [4, 4, 4]} if deck["structure"].get("element") == "Fe" else {}
    simulation = spinmd.build(path, small, here=False)  # some are for a GPU
    assert np.isfinite(simulation.model.evaluate(spinmd.Need.ENERGY).energy)


# --- commands ---


def command_lines() -> list[str]:
    """Every line in a block without a language that begins with spinmd, and every `spinmd ...` with a deck that exists."""
    found = []
    for name in names(MANUAL):
        text = read(name)
        for content in [*blocks(text, ""), *blocks(text, "bash")]:
            found += [line.split("  #")[0].strip() for line in content.splitlines() if line.startswith("spinmd ")]
        found += re.findall(r"`(spinmd \w[^`\n]*)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
        found += re.findall(r"^    (spinmd \w.*)$", text, flags=re.MULTILINE)
    return sorted(set(found))


def parses(line: str) -> str:
    """Empty if typer accepts the command line; DECK and fe.toml stand for any deck. Nothing runs."""
    import typer.main

    from spinmd.cli import CommandLineError, app

    words = shlex.split(line)[1:]
    group = typer.main.get_command(app)
    if words[0] not in group.commands:
        return f"{line}: no such command"
    command = group.commands[words[0]]
    arguments = words[1:]
    if hasattr(command, "commands") and arguments and arguments[0] not in ("WHAT", "..."):
        if arguments[0] not in command.commands:
            return f"{line}: no such command"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    elif hasattr(command, "commands"):
        return ""  # the group is only named
    if not arguments and any(
        parameter.name in ("deck", "file", "files", "run", "runs") for parameter in command.params
    ):
        arguments = ["fe.toml"]  # the command is only named
    try:
        command.make_context(words[0], arguments)
    except CommandLineError as error:
        return f"{line}: {error.format_message()}"
    return ""


def test_command_lines_parse():
    lines = command_lines()
    assert len(lines) >= 8
    assert [fault for fault in map(parses, lines) if fault] == []


@pytest.mark.parametrize(
    "line",
    ["spinmd rum fe.toml", "spinmd analyze dustribution fe.h5", "spinmd run fe.toml --sett a=1", "spinmd info --xml"],
)
def test_a_wrong_command_line_would_be_seen(line):
    assert parses(line)


def test_commands_of_the_readme_run(workplace, capfd):
    from spinmd.cli import main

    lines = [line for line in blocks(read("README.md"), "")[-1].splitlines() if line.startswith("spinmd ")]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] != "evaluate":
            words += ["--set", "structure.supercell=[3, 3, 3]"]
        if words[0] == "run":
            words += ["--set", "run.steps=40"]
        assert main(words) == 0, line
        capfd.readouterr()
    assert (workplace / "short.json").stat().st_size and (workplace / "out.json").stat().st_size
    assert (workplace / "inputs" / "short.h5").is_file()


def test_make_targets_exist():
    makefile = read("Makefile")
    wanted = {
        word for name in names(MANUAL) for word in re.findall(r"^make (\w+)|`make (\w+)", read(name), re.MULTILINE)
    }
    targets = {a or b for a, b in wanted}
    assert {"run", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# --- Python ---


def run_blocks(name: str) -> dict:
    """Runs the Python blocks of a page one after the other, in one namespace."""
    space = {"__name__": "page"}
    for number, content in enumerate(blocks(read(name), "python")):
        exec(compile(content, f"{name} block {number}", "exec"), space)
    return space


@pytest.mark.parametrize("name", PYTHON)
def test_python_in_the_text_runs(name, workplace, monkeypatch):
    assert blocks(read(name), "python")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if name == "docs/trajectories.md":
        with spinmd.build(
            "inputs/bcc_iron.toml",
            {"structure.supercell": [3, 3, 3], "output.file": str(workplace / "fe.h5"), "output.trajectory": 10},
        ) as simulation:
            simulation.run(20)
        pytest.importorskip("ovito", exc_type=ImportError)
    space = run_blocks(name)
    if name == "docs/trajectories.md":
        again = spinmd.build({**spinmd.load_deck("inputs/bcc_iron.toml").tables, "structure": {"file": "last.extxyz"},
                              "potential": [{"kind": "zeeman", "parameters": {"field": [0, 0, 1]}}]}, output=False)  # fmt: skip
        np.testing.assert_allclose(
            again.state.spins, simulation.state.original_order(simulation.state.spins), atol=1e-7
        )
        assert len(space["energy"]) == 2 and len(space["time"]) == 3  # every 20th and every 10th of 20 steps


def test_example_script(tmp_path):
    script = ROOT / "docs" / "examples" / "first_run.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), "--steps", "20", "--cells", "3", "--figure", "short.png"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "drift of the conserved energy" in done.stdout
    assert (tmp_path / "short.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [tmp_path / "short.png"]


def test_example_that_reads_a_trajectory(tmp_path):
    script = ROOT / "docs" / "examples" / "read_trajectory.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), "--steps", "200"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [
        [float(word) for word in line.split()] for line in done.stdout.splitlines() if re.match(r" +\d+\.\d{4} ", line)
    ]
    assert len(rows) >= 12 and rows[0][2:] == [0.0, 1.0] and all(abs(row[1] - rows[0][1]) < 1e-3 for row in rows)
    assert "Trajectory('iron.h5': 51 frames of 128 atoms" in done.stdout and "strongest vibration" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("table", ["--cells", "4", "--steps", "400"], "spin-wave theory: stiffness 178.8 meV Å²"),
        ("deepspin", ["--cells", "2", "1", "1", "--steps", "400"], "second derivatives"),
    ],
)
def test_examples_of_magnons(tmp_path, name, options, words):
    script = ROOT / "docs" / "examples" / f"magnons_iron_{name}.py"
    command = [sys.executable, str(script), *options, "--figure", "short.png"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert (tmp_path / "short.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [tmp_path / "short.png"]


# --- what conventions.md claims about other codes ---


def test_skyrmion_of_spirit():
    """Relaxed skyrmion of Spirit's own tests (core/test; MIT): E and m_z with J, D, B and µ taken over unchanged."""
    text = next(block for block in blocks(read("docs/conventions.md"), "toml") if '"dmi"' in block)
    simulation = spinmd.build(text, threads=1)
    state = simulation.state
    from_centre = state.positions - state.positions.mean(axis=0)
    polar = np.pi * np.clip(1.0 - np.hypot(from_centre[:, 0], from_centre[:, 1]) / 5.0, 0.0, 1.0)
    azimuth = np.arctan2(from_centre[:, 1], from_centre[:, 0]) + np.pi / 2  # of Bloch type
    directions = np.stack((np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)), axis=1)
    state.spins[:] = 2.0 * directions
    simulation.moved()
    simulation.run(6000)
    assert 1000.0 * simulation.evaluate().energy == pytest.approx(-5849.69140625, abs=1e-3)
    assert state.spins[:, 2].mean() / 2.0 == pytest.approx(0.79977, abs=1e-5)


def test_nearest_neighbour_exchange_of_iron_by_two_codes(shared):
    """TB2J and UppASD both count ij and ji: their J_1 of bcc iron agree. TB2J 0.3.1 writes it to VAMPIRE's file as it is."""
    folder = shared / "data" / "jij_tables"
    results = folder / "tb2j" / "Siesta" / "bccFe" / "TB2J_results"
    tb2j = float(re.search(r"J_iso: ([\d.]+)", (results / "exchange.out").read_text())[1])
    uppasd = 1000.0 * convert("1.33767484769984 mRy", "energy")
    assert tb2j == pytest.approx(uppasd, rel=0.02)
    line = next(
        line for line in (results / "Vampire" / "vampire.UCF").read_text().splitlines() if " 0 0 -1 0 0 " in line
    )
    assert 1000.0 * convert(f"{line.split()[6]} J", "energy") == pytest.approx(tb2j, rel=1e-4)
