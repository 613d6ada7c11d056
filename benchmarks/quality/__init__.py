"""Quality of a voice on the held-out set.

Imports `held_out`, `metrics` and `report`.
"""
