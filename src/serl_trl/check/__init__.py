"""A look at a run before it: what the model writes, answers and agrees on, and what that takes."""
