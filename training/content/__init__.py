"""The content encoder: network, data, training, and encoders of others.

Imports `data` and the rooms below it.
"""
