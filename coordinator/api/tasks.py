"""The operator's routes: tasks, rounds, metrics, events."""

import functools
from collections.abc import AsyncIterator
from typing import Annotated

import fastapi
from fastapi import Header, Query, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from coordinator.api import callers, rendering
from coordinator.api.problems import refusals
from coordinator.api.services import Given, Services
from coordinator.domain.aggregation import Score
from coordinator.protocol import operations, paths, problems
from coordinator.protocol.manifest import Name
from coordinator.usecases import privacy, tasks

router = fastapi.APIRouter(tags=["operator"])
_OPERATOR = (problems.UNAUTHENTICATED, problems.FORBIDDEN)
_STREAM_WAIT_S = 15.0
_STREAM_BATCH = 500
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("data", "event", "id")},
}
_UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class _EventStream(StreamingResponse):
    """Server-sent events.

    The framework's own way, a route that yields, raises into the log when the reader
    goes away.
    """

    media_type = "text/event-stream"


@router.post(
    paths.TASKS,
    status_code=201,
    response_model=operations.TaskState,
    responses=refusals(
        *_OPERATOR,
        problems.MODEL_UNKNOWN,
        problems.TASK_EXISTS,
        problems.UNSUITABLE_PLAN,
        *problems.FILES,
    ),
    dependencies=[callers.RUN],
    summary="Start a task",
)
async def create_task(
    body: operations.TaskRequest, given: Given
) -> operations.TaskState:
    """Publish first weights and open the first round.

    Weights that came with the model are taken as they are; the others are drawn from
    the plan's seed.
    """

    def call() -> operations.TaskState:
        return rendering.task_state(
            tasks.create(
                given.store,
                given.blobs,
                task_id=body.id,
                plan=body.plan,
                has_authority=given.has_authority,
                now=given.clock.now(),
            )
        )

    return await given.call(call)


@router.get(
    paths.TASKS,
    response_model=operations.TaskList,
    responses=refusals(*_OPERATOR),
    dependencies=[callers.READ],
    summary="List tasks",
)
async def list_tasks(given: Given) -> operations.TaskList:
    """List every task, newest first."""

    def call() -> operations.TaskList:
        views = tasks.list_tasks(given.store, now=given.clock.now())
        return operations.TaskList(
            tasks=tuple(rendering.task_state(view) for view in views)
        )

    return await given.call(call)


@router.get(
    paths.TASKS + "/{task}",
    response_model=operations.TaskState,
    responses=refusals(*_OPERATOR, problems.TASK_UNKNOWN),
    dependencies=[callers.READ],
    summary="Look at a task",
)
async def get_task(task: Name, given: Given) -> operations.TaskState:
    """See a task's status and its open rounds."""

    def call() -> operations.TaskState:
        return rendering.task_state(
            tasks.look(given.store, task_id=task, now=given.clock.now())
        )

    return await given.call(call)


@router.post(
    paths.TASKS + "/{task}/stop",
    response_model=operations.TaskState,
    responses=refusals(*_OPERATOR, problems.TASK_UNKNOWN, problems.TASK_ENDED),
    dependencies=[callers.RUN],
    summary="Stop a task",
)
async def stop_task(task: Name, given: Given) -> operations.TaskState:
    """Stop a task: its open round is abandoned, what it published stays."""

    def call() -> operations.TaskState:
        return rendering.task_state(
            tasks.stop(given.store, task_id=task, now=given.clock.now())
        )

    return await given.call(call)


@router.post(
    paths.TASKS + "/{task}/rollback",
    response_model=operations.TaskState,
    responses=refusals(
        *_OPERATOR,
        problems.TASK_UNKNOWN,
        problems.VERSION_UNKNOWN,
        problems.TASK_ENDED,
    ),
    dependencies=[callers.RUN],
    summary="Let a task go on from another version",
)
async def roll_back_task(
    task: Name,
    body: operations.RollbackRequest,
    given: Given,
) -> operations.TaskState:
    """Let a running task go on from another of its versions, mostly an older one.

    Its open round is abandoned and opened anew from there; the state of the server's
    optimizer is that version's. What was published stays.
    """

    def call() -> operations.TaskState:
        view = tasks.roll_back(
            given.store, task_id=task, number=body.version, now=given.clock.now()
        )
        return rendering.task_state(view)

    return await given.call(call)


