"""A study: many runs that differ in their attention and seed, measured alike."""
