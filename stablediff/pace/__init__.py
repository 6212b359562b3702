"""How long a picture takes here, and what fits into the time that there is."""
