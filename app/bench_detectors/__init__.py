"""Detectors compared: trained in one way side by side, scored on the same images with intervals, shown on a page.

`runs.py` trains and keeps what each detector finds, `score.py` makes one document of it, `render.py` a page of that.
A folder of runs holds a folder MODEL-sSEED each, as `palyno train` writes it, and in it `SET.json.gz`, what was found
on each set of images.
"""

SCHEMA = 1
