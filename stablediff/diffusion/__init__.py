"""Mathematics only: noise schedules, denoisers and samplers. Imports torch, and nothing of `models`."""
