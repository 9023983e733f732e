"""The settings of a server: the options, and how they are read from flags, the environment and a file."""

from realizehit.settings.loading import choices_of, is_list, load, type_of
from realizehit.settings.model import GROUPS, OPTIONS, RELAY_FROM, Settings, flag_of, variable_of

__all__ = [
    "GROUPS",
    "OPTIONS",
    "RELAY_FROM",
    "Settings",
    "choices_of",
    "flag_of",
    "is_list",
    "load",
    "type_of",
    "variable_of",
]
