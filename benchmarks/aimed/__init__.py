"""The aimed campaign behind the shipped posterior, and the posterior itself: `python -m benchmarks.aimed FOLDER`."""
