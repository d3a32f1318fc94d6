"""Nets that turn a painting into a class map.

Importing this package makes torchvision importable; import it before anything that needs torchvision.
"""

from underpaint.segmenter.torchvision_ops import define_missing_ops

define_missing_ops()
