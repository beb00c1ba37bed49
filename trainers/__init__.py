"""Training programs, one a file: `python -m trainers.NAME --help`."""
