"""A folder of images of one's own, and the class folders of ImageNet."""
