"""Which slot of a cluster a key or a sharded channel belongs to.

Source: the Redis Cluster specification, "Key distribution model" and "Hash tags".
"""

from __future__ import annotations

from binascii import crc_hqx
from typing import Final

SLOTS: Final = 16384


def slot_of(key: bytes) -> int:
    """Return the slot of a key or a channel.

    Only what stands between the first ``{`` and the next ``}`` counts, if there is something: the hash tag.
    """
    begin = key.find(b"{") + 1
    if begin:
        end = key.find(b"}", begin)
        if end > begin:
            key = key[begin:end]
    return crc_hqx(key, 0) % SLOTS
