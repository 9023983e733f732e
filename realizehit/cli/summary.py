"""Describes in a few lines for people what a server with given settings would do, without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from realizehit.access.grants import Grants
from realizehit.access.keys import Key
from realizehit.access.peers import is_loopback
from realizehit.access.policy import Policy, header_names, load_policy
from realizehit.broker.history.rules_file import read_rules
from realizehit.broker.presence.rules import read_rules as read_presence_rules
from realizehit.broker.url import redacted
from realizehit.cli.environment import unknown_variables
from realizehit.cli.text import counted
from realizehit.settings import Settings

_ALL_INTERFACES = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


def summary(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of a topic and what the server would do.

    Args:
        settings: valid ones, which `realizehit.process.supervisor.check` has accepted.
        environ: the environment, to find variables that are not used.
    """
    policy = load_policy(settings)
    yield "listens", "; ".join(_listens(settings))
    yield "broker", _broker(settings)
    if settings.history is not None:
        yield "history", f"{counted(len(read_rules(settings.history).rules), 'rule')} of {settings.history}"
    if settings.presence is not None:
        yield "presence", f"{counted(len(read_presence_rules(settings.presence).rules), 'rule')} of {settings.presence}"
    if settings.workers > 1:
        yield "workers", f"{settings.workers}, {'with' if settings.uses_relay else 'without'} a relay"
    yield "publishers", _publishers(settings, policy)
    if settings.role != "api":
        yield "subscribers", _subscribers(policy)
        yield "identities", "; ".join(_identities(settings)) or "none: clients are not told apart"
    yield "pages", _pages(settings)
    if settings.role != "api":
        yield "console", "/console, for browsers on this machine" if settings.console else "off"
    ignored = ", ".join(unknown_variables(environ))
    if ignored:
        yield "ignored", f"variables that this server does not know: {ignored}"


def _listens(settings: Settings) -> Iterator[str]:
    both, tls = "WebSocket clients and publishers", " over TLS" if settings.uses_tls else ""
    whom = {"all": both, "ws": "WebSocket clients", "api": "publishers"}[settings.role]
    split = ("WebSocket clients", "publishers") if len(settings.listens) > 1 else (whom,)
    for (host, port), who in zip(settings.listens, split, strict=True):
        reach = "every interface" if host in _ALL_INTERFACES else "this machine alone" if _is_local(host) else ""
        where = f"[{host}]" if ":" in host else host
        yield f"{where}:{port or 'a free port'} for {who}{tls}{f' ({reach})' if reach else ''}"
    if settings.unix_socket is not None:
        yield f"the Unix socket {settings.unix_socket}"


def _is_local(host: str) -> bool:
    return host == "localhost" or is_loopback(host)


def _broker(settings: Settings) -> str:
    if settings.redis is None:
        return "an embedded Valkey, which no other server reaches"
    if settings.redis.startswith("memory:"):
        return f"{redacted(settings.redis)}, inside this one process"
    return redacted(settings.redis)


def _publishers(settings: Settings, policy: Policy) -> str:
    if settings.role == "ws":
        return "nobody here (--role ws)"
    if policy.keys is None:
        return (
            "everybody, without a key (--insecure-publish)"
            if settings.insecure_publish
            else "clients on this machine that come through no proxy, without a key"
        )
    if not len(policy.keys):
        return f"nobody: there is no key in {settings.keys}"
    return "clients with a key: " + ", ".join(map(_key, policy.keys))


def _key(key: Key) -> str:
    what = "everything" if key.grants is None else counted(len(key.grants.grants), "pattern")
    return f"{key.name} ({what}{f', {key.rate:g} messages/s' if key.rate else ''})"


def _subscribers(policy: Policy) -> str:
    if policy.rules is None:
        return "everybody, to everything"
    if isinstance(policy.rules, Grants):
        count = len(policy.rules.grants)
        return f"clients that one of {counted(count, 'grant')} allows" if count else "nobody: there is no grant"
    return "everybody, to everything but what belongs to another client's identity"


def _identities(settings: Settings) -> Iterator[str]:
    for key, header in header_names(settings).items():
        proxies = ", ".join(settings.trusted_proxies) or "nobody: no proxy is trusted"
        yield f"{key} from the header {header} of {proxies}"
    for claim in settings.jwt_claims:
        key, _, name = claim.partition("=")
        yield f"{key} from the claim {name} of a token ({', '.join(settings.jwt_algorithms)})"


def _pages(settings: Settings) -> str:
    if "*" in settings.allow_origin:
        return "of any origin (--allow-origin '*')"
    return ", ".join(("this server's own", *settings.allow_origin))
