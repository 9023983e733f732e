"""``realizehit``: the group, and ``realizehit id``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

import realizehit
from realizehit.cli.lazy_group import LazyCommand, LazyGroup
from realizehit.cli.main import main

NAMES = ["id", "loadtest", "publish", "server", "subscribe"]


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, words, prog_name="realizehit")


def test_the_help_lists_the_commands() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for name in NAMES:
        assert f"\n  {name} " in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help_that_begins_with_its_summary(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: realizehit {name} ")
    assert "\\b" not in result.stdout  # click's mark for examples, which it takes out


def test_version() -> None:
    assert invoke("--version").stdout == f"realizehit, version {realizehit.__version__}\n"


def test_an_unknown_command() -> None:
    result = invoke("shout")
    assert result.exit_code == 2
    assert "No such command 'shout'" in result.stderr


def test_a_command_whose_module_is_missing_does_not_exist() -> None:
    group = LazyGroup("g", lazy={"gone": LazyCommand("realizehit.cli.not_there", "gone", "Not here.")})
    assert "gone" not in CliRunner().invoke(group, ["--help"]).stdout
    result = CliRunner().invoke(group, ["gone"])
    assert result.exit_code == 2
    assert "'gone' is not in this installation" in result.stderr


def test_id() -> None:
    assert invoke("id", "kind=news", "channel=CNN").stdout == "channel  channel:CNN|kind:news\nid       3bf1d979\n"
    assert invoke("id", "kind=news,channel=CNN").stdout == "channel  channel:CNN|kind:news\nid       3bf1d979\n"
    assert json.loads(invoke("id", "--json", "title=a%2Cb").stdout) == {
        "pattern": {"title": "a,b"},
        "channel": "title:a%2Cb",
        "id": json.loads(invoke("id", "--json", "title=a%2Cb").stdout)["id"],
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["kind"], "Error: 'kind' in 'kind' is not a filter; write key=value  (bad-pattern)"),
        (["a=1", "a=2"], "Error: the key 'a' occurs twice in 'a=1,a=2'  (bad-pattern)"),
        ([], "Error: Missing argument 'KEY=VALUE...'"),
    ],
)
def test_bad_filters(words: list[str], message: str) -> None:
    result = invoke("id", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_error_of_a_pattern_says_which_filter() -> None:
    result = invoke("id", "kind=")
    assert result.exit_code == 2
    assert "kind" in result.stderr
    assert "bad-pattern" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Error: write filters and then the payload: realizehit publish kind=news "),
        (["1"], "Error: a pattern needs a filter: write key=value, such as kind=news"),
        (["kind=news"], "Error: the payload is missing behind the filter 'kind=news': realizehit publish"),
        (["kind=news", "hello"], "Error: the payload 'hello' is not JSON: "),
        (["kind=news", "{title: hello}"], "Put the payload in single quotes, so that the shell leaves it as it is"),
        (["kind", "1"], "Error: 'kind' in 'kind' is not a filter; write key=value  (bad-pattern)"),
        (["--file", "/does/not/exist"], "Error: Could not open file '/does/not/exist': No such file or directory"),
        (
            ["--url", "ftp://x", "a=b", "1"],
            "Error: the API's URL cannot be used; write http://host:port/, not 'ftp://x/'",
        ),
        (["--redis", "amqp://:hunter2@x", "a=b", "1"], "Error: broker URL amqp://:***@x: "),
    ],
)
def test_publish_refuses_unusable_arguments(words: list[str], message: str) -> None:
    result = invoke("publish", *words)
    assert result.exit_code == (1 if "--file" in words else 2)
    assert message in result.stderr
    assert "hunter2" not in result.output


def test_publish_says_what_is_wrong_with_standard_input() -> None:
    result = CliRunner().invoke(main, ["publish", "a=b", "-"], input="{")
    assert result.exit_code == 2
    assert "Error: standard input: the raw payload is not JSON: " in result.stderr


def test_a_wrong_address_to_subscribe_at() -> None:
    result = invoke("subscribe", "--url", "ftp://x", "a=b")
    assert result.exit_code == 2
    assert "the URL cannot be used; write ws://host:port/ws" in result.stderr
