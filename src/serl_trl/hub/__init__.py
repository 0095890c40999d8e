"""A finished run on the Hub: its model with a card, and, if asked for, its instructions as a dataset."""
