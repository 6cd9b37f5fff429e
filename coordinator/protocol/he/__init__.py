"""Results that are encrypted, and added up as they are.

A device lays its result out as whole numbers, as for secure aggregation, and encrypts
them with a key that is its round's alone. The coordinator adds ciphertexts. Only the
key authority, which is another process with another operator, can decrypt: once, a sum
of enough devices, and blinded, so that it does not see the sum either.

Source: Fan and Vercauteren 2012, "Somewhat Practical Fully Homomorphic Encryption".
"""
