"""What the product does, as functions: train, score, calibrate, evaluate, diagnose, and a whole study."""
