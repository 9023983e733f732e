"""A node as a guest in another program: it works there, and changes nothing that is the program's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

HOST = """
import asyncio, io, json, logging, logging.config, signal, sys, warnings
import uvicorn, websockets
from uvicorn.config import LOGGING_CONFIG

written = io.StringIO()
options = json.loads(sys.argv[1])
logging.config.dictConfig({**LOGGING_CONFIG, "root": {"level": "DEBUG", "handlers": ["root"]}, "handlers": {
    **LOGGING_CONFIG["handlers"], "root": {"class": "logging.StreamHandler", "stream": written},
    "access": {"class": "logging.StreamHandler", "stream": written, "formatter": "access"},
}})
for name in ("websockets.server", "websockets.client", "asyncio"):
    logging.getLogger(name).setLevel(logging.INFO)
LIBRARIES = ["uvicorn", "uvicorn.access", "uvicorn.error", "uvicorn.asgi", "websockets", "websockets.server",
             "websockets.client", "asyncio", "concurrent", "redis", "py.warnings", "host"]

def state():
    # Of loggers that nobody had made before, what it is once somebody does.
    loggers = {name: logging.getLogger(name) for name in LIBRARIES} | {"root": logging.getLogger()}
    return {
        **{name: [list(map(id, one.handlers)), list(map(id, one.filters)), one.level, one.propagate, one.disabled]
           for name, one in loggers.items()},
        "hooks": [id(sys.excepthook), id(sys.unraisablehook), id(warnings.showwarning), logging.root.manager.disable],
        "signals": [id(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
        "class": [id(logging.getLoggerClass()), id(logging.getLogRecordFactory())],
    }

before = state()
from realizehit import WSClient
from realizehit.process.server import serve
from realizehit.settings import Settings

async def main():
    before["signals"] = state()["signals"]  # with what the event loop has done
    during = []
    async with serve(Settings(port=0, redis="memory://", **options)) as node:
        during.append(state())
        host, port = node.ws_url.removeprefix("ws://").removesuffix("/ws").split(":")
        for request in ("GET /healthz?token=hunter2 HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n",
                        "nonsense\\r\\n\\r\\n"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request.encode())
            await reader.read()
            writer.close()
        async with WSClient(node.ws_url) as client:
            await client.subscribe({"kind": "news"})
            during.append(state())
    return [*during, state()]

states = asyncio.run(main())
print(json.dumps({"changed": [[name for name in before if one[name] != before[name]] for one in states],
                  "log": written.getvalue()}))
"""


@pytest.mark.parametrize("access_log", [True, False])
def test_other_peoples_loggers_hooks_and_signals_stay_as_they_are(access_log: bool) -> None:
    words = [sys.executable, "-c", HOST, json.dumps({"access_log": access_log})]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["changed"] == [[], [], []]
    # The program's handlers get what the node says, without secrets.
    assert ('"GET /healthz?token=*** HTTP/1.1" 200' in result["log"]) is access_log
    assert "hunter2" not in result["log"] + done.stderr
