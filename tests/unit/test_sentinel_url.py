from __future__ import annotations

import pytest

from realizehit.broker.open import open_bus
from realizehit.broker.redis import RedisBus
from realizehit.broker.sentinel import SentinelAddress
from realizehit.errors import SettingsError

SECRETS = "ann:s3cret@s1,s2:26380,[::1]:26381/main/3?sentinel_username=watch&sentinel_password=gu4rd"


def test_a_url_names_the_sentinels_and_the_login_of_the_broker() -> None:
    address = SentinelAddress(f"redis+sentinel://{SECRETS}")
    places = [
        (kwargs["host"], kwargs["port"], kwargs["username"], kwargs["password"])
        for kwargs in (sentinel.connection_pool.connection_kwargs for sentinel in address._sentinels)
    ]
    assert places == [
        ("s1", 26379, "watch", "gu4rd"),
        ("s2", 26380, "watch", "gu4rd"),
        ("::1", 26381, "watch", "gu4rd"),
    ]
    assert address.name == "main"
    assert address.login() == ["ann", "s3cret"]
    assert (
        str(address)
        == "redis+sentinel://ann:***@s1,s2:26380,[::1]:26381/main/3?sentinel_username=watch&sentinel_password=***"
    )
    assert address.scrub("s3cret gu4rd") == "*** ***"
    assert isinstance(open_bus("rediss+sentinel://s1/main"), RedisBus)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis+sentinel://s1", "master's name is missing"),
        ("redis+sentinel://s1/", "master's name is missing"),
        ("redis+sentinel:///main", "'' is not the host:port of a sentinel"),
        ("redis+sentinel://s1,,s2/main", "'' is not the host:port of a sentinel"),
        ("redis+sentinel://s1:x/main", "'s1:x' is not the host:port of a sentinel"),
        ("redis+sentinel://s1:99999/main", "'s1:99999' is not the host:port of a sentinel"),
        ("redis+sentinel://:26379/main", "':26379' is not the host:port of a sentinel"),
        ("redis+sentinel://s1/main?nonsense=1", "nonsense"),
        ("redis+sentinel://s1/main/x", "'x' is not a number"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        open_bus(url)
