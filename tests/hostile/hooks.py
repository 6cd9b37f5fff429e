"""What schemathesis must be told to send parts of updates."""

import schemathesis
from schemathesis import SerializationContext

from coordinator.protocol import uploads


@schemathesis.serializer(uploads.MEDIA_TYPE)
def partial_upload(_: SerializationContext, value: object) -> bytes:
    """Send bytes as they are, and anything else as text."""
    return value if isinstance(value, bytes) else str(value).encode()
