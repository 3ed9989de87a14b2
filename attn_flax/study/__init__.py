"""A study: runs that differ in attention and seed alone, trained and measured the same way."""
