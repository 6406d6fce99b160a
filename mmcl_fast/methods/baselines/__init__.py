"""Methods from the literature and simple bounds, one file each."""
