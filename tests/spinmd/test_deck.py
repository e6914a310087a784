"""Reading decks: values, overrides, stages, and errors with their place."""

import pytest

from spinmd import registry
from spinmd.complaints import InputErrors, validate
from spinmd.deck import Deck, load_deck
from spinmd.errors import InputError
from spinmd.parameters import Parameters
from spinmd.schema import document, markdown, parameter_models
from spinmd.toml_source import dotted

DECK = """\
title = "iron"

[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = "0.28665 nm"
supercell = [2, 2, 2]

[structure.spins]
moments = { Fe = 2.2 }

[[potential]]
kind = "exchange"
parameters = { form = "polynomial", J0 = "100 meV", cutoff = 3.0 }

[[potential]]
kind = "exchange"
[potential.parameters]
form = "bethe-slater"
a = 0.02726
b = 0.2171
d = 1.841
cutoff = 3.4

[integrator]
timestep = "1 fs"

[run]
steps = 10
"""


def errors_of(text, overrides=()):
    """What is wrong with a deck: [(place, message), ...]."""
    with pytest.raises(InputError) as caught:
        load_deck(text, overrides)
    return [(e.place, e.message) for e in getattr(caught.value, "errors", [caught.value])]


def test_values_are_converted_to_internal_units():
    deck = load_deck(DECK)
    assert deck.title == "iron"
    assert deck.structure.lattice_constant == pytest.approx(2.8665, rel=1e-15)
    assert pytest.approx(0.1, rel=1e-15) == deck.potential[0].parameters.J0
    assert deck.potential[1].parameters.d == 1.841
    assert deck.integrator.timestep == pytest.approx(0.001, rel=1e-15)
    assert deck.run.steps == 10
    assert deck.output is None and deck.stage == ()
    assert deck.text == DECK


def test_a_file_is_read_and_its_paths_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "fe.toml").write_text(DECK + '[output]\nfile = "run.h5"\n')
    monkeypatch.chdir(tmp_path)
    deck = load_deck("inputs/fe.toml")
    assert deck.output.file == tmp_path / "inputs" / "run.h5"
    assert deck.folder == tmp_path / "inputs" and deck.name == "fe.toml"


def test_dictionaries_are_decks_too():
    deck = load_deck(DECK)
    again = load_deck(deck.tables)
    assert again.potential == deck.potential and again.structure == deck.structure


@pytest.mark.parametrize(
    "override, read, value",
    [
        ("integrator.timestep=2 fs", lambda d: d.integrator.timestep, 0.002),
        ('integrator.timestep="2 fs"', lambda d: d.integrator.timestep, 0.002),
        ("integrator.timestep = 0.003", lambda d: d.integrator.timestep, 0.003),
        ("potential.1.parameters.cutoff=5.74", lambda d: d.potential[1].parameters.cutoff, 5.74),
        ("structure.supercell=[3, 2, 1]", lambda d: d.structure.supercell, (3, 2, 1)),
        ("structure.supercell.1=5", lambda d: d.structure.supercell, (2, 5, 2)),
        ("neighbours.skin=0.3", lambda d: d.neighbours.skin, 0.3),
        ("title=a = b", lambda d: d.title, "a = b"),
        ("structure.spins.moments={Fe=1.5}", lambda d: d.structure.spins.moments, {"Fe": 1.5}),
    ],
)
def test_set_overrides_one_value(override, read, value):
    assert read(load_deck(DECK)) != value
    assert read(load_deck(DECK, [override])) == value


def test_set_by_a_mapping_and_several_at_once():
    deck = load_deck(DECK, {"run.steps": 3, "run.seed": 7})
    assert (deck.run.steps, deck.seed) == (3, 7)


@pytest.mark.parametrize(
    "override, place, words",
    [
        ("run.stps=3", "run.stps (--set)", "did you mean 'steps'"),
        ("potential.5.kind=eam", "potential.5.kind (--set)", "2 entries"),
        ("potential.first.kind=eam", "potential.first.kind (--set)", "counted from 0"),
        ("run.steps.more=1", "run.steps.more (--set)", "not a table"),
        ("nonsense", "--set", "key=value"),
        ("outptu.file=x.h5", "outptu (--set)", "did you mean 'output'"),
    ],
)
def test_set_of_an_unknown_place_is_refused(override, place, words):
    ((found, message),) = errors_of(DECK, [override])
    assert found == place
    assert words in message


