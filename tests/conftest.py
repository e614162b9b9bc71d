"""Settings that all tests share."""

import os

# One thread a model: with more, runs on a busy two-core machine slow down several-fold and results vary with load.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
