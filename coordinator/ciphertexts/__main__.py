"""The child: it reads an order, parses what it names, and says how far it is.

It has little memory and time, opens no new files but its target, and knows no secret
but what the order holds.
"""

import base64
import json
import pathlib
import resource
import sys
from collections.abc import Mapping
from typing import Any, Final

from coordinator.protocol.he import bfv, parameters
from coordinator.protocol.he.framing import MalformedCiphertext

_MEMORY: Final = 6 << 30  # of addresses, most of them never touched
_CPU_S: Final = 600


def main() -> None:
    """Do what standard input says."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    order = json.load(sys.stdin)
    result = _add(order) if order["do"] == "add" else _decrypt(order)
    if result is not None:
        pathlib.Path(order["target"]).write_bytes(result)
        _say("whole")


def _add(order: Mapping[str, Any]) -> bytes:
    total = bfv.Sum(base64.b64decode(order["public_key"]), order["length"])
    for name, path in order["files"].items():
        _say("begin", name)
        try:
            total.add(memoryview(pathlib.Path(path).read_bytes())[order["skip"] :])
        except MalformedCiphertext as error:
            _say("refused", name, str(error)[:200])
        else:
            _say("done", name)
    blinding = parameters.blinding(
        base64.b64decode(order["blinding_key"]), order["length"]
    )
    total.add_plain(blinding)
    return total.serialize()


def _decrypt(order: Mapping[str, Any]) -> bytes | None:
    secret_key = base64.b64decode(order["secret_key"])
    ((name, path),) = order["files"].items()
    try:
        found = bfv.decrypt(
            secret_key, pathlib.Path(path).read_bytes(), order["length"]
        )
    except MalformedCiphertext as error:
        _say("refused", name, str(error)[:200])
        return None
    return found.astype("<u8").tobytes()


def _say(*words: str) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main()
