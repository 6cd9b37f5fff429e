"""Enrol devices, and recognise who calls."""

import datetime as dt
import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

from coordinator.domain.devices import Device
from coordinator.domain.errors import Forbidden, Unauthenticated
from coordinator.domain.events import Happening
from coordinator.store import devices, events
from coordinator.store.engine import Store, Transaction


def token_hash(token: str) -> str:
    """Return what is stored of a token: its SHA-256, 64 hex digits.

    Tokens are 32 uniform bytes, so a plain hash cannot be searched backwards.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def enrol(
    store: Store, *, name: str | None, capabilities: Mapping[str, Any], now: dt.datetime
) -> tuple[Device, str]:
    """Enrol a device. Returns it and its token, which is shown this once."""
    token = secrets.token_urlsafe(32)
    device = Device(
        id=secrets.token_hex(16), name=name, capabilities=capabilities, enrolled_at=now
    )

    def body(tx: Transaction) -> None:
        devices.insert(tx, device, token_hash=token_hash(token))
        events.append(tx, Happening.DEVICE_ENROLLED, now=now, device=device.id)

    store.run("enrol", body)
    return device, token


def authenticate_device(store: Store, token: str | None) -> str:
    """Return the id of the device that bears ``token``.

    Raises:
        Unauthenticated: The token is missing or unknown.
    """
    if token is None:
        raise Unauthenticated("no bearer token was sent")
    hashed = token_hash(token)
    device_id = store.read(lambda tx: devices.with_token(tx, hashed))
    if device_id is None:
        raise Unauthenticated("no device has this token")
    return device_id


def authenticate_operator(store: Store, token: str | None) -> None:
    """Insist that ``token`` is an operator's.

    Raises:
        Unauthenticated: The token is missing or unknown.
        Forbidden: The token is a device's.
    """
    if token is None:
        raise Unauthenticated("no bearer token was sent")
    hashed = token_hash(token)

    def body(tx: Transaction) -> tuple[bool, bool]:
        is_operator = devices.is_operator(tx, hashed)
        return is_operator, is_operator or devices.with_token(tx, hashed) is not None

    is_operator, is_known = store.read(body)
    if is_operator:
        return
    if is_known:
        raise Forbidden("a device may not operate the coordinator")
    raise Unauthenticated("no operator has this token")


def admit_operator(store: Store, token: str, *, now: dt.datetime) -> None:
    """Let the bearer of ``token`` operate the coordinator; again is no change."""
    hashed = token_hash(token)

    def body(tx: Transaction) -> None:
        if not devices.is_operator(tx, hashed):
            devices.add_operator(tx, hashed, now=now)

    store.run("admit_operator", body)


def list_devices(store: Store, *, limit: int) -> list[tuple[Device, int]]:
    """Return devices, newest first, each with its number of accepted results."""
    return store.read(lambda tx: devices.newest(tx, limit=limit))
