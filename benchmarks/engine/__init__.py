"""The benchmark `engine`: time of a step beside NumPyro's."""
