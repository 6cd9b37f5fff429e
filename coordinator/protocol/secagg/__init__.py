"""Secure aggregation: a coordinator learns a cohort's sum and no device's vector.

Double masking on a regular graph. Each device masks its vector twice: with one mask of
its own, and with one for each neighbour that the neighbour's vector takes away again.
It hands every neighbour a share of its own mask's secret and of its key. Of a device
whose vector came in, the neighbours later give the shares of the first; of one that
vanished, those of the second; never both.

``parameters`` says how many neighbours and shares there must be, ``graph`` who is whose
neighbour, ``keys`` what is agreed on with them, ``shamir`` splits secrets, ``masks``
expands them, ``fixed_point`` lays an update out as whole numbers, ``messages`` is what
travels. ``device`` is the device's side, step by step, and ``scrutiny`` what it checks;
``cohort``, ``stages`` and ``unmasking`` are the coordinator's. No I/O, no clock.

What is assumed: the coordinator hands on the keys of real devices (it may invent none,
or identities are attested), and fewer devices than ``collusion`` says work with it.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving
    Machine Learning"; Bell et al. 2020, "Secure Single-Server Aggregation with
    (Poly)Logarithmic Overhead".
"""
