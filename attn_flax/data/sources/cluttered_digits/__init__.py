"""Cluttered digits, a generated dataset: digits among fragments of other digits."""
