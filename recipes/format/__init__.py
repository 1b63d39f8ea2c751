"""Format: recipes as TOML files: read, checked, written and listed."""
