"""Compiled example controllers: `from generated import cartpole`."""
