"""Grains and phrases in one space: type a phrase, get grains; point at a grain, get phrases."""