@pytest.mark.parametrize(
    "old, new, place, words",
    [
        ("J0 =", "Jo =", "potential.0.parameters.Jo (line 14)", "unknown name; did you mean 'J' or 'J0'?"),
        (
            "cutoff = 3.4",
            "cutof = 3.4",
            "potential.1.parameters.cutof (line 23)",
            "unknown name; did you mean 'cutoff'?",
        ),
        ('kind = "exchange"', 'kind = "exchnage"', "potential.0.kind (line 13)", "did you mean 'exchange'"),
        ('element = "Fe"', 'element = "Fee"', "structure.element (line 5)", "not the symbol of an element"),
        ("[integrator]", "[integratr]", "integratr (line 25)", "did you mean 'integrator'?"),
        ("steps = 10", "steps = -10", "run.steps (line 29)", "at least 0"),
        ("steps = 10", "steps = 1.5", "run.steps (line 29)", "whole number"),
        ("steps = 10", 'steps = "many"', "run.steps (line 29)", "whole number"),
        ("steps = 10", "steps = true", "run.steps (line 29)", "whole number"),
        ("steps = 10", "", "run.steps (line 28)", "required"),
        ('"1 fs"', "0", "integrator.timestep (line 26)", "greater than 0"),
        ('"1 fs"', '"-1 fs"', "integrator.timestep (line 26)", "greater than 0"),
        ('"1 fs"', '"1 eV"', "integrator.timestep (line 26)", "not a unit of time"),
        ('"1 fs"', '"fast"', "integrator.timestep (line 26)", "cannot read 'fast'"),
        ('"1 fs"', "[1]", "integrator.timestep (line 26)", "expected a number"),
        ('"1 fs"', '"1 fs"\nspin_solver = "midpont"', "integrator.spin_solver (line 27)", "did you mean 'midpoint'?"),
        ("[2, 2, 2]", "[2, 2]", "structure.supercell.2 (line 7)", "too short"),
        ("[2, 2, 2]", "[2, 2, 2.5]", "structure.supercell.2 (line 7)", "whole number"),
        ("[2, 2, 2]", "2", "structure.supercell (line 7)", "a list"),
        ('title = "iron"', "title = 1", "title (line 1)", "text in quotes"),
        (
            "moments = { Fe = 2.2 }",
            "momnets = { Fe = 2.2 }",
            "structure.spins.momnets (line 10)",
            "did you mean 'moments'",
        ),
        ("moments = { Fe = 2.2 }", "moments = { Fe = -2.2 }", "structure.spins.moments.Fe (line 10)", "at least 0"),
        ("d = 1.841", "", "potential.1.parameters.d", "needs d"),
    ],
)
def test_an_error_has_its_place_and_line(old, new, place, words):
    assert old in DECK
    ((found, message),) = errors_of(DECK.replace(old, new, 1))
    assert found.startswith(place)
    assert words in message
    assert "\n" not in message


def test_all_errors_are_reported_at_once():
    text = (
        DECK.replace("J0 =", "Jo =")
        .replace('"1 fs"', "0")
        .replace("steps = 10", "steps = -1")
        .replace('"bcc"', '"bccc"')
    )
    places = [place.split(" ")[0] for place, _ in errors_of(text)]
    assert sorted(places) == ["integrator.timestep", "potential.0.parameters.Jo", "run.steps", "structure.prototype"]
    with pytest.raises(InputErrors) as caught:
        load_deck(text)
    assert str(caught.value).count("\n") == 3


def test_of_a_choice_of_types_the_one_that_came_further_complains():
    class Choice(Parameters):
        moment: float | dict[str, float]

    def errors(value):
        found = validate(Choice, {"moment": value}, ("spins",), context={}, place=dotted)[1]
        return [(path, error.message) for path, error in found]

    assert errors({"Fe": "big"}) == [(("spins", "moment", "Fe"), "expected a number, got 'big'")]
    assert errors([1]) == [(("spins", "moment"), "expected a number or a table, got [1]")]
    assert errors({"Fe": 1.0}) == []


def test_toml_errors_have_line_and_column(tmp_path):
    (tmp_path / "bad.toml").write_text("[structure]\nprototype = bcc\n")
    with pytest.raises(InputError) as caught:
        load_deck(tmp_path / "bad.toml")
    assert caught.value.place == "bad.toml, line 2, column 13"
    assert "not valid TOML" in caught.value.message


