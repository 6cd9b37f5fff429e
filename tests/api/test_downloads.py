"""Models to fetch: immutable, cacheable, resumable."""

import numpy as np
import pytest

from coordinator.protocol import digests, encodings, paths, problems
from tests.support.http import Api, assert_problem
from tests.support.models import INFER, TRAIN, tiny_manifest

FILES = [
    paths.manifest("tiny"),
    paths.train_graph("tiny"),
    paths.weights("tiny", 0),
]
EVERY = [*FILES, paths.inference_file("tiny", 0)]


@pytest.mark.parametrize("path", EVERY)
async def test_a_download_is_immutable_and_names_its_bytes(api: Api, path: str) -> None:
    api.federation.start()

    response = await api.client.get(path)

    assert response.status_code == 200
    sha256 = digests.sha256_hex(response.content)
    assert response.headers["Repr-Digest"] == digests.content_digest(sha256)
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert int(response.headers["Content-Length"]) == len(response.content)
    assert response.headers["Content-Type"] == (
        "application/json" if path.endswith("manifest") else "application/octet-stream"
    )


async def test_downloads_are_the_models_bytes(api: Api) -> None:
    api.federation.start()

    contents = [(await api.client.get(path)).content for path in FILES]

    assert contents[0] == tiny_manifest().to_json()
    assert contents[1] == TRAIN
    weights = encodings.decode_weights(tiny_manifest(), contents[2])
    np.testing.assert_array_equal(weights, api.federation.weights(0))


async def test_the_inference_file_holds_the_versions_weights(api: Api) -> None:
    api.federation.start()

    content = (await api.client.get(paths.inference_file("tiny", 0))).content

    weights = api.federation.weights(0)
    assert content == (
        INFER[:64]
        + weights[:6].reshape(2, 3).T.tobytes()
        + weights[6:].tobytes()
        + INFER[104:]
    )


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_what_is_cached_is_not_sent_again(api: Api, path: str, form: str) -> None:
    api.federation.start()
    etag = (await api.client.get(path)).headers["ETag"]

    response = await api.client.get(path, headers={"If-None-Match": form.format(etag)})

    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["ETag"] == etag
    assert "immutable" in response.headers["Cache-Control"]


@pytest.mark.parametrize("path", EVERY)
async def test_what_is_cached_of_another_version_is_sent(api: Api, path: str) -> None:
    api.federation.start()

    response = await api.client.get(path, headers={"If-None-Match": '"another"'})

    assert response.status_code == 200


async def test_versions_have_tags_of_their_own(api: Api) -> None:
    api.federation.start()
    for _ in range(2):
        api.federation.take_part()
    api.federation.release(api.federation.must_claim())

    for path in (paths.weights, paths.inference_file):
        tags = [
            (await api.client.get(path("tiny", number))).headers["ETag"]
            for number in (0, 1)
        ]
        assert len(set(tags)) == 2


@pytest.mark.parametrize("path", FILES)
async def test_a_download_is_resumed(api: Api, path: str) -> None:
    api.federation.start()
    whole = await api.client.get(path)
    size = len(whole.content)

    response = await api.client.get(
        path, headers={"Range": "bytes=5-", "If-Range": whole.headers["ETag"]}
    )

    assert response.status_code == 206
    assert response.content == whole.content[5:]
    assert response.headers["Content-Range"] == f"bytes 5-{size - 1}/{size}"
    assert response.headers["Repr-Digest"] == whole.headers["Repr-Digest"]


async def test_a_part_of_something_else_is_not_sent(api: Api) -> None:
    api.federation.start()

    response = await api.client.get(
        FILES[1], headers={"Range": "bytes=5-", "If-Range": '"another"'}
    )

    assert (response.status_code, response.content) == (200, TRAIN)


@pytest.mark.parametrize(
    "asked",
    ["bytes=100000-", "bytes=9-5", "bytes=x", "lines=1-", f"bytes={'9' * 5000}-"],
    ids=lambda asked: asked[:16],
)
async def test_a_range_that_cannot_be_sent_is_refused_as_a_problem_or_passed_over(
    api: Api, asked: str
) -> None:
    api.federation.start()

    response = await api.client.get(FILES[1], headers={"Range": asked})

    if response.status_code == 200:
        assert response.content == TRAIN
    else:
        assert_problem(response, problems.RANGE_NOT_SATISFIABLE)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (paths.manifest("none"), problems.MODEL_UNKNOWN),
        (paths.train_graph("none"), problems.MODEL_UNKNOWN),
        (paths.weights("none", 0), problems.MODEL_UNKNOWN),
        (paths.inference_file("none", 0), problems.MODEL_UNKNOWN),
        (paths.weights("tiny", 1), problems.VERSION_UNKNOWN),
        (paths.inference_file("tiny", 2**31 - 1), problems.VERSION_UNKNOWN),
        (paths.weights("tiny", -1), problems.INVALID_REQUEST),
        (paths.weights("tiny", 2**31), problems.INVALID_REQUEST),
        ("/v1/models/tiny/versions/newest/weights", problems.INVALID_REQUEST),
        ("/v1/models/..%00/manifest", problems.INVALID_REQUEST),
        ("/v1/models/%2e%2e%2fsecret/manifest", problems.NOT_FOUND),
    ],
)
async def test_what_is_not_there_is_refused(
    api: Api, path: str, kind: problems.ProblemType
) -> None:
    api.federation.start()

    assert_problem(await api.client.get(path), kind)


async def test_a_lost_file_is_said_to_be_lost_until_it_is_back(api: Api) -> None:
    api.federation.start()
    assignment = await api.lease(api.enrol())
    path = api.federation.blobs.path(assignment["weights"]["sha256"])
    content = path.read_bytes()
    path.unlink()

    response = await api.client.get(assignment["weights"]["url"])

    document = assert_problem(response, problems.BLOB_LOST)
    assert "detail" not in document
    assert str(path) not in response.text
    path.write_bytes(content)
    response = await api.client.get(assignment["weights"]["url"])
    assert (response.status_code, response.content) == (200, content)
