"""The key authority: it holds the secret keys of rounds, and decrypts one sum of each.

It is a process of its own, with a folder, a database and an operator of its own. What
it trusts is little: whoever has the coordinator's token may ask for keys, and may have
one blinded sum of each, of results that enough devices signed.
"""