def test_a_missing_deck_gives_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_deck("fe.toml")
    assert caught.value.place == str(tmp_path / "fe.toml")


def test_a_missing_file_gives_its_full_path(tmp_path):
    (tmp_path / "fe.toml").write_text(DECK + '[[potential]]\nkind = "eam"\nparameters = { file = "Fe.eam.fs" }\n')
    ((place, message),) = errors_of(tmp_path / "fe.toml")
    assert place == "potential.2.parameters.file (line 32)"
    assert str(tmp_path / "Fe.eam.fs") in message


def test_tables_that_every_deck_needs():
    assert [place for place, _ in errors_of('title = "x"\n')] == ["structure", "potential"]


STAGES = """
[[stage]]
run = { steps = 20 }

[[stage]]
name = "damped"
integrator = { spin_damping = 0.1 }
[[stage.potential]]
kind = "zeeman"
parameters = { field = [0, 0, "1 T"] }
"""


def test_stages_override_the_deck_and_nothing_else():
    first, second, third = load_deck(DECK + STAGES).stages()
    assert (first.name, second.name, third.name) == ("", "stage 0", "damped")
    assert (first.run.steps, second.run.steps, third.run.steps) == (10, 20, 10)
    assert (first.integrator.spin_damping, third.integrator.spin_damping) == (0.0, 0.1)
    assert third.integrator.timestep == first.integrator.timestep
    assert second.potential == first.potential and len(third.potential) == 1
    assert load_deck(DECK + STAGES, ["stage.0.run.steps=5"]).stage[0].run.steps == 5


@pytest.mark.parametrize(
    "old, new, place, words",
    [
        ("{ steps = 20 }", "{ stps = 20 }", "stage.0.run.stps (line 32)", "did you mean 'steps'"),
        ("spin_damping = 0.1", "spin_damping = -0.1", "stage.1.integrator.spin_damping (line 36)", "at least 0"),
        ('"zeeman"', '"zeemann"', "stage.1.potential.0.kind (line 38)", "did you mean 'zeeman'"),
        ('name = "damped"', "structure = { element = 1 }", "stage.1.structure (line 35)", "no structure"),
        ('name = "damped"', "rnu = { steps = 1 }", "stage.1.rnu (line 35)", "did you mean 'run'"),
    ],
)
def test_errors_in_a_stage(old, new, place, words):
    ((found, message),) = errors_of((DECK + STAGES).replace(old, new))
    assert found == place and words in message


def test_an_error_of_the_deck_is_not_repeated_by_its_stages():
    places = [place for place, _ in errors_of((DECK + STAGES).replace('timestep = "1 fs"', "timestep = 0"))]
    assert places == ["integrator.timestep (line 26)"]


def test_lines_are_found_across_multi_line_values():
    text = DECK.replace("[2, 2, 2]", "[\n  2, # [ not a bracket\n  2,\n  2,\n]").replace(
        "steps = 10", 'x = """\na = 1\n"""\nsteps = -1'
    )
    places = [place for place, _ in errors_of(text)]
    line = 1 + text[: text.index("steps = -1")].count("\n")
    assert f"run.steps (line {line})" in places


def test_the_schema_names_every_parameter_of_every_kind():
    text = markdown()
    schema = document()
    assert set(schema["potentials"]) == set(registry.OWN) == set(parameter_models())
    for kind, model in parameter_models().items():
        section = text[text.index(f"kind `{kind}`") :].split("\n##")[0]
        for name in model.model_fields:
            assert f"`{name}`" in section, (kind, name)
            assert name in schema["potentials"][kind]["properties"]
    for name in Deck.model_fields:
        assert f"{name}" in text and name in schema["deck"]["properties"]
    assert "`timestep`" in text and "ps" in text


def test_the_page_in_docs_is_the_generated_one(root):
    assert (root / "docs" / "deck.md").read_text(encoding="utf-8") == markdown() + "\n", (
        "run: spinmd schema > docs/deck.md"
    )


def test_registered_kinds_are_those_of_the_package_metadata(root):
    import configparser

    parser = configparser.ConfigParser()
    parser.read(root / "setup.cfg")
    lines = parser["options.entry_points"]["spinmd.potentials"].strip().splitlines()
    declared = dict((part.strip() for part in line.split("=")) for line in lines)
    assert declared == registry.OWN
    for kind in declared:
        assert registry.find(kind).Parameters
