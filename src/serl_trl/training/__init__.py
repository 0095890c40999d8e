"""Training: advantages, resume, what is checked before a model is loaded, iterations, and the summary."""
