"""Build the wheel `realizehit-client`: the Python clients of this checkout without the server.

The modules, the version and the dependencies come from the checkout; nothing is kept twice. The wheel puts its copy of
the package in a folder of its own and adds this folder to the end of ``sys.path``, by a ``.pth`` file. So the wheel has
no file in common with `realizehit`, and Python finds the copy only if `realizehit` is not installed.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "realizehit_client"  # the folder of the copy, which is also a package of this wheel

MODULES = ("__init__.py", "__main__.py", "errors.py", "pattern.py", "pattern_text.py", "py.typed", "sync.py")
PACKAGES = ("cli", "client", "common", "settings")  # whole, except what `LEFT_OUT` names
LEFT_OUT = {  # commands of the server and of operators, and what only they use
    "cli": {
        "admin", "banner", "check_config", "explain_access", "gen_key", "healthcheck", "loadtest",
        "options", "serve", "summary", "top",
    },
}  # fmt: skip
BROKER = (  # for publishing at the broker
    "__init__", "chunks", "deadlines", "hosts", "idempotency", "idle_probe", "keeper", "log_reads", "mode", "names",
    "projections", "publication", "publish_calls", "publish_errors", "publish_script", "publisher", "resp",
    "rule_patterns", "rules_reader", "scripted_chunks", "sentinel", "url",
    "cluster/__init__", "cluster/address", "cluster/asking", "cluster/deliveries", "cluster/outbox",
    "cluster/publisher", "cluster/questions", "cluster/redirects", "cluster/registry_view", "cluster/routes",
    "cluster/shard", "cluster/shards", "cluster/slots", "cluster/topology", "cluster/watch",
    "history/__init__", "history/epochs", "history/log", "history/rules", "history/rules_commands", "history/scripts",
    "shapes/__init__", "shapes/expected", "shapes/following", "shapes/projecting", "shapes/registry",
    "shapes/rules_follower", "shapes/view",
)  # fmt: skip
DEPENDENCIES = {"click", "hiredis", "httpx2", "msgspec", "orjson", "redis", "rich", "websockets"}


def contents(package: Path) -> list[str]:
    """Return the files of the clients, as paths within ``package``, the folder ``realizehit``."""
    files = [*MODULES, *(f"broker/{name}.py" for name in BROKER)]
    for name in PACKAGES:
        left_out = LEFT_OUT.get(name, set())
        files += [f"{name}/{path.name}" for path in (package / name).glob("*.py") if path.stem not in left_out]
    return sorted(files)


def dependencies(project: dict[str, list[str]]) -> list[str]:
    """Return those of the server's dependencies that the clients need, with the same bounds."""
    found = {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in project["dependencies"]}
    return [found[name] for name in sorted(DEPENDENCIES)]


class BuildCopy(build_py):
    """Adds the copy of the package, and the ``.pth`` file."""

    def run(self) -> None:
        copy = Path(self.build_lib, FOLDER, "realizehit")
        if copy.is_dir():  # of an earlier build, perhaps with modules that are gone
            shutil.rmtree(copy)
        super().run()
        for name in contents(ROOT / "realizehit"):
            target = copy / name
            self.mkpath(str(target.parent))
            self.copy_file(str(ROOT / "realizehit" / name), str(target), preserve_mode=False)
        Path(self.build_lib, f"{FOLDER}.pth").write_text(f"{FOLDER}\n", encoding="ascii")


class NoSdist(sdist):
    """Refuses an sdist, which would lack the sources: they are outside this folder."""

    def run(self) -> None:
        raise SystemExit("realizehit-client has no sdist; build its wheel: python -m build --wheel clients/python")


def main() -> None:
    """Run setuptools with what the checkout says."""
    if not (ROOT / "realizehit" / "pattern_text.py").is_file():
        raise SystemExit(f"{ROOT} is not a checkout of realizehit; build the client from clients/python of a checkout")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup(
        version=project["version"],
        install_requires=dependencies(project),
        python_requires=project["requires-python"],
        cmdclass={"build_py": BuildCopy, "sdist": NoSdist},
    )


if __name__ == "__main__":
    main()
