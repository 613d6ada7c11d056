"""The acoustic model: network, diffusion, teacher and student losses.

Imports `vocoder` and the rooms below it.
"""
