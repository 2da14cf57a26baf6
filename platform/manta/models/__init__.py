"""Models: presets, formulas, building from scratch and loading."""
