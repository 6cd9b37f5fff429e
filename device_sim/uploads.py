"""An update on its way: whole at first, and after a break only what is missing.

Decided here: which request comes next. Not decided here: when, and whether a refusal
stays one (``client``). The first request is an ordinary one, so nothing is slower where
nothing breaks off. The upload resource has the update's address and the body's digest.

Source: draft-ietf-httpbis-resumable-upload-12, section 4.
"""

import enum
from typing import Final

import httpx
import pydantic

from coordinator.protocol import digests, paths, problems, uploads

#: Bytes. Asking what has come in of less is not worth its while.
RESUMED_FROM: Final = 16 * 1024
#: What has come in is of no use any more, or gone.
_ANEW: Final = frozenset(
    kind.type
    for kind in (
        problems.UPLOAD_UNKNOWN,
        problems.INCONSISTENT_LENGTH,
        problems.COMPLETED_UPLOAD,
        problems.DIGEST_MISMATCH,
    )
)


class Step(enum.Enum):
    """What is to be sent next."""

    WHOLE = enum.auto()
    ASK = enum.auto()
    REST = enum.auto()


class Sending:
    """One update's body, until it is received."""

    def __init__(self, *, path: str, body: bytes, sha256: str) -> None:
        """Send ``body``, whose digest is ``sha256``, to ``path``."""
        self._path = path
        self._body = body
        self._sha256 = sha256
        self._is_resumable = len(body) >= RESUMED_FROM
        self._offset = 0
        self.step = Step.WHOLE

    def request(self) -> tuple[str, str, dict[str, str], bytes]:
        """Return method, path, fields and body of the next request."""
        upload = paths.upload(self._path, self._sha256)
        if self.step is Step.ASK:
            return "HEAD", upload, {}, b""
        if self.step is Step.REST:
            rest = self._body[self._offset :]
            fields = {
                "Content-Type": uploads.MEDIA_TYPE,
                digests.FIELD: digests.content_digest(digests.sha256_hex(rest)),
                uploads.OFFSET: str(self._offset),
                uploads.COMPLETE: uploads.TRUE,
            }
            return "PATCH", upload, fields, rest
        fields = {
            "Content-Type": "application/octet-stream",
            digests.FIELD: digests.content_digest(self._sha256),
        }
        if self._is_resumable:
            fields[uploads.COMPLETE] = uploads.TRUE
        return "POST", self._path, fields, self._body

    def lose(self) -> None:
        """Take in that no usable answer came: part of the body may have arrived."""
        if self._is_resumable:
            self.step = Step.ASK

    def learn(self, answer: httpx.Response) -> None:
        """Take in what the coordinator says of how much has arrived."""
        offset = uploads.read_count(answer.headers.get(uploads.OFFSET))
        if answer.is_success and offset is not None and offset <= len(self._body):
            self._offset, self.step = offset, Step.REST
        else:  # an answer to HEAD cannot say why: one to POST can
            self.step = Step.WHOLE

    def takes_back(self, answer: httpx.Response) -> bool:
        """Whether a refusal is only of how the body was sent; it is sent otherwise."""
        if self.step is not Step.REST:
            return False
        try:
            kind = problems.Problem.model_validate_json(answer.content).type
        except pydantic.ValidationError:
            return False
        if kind == problems.MISMATCHING_OFFSET.type:
            self.step = Step.ASK
        elif kind in _ANEW:
            self.step = Step.WHOLE
        else:
            return False
        return True
