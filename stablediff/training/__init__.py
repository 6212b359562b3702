"""How the networks learn: data, objectives, stages, and the one loop that runs them all."""
