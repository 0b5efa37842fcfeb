"""What the product does, from data and models to files of results: one module for each step, and whole studies."""
