"""The queue: every SQL statement about jobs, submitting, waiting, dispatching, retention."""
