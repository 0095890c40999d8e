"""Self-rewarding: from completions to answers, votes and a difficulty."""
