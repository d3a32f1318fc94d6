"""Landscapes that the project paints itself: procedural scenes with class maps that are exact to the pixel.

From plan to picture: ``composition`` lays materials out on a ``plan``, ``palette`` gives them colour and light,
``brush`` paints them in one of the ``manners``.
"""

from .dataset import paint_items, write_dataset
from .manners import BASE_MANNERS, DEMO_MANNERS, MANNERS
from .scene import Scene, paint

__all__ = ["BASE_MANNERS", "DEMO_MANNERS", "MANNERS", "Scene", "paint", "paint_items", "write_dataset"]
