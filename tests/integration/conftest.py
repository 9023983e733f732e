"""A node in the test's own event loop, and raw WebSocket clients for it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.cluster import Cluster
from tests.support.valkey import Valkey


@pytest.fixture
async def node(shared_valkey: Valkey) -> AsyncIterator[Node]:
    """A server of both roles on a free port, over a real Valkey."""
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        yield node


@dataclass
class Certificate:
    """A server's certificate in files, and a context that trusts it."""

    settings: dict[str, str]
    context: ssl.SSLContext


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Certificate({"tls_cert": str(chain), "tls_key": str(key)}, context)


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for tests that break nothing and use channels of their own."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
