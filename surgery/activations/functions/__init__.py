"""Functions: activation modules that torch lacks, one family per file."""
