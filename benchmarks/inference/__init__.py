"""Posteriors of this project and of sbi on the tasks of sbibm, from the same simulations."""