@router.get(
    paths.TASKS + "/{task}/rounds",
    response_model=operations.RoundList,
    responses=refusals(*_OPERATOR, problems.TASK_UNKNOWN),
    dependencies=[callers.READ],
    summary="List a task's rounds",
)
async def list_rounds(task: Name, given: Given) -> operations.RoundList:
    """List every attempt at every round, oldest first."""

    def call() -> operations.RoundList:
        views = tasks.list_rounds(given.store, task_id=task, now=given.clock.now())
        return operations.RoundList(
            rounds=tuple(rendering.round_state(view) for view in views)
        )

    return await given.call(call)


@router.get(
    paths.TASKS + "/{task}/metrics",
    response_model=operations.MetricsList,
    responses=refusals(*_OPERATOR, problems.TASK_UNKNOWN),
    dependencies=[callers.READ],
    summary="List how good a task's versions are",
)
async def list_metrics(task: Name, given: Given) -> operations.MetricsList:
    """List training, federated and held-out figures of every version."""

    def call() -> operations.MetricsList:
        views = tasks.list_metrics(given.store, task_id=task)
        return operations.MetricsList(
            versions=tuple(rendering.version_metrics(view) for view in views)
        )

    return await given.call(call)


@router.get(
    paths.TASKS + "/{task}/privacy",
    response_model=operations.PrivacyReport,
    responses=refusals(*_OPERATOR, problems.TASK_UNKNOWN),
    dependencies=[callers.READ],
    summary="See what a task gives away",
)
async def get_privacy(task: Name, given: Given) -> operations.PrivacyReport:
    """See what a task can give away of a device so far, and under which assumptions."""

    def call() -> operations.PrivacyReport:
        return rendering.privacy_report(privacy.look(given.store, task_id=task))

    return await given.call(call)


@router.post(
    paths.TASKS + "/{task}/metrics",
    response_model=operations.VersionMetrics,
    responses=refusals(*_OPERATOR, problems.TASK_UNKNOWN, problems.VERSION_UNKNOWN),
    dependencies=[callers.RUN],
    summary="Record a held-out figure",
)
async def record_held_out(
    task: Name,
    body: operations.HeldOutReport,
    given: Given,
) -> operations.VersionMetrics:
    """Record what you measured of a version on examples of your own.

    Where the plan's gate finds it too much worse, the task goes back to an earlier one.
    """

    def call() -> operations.VersionMetrics:
        view = tasks.record_held_out(
            given.store,
            task_id=task,
            number=body.version,
            score=Score(
                examples=body.score.examples,
                loss=body.score.loss,
                accuracy=body.score.accuracy,
            ),
            now=given.clock.now(),
        )
        return rendering.version_metrics(view)

    return await given.call(call)


@router.get(
    paths.EVENTS,
    response_class=_EventStream,
    responses={
        200: {
            "description": "Events as they happen, without end.",
            "content": {_EventStream.media_type: {"itemSchema": _EVENT_SCHEMA}},
        },
        **refusals(*_OPERATOR),
    },
    dependencies=[callers.READ],
    summary="Follow what happens",
)
async def stream_events(
    given: Given,
    after: Annotated[
        int, Query(ge=0, le=2**53, description="Only events with a greater id.")
    ] = 0,
    last_event_id: Annotated[
        int,
        Header(
            ge=0,
            le=2**53,
            description="Sent by browsers that reconnect; the greater of both counts.",
        ),
    ] = 0,
) -> Response:
    """Stream the history as server-sent events: `id`, `event` (its type), `data`."""
    return _EventStream(_events(given, max(after, last_event_id)), headers=_UNBUFFERED)


async def _events(given: Services, position: int) -> AsyncIterator[bytes]:
    has_waited = False
    while not given.watcher.stopped:
        recorded = await given.call(
            functools.partial(
                tasks.list_events, given.store, after=position, limit=_STREAM_BATCH
            )
        )
        for each in recorded:
            position = each.id
            yield format_sse_event(
                data_str=rendering.event(each).model_dump_json(),
                event=each.happening,
                id=str(each.id),
            )
        if not recorded:
            if has_waited:
                yield KEEPALIVE_COMMENT
            await given.watcher.wait_for_events(position, _STREAM_WAIT_S)
        has_waited = not recorded
