"""How sure a number is: intervals, the bootstrap, tests of two runs on the same images."""
