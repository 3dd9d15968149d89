"""Models: ``registry`` lists and builds them, each family has a file, ``weights`` loads pretrained ones."""
