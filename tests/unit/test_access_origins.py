"""What ``--allow-origin`` takes, what it lets in, and what is said to have been meant by what it does not take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.access.allowed_origins import read_allowed
from realizehit.access.gate import Gate
from realizehit.access.origin import parse_origin
from realizehit.access.origins import Origins
from realizehit.errors import AccessDenied, SettingsError
from realizehit.settings import Settings


@pytest.mark.parametrize(
    ("allowed", "origin", "host"),
    [
        ("https://app.example", "https://app.example", "rt"),
        ("https://APP.example:443/", "HTTPS://app.EXAMPLE", "rt"),
        ("http://[0:0::1]:3000", "http://[::1]:3000", "rt"),
        ("https://*.example.org", "https://a.example.org", "rt"),
        ("https://*.example.org", "https://a.b-1.example.org:443", "rt"),
        ("https://*.example.org:8443", "https://a.example.org:8443", "rt"),
        ("http://*.localhost:3000", "http://a.localhost:3000", "rt"),
        ("capacitor://localhost", "capacitor://localhost", "rt"),
        ("ionic://localhost", "ionic://localhost", "rt"),
        ("tauri://localhost", "tauri://localhost", "rt"),
        ("myapp://host:1234", "myapp://host:1234", "rt"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop", "rt"),
        ("moz-extension://1b4c0a9e-58a3", "moz-extension://1b4c0a9e-58a3", ""),
        ("safari-web-extension://1B4C", "safari-web-extension://1B4C", "rt"),
        ("null", "null", "rt"),
        ("file://", "file://", "rt"),
        ("file:///", "file://", "rt"),
        ("*", "null", "rt"),
        ("*", "anything at all", "rt"),
    ],
)  # fmt: skip
def test_allowed_origins(allowed: str, origin: str, host: str) -> None:
    headers = {b"origin": origin.encode(), b"host": host.encode()}
    assert Origins([allowed]).admits(headers)
    assert Origins([allowed]).knows(headers) is (allowed != "*")
    assert not Origins(["https://other.example"]).admits(headers)


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://*.example.org", "https://example.org"),
        ("https://*.example.org", "https://.example.org"),
        ("https://*.example.org", "https://evilexample.org"),
        ("https://*.example.org", "https://a.example.org.evil.example"),
        ("https://*.example.org", "https://a.example.org:8443"),
        ("https://*.example.org", "http://a.example.org"),
        ("https://*.example.org", "https://a.example.org."),
        ("https://*.example.org", "https://*.example.org"),
        ("https://*.example.org", "https://a..example.org"),
        ("https://*.example.org", "https://evil.example#.example.org"),
        ("https://*.example.org", "https://evil.example/.example.org"),
        ("https://*.example.org", "https://evil.example\\.example.org"),
        ("https://*.example.org", "https://x@a.example.org"),
        ("https://*.example.org", "chrome-extension://a.example.org"),
        ("https://app.example", "https://app.example.evil.example"),
        ("https://app.example", "https://app.example/"),
        ("https://app.example", "https://app.example, https://app.example"),
        ("https://app.example", "https://app.example:0"),
        ("https://app.example", "capacitor://app.example"),
        ("capacitor://localhost", "http://localhost"),
        ("capacitor://localhost", "ionic://localhost"),
        ("capacitor://localhost", "capacitor://localhost:1"),
        ("capacitor://localhost", "null"),
        ("chrome-extension://abc", "chrome-extension://abcd"),
        ("null", "file://"),
        ("null", ""),
        ("null", "null, null"),
        ("file://", "null"),
        ("file://", "file:///etc"),
    ],
)
def test_origins_that_are_not_allowed(allowed: str, origin: str) -> None:
    assert not Origins([allowed]).admits({b"origin": origin.encode(), b"host": b"rt.example"})


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("app.example", "https://app.example"),
        ("app.example:8443", "https://app.example:8443"),
        ("localhost:3000", "http://localhost:3000"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("::1", "http://[::1]"),
        ("http://::1:3000", "http://[::1]:3000"),
        ("https://app.example/path?query#part", "https://app.example"),
        ("https://app.example:port", "https://app.example"),
        ("https://app.example:99999", "https://app.example"),
        ("https://app.example:*", "https://app.example"),
        ("https://ann:hunter2@app.example", "https://app.example"),
        ("ann:hunter2@app.example", "https://app.example"),
        ("wss://app.example/ws", "https://app.example"),
        ("ws://localhost:3000", "http://localhost:3000"),
        ("https:/app.example", "https://app.example"),
        ("https:app.example", "https://app.example"),
        ("https//app.example", "https://app.example"),
        ("//app.example", "https://app.example"),
        ("htps://app.example", "https://app.example"),
        ("httpss://app.example", "https://app.example"),
        ("capacitor:localhost", "capacitor://localhost"),
        ("chrome-extensions://abc", "chrome-extension://abc"),
        ("chrome-extension://abc/page.html", "chrome-extension://abc"),
        ("'https://app.example'", "https://app.example"),
        ("https://a.example https://b.example", "https://a.example,https://b.example"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("*.example.org", "https://*.example.org"),
        ("*example.org", "https://*.example.org"),
        ("https://*.example.org/x", "https://*.example.org"),
        ("https://*.*.example.org", "https://*.example.org"),
        ("https://*", "*"),
        ("any", "*"),
        ("about:blank", "null"),
        ("blob:https://app.example/x", "https://app.example"),
        ("https://*.org", "https://*.example.org"),
        ("https://*.0.0.1", "https://*.example.org"),
        ("https://a.*.org", "https://*.example.org"),
        ("https://", "an origin such as https://app.example"),
        ("", "an origin such as https://app.example"),
        ("a" * 10_000, "an origin such as https://app.example"),
    ],
)
def test_suggestions_for_wrong_origins(text: str, meant: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Gate(Settings(allow_origin=(text,)), clock=lambda: 0.0)
    said = str(refused.value)
    assert said.startswith("--allow-origin: ")
    assert f"did you mean {meant}?" in said
    assert "hunter2" not in said
    assert len(said) < 400


@given(st.text("htps:/*.@[]?#,; 1aZ\\\\-_é", max_size=40))
def test_every_value_is_accepted_or_refused_with_a_valid_suggestion(text: str) -> None:
    try:
        read_allowed([text])
    except SettingsError as refused:
        meant = str(refused).rpartition("did you mean ")[2].partition("? It stands")[0].removesuffix("?")
        if not meant.startswith("an origin"):
            read_allowed(meant.split(","))


@given(st.text(max_size=60))
def test_origins_are_normalized(text: str) -> None:
    origin = parse_origin(text)
    if origin is not None:
        assert parse_origin(str(origin)) == origin


def test_pages_without_an_origin_are_not_local() -> None:
    gate = Gate(
        Settings(allow_origin=("null", "file://", "capacitor://localhost", "http://*.lan.example")), clock=float
    )
    for origin, local in (
        (b"null", False), (b"file://", False), (b"capacitor://localhost", True), (b"http://a.lan.example", True),
    ):  # fmt: skip
        headers = {b"host": b"localhost", b"origin": origin}
        assert gate.clients.open("127.0.0.1", headers, frozenset(), b"") is not None
        if local:
            assert gate.publishers.authenticate("127.0.0.1", headers) is None
        else:
            with pytest.raises(AccessDenied) as refused:
                gate.publishers.authenticate("127.0.0.1", headers)
            assert refused.value.reason == "protected"


@pytest.mark.parametrize(
    ("host", "known"),
    [("a.example.org", True), ("a.b.example.org:8080", True), ("example.org", False), ("evilexample.org", False),
     ("*.example.org", False), ("abc", False), ("null", False)],
)  # fmt: skip
def test_a_server_on_loopback_accepts_hosts_of_allowed_pages(host: str, known: bool) -> None:
    allowed = ("https://*.example.org", "chrome-extension://abc", "null", "file://")
    gate = Gate(Settings(allow_origin=allowed), clock=lambda: 0.0)
    if known:
        gate.clients.open("127.0.0.1", {b"host": host.encode()}, frozenset(), b"")
    else:
        with pytest.raises(AccessDenied) as refused:
            gate.clients.open("127.0.0.1", {b"host": host.encode()}, frozenset(), b"")
        assert refused.value.reason == "host"
