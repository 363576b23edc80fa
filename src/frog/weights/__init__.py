"""Files and modules in, matrices out."""
