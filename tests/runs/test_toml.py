"""Settings in files: what is written is read as the same settings, and what cannot be a setting is refused by name."""

import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grassmann_ssl.experiments import EXPERIMENTS
from grassmann_ssl.experiments.encoders.train_config import TrainConfig
from grassmann_ssl.experiments.linear.compare import CompareConfig
from grassmann_ssl.runs import ConfigError, toml
from tests.commands import command
from tests.profiles import examples

NAMES = {config.NAME: config for config in EXPERIMENTS}
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SMALL = 'objectives = ["barlow_twins"]\narms = ["free"]\ndata = "gaussian"\ndim = 2\nseeds = 1\ninit_scales = []\n'


def values_of(kind):
    """Any value of a type of settings."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        one = values_of(arguments[0])
        return st.lists(one, max_size=3).map(tuple) if arguments[-1] is ... else st.tuples(*map(values_of, arguments))
    if arguments:
        return st.one_of(map(values_of, arguments))
    known = {
        type(None): st.none(),
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(),
        str: TEXT,
        Path: TEXT.map(Path),
    }
    return known[kind]


def read(tmp_path, text, config_type):
    at = tmp_path / "settings.toml"
    at.write_text(text, encoding="utf-8")
    return toml.load(at, config_type)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@examples(8)
@given(data=st.data())
def test_settings_that_are_written_are_read_again(name, data, tmp_path_factory):
    config_type = NAMES[name]
    drawn = {one.name: data.draw(values_of(one.type), one.name) for one in config_type.known()}
    config = config_type.unchecked(**drawn)
    kept = {name: value for name, value in config.values().items() if name not in toml.ONCE}
    folder = tmp_path_factory.getbasetemp()
    again = config_type.unchecked(**read(folder, toml.dumps(name, config.values()), config_type))
    # by their text, in which nan is nan and 1 is not 1.0
    assert repr({name: again.values()[name] for name in kept}) == repr(kept)


@pytest.mark.parametrize("text", ["\x7f", "\x00\x1b\x9b", "\"'\\", "a\r\nb\t", "\U0001f600 é \u2028", "", "-", "none"])
def test_every_letter_is_kept(text, tmp_path):
    assert read(tmp_path, toml.dumps("compare", {"data": text}), CompareConfig) == {"data": text}


@pytest.mark.parametrize("name", NAMES)
def test_none_is_always_the_default_and_the_defaults_are_the_same_config(name, tmp_path):
    """TOML has no None: it is left out."""
    config = NAMES[name]()
    assert all(one.default is None for one in NAMES[name].known() if type(None) in typing.get_args(one.type))
    assert NAMES[name].of(**read(tmp_path, toml.dumps(name, config.values()), NAMES[name])) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3\nlrr = 1.0", "compare has no setting 'lrr'; did you mean lr?"),
        ("steps = 3.0", "steps must be a whole number, got 3.0"),
        ("steps = true", "steps must be a whole number, got True"),
        ("dim = [8]", "dim must be a whole number, got [8]"),
        ('lr = "high"', "lr must be a number or 'auto', got 'high'"),
        ("noise = true", "noise must be a number, got True"),
        ('objectives = "barlow_twins"', "objectives must be a list of values, each text in quotes, got 'barlow_twins'"),
        ("allow_unstable = 1", "allow_unstable must be true or false, got 1"),
        ("data = 3", "data must be text in quotes, got 3"),
        ("[noise]\nof = 3", "noise must be a number, got {'of': 3}"),
        ('experiment = "train"', "holds settings of 'train', not of 'compare'"),
        ("steps = ", "is not TOML: Invalid value"),
        ("steps = 3\nsteps = 4", "is not TOML: Cannot overwrite"),
        ("steps = " + "[" * 9999, "is not TOML: it is nested too deeply"),
        ("a . 'b'." * 40 + "c = 3", "is not TOML: a key has more than 64 parts"),
    ],
)
def test_what_is_no_setting_is_refused_by_file_and_key(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, CompareConfig)
    assert str(caught.value).startswith(f"config: {tmp_path / 'settings.toml'}") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_of_dots_is_a_comment_and_many_numbers_are_a_list(tmp_path):
    numbers = [k / 10 for k in range(1, 200)]
    found = read(
        tmp_path,
        f"# {'.' * 200}\nsteps = 3  # {'.' * 200}\nobjectives = {[str(one) for one in numbers]}",
        CompareConfig,
    )
    assert found == {"steps": 3, "objectives": tuple(map(str, numbers))}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is not a file"), (b"\xff\xfe\x00", "is not TOML: 'utf-8' codec can't decode")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    at = tmp_path / "settings.toml"
    if content is not None:
        at.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^config: {at} {message}"):
        toml.load(at, CompareConfig)


@pytest.mark.parametrize(
    ("config_type", "name", "text", "value"),
    [
        (CompareConfig, "lr", "1e-3", 1e-3),
        (CompareConfig, "lr", "auto", "auto"),
        (CompareConfig, "lr", "2", 2.0),
        (CompareConfig, "steps", "20", 20),
        (CompareConfig, "data", "digits", "digits"),
        (CompareConfig, "objectives", "barlow_twins vicreg", ("barlow_twins", "vicreg")),
        (CompareConfig, "objectives", "barlow_twins", ("barlow_twins",)),
        (CompareConfig, "init_scales", "1e-3 1", (1e-3, 1.0)),
        (CompareConfig, "init_scales", "", ()),
        (CompareConfig, "allow_unstable", "true", True),
        (TrainConfig, "constraint", "none", "none"),
        (TrainConfig, "save_every", "none", None),
        (TrainConfig, "data", "7", "7"),
    ],
)
def test_words_of_a_command_line_are_values_of_the_setting(config_type, name, text, value):
    found = toml.from_text(config_type, name, text)
    assert found == value and type(found) is type(value)


def test_words_of_another_type_are_refused():
    with pytest.raises(ConfigError, match=r"steps must be a whole number, got 2\.5"):
        toml.from_text(CompareConfig, "steps", "2.5")


@pytest.mark.long
def test_options_win_over_the_file_and_the_folder_holds_the_settings(tmp_path):
    at, out = tmp_path / "base.toml", tmp_path / "run"
    at.write_text(f'{SMALL}steps = 5\nlr = 0.25\nout = "{out}"\noverwrite = true')
    done = command("compare", "--config", at, "--steps", 7)
    assert done.returncode == 0, done.stderr
    stored = toml.load(out / "config.toml", CompareConfig)
    assert stored["steps"] == 7 and stored["lr"] == 0.25 and stored["arms"] == ("free",)
    assert "overwrite" not in stored
    again = command("compare", f"--config={out / 'config.toml'}")
    assert again.returncode == 2 and "holds another run" in again.stderr
    assert command("compare", f"--config={out / 'config.toml'}", "--overwrite", "--quiet") == (0, "", "")


@pytest.mark.long
def test_a_file_is_checked_together_with_the_options(tmp_path):
    at = tmp_path / "base.toml"
    at.write_text(f'{SMALL}steps = 5\nbarlow_lambda = 0.5\nout = "{tmp_path / "run"}"')
    refused = command("compare", "--config", at, "--arms", "grassmann")
    assert refused.returncode == 2 and "is not rotation-invariant" in refused.stderr
    assert command("compare", "--config", at, "--arms", "grassmann", "--barlow-lambda", 1).returncode == 0


def test_a_wrong_file_is_one_line(tmp_path):
    at = tmp_path / "base.toml"
    at.write_text("stepz = 5")
    done = command("compare", "--config", at)
    line = f"grassmann-ssl: error: config: {at}: compare has no setting 'stepz'; did you mean steps?\n"
    assert done == (2, "", line)


def test_text_that_no_file_can_hold_is_refused():
    with pytest.raises(ConfigError, match=r"out: 'runs/.udcff' is not UTF-8"):
        CompareConfig(out=Path("runs/\udcff"))
