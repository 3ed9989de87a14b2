"""The embedded dataset, which is generated: digits among pieces of others."""
