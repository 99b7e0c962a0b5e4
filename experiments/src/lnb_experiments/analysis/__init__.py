"""Comparisons between optimizers, computed from records."""
