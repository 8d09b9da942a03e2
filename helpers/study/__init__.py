"""The study of lesson 09: the original recipes' claims, measured. `python -m helpers.study`."""
