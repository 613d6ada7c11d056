"""The loop that every stage runs in: checkpoints, devices, batches, logs.

Imports `errors` and `config`.
"""
