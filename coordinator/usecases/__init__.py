"""One function is one transaction is one thing that the outside can ask.

Devices: ``devices`` (enrol), ``check_in`` (get work), ``participation`` (report).
The worker: ``rounds`` (advance what is due, claim), ``release`` (fold and publish).
Operators: ``tasks``, ``models``. Each takes the moment and every source of randomness
as an argument, raises the refusals of ``domain.errors``, and leaves nothing half done.
"""
