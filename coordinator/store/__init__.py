"""The only SQL, and the only files.

``engine`` opens a database and runs named transactions; ``tables`` is the schema and
``schema`` its versions. A module a noun holds the statements about it: each takes a
``Transaction`` and turns rows into domain records here and nowhere else. ``blobs``
keeps what is too large for a row.
"""
