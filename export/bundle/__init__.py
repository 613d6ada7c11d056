"""From a voice to the files of its bundle.

Imports `graphs`, `precision` and the rooms below them.
"""
