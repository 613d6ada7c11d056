"""Graphs in fp16 and int8, measured against float32.

Imports `graphs` and the rooms below it.
"""
