"""The same names as `afs.training.rebalancer`."""

from afs.training.rebalancer import *  # noqa: F403
