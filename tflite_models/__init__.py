"""Models that phones train: Keras definitions, turned into LiteRT files.

A Keras `Sequential` comes in. Its layers are looked up in a registry of hand-written
gradients (`gradients`), strung together to training steps (`network`, `steps`) and
converted with builtin operators only (`export`), so that stock LiteRT trains the model
without the TensorFlow runtime. Out come three files (`building`, `files`):
`train.tflite`, which holds no weights, `model.tflite` for inference, whose weights are
patched for every version (`patches`), and `manifest.json`, which is all that the
coordinator and the devices know of the model. `check` proves what the files promise
against Keras and automatic differentiation (`reference`).
"""
