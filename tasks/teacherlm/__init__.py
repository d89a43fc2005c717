"""TeacherLM's evaluation sets as zero-shot multiple choice (He et al. 2023, arXiv 2310.19019)."""
