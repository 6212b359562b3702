"""How good the pictures are, and against what. The metrics are mathematics on feature matrices and know no network."""
