"""Access seen from elsewhere: from a network of the test's own, and through a real nginx that says who clients are."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from realizehit.access.keys import generate
from tests.integration.test_access import code, event
from tests.support.ports import free_port
from tests.support.processes import SCRIPTS, SECONDS, Process, private_tmp, running, serving
from tests.support.programs import needs
from tests.support.wire import act, client, unique

IP, NGINX = shutil.which("ip"), shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")


def ip(*words: str) -> None:
    subprocess.run([str(IP), *words], check=True, capture_output=True, timeout=30)


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: 10.0.0.1 and 10.0.0.2. Nothing of this machine's is touched."""
    names = [f"rh{os.getpid()}{side}" for side in "ab"]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.0.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names[0], names[1]
    finally:
        for name in made:
            ip("netns", "del", name)


needs_namespaces = pytest.mark.skipif(
    IP is None or os.geteuid() != 0, reason="needs iproute2, and root to make network namespaces"
)


def post(namespace: str, url: str, *words: str) -> tuple[int, str]:
    """Publish from a host; return the status and the text."""
    script = (
        "import sys, urllib.request, urllib.error\n"
        "url, key = sys.argv[1:]\n"
        "head = {'Content-Type': 'application/json', **({'Authorization': 'Bearer ' + key} if key else {})}\n"
        'body = b\'{"pattern": {"a": 1}, "payload": 1}\'\n'
        "try:\n"
        "    answer = urllib.request.urlopen(urllib.request.Request(url, body, head), timeout=10)\n"
        "except urllib.error.HTTPError as error:\n"
        "    answer = error\n"
        "print(answer.status)\nprint(answer.read().decode())\n"
    )
    done = subprocess.run(
        [str(IP), "netns", "exec", namespace, sys.executable, "-c", script, url, *(words or ("",))],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    status, _, text = done.stdout.partition("\n")
    return int(status), text


@pytest.mark.slow
@needs_namespaces
@pytest.mark.parametrize("way", ["protected", "insecure", "keys"])
def test_publishing_from_another_host(way: str, tmp_path: Path) -> None:
    key, lines = generate("remote")
    file = tmp_path / "keys.toml"
    file.write_text(lines)
    options = {"protected": [], "insecure": ["--insecure-publish"], "keys": ["--keys", str(file)]}[way]
    server = [str(SCRIPTS / "realizehit-server"), "--host", "0.0.0.0", "--port", "8080", "--console", *options]
    with (
        two_hosts() as (here, there),
        private_tmp() as tmp,
        running(str(IP), "netns", "exec", here, *server, env=tmp) as process,
    ):
        process.find("^$")
        far, near = (there, "http://10.0.0.1:8080/"), (here, "http://127.0.0.1:8080/")
        status, text = post(*far)
        if way == "protected":
            assert status == 403
            assert json.loads(text)["code"] == "forbidden"
            for told in ("realizehit gen-key", "--keys", "--insecure-publish"):
                assert told in text
            assert post(*near)[0] == 200
            assert post(here, "http://10.0.0.1:8080/")[0] == 403  # its own address, but not loopback's
        elif way == "insecure":
            assert status == 200
        else:
            assert status == 401
            assert post(*near)[0] == 401
            assert post(*far, "rh_wrong")[0] == 401
            assert post(*far, key)[0] == post(*near, key)[0] == 200


NGINX_CONF = """
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    map $cookie_session $user {{ "s3cret-of-alice" "alice"; "s3cret-of-bob" "bob"; default ""; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{backend};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_set_header X-User $user;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_buffering off;
        }}
    }}
}}
"""


@contextmanager
def nginx(directory: Path, backend: int) -> Iterator[int]:
    """A real nginx before a server; it knows two users by their cookies."""
    port = free_port()
    conf = directory / "nginx.conf"
    conf.write_text(NGINX_CONF.format(dir=directory, port=port, backend=backend))
    with running(str(NGINX), "-p", str(directory), "-c", str(conf), "-e", str(directory / "error.log")) as process:
        deadline = time.monotonic() + SECONDS
        while not accepts(port):
            assert time.monotonic() < deadline, process.output
            time.sleep(0.02)
        yield port


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), SECONDS).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.slow
async def test_identity_from_nginx_and_forged_headers(tmp_path: Path) -> None:
    needs("nginx")
    # The forger comes from another address than the proxy, which trust is given to.
    with (
        private_tmp() as tmp,
        serving("--identify", "user=X-User", "--trusted-proxies", "127.0.0.1", env=tmp) as server,
    ):
        backend = int(server.api.rstrip("/").rpartition(":")[2])
        with nginx(tmp_path, backend) as port:
            url = f"ws://127.0.0.1:{port}/ws"
            mine = {"user": "alice", **unique("nginx")}
            async with (
                client(url, additional_headers={"Cookie": "session=s3cret-of-alice"}) as alice,
                client(url, additional_headers={"Cookie": "session=s3cret-of-bob", "X-User": "alice"}) as bob,
                client(url, additional_headers={"X-User": "alice"}) as nobody,
                client(server.ws, additional_headers={"X-User": "alice"}, local_addr=("127.0.0.2", 0)) as forger,
            ):
                assert await code(alice, mine) == "ok"
                for other in (bob, nobody, forger):
                    assert await code(other, mine) == "forbidden"
                assert await code(bob, {"user": "bob"}) == "ok"
                # What came through the proxy is not this machine's own, so it may not publish without a key.
                status, text = await asyncio.to_thread(published, f"http://127.0.0.1:{port}/", mine)
                assert (status, "--keys" in text) == (403, True)
                status, _ = await asyncio.to_thread(published, server.api, mine)
                assert status == 200
                async with asyncio.timeout(15):
                    assert str(await alice.recv()).endswith("?1")
            shown = await asyncio.to_thread(fetched, server.api + "metrics")
            assert "realizehit_ignored_identity_headers_total 1.0" in shown


