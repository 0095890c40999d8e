"""Answers: reading one in a completion, comparing two, and voting on a group."""
