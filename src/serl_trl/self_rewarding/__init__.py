"""Self-rewarding: from completions to answers, votes and a difficulty (SeRL, section 3.2)."""
