"""Training batches made on the GPU: decoded images stay in its memory and are augmented there, a batch at a time.

Small detectors train faster than processors can decode and augment. `store.py` holds images and boxes, `geometry.py`
places them, `light.py` changes what a microscope and its camera would, `loader.py` is what the trainer reads.
"""
