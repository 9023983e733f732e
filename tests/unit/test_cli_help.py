"""What the commands say of themselves, and of names that are mistyped."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from realizehit.access.gate import Gate
from realizehit.cli.environment import KNOWN, PREFIX, check_variables
from realizehit.cli.main import main
from realizehit.cli.option_groups import GroupedCommand
from realizehit.cli.serve import serve
from realizehit.errors import SettingsError
from realizehit.loadtest import _load
from realizehit.settings import GROUPS, OPTIONS, flag_of, load

EPOLL = pytest.mark.skipif(not _load.HAVE_EPOLL, reason="the load test needs epoll")


def commands() -> list[click.Command]:
    found: list[click.Command] = []
    for group in (main, serve):
        assert isinstance(group, click.Group)
        context = click.Context(group)
        each = [group.get_command(context, name) for name in group.list_commands(context)]
        found += [group, *(command for command in each if command is not None)]
    return found


def test_each_setting_is_in_one_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(option.name for option in OPTIONS)


@pytest.mark.parametrize("words", [[], ["check-config"], ["healthcheck"]])
def test_the_servers_options_are_shown_in_groups(words: list[str]) -> None:
    text = CliRunner().invoke(serve, [*words, "--help"], prog_name="realizehit-server").stdout
    sections: dict[str, str] = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            title = line[:-1]
            sections[title] = ""
        elif sections:
            sections[title] += line + "\n"
    assert list(sections)[:2] == ["Options", "Listening"]
    for title, names in GROUPS.items():
        for flag in filter(None, map(flag_of, names)):
            assert f"  {flag} " in sections[title]
            assert text.count(f"\n  {flag} ") == 1
    assert "--config FILE" in sections["Options"]


def test_grouped_commands_show_every_option_once() -> None:
    grouped = [command for command in commands() if isinstance(command, GroupedCommand)]
    assert {command.name for command in grouped} == {"loadtest", "check-config", "healthcheck"}
    for command in grouped:
        known = {parameter.name for parameter in command.params}
        named = [name for names in command.groups.values() for name in names if name != "jwt_secret"]
        assert set(named) <= known
        assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("group", "words", "said"),
    [
        (serve, ["chek-config"], "No such command 'chek-config'. Did you mean 'check-config'?"),
        (serve, ["zzz"], "No such command 'zzz'."),
        (main, ["subscibe", "a=b"], "No such command 'subscibe'. Did you mean 'subscribe'?"),
        (main, ["load-test"], "Did you mean 'loadtest'?"),
        (serve, ["--prt", "1"], "No such option '--prt'."),
        (main, ["subscribe", "--cuont", "1", "a=b"], "Did you mean one of: '--count'"),
        pytest.param(
            main,
            ["loadtest", "--scenario", "stom"],
            "there is no scenario 'stom'; did you mean storm?",
            marks=EPOLL,
        ),
        pytest.param(main, ["loadtest", "--expect", "p98<1ms"], "rss_per_connection; did you mean p9", marks=EPOLL),
    ],
)
def test_mistyped_words(group: click.Command, words: list[str], said: str) -> None:
    result = CliRunner().invoke(group, words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_every_variable_of_a_command_is_known() -> None:
    for command in commands():
        for parameter in command.params:
            given = parameter.envvar or ()
            for name in [given] if isinstance(given, str) else given:
                assert not name.startswith(PREFIX) or name in KNOWN


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("REALIZEHIT_WORKER", "2", "REALIZEHIT_WORKERS"),
        ("REALIZEHIT_GRANT", "x", "REALIZEHIT_GRANTS"),
        ("REALIZEHIT_JWT_SECERT", "hidden", "REALIZEHIT_JWT_SECRET"),
        ("REALIZEHIT_TOKENS", "hidden", "REALIZEHIT_TOKEN"),
        ("REALIZEHIT_PORT", "9000", "SERVER_PORT"),  # these three are named otherwise
        ("REALIZEHIT_HOST", "::", "SERVER_HOST"),
        ("REALIZEHIT_REDIS", "redis://:hidden@x", "REDIS_URI"),
    ],
)
def test_a_mistyped_variable_is_named(name: str, value: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_variables({name: value})
    assert str(caught.value) == f"the environment: there is no variable {name}; did you mean {meant}?"
    for group, words in ((serve, ["check-config"]), (main, ["id", "a=b"])):
        result = CliRunner(env={name: value}).invoke(group, words)
        assert result.exit_code == 2
        assert f"did you mean {meant}?" in result.stderr
        assert "hidden" not in result.output


def test_variables_of_others_are_let_be() -> None:
    of_kubernetes = {
        "REALIZEHIT_PORT": "tcp://10.0.0.1:8080",
        "REALIZEHIT_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "REALIZEHIT_PORT_8080_TCP_ADDR": "10.0.0.1",
        "REALIZEHIT_SERVICE_HOST": "10.0.0.1",
        "REALIZEHIT_SERVICE_PORT": "8080",
    }
    check_variables({**of_kubernetes, "REALIZEHIT_WORKER": "", "PATH": "/bin", "REALIZEHIT_FUZZ_SECONDS": "1"})


@pytest.mark.parametrize(
    ("setting", "text", "said"),
    [
        ("config", "portt = 1", "unknown key 'portt'; did you mean port?"),
        ("config", "max-conections = 1", "unknown key 'max_conections'; did you mean max_connections?"),
        ("grants", "[[grants]]\n", "unknown key 'grants'; did you mean grant?"),
        ("grants", '[[grant]]\npatern = {a = "b"}', "unknown key 'patern'; did you mean pattern?"),
        ("keys", "[[keys]]\n", "unknown key 'keys'; did you mean key?"),
        ("keys", '[[key]]\nname = "a"\nsha265 = "b"', "unknown key 'sha265'; did you mean sha256?"),
        ("keys", "[[grant]]\n", "unknown key 'grant'; a file of keys has [[key]] tables"),
    ],
)
def test_mistyped_keys_of_files(tmp_path: Path, setting: str, text: str, said: str) -> None:
    file = tmp_path / "file.toml"
    file.write_text(text)
    settings: dict[str, str] = {setting: str(file)}
    with pytest.raises(SettingsError) as caught:
        load(file=file) if setting == "config" else Gate(load(settings)[0], clock=lambda: 0.0, connected=lambda: 0)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
