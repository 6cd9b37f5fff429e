"""Challenges that attestations answer: nobody keeps one that is open.

A challenge is random bytes and the moment of its end under a MAC, so that whoever asks
for many costs nothing. That each is answered once is for the store to see to: it keeps
those that were answered until they end.
"""

import datetime as dt
import hashlib
import hmac
from typing import Final

DRAWN_BYTES: Final = 16  #: that make a challenge unlike any other
_MOMENT_BYTES: Final = 8
_MAC: Final = hashlib.sha256


class Challenges:
    """Makes challenges of 56 bytes, and knows its own again; Android takes 128."""

    def __init__(self, key: bytes) -> None:
        """Use ``key``, which every API process of the coordinator must share."""
        if len(key) < _MAC().digest_size:
            raise ValueError(f"the key must have 32 bytes or more, got {len(key)}")
        self._key = key

    def make(self, drawn: bytes, *, expires_at: dt.datetime) -> bytes:
        """Return a challenge that is good until the whole second ``expires_at``.

        Args:
            drawn: From a cryptographic source, shape (DRAWN_BYTES,).
            expires_at: Its end.
        """
        if len(drawn) != DRAWN_BYTES:
            raise ValueError(f"drawn must be {DRAWN_BYTES} bytes, got {len(drawn)}")
        moment = int(expires_at.timestamp()).to_bytes(_MOMENT_BYTES, "big")
        return drawn + moment + self._mac(drawn + moment)

    def expiry(self, challenge: bytes) -> dt.datetime | None:
        """Return when a challenge ends, or none: it is not one of these."""
        end = DRAWN_BYTES + _MOMENT_BYTES
        said, mac = challenge[:end], challenge[end:]
        if not hmac.compare_digest(mac, self._mac(said)):
            return None
        moment = int.from_bytes(said[DRAWN_BYTES:], "big")
        return dt.datetime.fromtimestamp(moment, dt.UTC)

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, _MAC)
