"""Why a detection was made, and whether a network's attention follows the borders of what it sees.

    explanation = detector.explain("slide.tif", result[0], methods=["gradcam", "ig"])

- `attribution`: Grad-CAM, EigenCAM and integrated gradients, from their equations.
- `opened`: a network whose layers can be looked at, ours or a YOLO of ultralytics'.
- `sight`: what the network is shown of a slide, and its place that answers for the grain.
- `explaining`: one grain explained.
- `boundary`: the share of an attribution that lies along an object's border, against chance.
"""

from .explaining import METHODS, Attribution, Explanation, explain

__all__ = ["METHODS", "Attribution", "Explanation", "explain"]
