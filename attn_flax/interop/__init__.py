"""Weights and programs of other frameworks."""
