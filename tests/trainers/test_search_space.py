"""Search spaces: what can be written, what a recipe takes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boneage_xai.errors import ConfigError
from trainers.recipe import load_recipe, recipe_names
from trainers.search.results import recipe_toml
from trainers.search.space import (
    Choices,
    Knob,
    Range,
    checked_space,
    default_space,
    load_space,
    parse_knob,
    value_of,
    with_values,
)


@pytest.mark.parametrize(
    ("text", "knob"),
    [
        ("a.b=1e-4..1e-2:log", Range("a.b", 1e-4, 1e-2, log=True)),
        ("a.b = 0..3", Range("a.b", 0, 3)),
        ("a.b=-0.5 .. 1.5", Range("a.b", -0.5, 1.5)),
        ("a.b=16..256 :log", Range("a.b", 16, 256, log=True)),
        ("a.b=[16]|[32]|[64, 8]", Choices("a.b", ([16], [32], [64, 8]))),
        ("a.b=adam|adamw", Choices("a.b", ("adam", "adamw"))),
        ('a.b="all"|2', Choices("a.b", ("all", 2))),
        ("a.b=true|false", Choices("a.b", (True, False))),
    ],
)
def test_forms(text: str, knob: Knob) -> None:
    found = parse_knob(text)
    assert found == knob
    if isinstance(found, Range):
        assert type(found.low) is type(knob.tested[0])


numbers = st.one_of(
    st.integers(-(10**9), 10**9), st.floats(-1e12, 1e12, allow_nan=False, allow_subnormal=False)
)
texts = st.text("abcdefgh_", min_size=1).filter(lambda text: text not in ("nan", "inf"))
values = st.one_of(st.booleans(), st.integers(-99, 99), texts, st.lists(st.integers(1, 99)))


@given(low=numbers, high=numbers, log=st.booleans())
def test_a_range_is_read_as_it_is_written(low: float, high: float, log: bool) -> None:
    knob = Range("section.key", low, high, log)
    if low < high and (low > 0 or not log):
        read = parse_knob(str(knob))
        assert read == knob
        assert (type(read.tested[0]), type(read.tested[1])) == (type(low), type(high))
    else:
        with pytest.raises(ConfigError, match=r"section\.key: expected low"):
            parse_knob(str(knob))


@given(st.lists(values, min_size=2, max_size=5, unique_by=repr))
def test_choices_are_read_as_they_are_written(listed: list[object]) -> None:
    knob = Choices("section.key", tuple(listed))
    assert parse_knob(str(knob)) == knob
    assert [knob.loaded(knob.stored(value)) for value in listed] == listed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("training.learning_rate", "expected section.key=values"),
        ("=1..2", "expected section.key=values"),
        ("training.learning_rate=1e-3", "expected low..high"),
        ("training.learning_rate=1e-2..1e-4", "expected low < high"),
        ("training.weight_decay=0..1:log", "expected low > 0"),
        ("training.optimiser=adam|", "expected low..high"),
        ("training.optimiser=adam|adam", "all different"),
        ("training.optimiser=2020-01-01|2021-01-01", "expected low..high"),
        ("training.epochs=1..2..3", "expected low..high"),
    ],
)
def test_other_forms_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_knob(text)


def test_a_file_has_the_sections_of_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        '"training.epochs" = "2..4"\n[training]\nlearning_rate = "1e-4..1e-2:log"\n'
        'optimiser = ["adam", "adamw"]\n[architecture]\nhidden = [[16], [32]]\n'
    )
    assert load_space(file) == [
        Range("training.epochs", 2, 4),
        Range("training.learning_rate", 1e-4, 1e-2, log=True),
        Choices("training.optimiser", ("adam", "adamw")),
        Choices("architecture.hidden", ([16], [32])),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[training]\nepochs = 3\n", "knob training.epochs: expected low..high"),
        ("[training]\nepochs = [3]\n", "knob training.epochs: expected low..high"),
        ("", "expected one key or more"),
        ("[training\n", "not valid TOML"),
        (None, "expected a TOML file, found none"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    file = tmp_path / "space.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=reason):
        load_space(file)


def test_default_space_of_the_study() -> None:
    assert default_space(load_recipe("wouters-resnet18")) == [
        Range("training.learning_rate", 1e-4, 1e-2, log=True),
        Choices("architecture.hidden", ([16], [32], [64])),
        # The stem and four stages.
        Range("initialisation.fine_tuned_blocks", 0, 5),
    ]


def test_default_space_from_scratch() -> None:
    assert default_space(load_recipe("kimmel-inception-v3")) == [
        Range("training.learning_rate", 1e-4, 1e-2, log=True),
        Choices("architecture.hidden", ([1000, 250], [1000, 500], [1000, 1000])),
    ]
    plain = load_recipe("demo", ["architecture.hidden=[]"])
    assert [knob.key for knob in default_space(plain)] == ["training.learning_rate"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_takes_its_default_space(name: str) -> None:
    recipe = load_recipe(name)
    knobs = default_space(recipe)
    assert checked_space(recipe, knobs, pruning=True) == knobs
    assert all(knob.holds(value_of(recipe, knob.key)) for knob in knobs)


def test_whole_ends_of_a_fraction_do_not_make_it_whole() -> None:
    recipe = load_recipe("demo")
    texts = [
        "training.weight_decay=0..1",
        "training.batch_size=8..64",
        "training.ema_decay=0.5..0.9",
    ]
    decay, batch, ema = checked_space(recipe, [*map(parse_knob, texts)], pruning=True)
    assert [isinstance(knob, Range) and knob.whole for knob in (decay, batch, ema)] == [
        False,
        True,
        False,
    ]


def test_listed_values_are_held_as_the_recipe_holds_them() -> None:
    recipe = load_recipe("demo", ["training.weight_decay=0"])
    [knob] = checked_space(recipe, [parse_knob("training.weight_decay=0|0.01")], pruning=True)
    stored = [knob.stored(value) for value in knob.tested]
    assert knob.stored(value_of(recipe, knob.key)) == stored[0]
    assert stored == ["0.0", "0.01"]


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["training.weight_decay=1|1.0"], "all different"),
        (["training.lr=1e-4..1e-2"], "training.lr=.*: unknown key training.lr"),
        (["optimiser.name=a|b"], "unknown key optimiser"),
        (["training.epochs.first=1..2"], "epochs is a value, not a section"),
        (["training.learning_rate=1e-4..1000"], "less than 100"),
        (["training.optimiser=adam|sgd"], "training.optimiser.*sgd"),
        (["training.batch_size=1.0..8.0"], "expected whole numbers"),
        (["training.compiled=0..1"], "expected values separated by"),
        (["augmentation.zoom=0.9..1.1"], "augmentation.zoom"),
        (["initialisation.fine_tuned_blocks=0..2"], "without pretrained weights"),
        (["training.seed=0..9"], "leaves the validation cases as they are"),
        (["training.validation_fraction=0.1|0.2"], "leaves the validation cases as they are"),
        (["training.stages=[]|[{epochs=18,size_px=96}]"], "expected --pruner none"),
        (["training.batch_size=8|16", "training.batch_size=32|64"], "found it 2 times"),
        (["training={epochs=1}|{epochs=1,seed=1}"], "found a whole section"),
        (
            ["training.schedule=one_cycle|constant", "architecture.sex_features=-1|8"],
            "architecture.sex_features",
        ),
    ],
)
def test_what_no_recipe_takes_is_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        checked_space(load_recipe("demo"), [*map(parse_knob, texts)], pruning=True)


def test_knobs_that_contradict_each_other_are_refused() -> None:
    recipe = load_recipe("demo", ["training.stages=[]"])
    stages = parse_knob("training.stages=[]|[{epochs=18,size_px=96}]")
    patience = parse_knob("training.early_stopping_patience=3|5")
    assert checked_space(recipe, [stages], pruning=False) == [stages]
    assert checked_space(recipe, [patience], pruning=True) == [patience]
    with pytest.raises(ConfigError, match=r"knobs training.stages=.*, .*patience=3\|5: .*not with"):
        checked_space(recipe, [stages, patience], pruning=False)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_read_as_it_is_written(name: str, tmp_path: Path) -> None:
    recipe = with_values(load_recipe(name), {"description": 'quoted "text" \\ \x7f ä'})
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_toml(recipe), encoding="utf-8")
    assert load_recipe(str(file)) == recipe
