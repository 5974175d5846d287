"""Example specifications, and scripts that solve, measure and learn with the controllers built from them."""
