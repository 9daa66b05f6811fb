"""Prior distributions of the circuits in the zoo, one TOML file each."""
