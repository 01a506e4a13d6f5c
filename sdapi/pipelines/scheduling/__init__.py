"""What is drawn when: admitting jobs, whose turn it is, steps, decodes and endings."""
