from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.broker.memory import MemoryBus
from realizehit.broker.open import open_bus
from realizehit.broker.redis import RedisBus
from realizehit.broker.url import Address, redacted
from realizehit.errors import BrokerUnavailable, SettingsError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://ann:s3cret@db:6379/1", "redis://ann:***@db:6379/1"),
        ("redis://:s3cret@db", "redis://:***@db"),
        ("redis://s3cret@db", "redis://***@db"),
        ("redis://:s3/c#r?e@t@db", "redis://:***@db"),
        ("unix:///run/v.sock?db=1&password=s3cret&x=1", "unix:///run/v.sock?db=1&password=***&x=***"),
        ("unix:///run/v.sock?password=s3@cret", "unix://***@cret"),
        ("rediss://db?ssl_password=s3cret", "rediss://db?ssl_password=***"),
        ("ann:s3cret@db", "***"),
        ("redis://db?passwd=s3cret", "redis://db?passwd=***"),
        ("redis://db?pass%77ord=s3cret&d%62=1", "redis://db?pass%77ord=***&d%62=1"),
        ("redis://db?PASSWORD=s3cret", "redis://db?PASSWORD=***"),
        ("redis://db?s3cret", "redis://db?***"),
        ("redis://db/1#s3cret", "redis://db/1#***"),
        ("redis://db?db=1#s3cret", "redis://db?db=1#***"),
    ],
)
def test_a_shown_url_holds_no_secret(url: str, shown: str) -> None:
    assert redacted(url) == shown


@given(
    st.text(st.characters(codec="ascii", exclude_characters="\n"), min_size=1).map(lambda text: f"s3{text}cret"),
    st.sampled_from(["redis://ann:{}@db:6379/0", "rediss://:{}@db", "unix://ann:{}@/run/v.sock", "http://x:{}@y"]),
)
def test_no_error_and_no_name_shows_the_password(password: str, form: str) -> None:
    url = form.format(password)
    try:
        shown = str(open_bus(url)._address)  # type: ignore[attr-defined]  # every bus here but memory:// has one
    except SettingsError as error:
        shown = str(error)
    for part in (password, password[:4], password[-5:]):
        assert part not in shown.replace("secret", "")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis://db?socket_timeout=soon", "socket_timeout"),
        ("redis://db?nonsense=1", "nonsense"),
        ("redis://db:123456", "host or port"),
        ("rediss://db?ssl_cert_reqs=perhaps", "perhaps"),
        ("rediss://db?ssl_ca_certs=/nowhere/at/all.pem", "No such file"),
        ("redis://db?max_connections=-1", "max_connections"),
        ("redis://" + "a" * 64, "host name"),
        ("unix://", "path of the socket"),
        ("amqp://db", "unknown scheme"),
        ("localhost:6379", "unknown scheme"),
        ("", "unknown scheme"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        open_bus(url)


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("redis://db", []),
        ("redis://:pass%20word@db", ["pass word"]),
        ("redis://ann:pw@db", ["ann", "pw"]),
        ("redis://ann@db", ["ann", ""]),
        ("unix://ann:pw@/run/v.sock", ["ann", "pw"]),
        ("unix:///run/v.sock?username=ann&password=pw", ["ann", "pw"]),
    ],
)
def test_the_login_is_what_redis_py_would_send(url: str, login: list[str]) -> None:
    assert Address(url).login() == login


@pytest.mark.parametrize(
    "option",
    [
        "socket_timeout=5",
        "retry_on_timeout=yes",
        "max_connections=10",
        "health_check_interval=30",
        "client_name=me",
        "decode_responses=yes",
    ],
)
@pytest.mark.parametrize("form", ["redis://db?{}", "unix:///run/v.sock?db=1&{}", "redis+sentinel://s1/main?{}"])
def test_an_option_that_would_be_ignored_is_refused(form: str, option: str) -> None:
    with pytest.raises(SettingsError, match=f"{option.partition('=')[0]}' has no use here; known are .*keepalive"):
        open_bus(form.format(option))


def test_an_option_that_may_be_a_part_of_a_password_is_not_named() -> None:
    with pytest.raises(SettingsError, match="an option has no use here") as error:
        open_bus("redis://s3?cr=et@db")
    assert str(error.value).startswith("broker URL redis://***@db: ")


@pytest.mark.parametrize(
    ("option", "complaint"),
    [("protocol=3", "only be 2"), ("socket_connect_timeout=0", "seconds"), ("socket_connect_timeout=nan", "seconds")],
)
def test_a_value_that_cannot_be_used_is_refused(option: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        open_bus(f"redis://db?{option}")
    open_bus("redis://db?protocol=2")


async def test_a_connection_that_already_ended_is_not_a_defect() -> None:
    """It has no socket any more; what it is good for shows at the first command."""

    async def ended() -> tuple[asyncio.Transport, asyncio.Protocol]:
        return asyncio.Transport(), asyncio.Protocol()

    assert asyncio.Transport().get_extra_info("socket") is None
    await Address("redis://h")._dial(ended())


def test_a_path_that_is_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"the path of the socket is over 10\d bytes"):
        Address(f"unix:///{'x' * 120}")
    Address(f"unix:///{'x' * 90}")


async def test_socket_connect_timeout_ends_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def swallowed(*args: object, **options: object) -> object:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", swallowed)
    with pytest.raises(BrokerUnavailable, match="reached in time"):
        await Address("redis://db?socket_connect_timeout=0.01").connect(asyncio.Protocol)


def test_what_a_library_says_is_scrubbed() -> None:
    assert Address("redis://ann:pw%21@db").scrub("bad 'ann' 'pw!'") == "bad 'ann' '***'"
    assert Address("redis://db").scrub("unchanged") == "unchanged"


@pytest.mark.parametrize("url", ["redis://db", "rediss://db", "unix:///run/v.sock?db=3"])
def test_a_redis_url_opens_a_redis_bus(url: str) -> None:
    assert isinstance(open_bus(url), RedisBus)


def test_memory_buses_are_opened_by_name() -> None:
    one, two, other = open_bus("memory://a"), open_bus("memory://a"), open_bus("memory://")
    assert isinstance(one, MemoryBus)
    assert isinstance(two, MemoryBus)
    assert isinstance(other, MemoryBus)
    assert one._space is two._space is not other._space
