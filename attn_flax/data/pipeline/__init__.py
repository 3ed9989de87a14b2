"""Batches, from splits to the device."""
