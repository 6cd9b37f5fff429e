"""Layers with hand-written gradients.

Automatic differentiation lowers to operators that LiteRT only has with the TensorFlow
runtime (Flex). Each record here states one layer's forward and backward pass in
operations that convert to builtin operators, and to those that are fast: products are
batch matrix products, never convolutions with weights that come in at run time.

Shapes are static but for the first axis, the batch: a reshape is a constant with one
-1, nothing asks for a shape at run time. So one file takes any batch size, and LiteRT
plans the memory of a step before it runs.
"""
