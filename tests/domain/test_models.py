from coordinator.domain.models import Model
from tests.support.models import tiny_manifest


def test_a_model_is_known_by_the_name_in_its_manifest() -> None:
    model = Model(
        manifest=tiny_manifest("wide"), manifest_sha256="0" * 64, manifest_size_bytes=1
    )
    assert model.id == "wide"
