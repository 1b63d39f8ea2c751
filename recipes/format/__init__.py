"""Format: recipes as TOML files: read, check, write and list them."""
