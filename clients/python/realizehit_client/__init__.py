"""The Python clients of realizehit without the server. Programs import `realizehit`, as with the server's package.

The folder of this file holds a copy of the package `realizehit`. A ``.pth`` file adds the folder to the end of
``sys.path``. Importing this module does the same where Python reads no such files, for example after
``pip install --target``. In both cases an installed `realizehit` comes first.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

if find_spec("realizehit") is None:
    sys.path.extend(__path__)


def main() -> None:
    """Run ``realizehit-client``, which is the command ``realizehit`` without the server's commands."""
    from realizehit.cli import client

    client(prog_name="realizehit-client")
