"""The algorithm, block by block. Graphs are callables from inputs to outputs.

Imports `errors`, `storage`, `audio` and `voice`.
"""
