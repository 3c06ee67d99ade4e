"""One family of towers per file, found by scanning. Training has no dropout and no stochastic depth.

Folders by what a tower reads: images by `convolutions/` or as `patches/`, and `texts/`.

The docstrings list params, in brackets the reference's names where they differ. norm is {scale,bias}, bn is
{scale,bias,mean,var}. Leaves of blocks/ and rest/ are stacked on axis 0; a stage of one block has no rest/.
head/ is a classifier's.
"""
