"""Batch jobs of Slurm: the options and the script of a job, submitting it, and what the queue says about it."""
