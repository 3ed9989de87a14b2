"""Writes what a study found as HTML, Markdown and CSV."""
