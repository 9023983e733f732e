"""Settings from a TOML file and from the environment.

Invariant: any file gives settings or a `SettingsError` whose text names the file or the option; and so does any value
of a variable.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from realizehit.errors import SettingsError
from realizehit.settings import OPTIONS, Settings, load, variable_of
from tests.fuzz.command import main


def one(data: bytes) -> None:
    """Take a case as a file, and its lines as values of each variable in turn."""
    with tempfile.TemporaryDirectory(prefix="rh-") as directory:
        path = Path(directory) / "settings.toml"
        path.write_bytes(data)
        try:
            settings, origin = load(file=path)
        except SettingsError as error:
            assert str(path) in str(error) or "--" in str(error), str(error)
        else:
            assert isinstance(settings, Settings)
            assert repr(settings)
            assert set(origin.values()) <= {"file", "default"}
    texts = data.decode("utf-8", "surrogateescape").replace("\0", "").split("\n")
    for option, text in zip(OPTIONS, texts, strict=False):
        try:
            load(environ={variable_of(option.name): text})
        except SettingsError as error:
            assert "--" in str(error) or variable_of(option.name) in str(error), str(error)


if __name__ == "__main__":
    main(__spec__.name)
