"""Devices, real work on simulated phones, and the swarm that runs many of them."""
