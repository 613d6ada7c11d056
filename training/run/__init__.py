"""Stages of a run folder that need several networks: teacher and student, fine-tuning, rendering.

Imports `foreign` and the rooms below it.
"""
