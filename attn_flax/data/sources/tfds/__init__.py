"""Datasets of `tensorflow-datasets`, read without TensorFlow."""
