"""Contents of a `.comosvc` bundle: manifest, graphs, singers.

Imports `errors`, `storage` and `audio`.
"""
