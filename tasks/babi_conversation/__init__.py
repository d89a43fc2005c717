"""bAbI as conversations: a story in parts, each followed by its question."""
