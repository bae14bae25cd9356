"""One file per recipe, each with a `RECIPE`."""
