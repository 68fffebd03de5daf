"""The edge agent: runs the model on every frame, spools what it is unsure about, and takes new releases."""
