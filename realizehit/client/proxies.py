"""Errors about the proxy that the environment names."""

from __future__ import annotations

from realizehit.common.masking import masked
from realizehit.errors import SettingsError


def no_socks(package: str) -> SettingsError:
    """Return the error for a SOCKS proxy whose library is missing."""
    return SettingsError(
        f"the environment names a SOCKS proxy (ALL_PROXY or HTTPS_PROXY), which needs the package {package}: install"
        " it, or put the server's host into NO_PROXY"
    )


def bad_proxy(error: Exception) -> SettingsError:
    """Return the error for a proxy that the library does not understand; the text shows no login."""
    return SettingsError(
        f"the environment names a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) that cannot be used: {masked(str(error))}"
    )
