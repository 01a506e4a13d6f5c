"""What one GPU gives, in one command of ten minutes: `python -m benchmarks.gpu --out FOLDER`.

Needs this repository, its packages and the embedded model; checkpoints of full size are written with random weights, which cost the same
time. `--dry-run` goes the same way on the CPU with the embedded model in a minute.
"""
