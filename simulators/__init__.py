"""The zoo: mechanistic circuits, one module each."""
