"""Objective measures of voices: the paper's, for whatever systems and data there are."""
