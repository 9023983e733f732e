"""The clients work without the compiled extension; clients and small commands load nothing of the server."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import realizehit

HEAVY = {"asyncio", "httpx2", "redis", "rich", "starlette", "uvicorn", "uvloop", "websockets"}


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WITHOUT_EXTENSION = """
import sys
sys.modules["realizehit._fanout"] = None  # as if it had not been built: importing it fails
from realizehit import APIClient, Pattern, Publisher, WSClient
from realizehit.sync import APIClient as SyncAPIClient
WSClient("ws://localhost/ws"), APIClient("http://localhost/"), SyncAPIClient("http://localhost/").close()
Publisher("redis://localhost/")
print(Pattern(kind="news", channel="CNN").id, "realizehit.pattern_text" in sys.modules)
"""


def test_clients_work_without_the_extension() -> None:
    assert run(WITHOUT_EXTENSION) == "3bf1d979 True"


def test_an_extension_that_cannot_be_loaded_is_not_replaced(tmp_path: Path) -> None:
    package = tmp_path / "realizehit"
    package.mkdir()
    for name in ("__init__.py", "errors.py", "pattern.py", "pattern_text.py"):
        (package / name).write_bytes((Path(realizehit.__file__).parent / name).read_bytes())
    (package / f"_fanout{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a shared object")
    code = "try:\n import realizehit.pattern\nexcept ImportError as error:\n print(error.name)"
    assert run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}") == "_fanout"


def test_clients_load_nothing_of_the_server() -> None:
    code = "import sys, realizehit, realizehit.sync as s; [getattr(realizehit, n) for n in realizehit.__all__];"
    code += "[getattr(s, n) for n in s.__all__]; print(*sorted(m for m in sys.modules if m.startswith('realizehit')))"
    loaded = set(run(code).split())
    assert "realizehit.client.ws" in loaded
    server = ("realizehit.http", "realizehit.node", "realizehit.process", "realizehit.transports")
    assert not {name for name in loaded if name.startswith(server)}
    publishing = [
        "chunks",
        "deadlines",
        "idle_probe",
        "idempotency",
        "keeper",
        "log_reads",
        "projections",
        "publication",
        "publish_calls",
        "publish_errors",
        "publish_script",
        "publisher",
        "rule_patterns",
        "rules_reader",
        "scripted_chunks",
    ]
    publishing += [
        "shapes.rules_follower",
        "history",
        "history.epochs",
        "history.log",
        "history.rules",
        "history.scripts",
    ]
    publishing += ["resp", "shapes", "shapes.expected", "shapes.following", "shapes.registry", "shapes.view", "url"]
    publishing += ["cluster", "history.rules_commands", "hosts", "mode", "names", "shapes.projecting"]
    publishing += [
        f"cluster.{name}"
        for name in (
            "address",
            "asking",
            "deliveries",
            "outbox",
            "publisher",
            "questions",
            "redirects",
            "registry_view",
            "routes",
            "shard",
            "shards",
            "slots",
            "topology",
            "watch",
        )
    ]
    own = {"", *(f".{name}" for name in publishing)}  # publishing straight to the broker
    assert {name for name in loaded if name.startswith("realizehit.broker")} <= {f"realizehit.broker{it}" for it in own}
    assert not loaded & {f"realizehit.{name}" for name in ("server", "hub", "settings", "messages", "metrics", "api")}


def test_public_names_exist() -> None:
    code = "import realizehit, realizehit.sync as s;"
    code += "print({*realizehit.__all__} - {*dir(realizehit)}, {*s.__all__} - {*dir(s)});"
    code += "print(hasattr(realizehit, 'nonsense'), hasattr(s, 'nonsense'))"
    assert run(code).split() == ["set()", "set()", "False", "False"]


@pytest.mark.parametrize("words", [["id", "kind=news"], ["--help"]])
def test_a_small_command_loads_no_server(words: list[str]) -> None:
    code = (
        "import sys, contextlib\n"
        "from realizehit.cli.main import main\n"
        f"with contextlib.suppress(SystemExit): main({words!r})\n"
        f"sys.exit(' '.join({HEAVY!r} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
