r"""Composition root: how the parts become processes. The map of the whole.

    serve ---+--- API process: uvicorn -> api -> usecases -> store
             |
             +--- worker process: worker -> usecases -> store
                                     \-> compute (Keras), imported there alone

Settings are read here and in ``__main__`` only.
"""

import asyncio
import contextlib
import datetime as dt
import gc
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import resource
import secrets
import shutil
import signal
import socket
import sys
import threading
import types
from typing import Final

import fastapi
import uvicorn

from coordinator import kept_secrets, logs
from coordinator.api import application
from coordinator.api.audit import RefusalCounts
from coordinator.api.connections import Connections, protocol
from coordinator.api.limits import Load
from coordinator.api.metrics import Metrics
from coordinator.api.pacer import Pacer
from coordinator.api.services import Services
from coordinator.api.watcher import Watcher
from coordinator.clock import SystemClock
from coordinator.config import DATABASE_FILE, Settings
from coordinator.domain import attestation
from coordinator.domain.challenges import Challenges
from coordinator.domain.devices import Role
from coordinator.domain.pacing import Pace
from coordinator.protocol import allocator
from coordinator.store import files, schema
from coordinator.store.blobs import BlobStore
from coordinator.store.engine import Store
from coordinator.usecases import backup, models, tokens
from coordinator.usecases.devices import Admission, Attestor
from coordinator.usecases.encrypted import KeyAuthority
from coordinator.usecases.observation import Observer
from coordinator.worker import Worker, name_of_this_process

log = logging.getLogger(__name__)

BLOBS: Final = "blobs"
OPERATOR_TOKEN_FILE: Final = "operator.token"  # noqa: S105 - a file name
CHALLENGE_KEY_FILE: Final = "challenge.key"
_ALLOCATIONS_A_COLLECTION: Final = 10_000  # of containers, less those freed
_OTHER_FILES: Final = 200  # open beside connections: the database's, above all
_PARENT_VARIABLE: Final = "SHOAL_PARENT_PID"
_RESPAWN_AFTER_S: Final = 1.0


DATABASE_ERRORS: Final = Store.errors
EXIT_UNUSABLE: Final = 78  # EX_CONFIG: starting again would change nothing
EXIT_AWAY: Final = 75  # EX_TEMPFAIL: the database is away, starting again may help


class CannotStart(Exception):
    """The settings ask for what this machine does not have."""


def configure_logging(settings: Settings) -> None:
    """Log to standard error, as the settings say."""
    logs.configure(level=settings.log_level, form=settings.log_format)


def open_store(settings: Settings) -> Store:
    """Open the database, whatever its schema."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return Store(settings.url, durable=settings.durable)


def open_blobs(settings: Settings) -> BlobStore:
    """Open the blob store."""
    return BlobStore(settings.data_dir / BLOBS, durable=settings.durable)


def prepare(settings: Settings) -> tuple[Store, BlobStore]:
    """Open database and blobs, admit the operator, register the models that ship.

    Raises:
        SchemaMismatch: The database has another schema than this code.
        InvalidModel, ModelExists: A folder of ``models_dir`` is unusable.
    """
    store = open_store(settings)
    schema.ensure(store)
    blobs = open_blobs(settings)
    clock = SystemClock()
    tokens.admit_operator(
        store,
        operator_token(settings),
        name=OPERATOR_TOKEN_FILE,
        role=Role.ADMIN,
        by=tokens.COMMAND_LINE,
        now=clock.now(),
    )
    for folder in _model_folders(settings):
        models.register(store, blobs, folder, now=clock.now())
    return store, blobs


def open_existing(settings: Settings) -> tuple[Store, BlobStore]:
    """Open what a coordinator has written before, and write nothing.

    Raises:
        CannotStart: There is no database.
        SchemaMismatch: It has another schema than this code.
    """
    path = settings.sqlite_path
    if path is not None and not path.is_file():
        raise CannotStart(f"there is no database at {path}")
    store = open_store(settings)
    schema.insist_newest(store)
    return store, open_blobs(settings)


def back_up(settings: Settings, target: pathlib.Path) -> backup.Copied:
    """Copy the data folder: a coordinator may run, and starts from the copy.

    The folder gets its name when all of it is on the disk.

    Raises:
        CannotStart: The target exists, or the database is not SQLite.
    """
    if settings.sqlite_path is None:
        raise CannotStart("Postgres is backed up with pg_dump: see README.md")
    if target.exists():
        raise CannotStart(f"{target} exists already")
    store, blobs = open_existing(settings)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    partial.mkdir(mode=0o700, parents=True)
    try:
        copied = backup.back_up(
            store, blobs, database=partial / DATABASE_FILE, folder=partial / BLOBS
        )
        token = settings.data_dir / OPERATOR_TOKEN_FILE
        if token.is_file():
            shutil.copy2(token, partial)
        files.sync(partial)
        partial.rename(target)
        files.sync(target.parent)
    finally:
        store.close()
        shutil.rmtree(partial, ignore_errors=True)
    return copied


def operator_token(settings: Settings) -> str:
    """Return the operator's token."""
    return kept_secrets.read_or_draw(settings.data_dir / OPERATOR_TOKEN_FILE)


