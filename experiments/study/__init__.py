"""Studies: several networks trained under one recipe over several seeds, and compared."""
