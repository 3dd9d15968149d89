"""What is wrong with an evaluation: a model under each classic mistake, and which of them fits what was seen."""