def create_api(settings: Settings, store: Store, blobs: BlobStore) -> fastapi.FastAPI:
    """Return the ASGI application."""
    clock = SystemClock()
    attestor = _attestor(settings)
    services = Services(
        store=store,
        blobs=blobs,
        clock=clock,
        watcher=Watcher(store, interval_s=settings.watch_interval_s),
        metrics=Metrics(Observer(store)),
        pacer=Pacer(store, clock, _pace(settings)),
        refusals=RefusalCounts(store),
        load=Load(
            settings.limits(most_connections=_most_connections(settings.connections))
        ),
        admission=Admission(
            needs_token=settings.enrolment == "token",
            needs_key=settings.device_auth == "signature",
            attestor=attestor,
            challenges=None if attestor is None else _challenges(settings),
        ),
        devices_sign=settings.device_auth == "signature",
        clock_skew=dt.timedelta(seconds=settings.clock_skew_s),
        partial_bytes=settings.partial_bytes,
        has_authority=settings.authority_url is not None,
    )
    return application.create(services, version=importlib.metadata.version("shoal"))


def serve(settings: Settings, *, with_worker: bool) -> None:
    """Run the API, and a worker process beside it, until told to stop."""
    allocator.keep_freed_memory()
    store, blobs = prepare(settings)
    app = create_api(settings, store, blobs)
    app.state.services.metrics.start()
    open_connections = Connections(
        app.state.services.load.limits,
        on_refusal=app.state.services.metrics.count_refusal,
    )
    listener = socket.create_server(
        (settings.host, settings.port), backlog=2048, reuse_port=False
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol(open_connections),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=settings.stop_s,
        timeout_keep_alive=75,
    )
    server = _Server(config, app.state.services.watcher)
    _collect_seldom()
    # uvicorn raises what it caught again when it is done; the worker still runs then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(
                _serve(
                    server,
                    listener,
                    worker_stop_s=settings.stop_s if with_worker else None,
                )
            )
    finally:
        store.close()


def _collect_seldom() -> None:
    """Keep the garbage collector off what stays, and let it look less often.

    Hundreds of requests that wait for work are long-lived as it sees them, and it went
    through them, and through every module, again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_A_COLLECTION, 20, 50)


def work(settings: Settings) -> None:
    """Run a worker until told to stop, or until the API that started it is gone."""
    allocator.keep_freed_memory()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    parent = os.environ.get(_PARENT_VARIABLE)
    if parent is not None:
        threading.Thread(
            target=_stop_with_parent, args=(int(parent), stop), daemon=True
        ).start()
    # The API process imports this module too, and must never load TensorFlow.
    from coordinator.compute import backend  # noqa: PLC0415 - see above
    from coordinator.compute.engine import Engine  # noqa: PLC0415 - see above

    try:
        device = backend.select_device(settings.compute)
    except backend.GpuUnavailable as error:
        raise CannotStart(str(error)) from error
    store = open_store(settings)
    engine = Engine(device)
    try:
        schema.ensure(store)
        known = models.list_models(store)
    except DATABASE_ERRORS as error:
        if parent is None:
            raise
        # The API that started this worker has used the database before.
        log.warning("the database is away: %s", error)
        raise SystemExit(EXIT_AWAY) from error
    for view in known:
        if stop.is_set():
            break
        engine.warm_up(view.model.manifest.trainable_size)
    name = name_of_this_process()
    log.info("worker %s computes with %s", name, device.description)
    worker = Worker(
        store,
        open_blobs(settings),
        engine,
        SystemClock(),
        name=name,
        interval_s=settings.worker_interval_s,
        authority=_authority(settings),
    )
    worker.run(stop)
    store.close()


class _Server(uvicorn.Server):
    """Lets go of waiting devices as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, watcher: Watcher) -> None:
        super().__init__(config)
        self._watcher = watcher

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._watcher.stop_soon()


