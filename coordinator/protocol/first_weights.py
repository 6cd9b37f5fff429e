"""First weights that come with a model: a safetensors body of some of its tensors.

A frozen base must be given, a head that is trained may be: what the body does not hold
is drawn from the seed of each task's plan.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from coordinator.protocol import tensors
from coordinator.protocol.digests import Bytes
from coordinator.protocol.manifest import Manifest

Values = Mapping[str, npt.NDArray[np.float32]]  #: by tensor name, each in its shape


class InvalidFirstWeights(ValueError):
    """The body is no first weights of this model."""


def write(manifest: Manifest, values: Values) -> bytes:
    """Return the body that holds ``values``, in manifest order.

    Raises:
        KeyError: A name is none of the manifest's.
    """
    order = {spec.name: place for place, spec in enumerate(manifest.tensors)}
    ordered = sorted(values.items(), key=lambda item: order[item[0]])
    return tensors.write(ordered, {"model": manifest.model})


def read(manifest: Manifest, body: Bytes) -> Values:
    """Read and check first weights. Returns views of ``body``.

    Raises:
        InvalidFirstWeights: A tensor is none of the manifest's, has another shape or
            dtype, or is not finite; or a frozen tensor is missing.
    """
    try:
        container = tensors.read(body)
    except tensors.MalformedTensors as error:
        raise InvalidFirstWeights(str(error)) from error
    specs = {spec.name: spec for spec in manifest.tensors}
    values = {}
    for entry in container.entries:
        spec = specs.get(entry.name)
        if spec is None:
            raise InvalidFirstWeights(f"the model has no tensor {entry.name!a:.80}")
        if (entry.dtype, entry.shape) != ("F32", spec.shape):
            raise InvalidFirstWeights(
                f"tensor {spec.name} must be F32 of shape {spec.shape}, "
                f"got {entry.dtype} of shape {entry.shape}"
            )
        array = container.array(entry)
        if not np.isfinite(array).all():
            raise InvalidFirstWeights(f"tensor {spec.name} holds NaN or infinity")
        values[spec.name] = array
    for spec in manifest.tensors:
        if not spec.trainable and spec.name not in values:
            raise InvalidFirstWeights(f"frozen tensor {spec.name} is missing")
    return values
