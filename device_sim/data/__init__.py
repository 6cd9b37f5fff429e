"""The data of a swarm: who holds which examples, and what the model is judged on.

``load`` reads one of four sources, named as on the command line, and answers a
``Federation``: one ``Shard`` a device and a held-out set that no device trains on.

==============================  ================================================
``sample``                      5,000 MNIST digits, offline, without writers
``npz:PATH``                    one file of images by writer
``fed-emnist[:digits|:all]``    federated EMNIST, downloaded once
``leaf:DIR``                    LEAF's FEMNIST as its own scripts write it
==============================  ================================================

Every source ends up alike: uint8 images, 28x28, white ink on black paper. In the last
three a device is a real writer, unless ``dealing`` pools what they wrote and deals it
out anew, as it does with ``sample``: by label, by quantity, by features or evenly. A
file that is missing, cut short or of another kind is a ``DataError`` that says what to
do.
"""

from device_sim.data.dealing import Dealing, Partition
from device_sim.data.federation import DataError, Federation, Shard
from device_sim.data.sources import default_partition, load

__all__ = [
    "DataError",
    "Dealing",
    "Federation",
    "Partition",
    "Shard",
    "default_partition",
    "load",
]
