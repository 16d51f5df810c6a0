"""Every claim of speed, measured: `python -m benchmarks` (see `benchmarks/README.md`)."""
