"""HTTP of devices and operators: what is tried again, when, and what is believed.

Decided here: a call is repeated after a lost connection, a 5xx answer or a refusal
whose type says that trying again makes sense, with exponential backoff, full jitter and
``Retry-After``, until its deadline. Every call is safe to repeat: check-ins carry an
Idempotency-Key, reports are told apart by their digest. Not decided here: what a
refusal means to a device (``participant``).

Source: RFC 9110, section 10.2.3 (Retry-After); RFC 9530 (digests); M. Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (full jitter).
"""

import asyncio
import contextlib
import dataclasses
import email.utils
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeVar

import httpx
import numpy as np
import pydantic

from coordinator.protocol import deltas, digests, messages, paths, problems
from coordinator.protocol.manifest import Record
from device_sim import uploads
from device_sim.identity import Credential, Signer

_RETRY_TYPES: Final = frozenset(kind.type for kind in problems.ALL if kind.retry)
_RETRY_STATUS: Final = frozenset({408, 425, 429})
_JSON: Final = {"Content-Type": "application/json"}
_R = TypeVar("_R", bound=Record)


class Refused(Exception):
    """The coordinator refuses; the same request will not succeed later."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(f"{problem.title} ({problem.detail or problem.type})")
        self.problem = problem

    def is_of(self, *kinds: problems.ProblemType) -> bool:
        """Whether the refusal is of one of ``kinds``."""
        return self.problem.type in {kind.type for kind in kinds}


class Unreachable(Exception):
    """No usable answer came before the call's deadline."""


class UnexpectedAnswer(Exception):
    """Something answered 2xx, but not as a coordinator would."""


class CorruptDownload(Exception):
    """Bytes were fetched several times and never had the digest they should have."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a call is repeated. Times in seconds."""

    first_s: float = 0.2  #: upper end of the first backoff; it doubles from there
    longest_s: float = 10.0  #: upper end of every later backoff
    patience_s: float = 60.0  #: how long a call without a deadline is repeated
    downloads: int = 3  #: how often a download with a wrong digest is fetched


@dataclasses.dataclass(slots=True, kw_only=True)
class Traffic:
    """Bytes that clients moved. Grows; repeated requests count again."""

    bytes_up: int = 0  #: bodies sent, of broken ones what was sent
    broken: int = 0  #: bodies that the simulated network broke off
    bytes_down: int = 0  #: downloads received, as they came over the wire


