"""Clients used after a fork, in several event loops and in threads, as web frameworks and task queues do.

Each case is a program of its own, since a process with threads cannot be forked safely.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tests.support.processes import Server, serving
from tests.support.valkey import Valkey

pytestmark = pytest.mark.timeout(120)

PRELUDE = """
import asyncio, json, os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from realizehit import APIClient, Pattern, Publisher, WSClient, sync
from realizehit.errors import ClientError

kind, api, ws, redis = sys.argv[1:]
signal.alarm(60)

def make():
    return {
        "sync api": lambda: sync.APIClient(api, trust_env=False),
        "sync publisher": lambda: sync.Publisher(redis),
        "api": lambda: APIClient(api, trust_env=False),
        "publisher": lambda: Publisher(redis),
    }[kind]()

def in_child(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(work()).encode())
        except BaseException as error:
            os.write(write, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(write)
    return pid, read

def result_of(child):
    pid, read = child
    with open(read, "rb") as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    return json.loads(text)
"""


@pytest.fixture(scope="module")
def server(shared_valkey: Valkey) -> Iterator[Server]:
    with serving("--redis", shared_valkey.url) as server:
        yield server


def run(program: str, server: Server, valkey: Valkey, kind: str = "") -> str:
    text = PRELUDE + textwrap.dedent(program)
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    arguments = [sys.executable, "-c", text, kind, server.api, server.ws, valkey.url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=90, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync api", "sync publisher"])
def test_each_forked_process_gets_its_own_answers(server: Server, shared_valkey: Valkey, kind: str) -> None:
    program = """
        client = make()
        client.publish({"test": "warm"}, 0)

        def work(number):
            pattern = Pattern(test="fork", number=number)
            return sum(client.publish(pattern, i).id == pattern.id for i in range(200))

        children = [in_child(lambda number=number: work(number)) for number in range(4)]
        print(work(9), *[result_of(child) for child in children], work(9))
    """
    assert run(program, server, shared_valkey, kind) == "200 200 200 200 200 200"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["api", "publisher"])
def test_a_client_made_before_a_fork_publishes_in_a_loop_of_the_child(
    server: Server, shared_valkey: Valkey, kind: str
) -> None:
    program = """
        async def work(client, number, count):
            pattern = Pattern(test="fork", number=number)
            return sum([(await client.publish(pattern, i)).id == pattern.id for i in range(count)])

        client = make()
        print(asyncio.run(work(client, 0, 1)))
        children = [in_child(lambda number=number: asyncio.run(work(client, number, 100))) for number in range(3)]
        print(*[result_of(child) for child in children])
        print(asyncio.run(work(client, 0, 1)))
    """
    assert run(program, server, shared_valkey, kind).split() == ["1", "100", "100", "100", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["api", "publisher"])
def test_a_client_serves_one_loop_after_another_and_several_at_once(
    server: Server, shared_valkey: Valkey, kind: str
) -> None:
    program = """
        client = make()

        async def work(number):
            pattern = Pattern(test="loops", number=number)
            return sum([(await client.publish(pattern, i)).id == pattern.id for i in range(50)])

        async def ends():
            await work(0)
            await client.close()
            await client.close()
            try:
                await work(0)
            except Exception as error:
                return str(error)

        print(*[asyncio.run(work(number)) for number in range(3)])
        with ThreadPoolExecutor(4) as pool:
            print(*pool.map(lambda number: asyncio.run(work(number)), range(4)))
        print(asyncio.run(ends()))
    """
    lines = run(program, server, shared_valkey, kind).splitlines()
    assert lines[:2] == ["50 50 50", "50 50 50 50"]
    assert "closed" in lines[2]


@pytest.mark.slow
def test_a_websocket_client_says_that_it_belongs_elsewhere(server: Server, shared_valkey: Valkey) -> None:
    program = """
        client = WSClient(ws, proxy=None)

        async def elsewhere():
            told = []
            for action in (lambda: client.subscribe({"a": 1}), client.ping, client.wait_closed):
                try:
                    await action()
                except ClientError as error:
                    told.append(str(error))
            return told

        async def first():
            await client.connect()
            news = await client.subscribe({"test": "home"})
            print(*await asyncio.to_thread(asyncio.run, elsewhere()), sep="; ")
            await client.ping()
            return news

        loop = asyncio.new_event_loop()
        news = loop.run_until_complete(first())

        def child():
            async def work():
                told = await elsewhere()
                await client.close()
                return told
            asyncio.events._set_running_loop(None)
            return asyncio.run(work())

        print(*result_of(in_child(child)), sep="; ")
        loop.run_until_complete(client.ping())  # the child's end has not ended it
        loop.run_until_complete(client.close())
        print("still connected")
    """
    first, second, last = run(program, server, shared_valkey).splitlines()
    assert first == "; ".join(["this client was connected in another event loop; make one in this loop"] * 3)
    assert second == "; ".join(
        ["this client was connected before the process was forked; make one in this process"] * 3
    )
    assert last == "still connected"


@pytest.mark.slow
def test_a_subscriber_says_that_it_belongs_to_another_process(server: Server, shared_valkey: Valkey) -> None:
    program = """
        subscriber = sync.Subscriber(ws, {"test": "fork"}, proxy=None).connect()

        def child():
            try:
                next(subscriber)
            except ClientError as error:
                subscriber.close()
                return str(error)

        print(result_of(in_child(child)))
        with sync.APIClient(api, trust_env=False) as client:
            client.publish({"test": "fork"}, "for the parent")
        print(next(subscriber))
        subscriber.close()
    """
    assert run(program, server, shared_valkey).splitlines() == [
        "this subscriber was connected before the process was forked; make one in this process",
        "for the parent",
    ]
