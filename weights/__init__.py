"""Weights that ship: safetensors, a model card each, and `models.lock`."""
