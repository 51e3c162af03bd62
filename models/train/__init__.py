"""Training of plumb's own cross-encoder: one module a stage, run as `python -m train.STAGE` from `models/`."""
