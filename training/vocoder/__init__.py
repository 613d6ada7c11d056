"""The vocoders: networks, losses, training.

Imports `content` and the rooms below it.
"""
