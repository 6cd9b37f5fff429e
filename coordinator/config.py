"""Settings: from ``SHOAL_*`` variables and a TOML file, read once at start.

A variable beats the file, the file beats the default. Only ``app`` and ``__main__``
read settings; everything below is handed plain values.
"""

import ipaddress
import os
import pathlib
from typing import Literal, Self

import pydantic
import pydantic_settings
from pydantic import Field
from pydantic_settings import PydanticBaseSettingsSource

from coordinator.domain.limits import Limits

CONFIG_VARIABLE = "SHOAL_CONFIG"
DATABASE_FILE = "coordinator.db"
_SQLITE = "sqlite:///"
_DATABASES = ("postgresql://", _SQLITE)


class InvalidSettings(ValueError):
    """A setting is unknown, malformed or out of range; the message names it."""


class Settings(pydantic_settings.BaseSettings):
    """Every setting, with its range and default."""

    model_config = pydantic_settings.SettingsConfigDict(
        env_prefix="SHOAL_", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    data_dir: pathlib.Path = Field(
        pathlib.Path("data"),
        description="Folder of the database, the blobs and the operator's token. "
        "Created if need be.",
    )
    database_url: str | None = Field(
        None,
        description="`postgresql://user:password@host/name` or `sqlite:///path`. "
        "Default: `coordinator.db` in the data folder.",
    )
    durable: bool = Field(
        default=True,
        description="An update that was answered with a receipt outlives a power cut: "
        "every file and every commit waits for the disk. `false` is faster, for "
        "simulations; a killed process loses nothing either way.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. The default is reachable from this machine "
        "only; put a proxy that speaks TLS in front of any other.",
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    models_dir: pathlib.Path | None = Field(
        None,
        description="Folder with one folder a model, each registered at start. "
        "Default: the models that ship with Shoal.",
    )
    compute: Literal["auto", "cpu", "gpu"] = Field(
        "auto",
        description="Where the worker computes. `auto` takes a GPU if there is one; "
        "`gpu` refuses to start without.",
    )
    wait_s: float = Field(
        5.0,
        ge=1,
        le=43_200,
        description="Seconds between the moments at which devices without work are "
        "asked to come back, all together while the fleet is small. 1 to 43,200.",
    )
    longest_wait_s: float = Field(
        3600.0,
        ge=2,
        le=86_400,
        description="Most seconds that a device of a large fleet is told to wait; "
        "twice `SHOAL_WAIT_S` or more, up to 86,400. A fleet for which that is too "
        "short checks in more often than is aimed at.",
    )
    check_ins_per_s: float = Field(
        300.0,
        gt=0,
        le=100_000,
        description="Check-ins a second that an API process aims at, at most: with n "
        "processes n times as many come. Up to 100,000. What is aimed at otherwise is "
        "three times the places of the open rounds in `SHOAL_WAIT_S`.",
    )
    worker_interval_s: float = Field(
        0.02,
        gt=0,
        le=60,
        description="Seconds between two looks of an idle worker at the database; ten "
        "times as long while no round is open.",
    )
    watch_interval_s: float = Field(
        0.02,
        gt=0,
        le=60,
        description="Seconds between two looks of the API for news that waiting "
        "devices and event streams are told of.",
    )
    stop_s: int = Field(
        30,
        ge=1,
        le=3600,
        description="Seconds that requests under way, and the fold of a round, have to "
        "end well after SIGTERM. Let the supervisor wait longer than that.",
    )
    partial_bytes: int = Field(
        1 << 30,
        ge=0,
        description="Most bytes that are kept of uploads that broke off, all together, "
        "until their devices go on or their leases end. `0` keeps none.",
    )
    trusted_proxies: str | None = Field(
        None,
        description="Addresses and networks of the proxies in front, by commas: their "
        "`X-Forwarded-For` says where a request comes from. Without it every request "
        "through a proxy counts as the proxy's.",
    )
    address_requests_per_s: float = Field(
        500.0,
        gt=0,
        le=1e6,
        description="Requests a second from one address (IPv6: one /64), ten seconds' "
        "worth at once. Beyond it `too-many-requests`. Of one API process, as all "
        "limits.",
    )
    device_requests_per_s: float = Field(
        50.0,
        gt=0,
        le=1e6,
        description="Requests a second of one device, ten seconds' worth at once.",
    )
    device_requests: int = Field(
        8,
        ge=1,
        le=1_000_000,
        description="Requests of one device at once, check-ins that wait too.",
    )
    calls_waiting: int = Field(
        2_000,
        ge=1,
        le=1_000_000,
        description="Calls that run or wait for a thread. While there are more, who "
        "comes is answered `coordinator-full`; check-ins that wait for work are none.",
    )
    uploads: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Updates that come in at once. When there are more, one that is "
        "too slow yields to the new one, or that is answered `coordinator-full`.",
    )
    connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Open connections, check-ins that wait too. Less if the process "
        "may have fewer than twice as many files open.",
    )
    address_connections: int = Field(
        5_000,
        ge=1,
        le=1_000_000,
        description="Of these, from one address; not counted with `trusted_proxies`.",
    )
    head_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds that the head of a request may take. Then `too-slow`, and "
        "the connection is closed.",
    )
    body_idle_s: float = Field(
        15.0,
        gt=0,
        le=3600,
        description="Seconds that a body may pause.",
    )
    body_bytes_per_s: float = Field(
        4096.0,
        gt=0,
        le=1e9,
        description="Bytes a second that a body must bring on average, after its first "
        "`body_idle_s`.",
    )
    enrolment: Literal["open", "token"] = Field(
        "open",
        description="Who may enrol: `open`, anyone who reaches the coordinator; "
        "`token`, who brings an enrolment token. Must be said in so many words where "
        "`SHOAL_HOST` is not the loopback.",
    )
    device_auth: Literal["bearer", "signature"] = Field(
        "bearer",
        description="How devices prove who they are: `bearer`, by the token that "
        "enrolment answered with, for development; `signature`, by signing each "
        "request with a key that never leaves the phone.",
    )
    clock_skew_s: float = Field(
        300.0,
        gt=0,
        le=3600,
        description="Seconds that a device's clock may be off. The nonces of "
        "signatures are remembered for three times as long.",
    )
    attestation: Literal["none", "android-key"] = Field(
        "none",
        description="Whether a device's key must come with proof of where it is kept: "
        "`android-key`, a chain of Android key attestation. Needs `signature`.",
    )
    attestation_roots: pathlib.Path | None = Field(
        None,
        description="PEM file of the root certificates that such chains must end at.",
    )
    attestation_level: Literal["software", "tee", "strongbox"] = Field(
        "tee", description="The least security level at which the key must be kept."
    )
    authority_url: str | None = Field(
        None,
        pattern="^https?://",
        description="Where the key authority answers, for plans with `he`: "
        "`python -m coordinator key-authority`, run by somebody else. https, unless "
        "it is on this machine.",
    )
    authority_token: str | None = Field(
        None,
        description="What the coordinator shows the key authority: the content of its "
        "`coordinator.token`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )

    log_format: Literal["text", "json"] = Field(
        "text",
        description="`text` for people; `json` for programs: one object a line, with "
        "`at`, `level`, `logger`, `message` and the ids that it is about.",
    )

    @pydantic.field_validator("database_url")
    @classmethod
    def _is_of_a_known_kind(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(_DATABASES):
            kind = value.partition(":")[0]
            raise ValueError(f"must begin with one of {_DATABASES}, got {kind!r}")
        return value

    @pydantic.field_validator("trusted_proxies")
    @classmethod
    def _is_of_networks(cls, value: str | None) -> str | None:
        if value is not None:
            for part in value.split(","):
                ipaddress.ip_network(part.strip())
        return value

    @pydantic.model_validator(mode="after")
    def _is_open_on_purpose(self) -> Self:
        if not _is_loopback(self.host) and "enrolment" not in self.model_fields_set:
            raise ValueError(
                f"host {self.host} can be reached from elsewhere: set enrolment to "
                "token, or to open if anyone there may enrol devices"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _lets_a_fleet_spread(self) -> Self:
        if self.longest_wait_s < 2 * self.wait_s:
            raise ValueError("longest_wait_s must be twice wait_s or more")
        return self

    @pydantic.model_validator(mode="after")
    def _attests_what_is_used(self) -> Self:
        if self.attestation == "none":
            return self
        if self.device_auth != "signature":
            raise ValueError("attestation vouches for a key: set device_auth signature")
        if self.attestation_roots is None:
            raise ValueError("attestation needs attestation_roots, a PEM file")
        return self

    @pydantic.model_validator(mode="after")
    def _knows_both_of_the_authority(self) -> Self:
        if (self.authority_url is None) != (self.authority_token is None):
            raise ValueError("authority_url and authority_token go together")
        return self

    @property
    def url(self) -> str:
        """The database's URL."""
        if self.database_url is not None:
            return self.database_url
        return f"{_SQLITE}{self.data_dir.resolve() / DATABASE_FILE}"

    @property
    def sqlite_path(self) -> pathlib.Path | None:
        """The database's file; none if it is not SQLite."""
        if not self.url.startswith(_SQLITE):
            return None
        return pathlib.Path(self.url.removeprefix(_SQLITE))

    def limits(self, *, most_connections: int) -> Limits:
        """Return the limits, where the system allows so many connections."""
        behind_proxy = self.trusted_proxies is not None
        return Limits(
            address_requests_per_s=self.address_requests_per_s,
            device_requests_per_s=self.device_requests_per_s,
            device_requests=self.device_requests,
            calls_waiting=self.calls_waiting,
            uploads=self.uploads,
            connections=min(self.connections, most_connections),
            address_connections=None if behind_proxy else self.address_connections,
            head_s=self.head_s,
            body_idle_s=self.body_idle_s,
            body_bytes_per_s=self.body_bytes_per_s,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments, then variables, then the TOML file."""
        file = os.environ.get(CONFIG_VARIABLE)
        if file is None:
            return init_settings, env_settings
        toml = pydantic_settings.TomlConfigSettingsSource(settings_cls, file)
        return init_settings, env_settings, toml


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_settings() -> Settings:
    """Read the settings.

    Raises:
        InvalidSettings: A setting is unknown, malformed or out of range, or the file
            that ``SHOAL_CONFIG`` names does not exist.
    """
    file = os.environ.get(CONFIG_VARIABLE)
    if file is not None and not pathlib.Path(file).is_file():
        raise InvalidSettings(f"{CONFIG_VARIABLE} names {file}, which is no file")
    known = {f"SHOAL_{name}".upper() for name in Settings.model_fields}
    known.add(CONFIG_VARIABLE)
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith("SHOAL_") and name not in known | _FOREIGN
    )
    if unknown:
        raise InvalidSettings(f"unknown settings: {', '.join(unknown)}")
    try:
        return Settings()
    except (pydantic.ValidationError, ValueError) as error:
        raise InvalidSettings(str(error)) from error


#: Variables of the other programs of this project.
_FOREIGN = frozenset(
    {"SHOAL_CACHE", "SHOAL_ENROLMENT_TOKEN", "SHOAL_OPERATOR_TOKEN", "SHOAL_PARENT_PID"}
)
