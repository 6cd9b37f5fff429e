"""The wire: what a device and the coordinator must compute alike.

``paths`` names the URLs, ``messages`` the JSON bodies of devices and ``operations``
those of operators, ``vocabulary`` the words in them, ``problems`` the refusals,
``plans`` what a device is asked to do, ``manifest`` the layout of a model's tensors,
``tensors`` the safetensors bytes, ``encodings`` how a delta is written into them and
``digests`` how bytes are named. ``secagg`` is how devices add up vectors that nobody is
shown. A leaf: it imports nothing else of the coordinator, so that a device installs
without the service.
"""
