"""Questions about the project's own stories; nothing is downloaded."""
