"""Models and training loops of other libraries, each file with the help of its own optional package."""
