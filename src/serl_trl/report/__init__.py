"""The page about a run, and what is on it: plain data from the run's folder, without torch."""
