"""Figures, tables and the page about all runs of a folder."""
