"""From what a caller passes to the compiled functions and back: checks, defaults, devices, threads; no gradients."""
