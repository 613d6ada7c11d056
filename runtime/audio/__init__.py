"""Sound as arrays and files, without a model or a bundle.

Imports `errors` and `storage` only.
"""
