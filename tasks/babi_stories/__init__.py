"""Questions about the project's own generated stories, without a download."""
