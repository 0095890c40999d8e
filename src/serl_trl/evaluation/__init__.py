"""Evaluation: from labelled instructions to metrics with their intervals."""
