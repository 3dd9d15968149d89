"""Models by name: ``registry`` lists and builds them, each family has a file; ``weights`` starts them off."""
