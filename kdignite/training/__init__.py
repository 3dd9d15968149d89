"""The life of one run: device, data, model, teacher, what will be done, the trainer, its state, the end."""
