from typing import Any

MAX_FILTERS: int
MAX_KEY: int
MAX_VALUE: int
MAX_CHANNEL: int

class InvalidPattern(ValueError):
    wildcard: bool

class InvalidWildcard(InvalidPattern): ...

def canonical(filters: dict[str, Any], wildcards: bool = False) -> bytes: ...
def channel_id(channel: bytes) -> str: ...