class Client:
    """Calls one coordinator, as one device or one operator."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        jitter: np.random.Generator,
        traffic: Traffic | None = None,
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        cut: Callable[[int], int | None] = lambda _: None,
    ) -> None:
        """Call through ``http``.

        Args:
            http: Knows the coordinator's address.
            jitter: Draws backoffs.
            traffic: Counts; several clients may share it.
            policy: When a call is repeated.
            sleep: Waits so many seconds.
            monotonic: Tells seconds.
            cut: Says of a body of so many bytes after how many the network breaks off;
                None: it holds.
        """
        self._http = http
        self._cut = cut
        self._jitter = jitter
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self.monotonic = monotonic
        self.traffic = traffic or Traffic()

    async def enrol(
        self, request: messages.EnrolRequest, signer: Signer | None = None
    ) -> messages.Enrolment:
        """Introduce a device. Raises Refused, Unreachable, UnexpectedAnswer.

        ``signer`` holds the key that the request names, if it names one.
        """
        body = await self.send(
            "POST", paths.DEVICES, credential=signer, content=_json(request)
        )
        return parse(messages.Enrolment, body)

    async def check_in(
        self, credential: Credential, *, key: str, wait_s: float
    ) -> messages.CheckIn:
        """Ask for work. Raises Refused, Unreachable, UnexpectedAnswer.

        Args:
            credential: Proves who the device is.
            key: Idempotency-Key; the same one again gives the same assignment.
            wait_s: Seconds that the coordinator may hold the answer back.
        """
        request = messages.CheckInRequest(wait_s=wait_s, encodings=deltas.NAMES)
        body = await self.send(
            "POST",
            paths.CHECK_INS,
            credential=credential,
            headers={"Idempotency-Key": key},
            content=_json(request),
        )
        return parse(messages.CheckIn, body)

    async def is_ready(self) -> bool:
        """Whether the coordinator answers, at once, that devices may come."""
        try:
            answer = await self._http.get(paths.READY, timeout=1.0)
        except httpx.TransportError:
            return False
        return answer.is_success

    async def send_update(
        self,
        credential: Credential,
        path: str,
        *,
        body: bytes,
        sha256: str,
        deadline: float,
    ) -> messages.Receipt:
        """Post an update's body until it is received or ``deadline`` passes.

        Raises:
            Refused: The coordinator will never take it.
            Unreachable: ``deadline``, on the client's monotonic clock, passed first.
        """
        sending = uploads.Sending(path=path, body=body, sha256=sha256)
        count = 0
        while True:
            method, target, fields, content = sending.request()
            call = f"{method} {target}"
            try:
                answer = await self._once(method, target, credential, fields, content)
            except httpx.TransportError as error:
                sending.lose()
                fault, retry_after_s = _describe(error), None
            else:
                if sending.step is uploads.Step.ASK and not _may_pass(answer):
                    sending.learn(answer)
                    continue
                if answer.is_success:
                    return parse(messages.Receipt, answer.content)
                if sending.takes_back(answer):
                    fault, retry_after_s = answer.reason_phrase, None
                else:
                    fault, retry_after_s = _read_refusal(answer)
                    sending.lose()
            await self._pause(call, count, deadline, fault, retry_after_s)
            count += 1

    async def send_evaluation(
        self,
        credential: Credential,
        path: str,
        report: messages.EvaluationReport,
        *,
        deadline: float,
    ) -> messages.EvaluationReceipt:
        """Post an evaluation. Raises Refused, Unreachable, UnexpectedAnswer."""
        answer = await self.send(
            "POST",
            path,
            credential=credential,
            content=_json(report),
            deadline=deadline,
        )
        return parse(messages.EvaluationReceipt, answer)

    async def send_failure(
        self,
        credential: Credential,
        path: str,
        report: messages.FailureReport,
        *,
        deadline: float,
    ) -> messages.FailureReceipt:
        """Give an assignment up. Raises Refused, Unreachable, UnexpectedAnswer."""
        answer = await self.send(
            "POST",
            path,
            credential=credential,
            content=_json(report),
            deadline=deadline,
        )
        return parse(messages.FailureReceipt, answer)

    async def fetch(
        self,
        url: str,
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """Fetch immutable bytes and verify them.

        Args:
            url: Path on the coordinator, or an absolute address.
            sha256: Digest they must have; without one, the one that the answer names.
            size_bytes: Length they must have, if known.
            deadline: On the client's monotonic clock; ``patience_s`` without one.

        Raises:
            CorruptDownload: They came several times, each time with a wrong digest.
            Refused: There are no such bytes.
            Unreachable: The deadline passed first.
        """
        limit = self._limit(deadline)
        fault = ""
        for count in range(self._policy.downloads):
            if count:
                await self._pause(f"GET {url}", count - 1, limit, fault, None)
            content, expected = await self._download(url, size_bytes, limit)
            expected = sha256 or expected
            found = digests.sha256_hex(content)
            if found == expected:
                return content
            fault = f"{url} must have SHA-256 {expected or 'in a field'}, got {found}"
        raise CorruptDownload(f"{fault}, {self._policy.downloads} times")

    async def send(
        self,
        method: str,
        path: str,
        *,
        credential: Credential | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """Send one request until it is answered; return the 2xx answer's body.

        Raises:
            Refused: The answer is a refusal that stays one.
            Unreachable: ``deadline`` passed first.
        """
        fields = dict(_JSON) | dict(headers or {})
        limit = self._limit(deadline)
        count = 0
        while True:
            try:
                response = await self._once(
                    method, path, credential, fields, content or b""
                )
            except httpx.TransportError as error:
                fault, retry_after_s = _describe(error), None
            else:
                if response.is_success:
                    return response.content
                fault, retry_after_s = _read_refusal(response)
            await self._pause(f"{method} {path}", count, limit, fault, retry_after_s)
            count += 1

    async def _once(
        self,
        method: str,
        path: str,
        credential: Credential | None,
        fields: Mapping[str, str],
        content: bytes,
    ) -> httpx.Response:
        """Send a request once, over a network that may break off."""
        proved = dict(fields)
        if credential is not None:  # a signature counts once: each try has its own
            signed_path = path.partition("?")[0]
            proved |= credential.fields(method, signed_path, fields, content)
        size = self._cut(len(content))
        if size is None:
            self.traffic.bytes_up += len(content)
            return await self._http.request(
                method, path, headers=proved, content=content or None
            )
        self.traffic.bytes_up += size
        self.traffic.broken += 1
        proved["Content-Length"] = str(len(content))
        return await self._http.request(
            method, path, headers=proved, content=_broken_off(content[:size])
        )

    async def _download(
        self, url: str, size_bytes: int | None, limit: float
    ) -> tuple[bytes, str | None]:
        count = 0
        while True:
            try:
                async with self._http.stream("GET", url) as response:
                    if response.is_success:
                        content = await self._read(response, size_bytes)
                        return content, _announced_digest(response)
                    await response.aread()
            except httpx.TransportError as error:
                fault, retry_after_s = _describe(error), None
            else:
                fault, retry_after_s = _read_refusal(response)
            await self._pause(f"GET {url}", count, limit, fault, retry_after_s)
            count += 1

    async def _read(self, response: httpx.Response, size_bytes: int | None) -> bytes:
        content = bytearray()
        before = 0
        async for part in response.aiter_bytes():
            self.traffic.bytes_down += response.num_bytes_downloaded - before
            before = response.num_bytes_downloaded
            content += part
            if size_bytes is not None and len(content) > size_bytes:
                break  # the digest cannot fit any more: do not fill the memory
        return bytes(content)

    def _limit(self, deadline: float | None) -> float:
        if deadline is not None:
            return deadline
        return self.monotonic() + self._policy.patience_s

    async def _pause(
        self,
        call: str,
        count: int,
        limit: float,
        fault: str,
        retry_after_s: float | None,
    ) -> None:
        """Wait before repetition number ``count`` + 1. Raises Unreachable."""
        policy = self._policy
        # min() of the exponent: 2**1024 would overflow after a very long outage.
        ceiling = min(policy.longest_s, policy.first_s * 2 ** min(count, 30))
        wait_s = (retry_after_s or 0.0) + float(self._jitter.uniform(0, ceiling))
        if self.monotonic() + wait_s > limit:
            raise Unreachable(f"{call}: no answer after {count + 1} attempts: {fault}")
        await self._sleep(wait_s)


def parse(kind: type[_R], body: bytes) -> _R:
    """Read an answer's JSON body.

    Raises:
        UnexpectedAnswer: It is not of ``kind``.
    """
    try:
        # Later versions of the API may add fields.
        return kind.model_validate_json(body, extra="ignore")
    except pydantic.ValidationError as error:
        raise UnexpectedAnswer(
            f"the answer is no {kind.__name__}: {error.error_count()} faults in "
            f"{body[:80]!r}"
        ) from error


def _json(record: Record) -> bytes:
    # Without what is absent: an older coordinator refuses fields that it does not know.
    return record.model_dump_json(exclude_none=True).encode()


async def _broken_off(content: bytes) -> AsyncIterator[bytes]:
    yield content
    raise httpx.WriteError("the simulated network broke off")


def _describe(error: httpx.TransportError) -> str:
    return f"{type(error).__name__} {error}".strip()


def _read_refusal(response: httpx.Response) -> tuple[str, float | None]:
    """Return what is wrong and Retry-After, of a refusal that may pass.

    Raises:
        Refused: It will not pass.
    """
    try:
        problem = problems.Problem.model_validate_json(response.content)
    except pydantic.ValidationError:  # a proxy's page, say
        problem = problems.Problem(
            type="about:blank",
            title=response.reason_phrase or "no reason given",
            status=response.status_code,
        )
    if problem.type not in _RETRY_TYPES and not _may_pass(response):
        raise Refused(problem)
    fault = f"{response.status_code} {problem.title}"
    return fault, _retry_after(response) or problem.retry_after_s


def _may_pass(response: httpx.Response) -> bool:
    """Whether a refusal may pass, by its status alone."""
    return response.status_code in _RETRY_STATUS or response.is_server_error


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After field; its date form is measured from Date."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return seconds if 0 <= seconds < float("inf") else None
    try:
        until = email.utils.parsedate_to_datetime(value)
        now = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):  # malformed, or one date without a zone
        return None


def _announced_digest(response: httpx.Response) -> str | None:
    """Return the digest that the answer itself names: the same for a whole answer."""
    for field in ("Repr-Digest", digests.FIELD):
        with contextlib.suppress(ValueError):
            return digests.parse_content_digest(response.headers.get(field, ""))
    return None
