"""The ranks: who they are, what they exchange, and who owns which key."""
