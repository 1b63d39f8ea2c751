"""Kernels: learned activations in one pass over memory, compiled by numba and Triton."""
