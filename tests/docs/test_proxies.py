"""The configurations of nginx, Caddy and HAProxy in ``deploy/``, as they stand, in front of a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jwt
import pytest

from realizehit.access.keys import generate
from realizehit.settings import Settings
from tests.docs.host import Host, Running, Terminal, can_make_hosts
from tests.docs.pages import ROOT
from tests.support.processes import SCRIPTS, SECONDS
from tests.support.programs import needs

PROXIES = {
    "nginx": "cp deploy/nginx.conf /etc/nginx/conf.d/realizehit.conf && nginx -g 'daemon off;'",
    "caddy": "caddy run --config deploy/Caddyfile",
    "haproxy": "haproxy -f deploy/haproxy.cfg",
}
TLS = Path("/etc/realizehit/tls")
CERTIFICATE = f"""mkdir -p {TLS} && cd {TLS}
openssl req -x509 -newkey rsa:2048 -nodes -days 3 -keyout key.pem -out fullchain.pem -subj /CN=rt.example \
    -addext subjectAltName=DNS:rt.example -addext keyUsage=digitalSignature,keyCertSign
cat fullchain.pem key.pem > site.pem
openssl ecparam -name prime256v1 -genkey -noout -out "$OLDPWD/login-private.pem"
openssl ec -in "$OLDPWD/login-private.pem" -pubout -out login.pem
cd -"""


class Site:
    """A host with a server, a login, and one of the proxies.

    Attributes:
        key: publishes.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.host = Host(directory)
        stack.callback(self.host.close)
        self._stack, self._directory = stack, directory
        paths = os.pathsep.join([f"{SCRIPTS}", os.environ["PATH"], "/usr/sbin"])
        imports = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._env = {**os.environ, "PATH": paths, "PYTHONPATH": imports, "TMPDIR": str(directory)}
        for name in ("deploy", "examples"):
            (directory / name).symlink_to(Path(__file__).parents[2] / name)
        self.key, lines = generate("test")
        (directory / "keys.toml").write_text(lines)
        self.run(CERTIFICATE)

    def _terminal(self) -> Terminal:
        terminal = Terminal(self.host, self._directory, self._env, self._directory)
        self._stack.callback(terminal.close)
        return terminal

    def run(self, text: str) -> str:
        status, command = self._terminal().run(text)
        assert status == 0, command.printed
        return command.printed

    def start(self, text: str, port: int) -> Running:
        command = self._terminal().start(text)
        self._stack.callback(command.interrupt)
        deadline = time.monotonic() + SECONDS
        while not self.host.accepts(port):
            assert command.goes_on(), command.printed
            assert time.monotonic() < deadline, command.printed
            time.sleep(0.02)
        return command

    def sessions(self, proxy: str) -> dict[str, str]:
        """The cookies of alice and bob."""
        if proxy != "haproxy":
            return {"alice": "secret-of-alice", "bob": "secret-of-bob"}
        private = (self._directory / "login-private.pem").read_text()
        return {
            name: jwt.encode({"sub": name, "exp": time.time() + 300}, private, algorithm="ES256")
            for name in ("alice", "bob")
        }


@contextmanager
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="rh-") as directory, ExitStack() as stack:
        yield Site(Path(directory), stack)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(not can_make_hosts(), reason="needs root on a Linux that lets it make namespaces")
@pytest.mark.parametrize("proxy", PROXIES)
def test_clients_and_publishers_get_through(proxy: str) -> None:
    needs(proxy)
    with site() as here:
        server = "realizehit-server --trusted-proxies 127.0.0.1 --identify user=X-User --keys keys.toml --console"
        here.start(server, 8080)
        here.start("python3 examples/proxies/login.py 9000", 9000)
        running = here.start(PROXIES[proxy], 443)
        said = json.dumps({"ca": f"{TLS}/fullchain.pem", "key": here.key, "sessions": here.sessions(proxy)})
        here.run(shlex.join([sys.executable, "-m", "tests.docs.through_proxy", said]))
        logged = running.printed + (here.run("cat /var/log/nginx/*.log") if proxy == "nginx" else "")
        assert "/realizehit.js" in logged
        assert "s3cret-token" not in logged


def heartbeat() -> float:
    """The seconds within which a server that nothing is published on is heard of, and hears of its clients."""
    settings = Settings()
    return settings.heartbeat_interval + settings.heartbeat_timeout


@pytest.mark.parametrize(("file", "setting"), [("nginx.conf", "keepalive_timeout"), ("Caddyfile", "keepalive")])
def test_proxies_close_idle_connections_before_the_server_does(file: str, setting: str) -> None:
    text = (ROOT / "deploy" / file).read_text(encoding="utf-8")
    (seconds,) = re.findall(rf"^\s*{setting}\s+(\d+)s\b", text, re.MULTILINE)
    assert int(seconds) < Settings().keep_alive


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("nginx.conf", ["proxy_read_timeout", "proxy_send_timeout"]),
        ("haproxy.cfg", ["timeout client", "timeout server", "timeout tunnel"]),
    ],
)
def test_idle_clients_outlast_the_time_outs(file: str, settings: list[str]) -> None:
    text = (ROOT / "deploy" / file).read_text(encoding="utf-8")
    for setting in settings:
        (seconds,) = re.findall(rf"^\s*{setting}\s+(\d+)s\b", text, re.MULTILINE)
        assert int(seconds) > heartbeat(), setting
