"""The drawing itself: the only package that imports torch, diffusers and transformers."""

import logging
import os

# Read by GNU's OpenMP when torch is imported, which only this package does. Threads that wait for one another spin 300 times as long unless
# told otherwise: with the cores to themselves they gain nothing by that, and beside another busy process a step takes twice as long, or far
# longer, because one spins away the time in which the other could end its part.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# diffusers imports torchao wherever it is installed, and both then warn of what nobody here asks of it.
for _name in ("torchao", "diffusers.quantizers.torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
