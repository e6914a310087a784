"""The step on an NVIDIA GPU: arrays, neighbour lists and the model; terms and integrators are in the rooms' ``cuda`` folders.

Imported only where ``device = "cuda"`` is asked for: it brings torch and numba.cuda along.
"""
