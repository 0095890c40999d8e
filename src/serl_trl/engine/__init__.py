"""The engine that samples, and the way of weights and adapters to it."""
