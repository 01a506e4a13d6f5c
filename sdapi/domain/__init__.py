"""Pure values and rules: what is asked, what a job is, what can go wrong."""
