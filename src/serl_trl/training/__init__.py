"""Training: advantages, resume, what is checked before a model is loaded, the schedule and the summary."""
