"""One file a command: wiring, no maths. Each takes a config, and can be called from Python."""
