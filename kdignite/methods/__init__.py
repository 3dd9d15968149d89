"""Distillation methods: each is one pure function and one row of `kdignite.methods.registry.METHODS`."""
