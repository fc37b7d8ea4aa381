"""Ray Data around the engine and the store. The only package that imports ray."""
