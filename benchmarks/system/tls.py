"""TLS: handshakes of a server that ends TLS itself, beside those of nginx with the same certificate.

Full handshakes with a key on the curve P-256 and with RSA of 2,048 bits, and resumed ones (TLS 1.3, session tickets),
each up to the tickets that follow it. Compared are handshakes per second of CPU, which is what a core would do.
"""

from __future__ import annotations

import ssl
import tempfile
from contextlib import ExitStack
from pathlib import Path

import trustme

from benchmarks.results import Result, Target
from benchmarks.system.processes import Child
from benchmarks.system.row import Run
from benchmarks.system.tls_peers import Nginx, TlsClient

TARGET_FULL = Target(must=0.5, aim=1.0, lower=False)
TARGET_RESUMED = Target(must=0.7, aim=1.0, lower=False)
HANDSHAKES = 400
KEYS = {"P-256": trustme.KeyType.ECDSA, "RSA 2,048": trustme.KeyType.RSA}


def measure(run: Run) -> list[Result]:
    """Compare full handshakes with both kinds of keys, and resumed ones."""
    results = []
    for name, kind in KEYS.items():
        full = Result("tls", f"full handshakes, {name}", "x nginx", [], TARGET_FULL)
        resumed = Result("tls", f"resumed handshakes, {name}", "x nginx", [], TARGET_RESUMED)
        _measure(run, name, kind, full, resumed)
        results += [full, resumed] if kind is trustme.KeyType.ECDSA else [full]
    return results


def _measure(run: Run, name: str, kind: trustme.KeyType, full: Result, resumed: Result) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rhb-")))
        context, chain, key = _certificate(directory, kind)
        nginx = stack.enter_context(Nginx(directory / "nginx", run.cores.server, chain, key))
        _, server = stack.enter_context(run.pair(tls_cert=str(chain), tls_key=str(key)))
        sides: list[tuple[Child | Nginx, TlsClient]] = [
            (server, TlsClient(server.port, context)),
            (nginx, TlsClient(nginx.port, context)),
        ]
        count = run.scaled(HANDSHAKES)
        for n in range(run.rounds + 1):
            run.note(f"tls, {name}: round {n} of {run.rounds}")
            for result, resume in ((full, False), (resumed, True)):
                costs = []
                for process, client in sides:
                    client.connect(1, resume=resume)
                    before = process.cpu
                    client.connect(count, resume=resume)
                    costs.append((process.cpu - before) / count * 1e6)
                if n:  # the first fills caches
                    result.samples.append(costs[1] / costs[0])
                    result.raw.setdefault("us of CPU a handshake", []).append(costs[0])
                    result.raw.setdefault("us of CPU a handshake, nginx", []).append(costs[1])


def _certificate(directory: Path, kind: trustme.KeyType) -> tuple[ssl.SSLContext, Path, Path]:
    """Make a certificate; return the context of clients that trust it, and the files of chain and key."""
    authority = trustme.CA(key_type=kind)
    certificate = authority.issue_cert("127.0.0.1", key_type=kind)
    chain, key = directory / "chain.pem", directory / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for part in certificate.cert_chain_pems:
        part.write_to_path(chain, append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context, chain, key
