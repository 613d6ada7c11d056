"""The commands `comosvc-convert` and `comosvc-doctor`, and what all commands share.

Imports every room of the runtime.
"""