async def _serve(
    server: uvicorn.Server, listener: socket.socket, *, worker_stop_s: int | None
) -> None:
    host, port = listener.getsockname()[:2]
    log.info("coordinator listens on http://%s:%d (API at /docs)", host, port)
    if worker_stop_s is None:
        await server.serve(sockets=[listener])
        return
    keeping = asyncio.create_task(_keep_worker(server, stop_s=worker_stop_s))
    try:
        await server.serve(sockets=[listener])
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


async def _keep_worker(server: uvicorn.Server, *, stop_s: int) -> None:
    """Keep one worker process alive.

    Raises:
        CannotStart: The worker says that it never will.
    """
    environment = os.environ | {_PARENT_VARIABLE: str(os.getpid())}
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "coordinator", "worker", env=environment
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await _end(process, stop_s)
            raise
        if code == EXIT_UNUSABLE:
            server.should_exit = True
            raise CannotStart("the worker cannot start; its message is above")
        log.error("the worker ended with code %d and is started again", code)
        await asyncio.sleep(_RESPAWN_AFTER_S)


async def _end(process: asyncio.subprocess.Process, stop_s: int) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(stop_s):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _stop_with_parent(parent: int, stop: threading.Event) -> None:
    while not stop.wait(0.5):
        if os.getppid() != parent:
            log.warning("the API is gone, the worker stops")
            stop.set()


def _authority(settings: Settings) -> KeyAuthority | None:
    if settings.authority_url is None or settings.authority_token is None:
        return None
    # Of workers alone: the API process has no use for an HTTP client.
    from coordinator.key_service import KeyService  # noqa: PLC0415 - see above

    return KeyService(settings.authority_url, settings.authority_token)


def _pace(settings: Settings) -> Pace:
    return Pace(
        gather_s=settings.wait_s,
        longest_s=settings.longest_wait_s,
        most_per_s=settings.check_ins_per_s,
    )


def _most_connections(wanted: int) -> int:
    """Return how many may be open at once, beside a file for the update of each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 2 * wanted + _OTHER_FILES
    if soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, (soft - _OTHER_FILES) // 2)


def _attestor(settings: Settings) -> Attestor | None:
    if settings.attestation == "none" or settings.attestation_roots is None:
        return None
    try:
        return attestation.AndroidKeyAttestor(
            attestation.read_roots(settings.attestation_roots.read_bytes()),
            least=attestation.Level[settings.attestation_level.upper()],
        )
    except ValueError as error:
        raise CannotStart(f"{settings.attestation_roots}: {error}") from error


def _challenges(settings: Settings) -> Challenges:
    secret = kept_secrets.read_or_draw(settings.data_dir / CHALLENGE_KEY_FILE)
    return Challenges(secret.encode("ascii"))


def _model_folders(settings: Settings) -> list[pathlib.Path]:
    root = settings.models_dir
    if root is None:
        # Found, not imported: the package that builds models needs TensorFlow.
        spec = importlib.util.find_spec("tflite_models")
        if spec is None or spec.origin is None:
            return []
        root = pathlib.Path(spec.origin).parent / "artefacts"
    return sorted(path.parent for path in root.glob(f"*/{models.MANIFEST_FILE}"))
