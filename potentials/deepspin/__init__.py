"""DeepSPIN: a deep potential of positions and spins (Yang et al., arXiv:2304.09606), its classical prior, training and inference.

``model`` holds what a trained model is; ``model_file`` reads and writes it; ``potential`` is the term that dynamics uses
(numpy and numba only). ``torch_*``, ``training`` and what they import need torch, and nothing else here imports them.
"""
