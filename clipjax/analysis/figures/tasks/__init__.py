"""Figures of single tasks: accuracy, factors, cues, scores, fine-tuning.

Each `..._figure` writes `out` with the endings .png and .pdf and returns both paths. It raises DataError if
no row fits, or the files cannot be written.
"""
