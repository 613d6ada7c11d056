"""Recordings and the features made from them.

Imports `loop` and `corpus`.
"""
