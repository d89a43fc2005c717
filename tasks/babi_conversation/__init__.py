"""bAbI as conversations: a story told in parts, each followed by its question."""
