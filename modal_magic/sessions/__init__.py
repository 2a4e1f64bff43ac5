"""Sessions and their runs as a program has them: what the magics are a thin layer over."""
