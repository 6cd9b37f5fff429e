"""Numerics of the coordinator, on a CPU or a GPU: what turns updates into a version.

``backend`` chooses the device, ``fold`` takes the weighted mean of the deltas and
``server_step`` applies it to the weights with a Keras optimizer. Written with Keras 3
ops, so that ``KERAS_BACKEND`` may name TensorFlow or JAX. Only the worker process
imports this package; the API process never loads TensorFlow.
"""

import os

# TensorFlow, JAX and Keras read these once, when they are first imported, so the only
# place early enough is here. What the operator has set is left alone.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no start-up logs; errors raise
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX: grow, as TF does
