"""Pure functions: arrays in, arrays or records out. No layer names, no files."""
