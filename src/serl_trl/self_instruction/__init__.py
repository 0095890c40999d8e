"""Self-instruction: from the instructions at hand to new, sound and different ones."""
