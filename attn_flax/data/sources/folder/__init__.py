"""Folders of images: a user's own, and the class folders of ImageNet."""
