"""Pixels to grains: blocks, backbones, models, tiles and the detector."""
