"""Immutable checkpoints, and the log of promotions that says which of them each project serves."""

from underpaint.checkpoints.checkpoint import Card, CardError, Checkpoint
from underpaint.checkpoints.store import Promotion, Store, StoreError

__all__ = ["Card", "CardError", "Checkpoint", "Promotion", "Store", "StoreError"]
