"""`make bench-engines`: every engine on the same simulations, in one run on one machine."""
