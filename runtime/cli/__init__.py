"""The commands `comosvc-convert` and `comosvc-doctor`, and helpers of all commands.

Imports every room of the runtime.
"""
