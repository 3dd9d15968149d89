"""A finished model for programs without kdignite: its graph or weights, proof that it is the same, and its card."""