def published(url: str, pattern: object) -> tuple[int, str]:
    answer = httpx2.post(url, json={"pattern": pattern, "payload": 1}, timeout=15)
    return answer.status_code, answer.text


def fetched(url: str) -> str:
    return httpx2.get(url, timeout=15).text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_reloads_in_every_process(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "grants.toml"
    file.write_text('[[grant]]\npattern = {kind = ["news", "chat"]}\n')
    words = ["--grants", str(file), "--workers", str(workers)]
    with private_tmp() as tmp, serving(*words, env=tmp) as server:
        async with AsyncExitStack() as stack:
            # On each worker some.
            clients = [await stack.enter_async_context(client(server.ws)) for _ in range(8 * workers)]
            labels = {(await act(ws, "sub", {"kind": "news"}))["ret"] for ws in clients}
            file.write_text("broken")
            server.signal(signal.SIGHUP)
            await asyncio.to_thread(server.find, "nothing is reloaded: .*grants.toml: is not TOML", workers)
            assert await code(clients[0], {"kind": "chat"}) == "ok"
            file.write_text('[[grant]]\npattern = {kind = "chat"}\n')
            server.signal(signal.SIGHUP)
            for ws in clients:
                told = await event(ws)
                assert (told["evt"], set(told["ids"])) == ("unsubscribed", labels)
                assert await code(ws, {"kind": "news"}) == "forbidden"
                assert await code(ws, {"kind": "chat"}) == "ok"


@pytest.mark.slow
def test_tokens_are_not_logged() -> None:
    with private_tmp() as tmp, serving("--access-log", env=tmp) as server:
        fetched(server.api + "healthz?token=s3cret")
        server.find(r"GET /healthz\?token=\*\*\* HTTP/1.1")
        assert "s3cret" not in server.output


@pytest.mark.slow
def test_publish_with_a_key(tmp_path: Path) -> None:
    key, lines = generate("cli")
    file = tmp_path / "keys.toml"
    file.write_text(lines)
    with private_tmp() as tmp, serving("--keys", str(file), env=tmp) as server:
        words = ["realizehit", "publish", "--url", server.api, "a=1", "1"]
        for env, status in (({}, 1), ({"REALIZEHIT_KEY": "rh_no"}, 1), ({"REALIZEHIT_KEY": key}, 0)):
            process = Process(*words, env=env)
            assert process.wait() == status, process.output
            assert key not in process.output
        assert Process(*words, "--key", key).wait() == 0
        assert key not in server.output
