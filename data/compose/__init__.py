"""Training scenes from reference grains: a YOLO and a COCO data set with a manifest.

Palynologists own reference pictures of single taxa, not slides with boxes. This makes slides with boxes out of them:
grains of known taxa, grains of taxa that are kept out of the classes (labelled `unknown`), debris that is background,
and, where there are labelled fields, their tiles as they are.

What many processes read (cut grains, decoded fields) lies in files while a data set is made; a process is sent paths.
"""

from .dataset import compose_dataset
from .hardness import Hardness, Sighting, measure
from .recipe import Recipe

__all__ = ["Hardness", "Recipe", "Sighting", "compose_dataset", "measure"]
