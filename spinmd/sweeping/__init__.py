"""Many runs of one deck: ``spinmd sweep`` and ``spinmd.sweep``.

``values`` reads what ``--over`` says, ``plan`` makes the points of the grid and knows the folder, ``point`` runs one of them in
a process of its own, ``driver`` runs them all here, ``cluster`` on a Dask cluster, and ``table`` is the file of results.
"""
