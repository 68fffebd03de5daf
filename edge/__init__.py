"""The edge agent: runs the model on every frame, spools what it is unsure about, and takes new releases."""

import os

# After a product of two small matrices NumPy's BLAS has a thread for each core that spins for tens of milliseconds, at
# normal priority: frames waited for it after each swap. It reads this when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
